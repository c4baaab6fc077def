"""Rows of many Parquet files by their place, with a few row groups in memory at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

CACHE_BYTES = 256 * 2**20
"""Of wanted rows that are kept in memory."""

_HEAVY = ("alpha", "prompt_mask")


@dataclass(frozen=True)
class _Group:
    fragment: ds.Fragment
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
    ) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
        """Look for records in a dataset, without reading alphas.

        Args:
            dataset: Of Parquet files with a column `record_id`.
            wanted: Ids to look for, ascending.
            columns: Cheap ones, to be returned.
            where: Rows to keep of those; may use any column but alpha and mask.

        Yields:
            For each row group that holds some: the ids found, and the rows to keep, with `group` and `row`, their
            place. Files come by name.
        """
        read = list(columns) if where is None else [name for name in dataset.schema.names if name not in _HEAVY]
        for file in sorted(dataset.get_fragments(), key=lambda fragment: str(fragment.path)):
            for fragment in file.split_by_row_group():
                table = fragment.to_table(schema=dataset.schema, columns=read)
                ids = table["record_id"].to_numpy()
                hit = _among(ids, wanted)
                if not hit.any():
                    continue
                table = table.append_column("row", pa.array(np.arange(len(table))))
                table = table.filter(pa.array(hit))
                table = table if where is None else table.filter(where)
                place = pa.array(np.full(len(table), len(self._groups)))
                self._groups.append(_Group(fragment, table["row"].to_numpy()))
                yield ids[hit], table.select([*columns, "row"]).append_column("group", place)

    def row(self, group: int, row: int, schema: pa.Schema) -> dict[str, Any]:
        """Return a row by its place.

        Args:
            group: As :meth:`add` said.
            row: Likewise; one of those that were to be kept.
            schema: Columns to return; what the file lacks is null.

        Raises:
            OSError: The file can't be read.
        """
        at = int(np.searchsorted(self._groups[group].rows, row))
        found: dict[str, Any] = self._table(group, schema).slice(at, 1).to_pylist()[0]
        return found

    def _table(self, group: int, schema: pa.Schema) -> pa.Table:
        key = (group, tuple(schema.names))
        if key not in self._cache:
            wanted = self._groups[group]
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
