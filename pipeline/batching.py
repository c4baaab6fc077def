"""Batches that survive a bad item and a full device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

REGROW_AFTER = 16
"""Successful batches after which a batch size that was cut by out-of-memory is doubled again."""

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
    """Runs a function over items, batch by batch.

    A batch that raises is halved until the guilty item is alone; the others succeed. Out-of-memory also lowers the
    batch size for what follows; it grows again after :data:`REGROW_AFTER` successes.

    Args:
        function: From a non-empty sequence of items to as many results; may raise.
        limit: Largest batch.
        is_out_of_memory: Tells that kind of exception from the others.
        is_fatal: Tells exceptions after which the device is unusable; these are raised, not kept.

    Attributes:
        size: The present batch size.
    """

    def __init__(
        self,
        function: Callable[[Sequence[Item]], Sequence[Result]],
        limit: int,
        is_out_of_memory: Callable[[Exception], bool],
        is_fatal: Callable[[Exception], bool] = lambda _: False,
    ) -> None:
        self.size = limit
        self._function = function
        self._limit = limit
        self._is_out_of_memory = is_out_of_memory
        self._is_fatal = is_fatal
        self._successes = 0

    def run(self, items: Sequence[Item]) -> list[Result | Failure]:
        """Return one result or failure per item, in order."""
        results: list[Result | Failure] = []
        while len(results) < len(items):
            batch = items[len(results) : len(results) + self.size]
            results.extend(self._attempt(batch))
        return results

    def _attempt(self, batch: Sequence[Item]) -> list[Result | Failure]:
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
            self._shrink(len(batch))
        if len(batch) == 1:
            return [failure]
        middle = len(batch) // 2
        return self._attempt(batch[:middle]) + self._attempt(batch[middle:])

    def _shrink(self, failed: int) -> None:
        self._successes = 0
        if failed > 1 and self.size >= failed:
            self.size = max(failed // 2, 1)
            _log.warning("out of memory with %d items in a batch; going on with %d", failed, self.size)

    def _grow(self) -> None:
        self._successes += 1
        if self.size < self._limit and self._successes >= REGROW_AFTER:
            self.size = min(self.size * 2, self._limit)
            self._successes = 0
