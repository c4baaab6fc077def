"""Where reviews lie: ``reviews/NNNN.parquet`` in an output.path; files are added, never changed.

Which review counts:

* A review is about one record, by `record_id` and `reviewed_run_id`. Once a follow-up run has made that record anew,
  the review stays in its file and counts no more, neither its alpha nor its verdict: it was about another matte.
* Of several reviews of one record the one of the highest file number counts, then the one reviewed last.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import exclusive, storage
from pipeline.errors import ConfigurationError
from pipeline.review.schema import REVIEWS, REVIEWS_FOLDER
from sdmatte.urls import redact

_FILE = re.compile(r"(\d{4,9})\.parquet")
_PICTURES = ("alpha.bytes", "prompt_mask")  # PNG: compressed already
_GROUP_BYTES = 16 * 2**20
_CHOOSING = ["record_id", "reviewed_run_id", "reviewed_at"]
_KEY = ["record_id", "review_tool", "review_id", "reviewed_at"]


class ReviewKey(NamedTuple):
    """What tells that a review is known already: the same annotation, unchanged since."""

    record_id: int
    tool: str | None
    review_id: str | None
    reviewed_at: datetime | None


def write_reviews(output: str, table: pa.Table, *, retries: int = storage.RETRIES) -> str | None:
    """Add reviews to an output, in a file of the next number; those known already are left out.

    Args:
        output: The output.path.
        table: Rows of :data:`pipeline.review.schema.REVIEWS`; other columns are left out. `run_id` is set to the name
            of the file, such as ``reviews/0001``: that is what wrote this record. A later review of the corrected
            alpha names it.
        retries: How often a transient fault of the store is retried.

    Returns:
        The file; None where there was nothing new.

    Raises:
        ConfigurationError: The store refuses the write, or a file of reviews is damaged.
        TransientError: The store failed repeatedly.
    """
    table = table.select(REVIEWS.names).cast(REVIEWS)
    while True:
        files = _files(output, retries)
        table = _unknown(table, known_reviews(output, retries=retries))
        if not len(table):
            return None
        name = f"{REVIEWS_FOLDER}/{max(files, default=0) + 1:04d}"
        uri = storage.join(output, f"{name}.parquet")
        # Of two imports at the same time one gets the number; the other looks again at what is known by now.
        if exclusive.create(uri, _parquet(_of_run(table, name)), retries=retries):
            return uri


def read_reviews(output: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the last review of each record_id, whether or not it is about the record that counts.

    For what counts, see :func:`reviews_of`.

    Args:
        output: The output.path.
        columns: Of :data:`pipeline.review.schema.REVIEWS`; default all. Leave `alpha` out where it isn't needed.

    Raises:
        ConfigurationError: A file of reviews is damaged.
        TransientError: The store failed repeatedly.
    """
    return _chosen(output, columns, None)


