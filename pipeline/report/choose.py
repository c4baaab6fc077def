"""Which objects of a run get pictures in its report.

Records come past once, in any order; what is kept of them is bounded by the number of pictures, and the choice depends
on the records alone, not on the order in which they came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

WHY = {
    "worst": "among the worst predicted errors",
    "best": "among the best predicted errors",
    "error": "an example of its error code",
    "spread": "drawn, spread over the labels",
}
"""Why an object is in the report."""

_ERRORS, _WORST, _BEST = 0.2, 0.35, 0.15  # shares of the pictures; the rest is spread over labels
_LABELS = 4  # labels that are drawn from, per picture at most


@dataclass(frozen=True, slots=True)
class Chosen:
    """A record that gets a picture.

    Attributes:
        record_id: Its id.
        file: Data file that holds it: a path in the dataset's file system.
        why: A key of :data:`WHY`.
    """

    record_id: int
    file: str
    why: str


_POOL = np.dtype([("group", "<i8"), ("key", "<f8"), ("draw", "<i8"), ("id", "<i8"), ("file", "<i4")])
_Pool = NDArray[np.void]


class Chooser:
    """Chooses while records come past.

    Args:
        limit: Pictures at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen = 0
        self._files: dict[str, int] = {}
        empty = np.empty(0, _POOL)
        self._worst, self._best, self._any, self._labels = empty, empty, empty, empty
        self._codes: dict[str, _Pool] = {}

    def add(self, table: pa.Table) -> None:
        """Look at records.

        Args:
            table: Columns `record_id`, `status`, `error_code`, `label`, `predicted_mad` of the records, and
                `__filename`, the data file of each.
        """
        if not self._limit or not len(table):
            return
        self._seen += len(table)
        rows = np.zeros(len(table), _POOL)
        rows["id"] = rows["draw"] = table["record_id"].to_numpy()  # ids are hashes: their order is as good as random
        rows["file"] = self._file_numbers(table["__filename"])
        mad = pc.fill_null(table["predicted_mad"].cast(pa.float64()), float("nan")).to_numpy()
        failed = pc.equal(table["status"], "error").to_numpy(zero_copy_only=False)
        self._add_errors(rows[failed], table["error_code"].filter(pa.array(failed)))
        fine = rows[~failed]
        fine["key"] = mad[~failed]
        scored = fine[np.isfinite(fine["key"])]
        self._best = _smallest(np.concatenate([self._best, scored]), self._limit)
        scored["key"] *= -1
        self._worst = _smallest(np.concatenate([self._worst, scored]), self._limit)
        fine["key"] = 0
        self._any = _smallest(np.concatenate([self._any, fine]), self._limit)
        fine["group"] = _label_hashes(table["label"].filter(pa.array(~failed)))
        self._labels = self._few_of_each(np.concatenate([self._labels, fine]))

    def chosen(self) -> list[Chosen]:
        """Return what to show: the worst first, then the best, those spread over labels, and errors."""
        taken: dict[int, tuple[int, str]] = {}
        limit = min(self._limit, self._seen)

        def take(candidates: Iterable[np.void], why: str, most: int) -> None:
            most = min(most, limit - len(taken))
            for row in candidates:
                if most <= 0:
                    return
                if int(row["id"]) not in taken:
                    taken[int(row["id"])] = int(row["file"]), why
                    most -= 1

        turns = _in_turns([self._codes[code] for code in sorted(self._codes)])
        examples = min(len(turns), round(limit * _ERRORS))
        take(turns, "error", examples)
        take(self._worst, "worst", round(limit * _WORST))
        take(self._best, "best", round(limit * _BEST))
        take(_by_rank(self._labels), "spread", limit)
        take(self._any, "spread", limit)
        take(turns[examples:], "error", limit)
        paths = {number: path for path, number in self._files.items()}
        order = list(WHY)
        found = [Chosen(identifier, paths[file], why) for identifier, (file, why) in taken.items()]
        return sorted(found, key=lambda one: order.index(one.why) if one.why != "error" else len(order))

    def _file_numbers(self, names: pa.ChunkedArray) -> NDArray[np.int32]:
        codes, values = encoded(names)
        numbers = np.array([self._files.setdefault(name or "", len(self._files)) for name in values], np.int32)
        return numbers[codes]

    def _add_errors(self, rows: _Pool, codes: pa.ChunkedArray) -> None:
        if not len(rows):
            return
        numbers, values = encoded(codes)
        for number, code in enumerate(values):
            pool = np.concatenate([self._codes.get(code or "", rows[:0]), rows[numbers == number]])
            self._codes[code or ""] = _smallest(pool, self._limit)

    def _few_of_each(self, pool: _Pool) -> _Pool:
        """Keep the first few of each label: the fewer, the more labels there are, so that memory is bounded."""
        pool = pool[np.lexsort([pool["id"], pool["draw"], pool["group"]])]
        labels, starts = np.unique(pool["group"], return_index=True)
        rank = np.arange(len(pool)) - np.repeat(starts, np.diff([*starts, len(pool)]))
        last = labels[min(len(labels), _LABELS * self._limit) - 1] if len(labels) else 0
        quota = max(1, -(-2 * self._limit // max(1, len(labels))))
        return pool[(rank < quota) & (pool["group"] <= last)]


def _smallest(pool: _Pool, most: int) -> _Pool:
    return pool[np.lexsort([pool["id"], pool["draw"], pool["key"]])[:most]]


def _by_rank(pool: _Pool) -> _Pool:
    """Order the pool of labels: the first of each, then the second of each, and so on."""
    _, starts = np.unique(pool["group"], return_index=True)
    rank = np.arange(len(pool)) - np.repeat(starts, np.diff([*starts, len(pool)]))
    return pool[np.lexsort([pool["draw"], rank])]


def _in_turns(pools: Sequence[_Pool]) -> list[np.void]:
    longest = max(map(len, pools), default=0)
    return [pool[turn] for turn in range(longest) for pool in pools if turn < len(pool)]


def encoded(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], list[str | None]]:
    """Number the distinct values of a column of strings, null among them.

    Args:
        column: The column.

    Returns:
        ``(N,)`` number of each row's value, and the values.
    """
    whole = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    found = whole.dictionary_encode(null_encoding="encode")
    return found.indices.to_numpy(zero_copy_only=False), found.dictionary.to_pylist()


def _label_hashes(labels: pa.ChunkedArray) -> NDArray[np.int64]:
    codes, values = encoded(labels)
    hashes = [
        int.from_bytes(hashlib.blake2b((value or "").encode(), digest_size=8).digest(), "little", signed=True)
        for value in values
    ]
    return np.array(hashes, np.int64)[codes]
