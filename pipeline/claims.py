"""Claims: which job may write to a run directory, decided by conditional writes and by no clock.

Every job that begins or continues a run puts ``claims/NNNNNN.json``, the next number, on the condition that it isn't
there. So each number, the *epoch*, belongs to one job, and the highest one is in charge. A claim names the commit logs
of earlier epochs that count (:mod:`pipeline.commit_log`); what an earlier job commits after that is never seen, so a
job that was only paused, or cut off, can't double a record.

While it works a job rewrites ``claims/NNNNNN-….alive`` every few seconds. Who wants to follow it watches that object:
one that changes belongs to a living job, one that stays as it is for a while to a dead one. Clocks are not compared.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import secrets
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pipeline import exclusive, storage
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.storage_faults import NotFoundError
from sdmatte.urls import redact

BEAT_SECONDS = 5.0
"""Between two signs of life of a job."""

LEASE_SECONDS = 30.0
"""For how long a job may show no sign of life before another one takes over."""

_CLAIM = re.compile(r"(\d{6})\.json")
_log = logging.getLogger(__name__)


class ClaimedError(ConfigurationError):
    """Another job is writing to the run directory."""


class SupersededError(PipelineError):
    """Another job has taken the run over: this one was paused or cut off for too long, and must not go on."""


@dataclass(frozen=True)
class Claim:
    """What one job may write, and which earlier commits count.

    Attributes:
        run: The run directory.
        epoch: Its number, from 1.
        nonce: Six random digits of the job; part of the names of all that it writes.
        logs: Commit logs of earlier epochs that count, by name.
        holder: Who holds it; for people, and for jobs on the same machine.
    """

    run: str
    epoch: int
    nonce: str
    logs: tuple[str, ...] = ()
    holder: dict[str, Any] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """What the names of its parts begin with, behind their kind."""
        return f"{self.epoch:06d}-{self.nonce}"

    def check(self, *, retries: int = storage.RETRIES) -> None:
        """Ask the store whether no other job has taken over.

        Raises:
            SupersededError: One has.
            TransientError: The store failed repeatedly.
        """
        if storage.exists(_uri(self.run, self.epoch + 1), retries=retries):
            raise SupersededError(
                f"another job has taken over {redact(self.run)} while this one showed no sign of life for "
                f"{LEASE_SECONDS:g} s; what this one committed before stays, the other one does the rest"
            )

    def to_json(self) -> bytes:
        """Return the content of the claim object."""
        fields = {"epoch": self.epoch, "nonce": self.nonce, "holder": self.holder, "logs": list(self.logs)}
        return (json.dumps(fields, indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, run: str, name: str, content: bytes) -> Self:
        """Read the content of a claim object.

        Raises:
            ConfigurationError: It is damaged.
        """
        try:
            fields = json.loads(content)
            return cls(run, int(fields["epoch"]), fields["nonce"], tuple(fields["logs"]), dict(fields["holder"]))
        except (ValueError, KeyError, TypeError):
            raise ConfigurationError(
                f"{redact(run)}/claims/{name} is damaged; restore it, or choose another output.path"
            ) from None


def latest(run: str) -> Claim | None:
    """Return the claim that is in charge; None where no job ever began.

    Raises:
        ConfigurationError: It is damaged, or the store refuses access.
        TransientError: The store failed repeatedly.
    """
    names = [file.name for file in storage.list_files(storage.join(run, "claims"), [".json"], pattern=False)]
    numbered = sorted(name for name in names if _CLAIM.fullmatch(name))
    if not numbered:
        return None
    content = storage.read_bytes(storage.join(run, "claims", numbered[-1]))
    return Claim.from_json(run, numbered[-1], content)


def acquire(
    run: str, seal: Callable[[Claim | None, str], tuple[str, ...]], *, exclusively: bool = True
) -> tuple[Claim, Heartbeat]:
    """Take charge of a run directory.

    Args:
        run: The run directory.
        seal: Given the claim so far and the name of a log to write, gathers what is committed in logs, and returns
            the names of all that count.
        exclusively: False for stores that take no conditional writes.

    Returns:
        The claim, and what shows that this job is alive, until it is closed.

    Raises:
        ClaimedError: Another job holds it, and is alive, or was faster.
        ConfigurationError: The store can't keep jobs apart, or refuses access.
        TransientError: The store failed repeatedly.
    """
    if exclusively:
        exclusive.check_store(storage.join(run, "claims"))
    before = latest(run)
    if before is not None and _is_alive(before):
        raise ClaimedError(f"{described(before)} is writing to {redact(run)}; wait for it, or stop it first")
    nonce = secrets.token_hex(3)
    epoch = before.epoch + 1 if before else 1
    logs = seal(before, f"sealed-{epoch:06d}-{nonce}.parquet")
    claim = Claim(run, epoch, nonce, logs, _this_job())
    heartbeat = Heartbeat(claim)
    heartbeat.beat()  # before the claim is there: whoever sees the claim finds the sign of life
    if not exclusively:
        storage.write_bytes_atomic(_uri(run, epoch), claim.to_json())
    elif not exclusive.create(_uri(run, epoch), claim.to_json()):
        raise ClaimedError(f"another job took {redact(run)} a moment ago; wait for it, or stop it first")
    heartbeat.start()
    return claim, heartbeat


class Heartbeat:
    """Shows that a job is alive, in a thread of its own, and finds out when another one took over.

    Attributes:
        lost: Whether another job took over. The main thread is interrupted then, if it is the one that began this.
    """

    def __init__(self, claim: Claim) -> None:
        self.lost = False
        self._claim = claim
        self._uri = storage.join(claim.run, "claims", f"{claim.epoch:06d}-{claim.nonce}.alive")
        self._beats = 0
        self._stop = threading.Event()
        self._interrupts = threading.current_thread() is threading.main_thread()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin the thread."""
        self._thread.start()

    def beat(self, state: str = "alive") -> None:
        """Give one sign of life; the last one says that the job is over.

        Raises:
            PipelineError: The store failed, or refuses access.
        """
        self._beats += 1
        content = {"state": state, "beat": self._beats, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        storage.write_bytes_atomic(self._uri, json.dumps(content).encode(), retries=0)

    def close(self) -> None:
        """End the thread, and say that the job is over, so that the next one needn't wait."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=LEASE_SECONDS)
        if not self.lost:
            with suppress(PipelineError):  # then the next job waits until the lease is over
                self.beat("over")

    def _run(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                self._claim.check(retries=0)
                self.beat()
            except SupersededError:
                self.lost = True
                if self._interrupts and not self._stop.is_set():
                    _interrupt_main_thread()
                return
            except PipelineError as error:
                _log.warning("no sign of life could be written: %s", error)


def _interrupt_main_thread() -> None:
    """Send it a signal: `_thread.interrupt_main` would be noticed only once it has stopped waiting for something."""
    number = threading.main_thread().ident
    if number is not None:
        signal.pthread_kill(number, signal.SIGINT)


def _is_alive(claim: Claim) -> bool:
    """Tell whether the job that holds a claim still works; may watch it for :data:`LEASE_SECONDS`."""
    uri = storage.join(claim.run, "claims", f"{claim.epoch:06d}-{claim.nonce}.alive")
    first = _sign(uri)
    if first is None or first.get("state") == "over" or _is_gone(claim.holder):
        return False
    _log.warning("%s began to write to %s; watching for signs of life", described(claim), redact(claim.run))
    end = time.monotonic() + LEASE_SECONDS
    while time.monotonic() < end:
        time.sleep(BEAT_SECONDS / 5)
        now = _sign(uri)
        if now is None or now.get("state") == "over" or _is_gone(claim.holder):
            return False
        if now != first:
            return True
    return False


def _sign(uri: str) -> dict[str, Any] | None:
    try:
        content = json.loads(storage.read_bytes(uri))
    except (NotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _this_job() -> dict[str, Any]:
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "machine": _machine(),
        "process_started": _process_start(os.getpid()),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _is_gone(holder: dict[str, Any]) -> bool:
    """Tell whether a job of this machine has ended; of other machines nothing is known."""
    pid, started = holder.get("pid"), holder.get("process_started")
    if _machine() is None or holder.get("machine") != _machine() or not isinstance(pid, int) or started is None:
        return False
    return _process_start(pid) != str(started)


def _machine() -> str | None:
    """Return what only processes that see each other's numbers have in common: boot and name space."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return None


def _process_start(pid: int) -> str | None:
    """Return when a process started (in clock ticks since the boot), which tells it from later ones of its number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def described(claim: Claim) -> str:
    """Say who holds a claim, for people."""
    holder = claim.holder
    return f"a job on {holder.get('host')} (process {holder.get('pid')}, since {holder.get('at')})"


def _uri(run: str, epoch: int) -> str:
    return storage.join(run, "claims", f"{epoch:06d}.json")