def reviews_of(output: str, records: pa.Table, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the reviews that count for records: one row per reviewed record, in no particular order.

    Args:
        output: The output.path that holds the records.
        records: Those that count, with `record_id` and `run_id`, see :meth:`pipeline.latest.Chain.records`.
        columns: Of :data:`pipeline.review.schema.REVIEWS`; default all. Leave `alpha` out where it isn't needed.

    Raises:
        ConfigurationError: A file of reviews is damaged.
        TransientError: The store failed repeatedly.
    """
    return _chosen(output, columns, records)


def known_reviews(output: str, *, retries: int = storage.RETRIES) -> set[ReviewKey]:
    """Return what was imported already.

    Annotations without a time, of tools that keep none, are known only while they are the last that came of what the
    tool was given: one that was changed and then changed back is new.

    Raises:
        ConfigurationError: A file of reviews is damaged.
        TransientError: The store failed repeatedly.
    """
    known: set[ReviewKey] = set()
    last: dict[tuple[int, str | None, str | None], ReviewKey] = {}
    for _, uri in sorted(_files(output, retries).items()):
        for row in _read(uri, [*_KEY, "shown_run_id"]).to_pylist():
            key = ReviewKey(*(row[name] for name in _KEY))
            last[key.record_id, key.tool, row["shown_run_id"]] = key
            if key.reviewed_at is not None:
                known.add(key)
    return {key for key in known | set(last.values()) if key.review_id is not None}


def counting_names(output: str) -> dict[tuple[int, str | None], str]:
    """Return the file, such as ``reviews/0001``, that holds the last review of each record and run.

    Returns:
        By `record_id` and `reviewed_run_id`. Such a review counts if the record of that run does.

    Raises:
        ConfigurationError: A file of reviews is damaged.
        TransientError: The store failed repeatedly.
    """
    names: dict[tuple[int, str | None], str] = {}
    for number, uri in sorted(_files(output).items()):
        for row in _read(uri, _CHOOSING).to_pylist():
            names[row["record_id"], row["reviewed_run_id"]] = f"{REVIEWS_FOLDER}/{number:04d}"
    return names


def shown_reviews(
    output: str, shown: Iterable[tuple[int, str]], counting: Mapping[int, str]
) -> Iterator[tuple[tuple[int, str], dict[str, Any]]]:
    """Yield the rows that tools were given, one row group of reviews in memory at a time.

    Args:
        output: The output.path.
        shown: record_id and the name of a file, such as ``reviews/0001``; other names are passed over.
        counting: The run of the record that counts, by record_id. Of several reviews of a record in one file the one
            of this run is meant, and of these the one that counts.

    Yields:
        Each record_id and name that is there, and its row of :data:`pipeline.review.schema.REVIEWS`.

    Raises:
        ConfigurationError: A file of reviews is damaged.
        TransientError: The store failed repeatedly.
    """
    by_name: dict[str, set[int]] = {}
    for number, name in shown:
        folder, _, stem = name.partition("/")
        if folder == REVIEWS_FOLDER and _FILE.fullmatch(f"{stem}.parquet"):
            by_name.setdefault(name, set()).add(number)
    for name, numbers in sorted(by_name.items()):
        uri = storage.join(output, f"{name}.parquet")
        if storage.exists(uri):
            for row in _rows_at(uri, _meant_rows(_read(uri, _CHOOSING), numbers, counting)):
                yield (row["record_id"], name), row


def counting_reviews(output: str, records: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the whole rows of :func:`reviews_of`, one row group of reviews in memory at a time.

    Raises:
        ConfigurationError: A file of reviews is damaged.
        TransientError: The store failed repeatedly.
    """
    for uri, rows in _counting_rows(output, records):
        yield from _rows_at(uri, rows)


def _files(output: str, retries: int = storage.RETRIES) -> dict[int, str]:
    """Return the files with reviews by their numbers."""
    listed = storage.list_files(storage.join(output, REVIEWS_FOLDER), pattern=False, retries=retries)
    return {int(match[1]): file.uri for file in listed if (match := _FILE.fullmatch(file.name))}


def _chosen(output: str, columns: Sequence[str] | None, records: pa.Table | None) -> pa.Table:
    names = REVIEWS.names if columns is None else list(columns)
    tables = [pa.schema([REVIEWS.field(name) for name in names]).empty_table()]
    for uri, rows in _counting_rows(output, records):
        tables.append(_read(uri, names).take(pa.array(rows, pa.int64())))
    return pa.concat_tables(tables)


def _counting_rows(output: str, records: pa.Table | None) -> Iterator[tuple[str, list[int]]]:
    """Yield the files with rows that count, the last first, and which rows these are."""
    files = {uri: _read(uri, _CHOOSING) for _, uri in sorted(_files(output).items(), reverse=True)}
    runs = None if records is None else _runs(records, files)
    seen: set[int] = set()
    for uri, about in files.items():
        if rows := _last_rows(about, runs, seen):
            yield uri, rows


def _runs(records: pa.Table, files: dict[str, pa.Table]) -> dict[int, str]:
    """Return which run made the record that counts, of each id that was reviewed."""
    reviewed = np.unique(np.concatenate([np.empty(0, np.int64), *(a["record_id"].to_numpy() for a in files.values())]))
    some = records.select(["record_id", "run_id"]).filter(pc.is_in(records["record_id"], pa.array(reviewed)))
    return dict(zip(some["record_id"].to_pylist(), some["run_id"].to_pylist(), strict=True))


def _last_rows(about: pa.Table, runs: dict[int, str] | None, seen: set[int]) -> list[int]:
    """Return a file's rows that count, given the ids that later files hold; `seen` grows by theirs."""
    best: dict[int, tuple[float, int]] = {}
    for index, row in enumerate(about.to_pylist()):
        number = row["record_id"]
        if number in seen or (runs is not None and runs.get(number, object()) != row["reviewed_run_id"]):
            continue
        best[number] = max(best.get(number, (-np.inf, -1)), (_when(row), index))
    seen.update(best)
    return sorted(index for _, index in best.values())


def _meant_rows(about: pa.Table, numbers: set[int], counting: Mapping[int, str]) -> list[int]:
    """Return the row of each record that a tool was given when the file was the last of it."""
    best: dict[int, tuple[bool, float, int]] = {}
    for index, row in enumerate(about.to_pylist()):
        number = row["record_id"]
        if number in numbers:
            rank = (counting.get(number) == row["reviewed_run_id"], _when(row), index)
            best[number] = max(best.get(number, rank), rank)
    return sorted(index for _, _, index in best.values())


def _when(row: dict[str, Any]) -> float:
    at = row["reviewed_at"]
    return float(at.timestamp()) if at else -np.inf


def _unknown(table: pa.Table, known: set[ReviewKey]) -> pa.Table:
    keys = table.select(_KEY).to_pylist()
    return table.filter(pa.array([ReviewKey(*key.values()) not in known for key in keys], pa.bool_()))


def _of_run(table: pa.Table, name: str) -> pa.Table:
    names = pa.array([name] * len(table), pa.string())
    return table.set_column(table.schema.get_field_index("run_id"), table.schema.field("run_id"), names)


def _parquet(table: pa.Table) -> bytes:
    probe = io.BytesIO()
    pq.write_table(REVIEWS.empty_table(), probe)
    leaves = [column.path for column in pq.ParquetFile(probe).schema]
    columns = [path for path in leaves if path not in _PICTURES]
    file = io.BytesIO()
    pq.write_table(
        table,
        file,
        compression=dict.fromkeys(columns, "zstd") | dict.fromkeys(_PICTURES, "none"),
        use_dictionary=columns,
        write_statistics=columns,
        row_group_size=max(1, len(table) * _GROUP_BYTES // max(1, table.nbytes)),
    )
    return file.getvalue()


def _read(uri: str, columns: Sequence[str]) -> pa.Table:
    with _reading(uri) as parquet:
        return _typed(parquet.read(list(columns), use_threads=False), columns)


def _rows_at(uri: str, rows: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield whole rows by their places, ascending; only row groups that hold one are read."""
    with _reading(uri) as parquet:
        start = 0
        for group in range(parquet.num_row_groups):
            stop = start + parquet.metadata.row_group(group).num_rows
            if inside := [row - start for row in rows if start <= row < stop]:
                table = _typed(parquet.read_row_group(group, REVIEWS.names, use_threads=False), REVIEWS.names)
                for at in inside:
                    yield table.slice(at, 1).to_pylist()[0]
            start = stop


def _typed(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    return table.select(list(columns)).cast(pa.schema([REVIEWS.field(name) for name in columns]))


@contextmanager
def _reading(uri: str) -> Iterator[pq.ParquetFile]:
    try:
        with storage.open_stream(uri) as stream:
            yield pq.ParquetFile(stream)
    except (pa.ArrowException, KeyError, OSError) as error:  # OSError: of Arrow, for pages that can't be decoded
        raise ConfigurationError(
            f"{redact(uri)} is no file of reviews, or damaged ({redact(str(error))}); restore it, or move it away"
        ) from None
