"""Which objects go to people, and in which order; and their records with originals, worst first.

From the decisions of a curation, or directly from outputs: the worst predicted_mad first, then those without a
prediction, the least definite first.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.curation.decisions import read_decisions
from pipeline.errors import ConfigurationError
from pipeline.inspection import open_chain
from pipeline.latest import counting
from pipeline.originals import Unavailable, read_originals
from pipeline.review.finder import RecordFinder
from pipeline.review.items import ReviewItem
from pipeline.review.store import counting_reviews, reviews_of
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
class ReviewSelection:
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
) -> ReviewSelection:
    """Choose the worst objects of outputs.

    Args:
        outputs: Each an output.path. Of an object that several hold the record that was labelled last is looked at.
        limit: How many at most.
        where: Condition on records (:mod:`pipeline.where`).
        again: Those with a verdict of accept or reject, too; those without, or to be fixed, always come again.

    Raises:
        ConfigurationError: One is no output or has no complete run, or the condition can't be used.
        TransientError: The store failed repeatedly.
        PipelineError: A data file can't be read.
    """
    tables = []
    for output, counts in _counting_ids(dict.fromkeys(storage.absolute(path).rstrip("/") for path in outputs)).items():
        table = _candidates(output, where, ["predicted_mad", "definiteness"])
        table = table.filter(pc.is_in(table["record_id"], counts))
        tables.append(table.append_column("output", pa.array([output] * len(table), pa.string())))
    table = pa.concat_tables(tables)
    ids = table["record_id"].to_numpy()
    last = (
        len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]
    )  # of a record that is there twice, as in a curation
    table = table.take(pa.array(last))
    keys = [table[name].to_numpy(zero_copy_only=False) for name in ("record_id", "definiteness", "predicted_mad")]
    table = table.take(pa.array(np.lexsort((keys[0], np.nan_to_num(keys[1], nan=2), -np.nan_to_num(keys[2], nan=-1)))))
    open_ones = table if again else table.filter(pc.invert(table["reviewed"]))
    rows = open_ones.slice(0, limit).select(["output", "record_id", "run_id"]).to_pylist()
    return ReviewSelection(tuple(Chosen(**row) for row in rows), len(table) - len(open_ones))


def _counting_ids(outputs: Iterable[str]) -> dict[str, pa.Array]:
    """Return which records of each output count over all of them, whatever is asked of them."""
    tables = {output: open_chain(output).records(["record_id", "labelled_at"]) for output in outputs}
    counts = counting(pa.concat_tables(tables.values()))
    found, start = {}, 0
    for output, table in tables.items():
        chosen = table["record_id"].filter(pa.array(counts[start : start + len(table)]))
        found[output], start = chosen.combine_chunks(), start + len(table)
    return found


def choose_decided(
    folder: str, *, limit: int | None = None, where: str | None = None, again: bool = False
) -> ReviewSelection:
    """Choose what a curation decided to have reviewed, by rank.

    Args:
        folder: What jobs/curate.py wrote.
        limit: How many at most.
        where: Condition on records.
        again: See :func:`choose`.

    Raises:
        ConfigurationError: There are no decisions, or an output of theirs is gone, or the condition can't be used.
        TransientError: The store failed repeatedly.
        PipelineError: A data file can't be read.
    """
    decided = read_decisions(folder, "review", ["output", "record_id", "run_id", "reason"])
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
    return ReviewSelection(tuple(objects[:limit]), reviewed, outdated)


def check_folder(folder: str, outputs: Iterable[str]) -> None:
    """Refuse a folder for an export that lies within an output: files there are the output's own.

    Args:
        folder: Where an export is to go, local or any URL.
        outputs: Each an output.path.

    Raises:
        ConfigurationError: It lies within one of them.
    """
    for output in dict.fromkeys(outputs):
        if _resolved(folder).startswith(f"{_resolved(output)}/"):
            raise ConfigurationError(
                f"{redact(folder)} lies within {redact(output)}: write beside it, not among its files"
            )


def _resolved(path: str) -> str:
    return path.rstrip("/") if storage.is_url(path) else str(Path(path).expanduser().resolve()).rstrip("/")


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


def review_items(chosen: Sequence[Chosen], *, originals: bool = True) -> Iterator[ReviewItem]:
    """Yield what was chosen with records and originals, in that order.

    Works on :data:`CHUNK` objects at a time. Their originals and alphas lie in a temporary folder (`TMPDIR`)
    meanwhile, so that memory holds one at a time though tars are read from front to back.

    An object that was reviewed comes with the alpha and the `run_id` of the review that counts, such as
    ``reviews/0001``: what comes back is then compared with what was shown. A record that can't be found any more is
    left out with a warning.

    Args:
        chosen: Worst first.
        originals: Whether they are needed; without, none is fetched.

    Raises:
        ConfigurationError: An output is gone.
        TransientError: The store failed repeatedly.
        PipelineError: A data file can't be read.
        OSError: The temporary folder can't be written to.
    """
    chains = {output: open_chain(output) for output in dict.fromkeys(each.output for each in chosen)}
    finders = {output: RecordFinder(runs) for output, runs in chains.items()}
    most = max((int(runs.runs[""].info["config"]["input"]["max_pixels"]) for runs in chains.values()), default=0)
    for start in range(0, len(chosen), CHUNK):
        with tempfile.TemporaryDirectory(prefix="review-") as name:
            folder = _Folder(Path(name))
            part = chosen[start : start + CHUNK]
            records = _records(part, finders, folder)
            images = _originals(records.values(), most, folder) if originals else {}
            yield from _items(part, start, records, images)


class _Folder:
    """Files that are set aside; each has a name of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = 0

    def keep(self, data: bytes) -> Path:
        path = self._path / str(self._files)
        self._files += 1
        path.write_bytes(data)
        return path


