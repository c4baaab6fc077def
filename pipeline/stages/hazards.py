"""What can kill or block the model's process, and how that is noticed: crashes, stuck calls, lost devices."""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from pipeline.budget import BudgetExceededError
from pipeline.crashes import Verdict, hand_of
from pipeline.stages.records import Work
from pipeline.timing import ActorTimes

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Failed allocations that torch raises as plain RuntimeError."""

_log = logging.getLogger(__name__)


class Board(Protocol):
    """Knows what every process has in hand; :class:`pipeline.progress.Reporter` is one."""

    def __call__(self, counts: dict[str, int], hand: str, examples: Mapping[str, str]) -> None:
        """Add counts of objects that are done, and error messages by code; doesn't wait."""

    def arrive(self, process: str) -> str | None:
        """Note that a process starts; returns why the run must not go on, if so."""

    def begin(self, hand: str, images: Sequence[int]) -> Verdict:
        """Take images in hand, see :meth:`pipeline.crashes.CrashAccount.begin`; waits for the answer."""

    def end(self, hand: str) -> None:
        """Lay down what is in a hand; doesn't wait."""

    def acted(self, process: str, times: ActorTimes) -> None:
        """Tell what a process did until now; doesn't wait."""

    def stuck(self, process: str, doing: str) -> None:
        """Note that the process ends itself because of what it is doing; waits until that is certain."""


class _Gate:
    """Lets many in at a time, or one alone; who wants to be alone has precedence."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting = 0
        self._alone = False

    @contextmanager
    def __call__(self, alone: bool) -> Iterator[None]:
        """Wait until there is room, and take it for the time within."""
        with self._changed:
            if alone:
                self._waiting += 1
                self._changed.wait_for(lambda: not self._inside)
                self._waiting -= 1
            else:
                self._changed.wait_for(lambda: not (self._alone or self._waiting))
            self._inside += 1
            self._alone = alone
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._alone = False
                self._changed.notify_all()


class ProcessWatch:
    """Tells the board what this process has in hand, and ends the process if a step takes too long.

    Several threads may work on images at a time, each with a hand of its own.

    The limit is watched by a thread. A step that never lets go of Python's global lock can't be ended this way; torch,
    Pillow and OpenCV release it while they compute.

    Args:
        board: Whom to tell; None for a process of which nobody takes account.
        timeout: Longest time that a step may take (unit: second).
        end_process: Ends this process at once.

    Attributes:
        process: Random id of this process: one that Ray starts in its place has another.
    """

    def __init__(self, board: Board | None, timeout: float, end_process: Callable[[int], object] = os._exit) -> None:
        self.process = secrets.token_hex(8)
        self._board = board
        self._timeout = timeout
        self._end_process = end_process
        self._steps: dict[object, tuple[float, str]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._numbers = itertools.count()
        self._here = threading.local()
        self._gate = _Gate()

    @property
    def hand(self) -> str:
        """The name of the calling thread's hand, towards the board."""
        if not hasattr(self._here, "hand"):
            self._here.hand = hand_of(self.process, next(self._numbers))
        name: str = self._here.hand
        return name

    def arrive(self) -> str | None:
        """Tell that this process starts; returns why the run must not go on, if so."""
        return self._board.arrive(self.process) if self._board else None

    def portions(self, works: Sequence[Work], *, alone: bool = False) -> Generator[Sequence[Work], None, None]:
        """Yield images in the portions in which they are to be done: suspects one at a time, and first.

        Each portion is in hand while the caller has it. Condemned images have their ``error`` set. While a suspect is
        in hand, no other thread of this process has anything in hand: if the process dies, it is known of what.

        Args:
            works: The images.
            alone: No other thread is to have anything in hand meanwhile, suspects or not.

        Raises:
            BudgetExceededError: The run must stop.
        """
        if self._board is None:
            with self._gate(alone):
                yield works
            return
        with self._gate(alone):
            suspects = self._begin(works).suspects
            if not suspects:
                yield works
        if suspects:
            singles = [[work] for work in works if work.is_wanted and work.identity in suspects]
            others = [work for work in works if not (work.is_wanted and work.identity in suspects)]
            for portion in singles:
                with self._gate(True):
                    self._begin(portion)
                    yield portion
                    self._begin(())  # laid down before another thread goes on: it is not to stand beside it
            with self._gate(alone):
                self._begin(others)
                yield others
        self._board.end(self.hand)  # only now: if the process dies before, all of them are done anew

    def _begin(self, works: Sequence[Work]) -> Verdict:
        assert self._board is not None
        wanted = [work for work in works if work.is_wanted]
        verdict = self._board.begin(self.hand, [work.identity for work in wanted])
        if verdict.stop is not None:
            raise BudgetExceededError(verdict.stop)
        for work in wanted:
            work.error = verdict.condemned.get(work.identity)
        return verdict

    @contextmanager
    def step(self, doing: str) -> Iterator[None]:
        """Watch over one step.

        Args:
            doing: What it is, such as ``matting 4 objects``.
        """
        if self._board is None:
            yield
            return
        key = object()
        with self._changed:
            self._steps[key] = (time.monotonic() + self._timeout, doing)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                del self._steps[key]

    def _watch(self) -> None:
        with self._changed:
            while True:
                deadline, doing = min(self._steps.values(), default=(None, ""))
                if deadline is not None and deadline <= time.monotonic():
                    break
                self._changed.wait(None if deadline is None else deadline - time.monotonic())
        assert self._board is not None
        message = f"{doing} took longer than model.batch_timeout={self._timeout:g} s"
        _log.critical("%s, ending this process", message)
        self._board.stuck(self.process, message)
        self._end_process(1)


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether the device, or the host, had no memory left for an allocation."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def is_device_lost(error: Exception) -> bool:
    """Tell whether CUDA reported a fault after which every later call in the process fails."""
    return isinstance(error, RuntimeError) and not is_out_of_memory(error) and "CUDA error" in str(error)


def in_ray_actor() -> bool:
    """Tell whether this process is an actor of Ray's, which starts another in its place."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None
