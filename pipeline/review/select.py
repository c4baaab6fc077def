"""Which objects go to people, and in which order; and their records with originals, worst first.

From the decisions of a curation, or directly from outputs: the worst predicted_mad first, then those without a
prediction, the least definite first.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.curation.schema import DECISIONS, DECISIONS_FILE
from pipeline.errors import ConfigurationError
from pipeline.inspection import open_chain
from pipeline.latest import Chain
from pipeline.originals import Unavailable, read_originals
from pipeline.review.finder import RecordFinder
from pipeline.review.items import ReviewItem
from pipeline.review.schema import REVIEWS
from pipeline.review.store import reviews_of
from pipeline.schema import RECORDS
from pipeline.where import parse
from sdmatte.urls import redact

CHUNK = 1000
"""Objects whose records and originals are fetched together: within a chunk each tar is read once."""

_log = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """An object that is to be reviewed.

    Attributes:
        output: The output.path that holds it.
        record_id: Of its record.
        run_id: The run that wrote that.
        reason: Why it is to be reviewed, where a curation says so.
    """

    output: str
    record_id: int
    run_id: str | None
    reason: str | None = None


@dataclass(frozen=True)
class Selection:
    """What was chosen.

    Attributes:
        objects: Worst first.
        reviewed: How many were left out because they have been reviewed.
        outdated: How many decisions were left out because their record was made anew, or is gone, or is no ok record.
    """

    objects: tuple[Chosen, ...]
    reviewed: int
    outdated: int = 0


def choose(
    outputs: Sequence[str], *, limit: int | None = None, where: str | None = None, again: bool = False
) -> Selection:
    """Choose the worst objects of outputs.

    Args:
        outputs: Each an output.path. Of an object that several hold that of the last one is taken.
        limit: How many at most.
        where: Condition on records (:mod:`pipeline.where`).
        again: Those with a verdict of accept or reject, too; those without, or to be fixed, always come again.

    Raises:
        ConfigurationError: One is no output or has no complete run, or the condition can't be used.
        TransientError: The store failed repeatedly.
        OSError: A data file can't be read.
    """
    tables = []
    for output in dict.fromkeys(map(storage.absolute, outputs)):
        table = _candidates(output, where, ["predicted_mad", "definiteness"])
        tables.append(table.append_column("output", pa.array([output] * len(table), pa.string())))
    table = pa.concat_tables(tables)
    ids = table["record_id"].to_numpy()
    last = len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]
    table = table.take(pa.array(last))
    keys = [table[name].to_numpy(zero_copy_only=False) for name in ("record_id", "definiteness", "predicted_mad")]
    table = table.take(pa.array(np.lexsort((keys[0], np.nan_to_num(keys[1], nan=2), -np.nan_to_num(keys[2], nan=-1)))))
    open_ones = table if again else table.filter(pc.invert(table["reviewed"]))
    rows = open_ones.slice(0, limit).select(["output", "record_id", "run_id"]).to_pylist()
    return Selection(tuple(Chosen(**row) for row in rows), len(table) - len(open_ones))


def choose_decided(
    folder: str, *, limit: int | None = None, where: str | None = None, again: bool = False
) -> Selection:
    """Choose what a curation decided to have reviewed, by rank.

    Args:
        folder: What jobs/curate.py wrote.
        limit: How many at most.
        where: Condition on records.
        again: See :func:`choose`.

    Raises:
        ConfigurationError: There are no decisions, or an output of theirs is gone, or the condition can't be used.
        TransientError: The store failed repeatedly.
        OSError: A data file can't be read.
    """
    decided = _decisions(storage.join(folder, DECISIONS_FILE))
    now: dict[tuple[str, int], tuple[str | None, bool]] = {}
    of_output = decided["output"].unique().to_pylist()
    for output in of_output:
        ids = decided.filter(pc.equal(decided["output"], output))["record_id"].combine_chunks()
        table = _candidates(output, where, [])
        table = table.filter(pc.is_in(table["record_id"], ids))
        for row in table.to_pylist():
            now[output, row["record_id"]] = (row["run_id"], row["reviewed"])
    objects, reviewed, outdated = [], 0, 0
    for row in decided.to_pylist():
        run_id, is_reviewed = now.get((row["output"], row["record_id"]), (None, False))
        if (row["output"], row["record_id"]) not in now or run_id != row["run_id"]:
            outdated += where is None or (row["output"], row["record_id"]) in now
        elif is_reviewed and not again:
            reviewed += 1
        else:
            objects.append(Chosen(row["output"], row["record_id"], row["run_id"], row["reason"]))
    return Selection(tuple(objects[:limit]), reviewed, outdated)


def _decisions(uri: str) -> pa.Table:
    columns = ["output", "record_id", "run_id", "rank", "reason", "decision"]
    try:
        with storage.open_stream(uri) as stream:
            table = pq.ParquetFile(stream).read(columns).cast(pa.schema([DECISIONS.field(name) for name in columns]))
    except storage.NotFoundError:
        raise ConfigurationError(f"{redact(uri)} is not there: name the folder that jobs/curate.py wrote") from None
    except (pa.ArrowException, KeyError) as error:
        raise ConfigurationError(f"{redact(uri)} holds no decisions, or is damaged ({error})") from None
    return table.filter(pc.equal(table["decision"], "review")).sort_by(
        [("rank", "ascending"), ("record_id", "ascending")]
    )


def _candidates(output: str, where: str | None, columns: Sequence[str]) -> pa.Table:
    """Return the ok records of an output that count, with `record_id`, `run_id`, `reviewed` and these columns."""
    condition = pc.field("status") == "ok"
    if where is not None:
        condition &= parse(where)
    table = open_chain(output).records(["record_id", "run_id", *columns], condition)
    reviews = reviews_of(output, table, ["record_id", "verdict"])
    finished = pc.is_in(reviews["verdict"], pa.array(["accept", "reject"]))  # as in a curation
    done = reviews.filter(finished)["record_id"].combine_chunks()
    return table.append_column("reviewed", pc.is_in(table["record_id"], done))


# --- items -----------------------------------------------------------------------------------------------------------


def review_items(chosen: Sequence[Chosen]) -> Iterator[ReviewItem]:
    """Yield what was chosen with records and originals, in that order.

    Works on :data:`CHUNK` objects at a time. Their originals and alphas lie in a temporary folder (`TMPDIR`)
    meanwhile, so that memory holds one at a time though tars are read from front to back.

    An object that was reviewed comes with the alpha and the `run_id` of the review that counts, such as
    ``reviews/0001``: what comes back is then compared with what was shown. A record that can't be found any more is
    left out with a warning.

    Args:
        chosen: Worst first.

    Raises:
        ConfigurationError: An output is gone.
        TransientError: The store failed repeatedly.
        OSError: A data file can't be read, or the temporary folder can't be written to.
    """
    chains = {output: open_chain(output) for output in dict.fromkeys(each.output for each in chosen)}
    finders = {output: RecordFinder(chain) for output, chain in chains.items()}
    for start in range(0, len(chosen), CHUNK):
        with tempfile.TemporaryDirectory(prefix="review-") as folder:
            yield from _chunk(chosen[start : start + CHUNK], start, chains, finders, Path(folder))


def _chunk(
    chosen: Sequence[Chosen],
    start: int,
    chains: dict[str, Chain],
    finders: dict[str, RecordFinder],
    folder: Path,
) -> Iterator[ReviewItem]:
    records: dict[tuple[str, int], dict[str, Any]] = {}
    for output, finder in finders.items():
        wanted = {each.record_id: each.run_id for each in chosen if each.output == output}
        for row in finder.find(wanted):
            if row["run_id"] == wanted[row["record_id"]]:
                records[output, row["record_id"]] = _set_aside(row, folder / f"alpha{len(records)}")
        for row in _reviewed(output, wanted):
            records[output, row["record_id"]] = _set_aside(row, folder / f"review{row['record_id']}")
    originals: dict[str, Path | Unavailable] = {}
    uris = [record["image_uri"] for record in records.values() if record["image_uri"]]
    most = max(int(chains[output].runs[""].info["config"]["input"]["max_pixels"]) for output in finders)
    for uri, data in read_originals(uris, most):
        originals[uri] = data if isinstance(data, Unavailable) else folder / f"image{len(originals)}"
        if not isinstance(data, Unavailable):
            (folder / f"image{len(originals) - 1}").write_bytes(data)
    for rank, each in enumerate(chosen, start):
        record = records.get((each.output, each.record_id))
        if record is None:
            _log.warning("%s holds no record %d of %s any more", redact(each.output), each.record_id, each.run_id)
            continue
        record = record | {"alpha": {"bytes": record["alpha"].read_bytes(), "path": None}, "reason": each.reason}
        original = originals.get(record["image_uri"] or "", Unavailable("the record names no image"))
        image = original if isinstance(original, Unavailable) else original.read_bytes()
        yield ReviewItem(record, each.output, rank, image)


def _set_aside(row: dict[str, Any], path: Path) -> dict[str, Any]:
    """Put a row's alpha into a file."""
    path.write_bytes(row["alpha"]["bytes"])
    return {name: row[name] for name in RECORDS.names} | {"alpha": path}


def _reviewed(output: str, wanted: dict[int, str | None]) -> Iterator[dict[str, Any]]:
    """Yield the reviews that count of some records, one in memory at a time."""
    pairs = pa.table({"record_id": pa.array(wanted, pa.int64()), "run_id": pa.array(wanted.values(), pa.string())})
    for batch in reviews_of(output, pairs, REVIEWS.names).to_batches(max_chunksize=1):
        yield from batch.to_pylist()
