"""The end of the Ray Data plan: every write task leaves one data file and one commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
from ray.data import Datasink
from ray.data.block import Block, BlockAccessor

from pipeline.claims import Claim
from pipeline.parts import write_part
from pipeline.stages.parcels import unpack
from pipeline.storage import RETRIES
from pipeline.timing import BYTES_WRITTEN, WRITE

if TYPE_CHECKING:
    from ray.data._internal.execution.interfaces import TaskContext  # Ray exports it nowhere else


_COMBINED = 2**30  # bytes: Arrow's offsets of 32 bits end at twice that


class CommitSink(Datasink[None]):  # type: ignore[misc]  # Ray has no types
    """Writes record and ledger rows into a run directory, exactly once.

    Ray repeats a task that failed or whose worker died with the same task index: it writes the same two objects again.
    A job that is started again has a claim of its own, so it never touches what an earlier one committed. Nothing is
    done when the write completes or fails: what is committed stays valid either way.

    Args:
        claim: Of the job that writes.
        file_bytes: Size of rows gathered into one data file, at least, except in the last one (unit: byte).
        retries: How often a transient fault of the store is retried.
        phase: Tells several sinks of one job apart.
        spent: Told the seconds and bytes of each write, by the names of :mod:`pipeline.timing`.
    """

    def __init__(
        self,
        claim: Claim,
        file_bytes: int,
        retries: int = RETRIES,
        phase: int = 0,
        spent: Callable[[Mapping[str, float]], None] | None = None,
    ) -> None:
        self._claim = claim
        self._retries = retries
        self._file_bytes = file_bytes
        self._phase = phase
        self._spent = spent

    def write(self, blocks: Iterable[Block], ctx: TaskContext) -> None:
        """Write the parcels of one task; see :func:`pipeline.parts.write_part` for the rows and the errors."""
        begin = time.perf_counter()
        tables = [BlockAccessor.for_block(block).to_arrow() for block in blocks]
        tables = [unpack(table) for table in tables if table.num_rows]  # empty blocks may lack their columns
        tables = [table for table in tables if table.num_rows]
        if tables:
            table = pa.concat_tables(tables, promote_options="default")
            if table.nbytes < _COMBINED:
                table = table.combine_chunks()  # Parquet's writer takes five times as long over a chunk per parcel
            commit = write_part(self._claim, f"{self._phase}-{ctx.task_idx:06d}", table, retries=self._retries)
            if self._spent and commit:
                self._spent({WRITE: time.perf_counter() - begin, BYTES_WRITTEN: commit.size})

    @property
    def min_bytes_per_write(self) -> int:
        """Bytes that Ray gathers before it starts a write task; of all shards together."""
        return self._file_bytes