def _records(
    chosen: Sequence[Chosen], finders: dict[str, RecordFinder], folder: _Folder
) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the records as they are to be shown, by output and record_id, with paths in place of their alphas."""
    records: dict[tuple[str, int], dict[str, Any]] = {}
    for output, finder in finders.items():
        wanted = {each.record_id: each.run_id for each in chosen if each.output == output}
        pairs = pa.table({"record_id": pa.array(wanted, pa.int64()), "run_id": pa.array(wanted.values(), pa.string())})
        made = (row for row in finder.find(wanted) if row["run_id"] == wanted[row["record_id"]])
        for row in chain(made, counting_reviews(output, pairs)):  # of two rows of a record the later one counts
            alpha = folder.keep((row["alpha"] or {}).get("bytes") or b"")
            records[output, row["record_id"]] = {name: row[name] for name in RECORDS.names} | {"alpha": alpha}
    return records


def _originals(records: Iterable[dict[str, Any]], max_pixels: int, folder: _Folder) -> dict[str, Path | Unavailable]:
    """Fetch the originals of records, by URI."""
    uris = [record["image_uri"] for record in records if record["image_uri"]]
    fetched = read_originals(uris, max_pixels)
    return {uri: data if isinstance(data, Unavailable) else folder.keep(data) for uri, data in fetched}


def _items(
    chosen: Sequence[Chosen],
    start: int,
    records: dict[tuple[str, int], dict[str, Any]],
    originals: dict[str, Path | Unavailable],
) -> Iterator[ReviewItem]:
    for rank, each in enumerate(chosen, start):
        record = records.get((each.output, each.record_id))
        if record is None:
            _log.warning("%s holds no record %d of %s any more", redact(each.output), each.record_id, each.run_id)
            continue
        record = record | {"alpha": {"bytes": record["alpha"].read_bytes(), "path": None}, "reason": each.reason}
        uri = record["image_uri"]
        original = originals.get(uri, Unavailable("it was not fetched" if uri else "the record names no image"))
        image = original if isinstance(original, Unavailable) else original.read_bytes()
        yield ReviewItem(record, each.output, rank, image)
