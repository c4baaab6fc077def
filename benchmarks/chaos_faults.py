"""The faults of the chaos matrix. Each function does one thing to a run, and leaves it to `Case.finish`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.chaos_case import JOB_SECONDS, Case
from benchmarks.chaos_job import QUIET, ROOT, NotInjected, session
from pipeline.claims import latest
from support.faulty_store import Fault

MODEL = r"^ray::MapWorker\(MapBatches\(MatteImages"
READER = r"^ray::MapBatches\(_Read"
WRITER = r"^ray::Write"
RAYLET = r"/raylet/raylet "
CONTROL = r"/gcs/gcs_server "
DISK_MB = (1, 32)
"""A disk that is too small for the run, and the same one grown."""

FAULTS: dict[str, Callable[[Case], None]] = {}
ON_S3: set[str] = set()
"""Faults that need an object store; the others take the disk or the store by turns."""

ON_DISK: set[str] = set()
"""Faults that need the disk."""


class Unavailable(Exception):  # noqa: N818
    """This machine can't do that to a run."""


def fault(name: str, where: set[str] | None = None) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Register a fault under a name."""

    def register(function: Callable[[Case], None]) -> Callable[[Case], None]:
        FAULTS[name] = function
        if where is not None:
            where.add(name)
        return function

    return register


# --- processes -------------------------------------------------------------------------------------------------------


@fault("driver-kill")
def driver_kill(case: Case) -> None:
    """SIGKILL to the driver."""
    job = case.start()
    case.moment(job)
    job.kill_driver()


@fault("driver-kill-thrice")
def driver_kill_thrice(case: Case) -> None:
    """SIGKILL to the driver, three times in succession."""
    for _ in range(3):
        job = case.start()
        case.moment(job, last=4)
        job.kill_driver()
        case.count_discarded()


@fault("driver-term")
def driver_term(case: Case) -> None:
    """SIGTERM to the driver, as cluster managers send it."""
    job = case.start()
    case.moment(job)
    job.process.terminate()
    if case.end(job) not in (130, 0):
        case.breaches.append(f"exit code {job.process.returncode} after SIGTERM")


@fault("power-cut")
def power_cut(case: Case) -> None:
    """SIGKILL to all processes of the job at once."""
    job = case.start()
    case.moment(job)
    job.signal_all(signal.SIGKILL)
    job.close()


@fault("model-kill")
def model_kill(case: Case) -> None:
    """SIGKILL to the process that holds the model."""
    _kill_one(case, MODEL)


@fault("reader-kill")
def reader_kill(case: Case) -> None:
    """SIGKILL to a worker that reads a shard."""
    _kill_one(case, READER)


@fault("writer-kill")
def writer_kill(case: Case) -> None:
    """SIGKILL to a worker that writes records."""
    _kill_one(case, WRITER)


@fault("raylet-kill")
def raylet_kill(case: Case) -> None:
    """SIGKILL to the raylet, Ray's process for the node."""
    _kill_one(case, RAYLET)


@fault("gcs-kill")
def gcs_kill(case: Case) -> None:
    """SIGKILL to the GCS, Ray's process for the cluster."""
    _kill_one(case, CONTROL)


def _kill_one(case: Case, title: str) -> None:
    job = case.start()
    if title == READER:  # shards are read long before most records are written
        os.kill(case.rng.choice(job.find(title, JOB_SECONDS)), signal.SIGKILL)
    else:
        case.moment(job, last=8)
        with suppress(ProcessLookupError):
            os.kill(case.rng.choice(job.find(title)), signal.SIGKILL)
    case.end(job)


@fault("node-lost")
def node_lost(case: Case) -> None:
    """One of the nodes of a cluster dies, and another one joins."""
    environment = {**os.environ, **QUIET, **case.env}
    with (case.folder / "cluster.log").open("wb") as log:
        cluster = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / "chaos_cluster.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            start_new_session=True,
        )
    case.at_end(lambda: _end_cluster(cluster))
    assert cluster.stdin is not None
    assert cluster.stdout is not None
    address = cluster.stdout.readline().strip()
    if not address:
        raise Unavailable(f"the cluster did not start: {(case.folder / 'cluster.log').read_text()[-500:]}")
    case.overrides.append(f"workers.ray_address={address}")
    job = case.start()
    case.moment(job, last=6)
    print(case.rng.randrange(2), file=cluster.stdin, flush=True)
    cluster.stdout.readline()
    case.end(job)


def _end_cluster(cluster: subprocess.Popen[str]) -> None:
    with suppress(subprocess.TimeoutExpired, ValueError, OSError):
        cluster.communicate(timeout=20)
    for number in session(cluster.pid):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    cluster.wait()


# --- storage ---------------------------------------------------------------------------------------------------------


@fault("orphan", ON_S3)
def orphan(case: Case) -> None:
    """All processes die after a data file was written, while its commit is under way."""
    store = case.faulty()
    store.hold(r"PUT .*/commits/part-", after=case.rng.randint(0, 6))
    job = case.start()
    while not store.holding.wait(0.1):
        if job.ended:
            raise NotInjected("no commit was under way")
    job.signal_all(signal.SIGKILL)
    job.close()
    store.release()
    case.count_discarded()
    if not case.discarded:
        raise NotInjected("there was no orphan")


@fault("s3-throttle", ON_S3)
def s3_throttle(case: Case) -> None:
    """The store answers every fifth request with 503 SlowDown."""
    _through(case, Fault("throttle", 0.2))


