"""What the processes of a job spend: CPU time by role, and memory, looked at from outside while it runs."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from benchmarks.chaos_job import session

ROLES = {
    "MatteImages": "actors",
    "_Read": "readers",
    "Write": "writers",
    "ProgressBoard": "board",
    "ray::": "other workers",
    "raylet": "Ray",
    "gcs_server": "Ray",
    "site-packages/ray/": "Ray",
}
"""What a process's title holds, and what the process is then; the first that is found counts."""

EVERY = 0.25  # second between two looks
_TICK = 1.0 / os.sysconf("SC_CLK_TCK")


@dataclass
class Watch:
    """Looks at the processes of a session until it is told to stop; a context manager.

    Attributes:
        leader: First process of the session, here the driver.
        looks: For each look, when it was (second since the epoch), and CPU seconds by role until then.
        writing: When a write task was seen last (second since the epoch).
    """

    leader: int
    looks: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    writing: float = 0.0
    _used: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _before: dict[int, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start looking."""
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking."""
        self._stop.set()
        assert self._thread is not None
        self._thread.join()

    def used(self, start: float, end: float) -> dict[str, float]:
        """Return CPU seconds by role between two moments (seconds since the epoch)."""
        first = max((look for look in self.looks if look[0] <= start), default=self.looks[0], key=lambda look: look[0])
        last = min((look for look in self.looks if look[0] >= end), default=self.looks[-1], key=lambda look: look[0])
        share = (end - start) / max(last[0] - first[0], 1e-9)
        return {role: (cpu - first[1].get(role, 0.0)) * min(share, 1.0) for role, cpu in last[1].items()}

    def _look_on(self) -> None:
        while not self._stop.wait(EVERY):
            for process in session(self.leader):
                with suppress(OSError, IndexError, ValueError):
                    self._look(process)
            self.looks.append((time.time(), dict(self._used)))

    def _look(self, process: int) -> None:
        spent = cpu_seconds(process)
        title = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        role = "driver" if process == self.leader else role_of(title)
        # What a worker did since the last look counts for what it does now: tasks are longer than a look.
        self._used[role] += spent - self._before.get(process, 0.0)
        self._before[process] = spent
        if role == "writers":
            self.writing = time.time()


def role_of(title: str) -> str:
    """Return what a process is, by its title."""
    return next((role for part, role in ROLES.items() if part in title), "other")


def cpu_seconds(process: int) -> float:
    """Return the CPU time that a process has used, in user and system mode (s)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK
