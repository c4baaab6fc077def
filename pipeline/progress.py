"""What a run's processes tell each other while it runs, and what it tells people: a bar, or a line now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.budget import Budget
from pipeline.config import LabelConfig
from pipeline.crashes import CrashAccount, Verdict
from pipeline.timing import ActorTimes, TimeAccount

SHARDS, IMAGES, OBJECTS = "shards", "images", "objects"
"""Keys of counts that stages report beside ``ok`` and the error codes: what has been *read* so far."""

LINE_EVERY = 10.0
"""Seconds between lines where there is no terminal."""

_FAULTS_KEPT = 100

_LAST_WORDS = 10.0  # seconds that a stuck process waits for the board before it ends itself


class ProgressBoard:
    """A Ray actor that knows what the run's processes have in hand, what they have done, and whether they may go on.

    Counts of objects are provisional until the process that reported them lays down what it has in hand: those of a
    process that died are taken back, for its images are done anew. A block that is repeated for another reason, such
    as a lost node, counts again.

    Args:
        budget: Of errors; None for no limit.
        actors: Processes of the model that work at the same time.
        before: Seconds from the start of the job until now.
    """

    def __init__(self, budget: Budget | None = None, actors: int = 1, before: float = 0.0) -> None:
        self._budget = budget
        self._times = TimeAccount(before)
        self._lapped: Counter[str] = Counter()
        self._crashes = CrashAccount(actors, _node_is_alive)
        self._counts: Counter[str] = Counter()
        self._provisional: dict[str, Counter[str]] = {}
        self._examples: dict[str, str] = {}
        self._exceeded: str | None = None
        self._faults: list[str] = []

    def add(
        self, counts: dict[str, int], hand: str | None = None, examples: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Add counts, such as ``{"ok": 3, "image_corrupt": 1}`` or ``{"shards": 1}``.

        Args:
            counts: What is new.
            hand: In which their images are; None for what is certain at once.
            examples: Error messages by code; the first of each code is kept.
        """
        self._counts.update(counts)
        if hand is not None:
            self._provisional.setdefault(hand, Counter()).update(counts)
        self._examples = {**examples, **self._examples}
        if self._budget is not None and self._exceeded is None:
            self._exceeded = self._budget.check(self._counts, self._examples)

    def read(self) -> dict[str, int]:
        """Return the sums."""
        return dict(+self._counts)

    def examples(self) -> dict[str, str]:
        """Return an error message of each code."""
        return self._examples

    def arrive(self, process: str, node: str = "") -> str | None:
        """Note that a process of the model starts; returns why the run must not go on, if so."""
        self._times.arrive(process)
        return self._crashes.arrive(process, node) or self._exceeded

    def begin(self, hand: str, images: Sequence[int]) -> Verdict:
        """Take images in hand, see :meth:`pipeline.crashes.CrashAccount.begin`; tells whether the run may go on."""
        if self._exceeded is not None:
            return Verdict(stop=self._exceeded)
        verdict = self._crashes.begin(hand, images)
        while self._crashes.dead:
            self._counts.subtract(self._provisional.pop(self._crashes.dead.pop(), Counter()))
        return verdict

    def end(self, hand: str) -> None:
        """Lay down what is in a hand: it is done."""
        self._crashes.end(hand)
        self._provisional.pop(hand, None)

    def acted(self, process: str, times: ActorTimes) -> None:
        """Take what a process of the model did until now."""
        self._times.acted(process, times)

    def spent(self, figures: Mapping[str, float]) -> None:
        """Add seconds and bytes of a task that reads or writes, by the names of :mod:`pipeline.timing`."""
        self._times.spent(figures)

    def lap(self, actors: int, readers: int) -> dict[str, Any]:
        """Return where the time went since the last lap, see :meth:`pipeline.timing.TimeAccount.lap`."""
        new = self._counts - self._lapped
        self._lapped = Counter(self._counts)
        return self._times.lap(new[IMAGES], _done(new), actors, readers)

    def stuck(self, process: str, doing: str) -> None:
        """Note that a process will end itself because what it is doing takes too long."""
        self._crashes.stuck(process, doing)

    def deaths(self) -> int:
        """Return how many processes of the model died with images in hand."""
        return self._crashes.deaths

    def fault(self, message: str) -> None:
        """Note a fault of storage that leaves a shard unfinished."""
        if len(self._faults) < _FAULTS_KEPT:
            self._faults.append(message)

    def faults(self) -> list[str]:
        """Return the first faults that were noted."""
        return self._faults


def start_board(config: LabelConfig, before: float = 0.0) -> Any:
    """Start a board on the driver's node; returns its handle.

    It is restarted should it die alone. What it knew is lost then, and it starts to count anew.

    Args:
        config: Of the job.
        before: Seconds from the start of the job until now.

    Raises:
        ConfigurationError: The budgets can't be right.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    budget = Budget(config.failures)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(ProgressBoard).options(**options).remote(budget, config.workers.actors, before)


def _node_is_alive(node: str) -> bool:
    import ray

    if not ray.is_initialized():
        return True
    return any(each["NodeID"] == node and each["Alive"] for each in ray.nodes())


class Reporter:
    """What a stage on a worker tells a :class:`ProgressBoard`, and asks it.

    Args:
        board: Handle of the actor.
    """

    def __init__(self, board: Any) -> None:
        self._board = board
        self._shown: set[str] = set()

    def __call__(
        self,
        counts: dict[str, int],
        hand: str | None = None,
        examples: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Add ``counts`` to the board, without waiting; see :meth:`ProgressBoard.add`."""
        new = {code: message for code, message in examples.items() if code not in self._shown}
        self._shown.update(new)
        self._board.add.remote(counts, hand, new)

    def arrive(self, process: str) -> str | None:
        """Tell that a process of the model starts; returns why the run must not go on, if so."""
        import ray

        reason: str | None = ray.get(self._board.arrive.remote(process, ray.get_runtime_context().get_node_id()))
        return reason

    def begin(self, hand: str, images: Sequence[int]) -> Verdict:
        """Take images in hand, and wait for the verdict on them (about a millisecond)."""
        import ray

        verdict: Verdict = ray.get(self._board.begin.remote(hand, images))
        return verdict

    def end(self, hand: str) -> None:
        """Lay down what is in a hand, without waiting."""
        self._board.end.remote(hand)

    def acted(self, process: str, times: ActorTimes) -> None:
        """Tell what a process did until now, without waiting."""
        self._board.acted.remote(process, times)

    def spent(self, figures: Mapping[str, float]) -> None:
        """Tell what a task that reads or writes did, without waiting; see :meth:`ProgressBoard.spent`."""
        self._board.spent.remote(dict(figures))

    def stuck(self, process: str, doing: str) -> None:
        """Tell that the process will end itself; waits for a moment until that has arrived."""
        import ray

        ray.wait([self._board.stuck.remote(process, doing)], timeout=_LAST_WORDS)

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
