"""Counting ids and distinct ids of any number, in bounded memory."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigurationError

IN_MEMORY = 2**16
"""Ids held before they go to the disk (half a megabyte; about four times that while they are sorted)."""

_BUCKETS = 256


class DistinctIds:
    """Counts ids, and how many of them are distinct.

    Beyond :data:`IN_MEMORY` ids they are spread over 256 files by their highest bits, and counted file by file: 8
    bytes of the temporary folder per id, and of memory only a 256th of that, for ids are hashes.

    Args:
        in_memory: Ids held before they go to the disk.
    """

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self._in_memory = in_memory
        self._held: list[NDArray[np.int64]] = []
        self._held_count = 0
        self._total = 0
        self._files: list[IO[bytes]] = []
        self._open = ExitStack()

    def add(self, ids: NDArray[np.int64]) -> None:
        """Take more.

        Args:
            ids: ``(N,)``; not kept as it is.

        Raises:
            ConfigurationError: The temporary folder is full, or can't be written to.
        """
        if not len(ids):
            return
        self._held.append(ids)
        self._held_count += len(ids)
        self._total += len(ids)
        if self._held_count >= self._in_memory:
            self._spill()

    def count(self) -> tuple[int, int]:
        """Return how many there were, and how many distinct ones; the last call, files are removed with it.

        Raises:
            ConfigurationError: The temporary folder is full, or can't be read.
        """
        with self._open:
            if not self._files:
                return self._total, _distinct(self._held)
            self._spill()
            distinct = 0
            for file in self._files:
                file.seek(0)
                distinct += _distinct([np.frombuffer(file.read(), np.int64)])
                file.close()
            return self._total, distinct

    def _spill(self) -> None:
        ids = np.concatenate([np.empty(0, np.int64), *self._held])
        self._held, self._held_count = [], 0
        buckets = (ids.view(np.uint64) >> np.uint64(56)).astype(np.uint8)
        order = np.argsort(buckets, kind="stable")  # a radix sort, of bytes
        edges = np.searchsorted(buckets[order], np.arange(_BUCKETS + 1))
        ids = ids[order]
        try:
            while len(self._files) < _BUCKETS:
                self._files.append(self._open.enter_context(tempfile.TemporaryFile()))  # noqa: SIM115
            for file, start, end in zip(self._files, edges[:-1], edges[1:], strict=True):
                file.write(ids[start:end].tobytes())
        except OSError as error:
            raise ConfigurationError(
                f"ids can't be counted in the temporary folder {tempfile.gettempdir()} ({error}): it takes 8 bytes "
                "per record of the run; point TMPDIR to a larger one"
            ) from None


def _distinct(pieces: list[NDArray[np.int64]]) -> int:
    ids = np.sort(np.concatenate([np.empty(0, np.int64), *pieces]))  # far faster than np.unique
    return len(ids[:1]) + int(np.count_nonzero(ids[1:] != ids[:-1]))
