"""From runs to a folder of decisions: reads, decides, writes, and sums up."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.curation.config import DecideSettings
from pipeline.curation.decide import Decided, decide, reasons
from pipeline.curation.images import Groups, group_images, hexadecimal
from pipeline.curation.schema import CURATION_FILE, DECISIONS, DECISIONS_FILE, Decision
from pipeline.curation.strata import Strata, stratify
from pipeline.curation.summary import Curated, figures
from pipeline.curation.view import View, read_view
from pipeline.folders import require_empty
from pipeline.provenance import code_version
from pipeline.review.select import check_folder
from sdmatte.urls import redact

_ORDER: tuple[Decision, ...] = ("accept", "reject", "review")  # as text is sorted
_ROWS_AT_ONCE = 2**16


def curate(settings: DecideSettings) -> Curated:
    """Decide about the records of runs, and write the decisions.

    `decisions.parquet` (:data:`pipeline.curation.schema.DECISIONS`) is written before `curation.json`; both whole or
    not at all. The same runs and settings give the same bytes.

    Args:
        settings: Runs, folder and rules.

    Returns:
        What came of it; not complete where records are there twice.

    Raises:
        ConfigurationError: A run or condition can't be used, or the folder holds other files or lies within a run.
        TransientError: The store failed repeatedly.
        PipelineError: A data file is damaged.
    """
    out = storage.absolute(settings.out).rstrip("/")
    _check_folder(out)
    check_folder(out, map(storage.absolute, settings.runs))
    view = read_view(settings)
    groups = group_images(view, settings.duplicates)
    strata = stratify(view.table, settings.per)
    decided = decide(view, settings, groups, strata)
    content, rows = _parquet(view, groups, strata, decided)
    faults = list(view.faults)
    if decided.open.any() or rows != len(view) or len(np.unique(view.ids())) != rows:
        faults.append(f"{len(view):,} records count, but {rows - int(decided.open.sum()):,} have been decided about")
    found = Curated(out=out, faults=tuple(faults), notes=view.notes, **figures(view, groups, strata, decided))
    about = {
        "settings": redact(settings.model_dump(mode="json")),
        "runs": list(view.runs),
        "superseded_records": view.superseded,
        **found.to_dict(),
        "decisions_sha256": hashlib.sha256(content).hexdigest(),
        "code": code_version(),
    }
    storage.write_bytes_atomic(storage.join(out, DECISIONS_FILE), content)
    text = json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    storage.write_bytes_atomic(storage.join(out, CURATION_FILE), text.encode())
    return found


def _check_folder(out: str) -> None:
    """Refuse a folder that holds something, but nothing of ours."""
    if any(storage.exists(storage.join(out, name)) for name in (CURATION_FILE, DECISIONS_FILE)):
        return
    require_empty(out, "a curation")


def _parquet(view: View, groups: Groups, strata: Strata, decided: Decided) -> tuple[bytes, int]:
    """Return the file, and how many rows it has."""
    place = np.full(len(view), len(_ORDER))
    for index, decision in enumerate(_ORDER):
        place[decided.are(decision)] = index
    order = np.lexsort((view.ids(), decided.rank, place))
    file = io.BytesIO()
    with pq.ParquetWriter(file, DECISIONS, compression="zstd") as writer:
        for start in range(0, len(order), _ROWS_AT_ONCE):
            rows = order[start : start + _ROWS_AT_ONCE]
            names = [_ORDER[index] for index in place[rows]]
            writer.write_table(_slice(view, groups, strata, decided, rows, names), row_group_size=_ROWS_AT_ONCE)
    content = file.getvalue()
    return content, pq.ParquetFile(io.BytesIO(content)).metadata.num_rows


def _slice(
    view: View,
    groups: Groups,
    strata: Strata,
    decided: Decided,
    rows: NDArray[np.int64],
    names: list[Decision],
) -> pa.Table:
    """Return some rows of the decisions."""
    table = view.table.take(pa.array(rows))
    stratum = pa.DictionaryArray.from_arrays(pa.array(strata.codes[rows]), pa.array(strata.names, pa.string()))
    figures_ = {"image": hexadecimal(groups.kept_image[rows]), "stratum": stratum}
    review = view.review[rows]
    said = view.reviews.take(pa.array(review, mask=review < 0))
    group, rank = groups.group[rows], decided.rank[rows]
    made: dict[str, Any] = {
        "decision": pa.array(names, pa.string()),
        "reason": reasons(decided, table, rows, figures_),
        "rank": pa.array(rank, mask=rank < 0),
        "stratum": stratum if strata.shown else pa.nulls(len(rows), pa.string()),
        "duplicate_group": pa.array(group, mask=group < 0),
        "representative": pa.array(groups.representative[rows]),
        "reviewed_by": said["reviewer"],
        "reviewed_at": said["reviewed_at"],
    }
    columns = [made[name] if name in made else table[name] for name in DECISIONS.names]
    return pa.table(dict(zip(DECISIONS.names, columns, strict=True))).cast(DECISIONS)
