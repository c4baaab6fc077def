"""A side of a comparison in a process of its own, so that nothing the engine does to its process helps or hurts it.

The engine changes how its whole process gets memory, for one (sdmatte/engine/memory.py). Weights are mapped from the
same file, of which there is one copy in memory.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, Self

from benchmarks.engine_objects import Asked, Weights
from benchmarks.engine_timing import Alpha, Answer, Side
from sdmatte.prompts import Prompt


class ProcessError(Exception):
    """The process of a side does not start, or stopped; the message says which and where to look."""


class Matter(Protocol):
    """What answers in the process: mattes one object, and says how long the part took that counts."""

    def __call__(self, image: Any, prompt: Prompt, size: int) -> tuple[Alpha, float]:
        """Return `(H, W)` in [0, 1], and seconds."""


class Process:
    """A process that mattes objects one by one; a context manager.

    Args:
        name: Of it, for messages.
        build: Called in the process with `arguments`; returns what mattes. Importable from its module.
        arguments: For `build`; picklable.
        threads: Of torch.

    Raises:
        ProcessError: It does not start.
    """

    def __init__(self, name: str, build: Callable[..., Matter], arguments: Sequence[object], threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # a forked child would inherit OpenMP's locks
        self._name = name
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, build, tuple(arguments), threads), daemon=True)
        self._process.start()
        theirs.close()  # or the end of the process would go unnoticed
        try:
            self._receive()
        except ProcessError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def side(self, size: int) -> Side:
        """Return it as a side, at an input of `size` x `size` pixels."""

        def answer(asked: Sequence[Asked]) -> Answer:
            with contextlib.suppress(BrokenPipeError):  # _receive says so
                self._connection.send((size, [(each.image, each.prompts) for each in asked]))
            alphas, seconds = self._receive()
            return Answer(alphas, seconds)

        return answer

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(30)
            raise ProcessError(
                f"{self._name} stopped with exit code {self._process.exitcode}; its messages stand above"
            ) from None


def plain_process(weights: Weights, device: str, threads: int) -> Process:
    """Start the plain baseline; its seconds include what is done before and after the network, as the engine's do."""
    return Process("the plain baseline", _plain, (weights.source, weights.file, device), threads)


def _plain(source: str, file: Path | None, device: str) -> Matter:
    from benchmarks.engine_objects import weights

    matter = weights(source, file).plain(64, device)

    def matte(image: Any, prompt: Prompt, size: int) -> tuple[Alpha, float]:
        matter.input_size = size
        start = time.perf_counter()
        alpha = matter.matte(image, prompt)
        return alpha, time.perf_counter() - start

    return matte


def _serve(connection: Connection, build: Callable[..., Matter], arguments: tuple[object, ...], threads: int) -> None:
    """Be the process."""
    import torch

    sys.stdout = sys.stderr  # tables go to stdout, and only those
    torch.set_num_threads(threads)
    matte = build(*arguments)
    connection.send("ready")
    with contextlib.suppress(EOFError, BrokenPipeError):  # nobody asks any more
        while True:
            size, asked = connection.recv()
            found = [matte(image, prompt, size) for image, prompts in asked for prompt in prompts]
            connection.send(([alpha for alpha, _ in found], sum(seconds for _, seconds in found)))
