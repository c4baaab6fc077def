"""Whole records by their ids, from all runs of an output: which data files are read for them is what commits say.

Reviews are imported some objects at a time, so that without this the ids of the whole output would be read each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipeline import commit_log
from pipeline.latest import Chain
from pipeline.row_groups import RowGroups
from pipeline.runs import RunDirectory
from pipeline.schema import RECORDS


class RecordFinder:
    """Looks records up by what the commits say about data files; keeps 8 bytes per record of the output.

    Args:
        chain: The output's runs.
    """

    def __init__(self, chain: Chain) -> None:
        self._runs = list(chain.complete().values())
        self._held_by: dict[str, dict[str, NDArray[np.int64]]] = {}
        self._datasets: dict[str, ds.FileSystemDataset] = {}

    def find(self, wanted: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Yield the rows of these ids in every complete run that holds them, those of the last run last.

        Of several rows of an id in one run the one that counts comes last, as in a curation.

        Raises:
            TransientError: The store failed repeatedly while commits were read.
            PipelineError: A data file is damaged, or gone.
        """
        ids = np.array(sorted(set(wanted)), np.int64)
        for run in self._runs:
            names = {name for name, held in self._held(run).items() if np.isin(ids, held).any()}
            groups = RowGroups()
            found = [table for _, table in groups.add(self._files_of(run, names), ids, ["record_id"])]
            for place in (row for table in found for row in table.to_pylist()):
                yield groups.row(place["group"], place["row"], RECORDS)

    def _held(self, run: RunDirectory) -> dict[str, NDArray[np.int64]]:
        if run.path not in self._held_by:
            self._held_by[run.path] = {
                PurePosixPath(commit.data).name: np.concatenate(
                    [np.empty(0, np.int64), *(part.record_ids for part in commit.shards.values())]
                )
                for commit in commit_log.read_commits(run.path)
                if commit.data
            }
        return self._held_by[run.path]

    def _files_of(self, run: RunDirectory, names: set[str]) -> ds.FileSystemDataset:
        if run.path not in self._datasets:
            self._datasets[run.path] = run.dataset()
        whole = self._datasets[run.path]
        files = [file for file in whole.get_fragments() if PurePosixPath(file.path).name in names]
        return ds.FileSystemDataset(files, whole.schema, whole.format, whole.filesystem)
