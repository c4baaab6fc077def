"""Where the time of a run goes: measured in its processes, summed up by the board, kept in `run.json`.

An actor's time is cut into *exclusive* seconds: at every moment it counts as what is foremost of all that its threads
do (:data:`FOREMOST`), so that the parts add up to the time between its first and its last work. What the model does
not cover is what it waited for. Beside that, *thread* seconds tell how much work there was, overlapped or not.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")

READ, DECODE, WAIT, COPY, COMPUTE = "read", "decode", "wait", "copy", "compute"
SCORE, ENCODE, WRITE, OTHER = "score", "encode", "write", "other"
RAMP_UP, TAIL = "ramp_up", "tail"
BYTES_READ, BYTES_WRITTEN = "bytes_read", "bytes_written"

FOREMOST = (COMPUTE, COPY, DECODE, SCORE, ENCODE, OTHER)
"""What an actor's time counts as, the first of these that one of its threads does; as :data:`WAIT` if none.

`compute`: in the model, with the copies to and from its device, which it does not tell apart yet (`copy` is 0 so far);
`decode`: images, with their hashes and what scores need of them; `score`: features and scores; `encode`: PNG; `other`:
the rest of a call."""

ACTIVITIES = (RAMP_UP, COMPUTE, COPY, DECODE, SCORE, ENCODE, OTHER, WAIT, TAIL)
"""Parts of the actors' time. `ramp_up`: from the start of the job to an actor's first images; `tail`: from its last
ones until all is written."""

ACTORS_LISTED = 64
"""Actors that figures list one by one."""

_NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class ActorTimes:
    """What one process of the model did until now.

    Attributes:
        exclusive: Seconds by activity; they add up to the time from its first to its last work.
        threads: Seconds by activity, summed over its threads.
        batches: For each kind of batch its `limit`, `smallest` and `last` budget (unit: pixel).
    """

    exclusive: dict[str, float] = field(default_factory=dict)
    threads: dict[str, float] = field(default_factory=dict)
    batches: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Seconds from the first to the last work."""
        return sum(self.exclusive.values())


class Spans:
    """Sums up what the threads of an actor do; costs about 2 microseconds per span.

    Args:
        clock: Seconds, from any origin.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._active = dict.fromkeys(FOREMOST, 0)
        self._last: float | None = None
        self._exclusive: defaultdict[str, float] = defaultdict(float)
        self._threads: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def span(self, activity: str) -> Iterator[None]:
        """Count the time within as an activity of the calling thread; spans may lie in each other.

        Args:
            activity: One of :data:`FOREMOST`. :data:`OTHER` around a whole call, so that what is outside is waiting.
        """
        begin = self._change(activity, 1)
        try:
            yield
        finally:
            end = self._change(activity, -1)
            if activity != OTHER:
                with self._lock:
                    self._threads[activity] += end - begin

    def timed(self, activity: str, function: Callable[[Argument], Result]) -> Callable[[Argument], Result]:
        """Return a function whose calls count as an activity."""

        def call(argument: Argument) -> Result:
            with self.span(activity):
                return function(argument)

        return call

    def _change(self, activity: str, step: int) -> float:
        with self._lock:
            now = self._clock()
            if self._last is not None:
                foremost = next((each for each in FOREMOST if self._active[each]), WAIT)
                self._exclusive[foremost] += now - self._last
            self._last = now
            self._active[activity] += step
            return now

    def times(self, batches: Mapping[str, dict[str, int]] = MappingProxyType({})) -> ActorTimes:
        """Return the sums until the last span began or ended; waiting counts once it is over."""
        with self._lock:
            return ActorTimes(dict(self._exclusive), dict(self._threads), dict(batches))


class TimeAccount:
    """Sums up the times of a job's processes, where all of them report to; kept by the board.

    Processes tell durations only, so that nothing depends on the clocks of their machines.

    Args:
        before: Seconds from the start of the job until now.
        clock: Seconds, from any origin.
    """

    def __init__(self, before: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin(clock() - before)

    def _begin(self, at: float) -> None:
        self._start = at
        self._arrived: dict[str, float] = {}
        self._heard: dict[str, tuple[float, ActorTimes]] = {}
        self._spent: defaultdict[str, float] = defaultdict(float)

    def arrive(self, process: str) -> None:
        """Note that a process of the model starts: it is going to load it."""
        self._arrived[process] = self._clock()

    def acted(self, process: str, times: ActorTimes) -> None:
        """Take what a process did until now, and forget what it told before."""
        known = self._heard.get(process)
        if known is None or known[1].total <= times.total:  # two threads of it may overtake each other
            self._heard[process] = (self._clock(), times)

    def spent(self, figures: Mapping[str, float]) -> None:
        """Add what a task did: seconds of :data:`READ` or :data:`WRITE`, bytes."""
        for key, value in figures.items():
            self._spent[key] += value

    def lap(self, images: int, objects: int, actors: int, readers: int) -> dict[str, Any]:
        """Return the figures of what was done since the last lap, see :func:`merged`; begins another one.

        Args:
            images: That were read since.
            objects: That were done since.
            actors: Processes of the model that were to work at the same time.
            readers: Shards that were read at a time.
        """
        now = self._clock()
        rows = self._rows(now, actors)
        lap = {
            "jobs": 1,
            "actors": actors,
            "readers": readers,
            "wall_seconds": now - self._start,
            "actor_seconds": actors * (now - self._start),
            "seconds": _sums(row["seconds"] for row in rows),
            "thread_seconds": _sums(
                [times.threads for _, times in self._heard.values()]
                + [{key: self._spent[key] for key in (READ, WRITE)}]
            ),
            "images": images,
            "objects": objects,
            **{key: round(self._spent[key]) for key in (BYTES_READ, BYTES_WRITTEN)},
            "batches": _batches(row["batches"] for row in rows),
            "per_actor": rows,
        }
        self._begin(now)
        return merged(None, lap)

    def _rows(self, now: float, actors: int) -> list[dict[str, Any]]:
        """Return what is known of each process. Those beyond ``actors`` stood in for others, which had died."""
        known = dict.fromkeys((*self._arrived, *self._heard))
        processes = sorted(known, key=lambda each: self._arrived.get(each, self._start))
        last = {process: at for process, (at, _) in self._heard.items()}
        alive = set(sorted(processes, key=lambda each: last.get(each, now))[-actors:])
        rows = []
        for number, process in enumerate(processes):
            at, times = self._heard.get(process, (now, ActorTimes()))
            since = self._start if number < actors else self._arrived[process]
            seconds = {
                RAMP_UP: max(0.0, at - times.total - since),
                **{key: times.exclusive.get(key, 0.0) for key in (*FOREMOST, WAIT)},
                TAIL: now - at if process in alive else 0.0,
            }
            rows.append({"process": process, "seconds": seconds, "batches": times.batches})
        return rows


def measured(items: Iterable[Result]) -> Iterator[tuple[Result, float]]:
    """Yield items with the seconds that it took to make each; what becomes of them afterwards doesn't count."""
    source = iter(items)
    begin = time.perf_counter()
    for item in source:
        yield item, time.perf_counter() - begin
        begin = time.perf_counter()


