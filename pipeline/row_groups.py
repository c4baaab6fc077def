"""Rows of many Parquet files by their ids and places, with a few row groups in memory at a time.

For records of runs (:meth:`pipeline.runs.RunDirectory.dataset`) and for files of reviews (:func:`parquet_dataset`)
alike: whole rows, alphas included, of which only the row groups that hold wanted ones are read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import PipelineError
from sdmatte.urls import redact

CACHE_BYTES = 256 * 2**20
"""Of wanted rows that are kept in memory."""

REDO = (
    "jobs/runs.py reconcile says whether one is missing, and jobs/runs.py redo forgets its records, so that the job "
    "makes them anew"
)
"""What to do about data files of runs that can't be read."""

RESTORE = "restore it, or move it away"
"""What to do about files of reviews that can't be read."""

_HEAVY = ("alpha", "prompt_mask")


@contextmanager
def readable(where: str, cure: str = REDO) -> Iterator[None]:
    """Say of a damaged or missing data file where it is and what to do, in place of what Arrow says.

    Args:
        where: The file, or the output that it belongs to; shown without credentials.
        cure: What to do.

    Raises:
        PipelineError: In place of Arrow's exceptions and OSError. The storage's own errors pass.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise PipelineError(f"{redact(where)}: a data file can't be read ({redact(str(error))}); {cure}") from None


def parquet_dataset(uri: str, cure: str = RESTORE) -> ds.Dataset:
    """Open one Parquet file, such as one of reviews, for :meth:`RowGroups.add`.

    Args:
        uri: A path or URL.
        cure: What to do where it can't be read.

    Raises:
        PipelineError: It is damaged, or gone.
    """
    filesystem, path = storage.filesystem(uri)
    handler = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))
    with readable(uri, cure):
        return ds.dataset([path], format="parquet", filesystem=handler)


@dataclass(frozen=True)
class _Group:
    fragment: ds.Fragment
    cure: str
    rows: NDArray[np.int64]  # that are wanted, ascending


class RowGroups:
    """Wanted rows of Parquet files: first told apart by their cheap columns, later read where they are needed.

    Args:
        limit: Bytes of rows that stay in memory; rows are read again when they are asked for later than that.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._groups: list[_Group] = []
        self._cache: OrderedDict[tuple[int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._limit = limit

    def add(
        self,
        dataset: ds.Dataset,
        wanted: NDArray[np.int64],
        columns: Sequence[str],
        where: pc.Expression | None = None,
        *,
        cure: str = REDO,
    ) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
        """Look for records in a dataset, without reading alphas.

        Args:
            dataset: Of Parquet files with a column `record_id`.
            wanted: Ids to look for, ascending.
            columns: Cheap ones, to be returned.
            where: Rows to keep of those; may use any column but alpha and mask.
            cure: What to do where a file can't be read: :data:`REDO` or :data:`RESTORE`.

        Yields:
            For each row group that holds some: the ids found, and the rows to keep, with `group` and `row`, their
            place. Files come by name. An id that is there several times comes as often.

        Raises:
            PipelineError: A file is damaged, or gone.
        """
        read = list(columns) if where is None else [name for name in dataset.schema.names if name not in _HEAVY]
        for file in sorted(dataset.get_fragments(), key=lambda fragment: str(fragment.path)):
            with readable(file.path, cure):
                fragments = file.split_by_row_group()
            for fragment in fragments:
                with readable(file.path, cure):
                    table = fragment.to_table(schema=dataset.schema, columns=read)
                ids = table["record_id"].to_numpy()
                hit = _among(ids, wanted)
                if not hit.any():
                    continue
                table = table.append_column("row", pa.array(np.arange(len(table))))
                table = table.filter(pa.array(hit))
                table = table if where is None else table.filter(where)
                place = pa.array(np.full(len(table), len(self._groups)))
                self._groups.append(_Group(fragment, cure, table["row"].to_numpy()))
                yield ids[hit], table.select([*columns, "row"]).append_column("group", place)

    def row(self, group: int, row: int, schema: pa.Schema) -> dict[str, Any]:
        """Return a row by its place.

        Args:
            group: As :meth:`add` said.
            row: Likewise; one of those that were to be kept.
            schema: Columns to return; what the file lacks is null.

        Raises:
            PipelineError: The file is damaged, or gone.
        """
        at = int(np.searchsorted(self._groups[group].rows, row))
        found: dict[str, Any] = self._table(group, schema).slice(at, 1).to_pylist()[0]
        return found

    def _table(self, group: int, schema: pa.Schema) -> pa.Table:
        key = (group, tuple(schema.names))
        if key not in self._cache:
            wanted = self._groups[group]
            with readable(wanted.fragment.path, wanted.cure):
                table = wanted.fragment.to_table(schema=schema, columns=schema.names)
            # As a copy, or what isn't wanted would stay in memory with it.
            self._cache[key] = table.take(pa.array(wanted.rows))
        self._cache.move_to_end(key)
        while len(self._cache) > 1 and sum(table.nbytes for table in self._cache.values()) > self._limit:
            self._cache.popitem(last=False)
        return self._cache[key]


def _among(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which ids are among the wanted, which are ascending; other than isin this sorts nothing each time."""
    if not len(wanted):
        return np.zeros(len(ids), np.bool_)
    at = np.minimum(np.searchsorted(wanted, ids), len(wanted) - 1)
    return np.asarray(wanted[at] == ids)
