"""Batches that survive a bad item and a full device."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Grid = tuple[int, int]

REGROW_AFTER = 16
"""Successful batches after which a budget that was cut by out-of-memory is doubled again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """What became of an item that failed alone.

    Attributes:
        out_of_memory: It did not fit in the device's memory.
        message: The exception, as text.
    """

    out_of_memory: bool
    message: str


class AdaptiveBatches(Generic[Item, Result]):
    """Runs a function over items, batch by batch, of one grid each and of as many pixels as the budget allows.

    A batch that raises is halved until the guilty item is alone; the others succeed. Out-of-memory also lowers the
    budget for what follows, to half of the pixels that failed; it is doubled again after :data:`REGROW_AFTER`
    successes. May be called from several threads if the function may.

    Args:
        function: From a non-empty sequence of items to as many results; may raise.
        limit: Largest budget (unit: pixel). A single item may exceed it.
        is_out_of_memory: Tells that kind of exception from the others.
        is_fatal: Tells exceptions after which the device is unusable; these are raised, not kept.
        grid: Height and width of the device's input for an item (unit: pixel); items of different grids come in
            different batches. By default all items are of one pixel, so that a budget is a number of items.

    Attributes:
        budget: The present one (unit: pixel).
        smallest: The smallest one so far (unit: pixel).
    """

    def __init__(
        self,
        function: Callable[[Sequence[Item]], Sequence[Result]],
        limit: int,
        is_out_of_memory: Callable[[Exception], bool],
        is_fatal: Callable[[Exception], bool] = lambda _: False,
        grid: Callable[[Item], Grid] = lambda _: (1, 1),
    ) -> None:
        self.budget = self.smallest = limit
        self._function = function
        self._limit = limit
        self._is_out_of_memory = is_out_of_memory
        self._is_fatal = is_fatal
        self._grid = grid
        self._successes = 0
        self._lock = threading.Lock()

    @property
    def figures(self) -> dict[str, int]:
        """The budgets `limit`, `smallest` and `last` (unit: pixel)."""
        return {"limit": self._limit, "smallest": self.smallest, "last": self.budget}

    def run(self, items: Sequence[Item]) -> list[Result | Failure]:
        """Return one result or failure per item, in order."""
        groups: dict[Grid, list[int]] = {}
        for index, item in enumerate(items):
            groups.setdefault(self._grid(item), []).append(index)
        found: dict[int, Result | Failure] = {}
        for (height, width), indices in groups.items():
            at = 0
            while at < len(indices):
                batch = indices[at : at + max(1, self.budget // (height * width))]
                results = self._attempt([items[index] for index in batch], height * width)
                found.update(zip(batch, results, strict=True))
                at += len(batch)
        return [found[index] for index in range(len(items))]

    def _attempt(self, batch: Sequence[Item], pixels: int) -> list[Result | Failure]:
        """Run one batch of items of so many pixels each, or, where it fails, both halves of it."""
        try:
            results = list(self._function(batch))
        except Exception as error:  # whatever the model raises: it costs one item, not the run
            if self._is_fatal(error):
                raise
            out_of_memory = self._is_out_of_memory(error)
            failure = Failure(out_of_memory, f"{type(error).__name__}: {error}")
        else:
            self._grow()
            return [*results]
        # Outside of the handler, where the traceback no longer keeps the failed batch's memory alive.
        if out_of_memory:
            self._shrink(len(batch), pixels)
        if len(batch) == 1:
            return [failure]
        middle = len(batch) // 2
        return self._attempt(batch[:middle], pixels) + self._attempt(batch[middle:], pixels)

    def _shrink(self, failed: int, pixels: int) -> None:
        with self._lock:
            self._successes = 0
            if failed > 1 and self.budget >= failed * pixels:
                self.budget = max(failed // 2, 1) * pixels
                self.smallest = min(self.smallest, self.budget)
                _log.warning(
                    "out of memory with %d items of %d pixels in a batch; going on with %d pixels",
                    failed,
                    pixels,
                    self.budget,
                )

    def _grow(self) -> None:
        with self._lock:
            self._successes += 1
            if self.budget < self._limit and self._successes >= REGROW_AFTER:
                self.budget = min(self.budget * 2, self._limit)
                self._successes = 0