@fault("s3-error", ON_S3)
def s3_error(case: Case) -> None:
    """The store answers every seventh request with 500 InternalError."""
    _through(case, Fault("error", 0.15))


@fault("s3-delay", ON_S3)
def s3_delay(case: Case) -> None:
    """Every fifth answer of the store comes half a second late."""
    _through(case, Fault("delay", 0.2, seconds=0.5))


@fault("s3-reset", ON_S3)
def s3_reset(case: Case) -> None:
    """The store resets every seventh connection amid its answer; what was to be written is written."""
    _through(case, Fault("reset", 0.15))


@fault("s3-truncate", ON_S3)
def s3_truncate(case: Case) -> None:
    """A fifth of what is read breaks off, or has the wrong length."""
    _through(case, Fault("truncate", 0.1, on="reads"), Fault("length", 0.1, on="reads"))


@fault("s3-lost-answer", ON_S3)
def s3_lost_answer(case: Case) -> None:
    """The store carries out what it is asked, but every seventh answer to a write is lost."""
    _through(case, Fault("lost", 0.15, on="writes"))


@fault("s3-outage", ON_S3)
def s3_outage(case: Case) -> None:
    """The store fails altogether amid the run, until the job has given up."""
    store = case.faulty()
    case.overrides.append("workers.retries=2")  # to give up sooner
    job = case.start()
    case.moment(job)
    store.faults = (Fault("throttle", 1.0),)
    case.end(job)
    store.faults = ()


def _through(case: Case, *faults: Fault) -> None:
    store = case.faulty(faults)
    for _ in range(3):
        if case.end(case.start()) == 0:
            break
        case.count_discarded()
    if not store.injected:
        raise NotInjected("no request met a fault")
    case.notes.append(f"{store.injected.total()} faults in {store.counts.total()} requests")
    store.faults = ()


@fault("disk-full", ON_DISK)
def disk_full(case: Case) -> None:
    """The disk is full, and grows later."""
    disk = case.folder / "disk"
    disk.mkdir()
    small, grown = DISK_MB
    # Records of this corpus are small: most of the disk is taken by others.
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={small}m", "none", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        raise Unavailable("mounting a small disk needs root")
    case.at_end(lambda: subprocess.run(["umount", "-l", disk], check=False))
    case.run = str(disk / "run")
    taken = small * 1024 - case.rng.randint(40, 180)
    (disk / "others").write_bytes(b"\0" * taken * 1024)
    job = case.start()
    code = case.end(job)
    if code == 0:
        raise NotInjected("the disk was large enough")
    if "full" not in job.output or code != 2:
        case.breaches.append(f"exit code {code} on a full disk: {job.output[-200:]}")
    subprocess.run(["mount", "-o", f"remount,size={grown}m", disk], check=True)


# --- several jobs ----------------------------------------------------------------------------------------------------


@fault("two-jobs")
def two_jobs(case: Case) -> None:
    """The same command twice at once, then once more while one of them works."""
    jobs = [case.start()]
    time.sleep(case.rng.random() * 2)
    jobs.append(case.start())
    codes = [case.end(job) for job in jobs]
    refused = [job for job, code in zip(jobs, codes, strict=True) if code != 0 or "complete already" in job.output]
    if 0 not in codes or len(refused) != 1:
        case.breaches.append(f"two jobs ended with {codes}")


@fault("zombie")
def zombie(case: Case) -> None:
    """A job is paused for longer than its lease; another one takes over; the first goes on amid or after it."""
    job = case.start()
    case.moment(job, first=1, last=8)
    whole = case.rng.random() < 0.5  # or the driver alone, while its workers go on
    if whole:
        job.signal_all(signal.SIGSTOP)
    else:
        os.kill(job.process.pid, signal.SIGSTOP)
    case.notes.append("all of it paused" if whole else "driver paused")
    second = case.start()
    if case.rng.random() < 0.5:
        case.moment(second, last=4)
        case.notes.append("woke amid the second job")
    else:
        case.end(second)
        case.notes.append("woke after the second job")
    job.signal_all(signal.SIGCONT)
    case.end(second)
    if case.end(job) == 0 and "complete already" not in job.output:
        case.breaches.append("the paused job took itself for complete")


@fault("clock-skew", ON_DISK)
def clock_skew(case: Case) -> None:
    """Jobs whose clocks are three hours ahead or behind: beside a living job, and after it was killed."""
    library = case.folder / "clock.so"
    source = ROOT / "benchmarks" / "chaos_clock.c"
    if (compiler := shutil.which("cc")) is None:
        raise Unavailable("needs a C compiler")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    hours = case.rng.choice([3, -3])
    job = case.start()
    case.moment(job, last=3)
    second = case.start(_clock(library, hours))
    code = case.end(second)
    if job.ended:
        case.notes.append("the first job was faster")
    elif code != 2:
        case.breaches.append(f"a job with another clock ended with {code} beside a living one: {second.output[-200:]}")
    if not job.ended:
        job.kill_driver()
    third = case.start(_clock(library, -hours))
    case.end(third)
    claim = latest(case.run)
    assert claim is not None
    off = datetime.fromisoformat(claim.holder["at"]) - datetime.now(UTC)
    if abs(off + timedelta(hours=hours)) > timedelta(hours=1):
        raise NotInjected(f"the clock was off by {off}")
    case.notes.append(f"clock {hours:+} h, then {-hours:+} h")


def _clock(library: Path, hours: int) -> dict[str, str]:
    return {"LD_PRELOAD": str(library), "SKEW_SECONDS": str(hours * 3600)}
