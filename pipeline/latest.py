"""Several runs over one output, seen as one: of records with the same id the one of the latest complete run counts.

On request with what people said about them (:mod:`pipeline.review.store`).
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import ConfigurationError, ErrorCode
from pipeline.reconcile import UNMATCHED_PROMPTS
from pipeline.review.schema import REVIEW_COLUMNS, REVIEWS
from pipeline.review.store import reviews_of
from pipeline.row_groups import readable
from pipeline.runs import RunDirectory
from pipeline.schema import RECORDS
from pipeline.where import parse
from sdmatte.urls import redact

_log = logging.getLogger(__name__)

NOTHING = np.empty(0, np.int64)

FOLLOWUPS = "followups"
"""In a run directory: the runs that followed it, ``0001``, ``0002``, ..."""


@dataclass(frozen=True)
class Chain:
    """The runs of an output, the first one first.

    Attributes:
        path: Of the output: the first run's directory.
        runs: All of them, by their path relative to it; the first one's is ``""``.
    """

    path: str
    runs: dict[str, RunDirectory]

    @classmethod
    def open(cls, path: str) -> Chain:
        """Find the runs of an output.

        Args:
            path: The first run's directory; nothing need be there yet.

        Raises:
            ConfigurationError: One of them was written by another version of this program.
            TransientError: The store failed repeatedly.
        """
        path = storage.absolute(path)
        runs: dict[str, RunDirectory] = {}
        if storage.exists(storage.join(path, "run.json")):
            runs[""] = RunDirectory.open(path)
        while storage.exists(storage.join(path, followup(len(runs)), "run.json")) and runs:
            runs[followup(len(runs))] = RunDirectory.open(storage.join(path, followup(len(runs))))
        return cls(path, runs)

    def complete(self) -> dict[str, RunDirectory]:
        """Return the complete runs."""
        return {name: run for name, run in self.runs.items() if run.succeeded}

    def records(
        self, columns: Sequence[str], where: pc.Expression | None = None, *, reviews: bool = False
    ) -> pa.Table:
        """Return the records that count, of all complete runs.

        Args:
            columns: Of :data:`pipeline.schema.RECORDS`; with `reviews` also those that
                :data:`pipeline.review.schema.REVIEWS` adds. Leave `alpha` out where it isn't needed: it is most of
                the bytes.
            where: Rows to keep, by columns of records; applied after the choice of the latest.
            reviews: Show the alphas as reviewers corrected them, and fill the columns of reviews where a review of
                this very record counts; they are null elsewhere. All other columns, scores too, stay the record's.

        Raises:
            ConfigurationError: No run is complete, or a file of reviews is damaged.
            TransientError: The store failed repeatedly while commits were read.
            PipelineError: A data file can't be read.
        """
        if reviews:
            own = [name for name in columns if name in RECORDS.names]
            return self._reviewed(self.records([*dict.fromkeys([*own, "record_id", "run_id"])], where), columns)
        complete = self.complete()
        if not complete:
            raise ConfigurationError(f"{self.path} holds no complete run")
        if left_out := [name or "the first run" for name in self.runs if name not in complete]:
            _log.warning("%s: not complete, and left out: %s", redact(self.path), ", ".join(left_out))
        with readable(self.path):
            return _newest(list(complete.values()), columns, where)

    def _reviewed(self, records: pa.Table, columns: Sequence[str]) -> pa.Table:
        """Lay the reviews that count over records, which have `record_id` and `run_id`."""
        shown = [name for name in columns if name in REVIEW_COLUMNS or name == "alpha"]
        reviews = reviews_of(self.path, records, ["record_id", *shown])
        at = pc.index_in(records["record_id"], reviews["record_id"].combine_chunks())
        for name in shown:
            if name == "alpha":
                corrected = _corrected(records["alpha"], reviews["alpha"], at)
                records = records.set_column(records.column_names.index("alpha"), RECORDS.field("alpha"), corrected)
            else:
                records = records.append_column(REVIEWS.field(name), reviews[name].take(at))
        return records.select(list(columns))


def counting(table: pa.Table) -> NDArray[np.bool_]:
    """Choose, over several outputs, which record counts.

    Of records with one id the one labelled last; of those labelled at the same time that of the output named last.

    Args:
        table: Records with `record_id` and `labelled_at`: those that count in each output (:meth:`Chain.records`), in
            the order in which the outputs were named. Filter by other columns afterwards, or a record that another
            one stands for may be taken.

    Returns:
        ``(N,)`` bool: one row of each id.
    """
    ids = table["record_id"].to_numpy()
    labelled = pc.fill_null(pc.cast(table["labelled_at"], pa.int64()), np.iinfo(np.int64).min).to_numpy()
    order = np.lexsort((labelled, ids))  # stable: of equal ones that of the output named last comes last
    counts = np.ones(len(table), np.bool_)
    counts[order[:-1][ids[order][1:] == ids[order][:-1]]] = False
    return counts


def _newest(runs: Sequence[RunDirectory], columns: Sequence[str], where: pc.Expression | None) -> pa.Table:
    if len(runs) == 1:  # nothing came later: all of it counts
        return _read(runs[0], columns, where)
    tables = []
    later = _Later()
    for run in reversed(runs):
        about = _read(run, ["record_id", "image_id", "shard", "error_code"], None)
        counts = later.leaves(about)
        later.add(run, about)
        chosen = None if counts.all() else pc.field("record_id").isin(about["record_id"].filter(pa.array(counts)))
        wanted = where if chosen is None else chosen if where is None else chosen & where
        tables.append(_read(run, columns, wanted))
    return pa.concat_tables(reversed(tables))


def _read(run: RunDirectory, columns: Sequence[str], where: pc.Expression | None) -> pa.Table:
    return pa.concat_tables(dataset.to_table(columns=list(columns), filter=where) for dataset in run.datasets())


def _corrected(alphas: pa.ChunkedArray, corrections: pa.ChunkedArray, at: pa.ChunkedArray) -> pa.ChunkedArray:
    """Replace alphas, chunk by chunk: one array of all of them could be too large for Arrow's offsets."""
    chunks = []
    start = 0
    for chunk in alphas.chunks:
        indices = at.slice(start, len(chunk)).to_pylist()
        start += len(chunk)
        if all(index is None for index in indices):
            chunks.append(chunk)
            continue
        pairs = zip(chunk, indices, strict=True)
        values = [alpha.as_py() if index is None else corrections[index].as_py() for alpha, index in pairs]
        chunks.append(pa.array(values, alphas.type))
    return pa.chunked_array(chunks, alphas.type)


