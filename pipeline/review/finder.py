"""Whole records by their ids, alphas included, from all runs of an output; few row groups are read for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipeline import commit_log
from pipeline.latest import Chain
from pipeline.runs import RunDirectory


class RecordFinder:
    """Looks records up by what the commits say about data files; keeps 8 bytes per record of the output.

    Args:
        chain: The output's runs.
    """

    def __init__(self, chain: Chain) -> None:
        self._runs = list(chain.complete().values())
        self._files: dict[str, dict[str, NDArray[np.int64]]] = {}
        self._datasets: dict[str, dict[str, ds.Fragment]] = {}

    def find(self, wanted: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Yield the rows of these ids in every complete run that holds them, in no particular order.

        Raises:
            TransientError: The store failed repeatedly while commits were read.
            OSError: A data file can't be read.
        """
        ids = np.array(sorted(set(wanted)), np.int64)
        for run in self._runs:
            for name, held in self._held(run).items():
                if np.isin(ids, held).any():
                    yield from _rows(self._fragment(run, name), ids)

    def _held(self, run: RunDirectory) -> dict[str, NDArray[np.int64]]:
        if run.path not in self._files:
            self._files[run.path] = {
                PurePosixPath(commit.data).name: np.concatenate(
                    [np.empty(0, np.int64), *(part.record_ids for part in commit.shards.values())]
                )
                for commit in commit_log.read_commits(run.path)
                if commit.data
            }
        return self._files[run.path]

    def _fragment(self, run: RunDirectory, name: str) -> ds.Fragment:
        if run.path not in self._datasets:
            fragments = run.dataset().get_fragments()
            self._datasets[run.path] = {PurePosixPath(fragment.path).name: fragment for fragment in fragments}
        return self._datasets[run.path][name]


def _rows(file: ds.Fragment, ids: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    """Yield a file's rows of these ids, a row group in memory at a time."""
    wanted = pa.array(ids)
    for group in file.split_by_row_group():
        if pc.any(pc.is_in(group.to_table(columns=["record_id"])["record_id"], wanted)).as_py():
            for row in group.to_table(filter=pc.field("record_id").isin(wanted)).to_batches(max_chunksize=1):
                yield from row.to_pylist()