def merged(earlier: Mapping[str, Any] | None, now: Mapping[str, Any], *, same_job: bool = False) -> dict[str, Any]:
    """Add up the figures of two laps or jobs of one run: what `run.json` holds under `timing`.

    Args:
        earlier: Figures that were returned here, or None.
        now: Of what was done since.
        same_job: Both are of one job.

    Returns:
        `jobs`; `actors`, `readers` (of the last); `wall_seconds`, of which the jobs read, computed or wrote;
        `actor_seconds`, actors times that; `seconds`, what became of these (:data:`ACTIVITIES`); `thread_seconds`, by
        activity, summed over threads and tasks; `model_busy`, the share of `compute` in the time from the first to the
        last work of each actor; `images`, `objects`, each also `per_second` of wall time; `bytes_read` and
        `bytes_written` (encoded images, data files); `batches`, the smallest and the last budget (unit:
        pixel); `per_actor`, the last :data:`ACTORS_LISTED`.
    """
    before = earlier or {}
    sums = {
        key: before.get(key, 0) + now[key]
        for key in ("wall_seconds", "actor_seconds", "images", "objects", BYTES_READ, BYTES_WRITTEN)
    }
    seconds = _sums([before.get("seconds", _NOTHING), now["seconds"]])
    working = sum(seconds.get(key, 0.0) for key in (*FOREMOST, WAIT))
    wall = sums["wall_seconds"]
    result = {
        "jobs": before.get("jobs", 0) + (0 if same_job else now["jobs"]),
        "actors": now["actors"],
        "readers": now["readers"],
        **sums,
        "model_busy": seconds.get(COMPUTE, 0.0) / working if working else None,
        "images_per_second": sums["images"] / wall if wall else None,
        "objects_per_second": sums["objects"] / wall if wall else None,
        "seconds": {key: seconds.get(key, 0.0) for key in ACTIVITIES},
        "thread_seconds": _sums([before.get("thread_seconds", _NOTHING), now["thread_seconds"]]),
        "batches": {**before.get("batches", {}), **_continued(before.get("batches", {}), now["batches"])},
        "per_actor": [*before.get("per_actor", []), *now["per_actor"]][-ACTORS_LISTED:],
    }
    rounded: dict[str, Any] = _rounded(result)
    return rounded


def _sums(each: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for figures in each:
        for key, value in figures.items():
            total[key] = total.get(key, 0.0) + value
    return total


def _batches(each: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """Return by kind of batch the smallest budgets of several actors."""
    found: dict[str, dict[str, int]] = {}
    for batches in each:
        for kind, budget in batches.items():
            known = found.setdefault(kind, dict(budget))
            known |= {key: min(known[key], budget[key]) for key in budget}
    return found


def _continued(
    before: Mapping[str, Mapping[str, int]], now: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Return by kind of batch the budgets of now, with the smallest of all times."""
    return {
        kind: {**budget, "smallest": min(budget["smallest"], before.get(kind, budget)["smallest"])}
        for kind, budget in now.items()
    }


def _rounded(value: Any) -> Any:
    """Return a JSON tree in which floats have at most five decimals, and milliseconds are kept."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value