def write(chain: Chain, path: str, where: str | None = None, *, reviewed: bool = False) -> int:
    """Write the records that count into one Parquet file: all columns but the alphas.

    Args:
        chain: The runs.
        path: The file.
        where: Condition on records (:mod:`pipeline.where`).
        reviewed: With the columns of the reviews that count.

    Returns:
        How many.

    Raises:
        ConfigurationError: No run is complete, the condition can't be used, or the file lies within the output.
        TransientError: The store failed repeatedly.
    """
    if storage.absolute(path).startswith(f"{chain.path.rstrip('/')}/"):
        raise ConfigurationError(
            f"{redact(path)} lies within {redact(chain.path)}: write beside it, not among its files"
        )
    columns = [name for name in (REVIEWS if reviewed else RECORDS).names if name != "alpha"]
    table = chain.records(columns, None if where is None else parse(where), reviews=reviewed)
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(None), file, compression="zstd")
    storage.write_bytes_atomic(path, file.getvalue())
    return len(table)


class _Later:
    """What runs hold that came later than the one that is looked at."""

    def __init__(self) -> None:
        self._records = NOTHING
        self._images = NOTHING
        self._shards: set[str] = set()
        self._knows_unmatched = False

    def add(self, run: RunDirectory, about: pa.Table) -> None:
        self._records = np.union1d(self._records, about["record_id"].to_numpy())
        self._images = np.union1d(self._images, about["image_id"].to_numpy())
        self._shards |= set(run.plan())
        self._knows_unmatched |= run.scope.kind != "again"

    def leaves(self, about: pa.Table) -> NDArray[np.bool_]:
        """Tell which records of an earlier run still count."""
        gone = np.isin(about["record_id"].to_numpy(), self._records)
        # What stood for something unknown is gone once that is known: the prompts of an image, the rest of a shard,
        # and the prompts without image, of which a run over the input says anew which they are.
        gone |= _is(about, ErrorCode.PROMPT_MISSING) & np.isin(about["image_id"].to_numpy(), self._images)
        shard_again = pc.is_in(about["shard"], pa.array(list(self._shards), pa.string()))
        gone |= _is(about, ErrorCode.SHARD_UNREADABLE) & _flags(shard_again)
        if self._knows_unmatched:
            gone |= _flags(pc.equal(about["shard"], UNMATCHED_PROMPTS))
        return ~gone


def _is(about: pa.Table, code: ErrorCode) -> NDArray[np.bool_]:
    return _flags(pc.equal(about["error_code"], str(code)))


def _flags(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(values, False).to_numpy(), np.bool_)


def followup(number: int) -> str:
    """Return the path of a follow-up, relative to the first run's directory; 0 is the first run itself."""
    return f"{FOLLOWUPS}/{number:04d}" if number else ""
