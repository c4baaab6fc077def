"""Where the time of a run went, in the form in which the page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.bound import Bound, bound
from pipeline.timing import (
    ACTIVITIES,
    BYTES_READ,
    BYTES_WRITTEN,
    COMPUTE,
    COPY,
    DECODE,
    ENCODE,
    OTHER,
    RAMP_UP,
    READ,
    SCORE,
    TAIL,
    WAIT,
    WRITE,
)

WIDTH = 1000.0
"""Of the bar's drawing."""

_WORDS = {
    RAMP_UP: ("ramp-up", "from the start of the job to an actor's first images: processes start, the model is loaded"),
    COMPUTE: ("compute", "in the model, with the copies to and from its device"),
    COPY: ("copy", "between host and device, where the model tells it apart"),
    DECODE: ("decode", "images, with their hashes and what scores need of them; the model stood still"),
    SCORE: ("score", "features and scores of mattes; the model stood still"),
    ENCODE: ("encode", "PNG; the model stood still"),
    OTHER: ("other", "between these: tables, messages"),
    WAIT: ("wait", "an actor had nothing in hand"),
    TAIL: ("tail", "from an actor's last images until all is written"),
    READ: ("read", "tasks beside the actors: stores, headers, prompts"),
    WRITE: ("write", "tasks beside the actors: data files and commits"),
}


@dataclass(frozen=True)
class Part:
    """One activity.

    Attributes:
        key: One of :mod:`pipeline.timing`'s.
        name: For people.
        words: What it is.
        seconds: Of the actors' time; None for what other processes do.
        share: Of all the actors' time, in [0, 1]; None likewise.
        threads: Seconds of all threads or tasks, overlapped or not; None where they are not counted.
        x: Where it begins in the bar.
        width: In the bar, of :data:`WIDTH`.
    """

    key: str
    name: str
    words: str
    seconds: float | None = None
    share: float | None = None
    threads: float | None = None
    x: float = 0.0
    width: float = 0.0


@dataclass(frozen=True)
class Light:
    """The section: what became of the actors' time, and what bounds the run.

    Attributes:
        bound: What bounds it.
        parts: Those of the actors' time, in order.
        tasks: Reading and writing, beside them.
        timing: The figures, see :func:`pipeline.timing.merged`.
        unknown: Actor seconds of which nothing is known: those of processes that died.
        rates: Megabytes per second of wall time, read and written.
    """

    bound: Bound
    parts: tuple[Part, ...]
    tasks: tuple[Part, ...]
    timing: Mapping[str, Any]
    unknown: float
    rates: tuple[float, float]


def light(timing: Mapping[str, Any] | None) -> Light | None:
    """Lay out the figures; None where nothing was measured, such as in older runs."""
    found = bound(timing)
    if timing is None or found is None:
        return None
    whole = max(timing["actor_seconds"], sum(timing["seconds"].values()), 1e-9)
    threads = timing["thread_seconds"]
    parts, x = [], 0.0
    for key in ACTIVITIES:
        seconds = timing["seconds"].get(key, 0.0)
        if not seconds:
            continue
        share = seconds / whole
        width = round(WIDTH * share, 2)
        parts.append(Part(key, *_WORDS[key], seconds, share, threads.get(key), x, width))
        x = round(x + width, 2)
    tasks = tuple(Part(key, *_WORDS[key], threads=threads.get(key, 0.0)) for key in (READ, WRITE))
    wall = max(timing["wall_seconds"], 1e-9)
    unknown = max(0.0, timing["actor_seconds"] - sum(timing["seconds"].values()))
    rates = timing[BYTES_READ] / 1e6 / wall, timing[BYTES_WRITTEN] / 1e6 / wall
    return Light(found, tuple(parts), tasks, timing, unknown, rates)
