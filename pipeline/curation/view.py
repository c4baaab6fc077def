"""The records that count, over all outputs that were named, with what people said about them.

Only the columns that decisions need are read, and what repeats is kept once: about 230 bytes per record, more
than half of them for the image's key and URI.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline import storage
from pipeline.curation.config import DecideSettings
from pipeline.curation.schema import DECISIONS
from pipeline.curation.strata import columns_of
from pipeline.inspection import open_chain
from pipeline.latest import Chain, counting
from pipeline.schema import RECORDS
from pipeline.where import parse

VERDICTS = ("accept", "fix", "reject")

_REPEATING = ("run_id", "label", "prompt_kind", "status", "error_code", "shard")
_LONG = ("image_key", "image_uri")
_REVIEW = ["record_id", "verdict", "reviewer", "reviewed_at"]
_MADE = [
    "output",
    "decision",
    "reason",
    "rank",
    "stratum",
    "duplicate_group",
    "representative",
    "reviewed_by",
    "reviewed_at",
]


@dataclass(frozen=True)
class View:
    """Records that count, one row each.

    Attributes:
        table: Their columns, and `output`, in one chunk each; strings that repeat are dictionaries, others are large.
        met: For each condition the rows that meet it, ``(N,)`` bool.
        verdict: ``(N,)`` int8: index into :data:`VERDICTS`, -1 without.
        review: ``(N,)`` int32: row of `reviews`, -1 without.
        reviews: Columns `reviewer` and `reviewed_at`.
        runs: Of every run: `output`, `run` (its path there, ``""`` for the first), `run_id`, `complete`.
        superseded: Records that a later one of another output stands for.
        faults: What must not be, as sentences.
        notes: What people should know.
    """

    table: pa.Table
    met: dict[str, NDArray[np.bool_]]
    verdict: NDArray[np.int8]
    review: NDArray[np.int32]
    reviews: pa.Table
    runs: tuple[dict[str, Any], ...]
    superseded: int
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.table)

    def ids(self) -> NDArray[np.int64]:
        """Return the record ids."""
        return np.asarray(self.table["record_id"].to_numpy(), np.int64)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column as floats; NaN stands for null."""
        return np.asarray(pc.cast(self.table[name], pa.float64()).to_numpy(), np.float64)

    def equal(self, name: str, value: str | bool | int) -> NDArray[np.bool_]:
        """Tell where a column has a value."""
        return np.asarray(pc.fill_null(pc.equal(self.table[name], value), False).to_numpy(), np.bool_)


def columns_named(condition: str) -> set[str]:
    """Return the columns that a condition names; it has been parsed before (:func:`pipeline.where.parse`)."""
    tree = ast.parse(condition.strip(), mode="eval")
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def read_view(settings: DecideSettings) -> View:
    """Read the records that count.

    Of several outputs that hold the same record_id, the record labelled last counts; of those labelled at the same
    time, that of the output named last.

    Raises:
        ConfigurationError: An output holds no complete run, or a file of reviews is damaged.
        TransientError: The store failed repeatedly.
        PipelineError: A data file is damaged.
    """
    paths = list(dict.fromkeys(storage.absolute(path).rstrip("/") for path in settings.runs))
    parts = [_read(path, settings, several=len(paths) > 1) for path in paths]
    # In one chunk: `take` of some rows would join the chunks of each column anew, every time.
    table = pa.concat_tables([part.table for part in parts]).unify_dictionaries().combine_chunks()
    counts, clashes = _latest(table, several=len(parts) > 1)
    offsets = np.cumsum([0, *(len(part.reviews) for part in parts)])
    review = [np.where(part.review < 0, -1, part.review + at) for part, at in zip(parts, offsets, strict=False)]
    faults, notes = [fault for part in parts for fault in part.faults], [note for part in parts for note in part.notes]
    if clashes:
        notes.append(
            f"{clashes:,} records have the same id in several outputs, but another picture: ids are made from names "
            "within the input, so don't mix corpora whose shards and images have the same names"
        )
    return View(
        table=table if counts.all() else table.filter(pa.array(counts)),
        met={name: np.concatenate([part.met[name] for part in parts])[counts] for name in parts[0].met},
        verdict=np.concatenate([part.verdict for part in parts])[counts],
        review=np.concatenate(review).astype(np.int32)[counts],
        reviews=pa.concat_tables([part.reviews for part in parts]),
        runs=tuple(run for part in parts for run in part.runs),
        superseded=int((~counts).sum()),
        faults=tuple(faults),
        notes=tuple(notes),
    )


