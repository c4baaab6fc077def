"""What a run tells while it runs: a bar on terminals, one line every few seconds elsewhere."""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

SHARDS, IMAGES, OBJECTS = "shards", "images", "objects"
"""Keys of counts that stages report beside ``ok`` and the error codes: what has been *read* so far."""

LINE_EVERY = 10.0
"""Seconds between lines where there is no terminal."""

_FAULTS_KEPT = 100


class ProgressBoard:
    """A Ray actor that adds up what stages report; a retried block counts twice, so it informs and decides nothing."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._held: dict[str, list[str]] = {}
        self._faults: list[str] = []

    def add(self, counts: dict[str, int]) -> None:
        """Add counts, such as ``{"ok": 3, "image_corrupt": 1}`` or ``{"shards": 1}``."""
        self._counts.update(counts)

    def read(self) -> dict[str, int]:
        """Return the sums."""
        return dict(self._counts)

    def hold(self, actor: str, images: list[str]) -> None:
        """Note which images an actor has in hand; empty when it is done with them."""
        self._held[actor] = images

    def held(self) -> list[str]:
        """Return the images in hand: where a run was stopped by a crash, the guilty one is among them."""
        return [image for images in self._held.values() for image in images]

    def fault(self, message: str) -> None:
        """Note a fault of storage that leaves a shard unfinished."""
        if len(self._faults) < _FAULTS_KEPT:
            self._faults.append(message)

    def faults(self) -> list[str]:
        """Return the first faults that were noted."""
        return self._faults


class Reporter:
    """Tells a stage's counts to a :class:`ProgressBoard` without waiting for it."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def __call__(self, counts: dict[str, int]) -> None:
        """Add ``counts`` to the board."""
        self._board.add.remote(counts)

    def hold(self, images: list[str]) -> None:
        """Note which images this process has in hand."""
        self._board.hold.remote(f"{platform.node()} {os.getpid()}", images)

    def fault(self, message: str) -> None:
        """Note a fault of storage that leaves a shard unfinished."""
        self._board.fault.remote(message)


class ProgressDisplay:
    """Shows a board while a run is under way; a context manager with a thread of its own.

    Args:
        board: Handle of the :class:`ProgressBoard` actor.
        shards: Shards to be read.
    """

    def __init__(self, board: Any, shards: int) -> None:
        self._board = board
        self._shards = shards
        self._start = time.monotonic()
        self._stop = threading.Event()
        self._console = Console(stderr=True)
        show = self._bar if self._console.is_terminal else self._lines
        self._thread = threading.Thread(target=show, name="progress", daemon=True)

    def __enter__(self) -> Self:
        """Start showing."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show the last state and stop."""
        self._stop.set()
        self._thread.join(timeout=10)

    def _bar(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("objects read"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task("starting", total=None)
            while not self._stop.wait(0.5):
                counts = self._read()
                if counts:
                    progress.update(
                        task,
                        completed=_done(counts),
                        total=counts.get(OBJECTS) or None,
                        description=f"shard {counts.get(SHARDS, 0)} of {self._shards}, {_errors(counts)} errors",
                    )

    def _lines(self) -> None:
        while not self._stop.wait(LINE_EVERY):
            counts = self._read()
            seconds = time.monotonic() - self._start
            sys.stderr.write(
                f"[{seconds:6.0f} s] {counts.get(SHARDS, 0)} of {self._shards} shards read, "
                f"{_done(counts)} of {counts.get(OBJECTS, 0)} objects done, {_errors(counts)} errors, "
                f"{_done(counts) / seconds:.2f} objects/s\n"
            )
            sys.stderr.flush()

    def _read(self) -> dict[str, int]:
        import ray

        try:
            counts: dict[str, int] = ray.get(self._board.read.remote(), timeout=5)
        except ray.exceptions.RayError:
            return {}
        return counts


def _done(counts: dict[str, int]) -> int:
    return sum(n for key, n in counts.items() if key not in {SHARDS, IMAGES, OBJECTS})


def _errors(counts: dict[str, int]) -> int:
    return _done(counts) - counts.get("ok", 0)