def _read(path: str, settings: DecideSettings, *, several: bool) -> View:
    """Read one output."""
    chain = open_chain(path)
    conditions = dict.fromkeys((*settings.accept, *settings.reject))
    columns = _columns(settings, several=several)
    table = chain.records(sorted(columns.union(*map(columns_named, conditions))))
    row = pa.array(np.arange(len(table)))
    met = {text: _rows_that_meet(table.append_column("row", row), text) for text in conditions}
    table = table.select(sorted(columns))
    for name in columns.intersection(_LONG):  # all of them may be more than the 2 GiB that other arrays can hold
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.large_string()))
    for name in columns.intersection(_REPEATING):
        table = table.set_column(table.schema.get_field_index(name), name, pc.dictionary_encode(table[name]))
    name = storage.public_uri(chain.path)
    output = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(table), np.int32)), pa.array([name], pa.string()))
    table = table.append_column("output", output)
    runs = tuple(
        {"output": name, "run": key, "run_id": run.run_id, "complete": key in complete}
        for complete in [chain.complete()]
        for key, run in chain.runs.items()
    )
    left_out = [str(run["run_id"]) for run in runs if not run["complete"]]
    notes = [f"{name}: not complete, and left out: {', '.join(left_out)}"] if left_out else []
    doubled = len(table) - len(np.unique(table["record_id"].to_numpy()))
    faults = [f"{name}: {doubled:,} records are there twice; see jobs/runs.py reconcile"] if doubled else []
    verdict, review, reviews, stale = _reviews(chain, table)
    if stale:
        notes.append(f"{name}: {stale:,} reviews don't count: their records were labelled again since")
    return View(table, met, verdict, review, reviews, runs, 0, tuple(faults), tuple(notes))


def _columns(settings: DecideSettings, *, several: bool) -> set[str]:
    columns = {name for name in DECISIONS.names if name in RECORDS.names and name not in _MADE}
    columns |= {"calibration_matches", "fragments", "transparent"} | columns_of(settings.per)
    if settings.duplicates is not None:
        columns |= {"image_phash", "image_width", "image_height"}
    if settings.rank == "relative":
        columns |= {"prompt_area", "coverage"}
    if several:
        columns |= {"labelled_at", "image_phash"}
    return columns


def _rows_that_meet(table: pa.Table, condition: str) -> NDArray[np.bool_]:
    met = np.zeros(len(table), np.bool_)
    met[table.filter(parse(condition))["row"].to_numpy()] = True
    return met


def _reviews(chain: Chain, table: pa.Table) -> tuple[NDArray[np.int8], NDArray[np.int32], pa.Table, int]:
    """Return verdicts and places of the reviews of an output, the reviews, and how many don't count."""
    from pipeline.review.store import read_reviews, reviews_of

    verdict, review = np.full(len(table), -1, np.int8), np.full(len(table), -1, np.int32)
    found = reviews_of(chain.path, table, _REVIEW)
    if len(found):
        ids = table["record_id"].to_numpy()
        order = np.argsort(ids, kind="stable")
        # Of a record that is there twice the later row counts, see _latest.
        at = order[np.searchsorted(ids, found["record_id"].to_numpy(), side="right", sorter=order) - 1]
        review[at] = np.arange(len(found))
        said = pc.fill_null(pc.index_in(found["verdict"], pa.array(VERDICTS)), -1)
        verdict[at] = said.to_numpy()
    stale = len(read_reviews(chain.path, ["record_id"])) - len(found)
    return verdict, review, found.select(["reviewer", "reviewed_at"]), stale


def _latest(table: pa.Table, *, several: bool) -> tuple[NDArray[np.bool_], int]:
    """Tell which rows count, and how many of the others show a different picture than the one of their id that counts.

    Of a record that is twice in one output, which is a fault, the later row counts.
    """
    ids = table["record_id"].to_numpy()
    if not several:
        counts = np.zeros(len(ids), np.bool_)
        counts[len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]] = True
        return counts, 0
    counts = counting(table)
    rows, others = np.flatnonzero(counts), np.flatnonzero(~counts)
    order = np.argsort(ids[rows], kind="stable")
    stand_in = rows[order[np.searchsorted(ids[rows], ids[others], sorter=order)]]
    hashes = table["image_phash"]
    differ = pc.not_equal(hashes.take(pa.array(others)), hashes.take(pa.array(stand_in)))
    return counts, int(pc.sum(differ).as_py() or 0)
