"""Runs of the pipeline, of the bare engine and of plain Python, each in processes of its own, and their pace."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.chaos_job import QUIET, ROOT, session
from benchmarks.pipeline_watch import Watch
from support.s3.store import Store

HERE = Path(__file__).parent


class BenchmarkError(Exception):
    """A process that was to be measured failed; the message has what it printed last."""


@dataclass(frozen=True)
class Pace:
    """What was measured of one run.

    Attributes:
        images: Done in the time that counts; also objects, as each image has one.
        seconds: That time.
        cpu: CPU seconds in it, of all processes of the run (not of the store).
        wall: Seconds from start to end of the process.
        mb: Encoded images in it (MB).
        roles: CPU seconds of the pipeline's processes, by what they are.
    """

    images: int
    seconds: float
    cpu: float
    wall: float
    mb: float = 0.0
    roles: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU time per image (ms)."""
        return self.cpu / self.images * 1000


def engine(folder: Path, source: str, size: int, batch: int, threads: int) -> Pace:
    """Time the bare model on the tar shards in a folder."""
    start = time.monotonic()
    found = _finished(_start("pipeline_engine.py", [str(folder), source, str(size), str(batch), str(threads)], {}))
    return Pace(found["images"], found["seconds"], found["cpu"], time.monotonic() - start)


def plain(store: Store, keys: Sequence[str], out: str, file_mb: float, processes: int) -> Pace:
    """Time plain Python in several processes at once, each with its part of the shards."""
    begun = time.monotonic()
    parts = [keys[number::processes] for number in range(processes)]
    started = [
        _start("pipeline_plain.py", [store.bucket, f"{out}-{number}", str(file_mb), *part], store.environment)
        for number, part in enumerate(parts)
    ]
    for each in started:
        assert each.stdout is not None
        if each.stdout.readline().strip() != "ready":
            _finished(each)
    start = time.monotonic()
    for each in started:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    found = [_finished(each) for each in started]
    seconds = time.monotonic() - start
    done, cpu, read = (sum(each[key] for each in found) for key in ("images", "cpu", "bytes_in"))
    return Pace(done, seconds, cpu, time.monotonic() - begun, read / 1e6)


def pipeline(
    command: Sequence[str], store: Store, out: str, first: int, mb: float, folder: Path, *, to_end: bool
) -> Pace:
    """Time a labelling run, from its first finished batch to its last record.

    Args:
        command: Script of this project and its arguments.
        store: Where the run directory is.
        out: Its name there.
        first: Records of the batches that are finished first, one of each actor: the time that counts begins with
            the last of them.
        mb: Of all encoded images.
        folder: For what it prints.
        to_end: The time ends with the last write, not with the last matte.

    Raises:
        BenchmarkError: The run failed.
    """
    start, log = time.monotonic(), folder / f"run-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - scripts of this project
            [sys.executable, *command],
            env={**os.environ, **QUIET, **store.environment},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with Watch(process.pid) as watch:
            process.wait()
    finally:
        end_session(process)
    wall = time.monotonic() - start
    if process.returncode:
        raise BenchmarkError(
            f"{command[0]} ended with {process.returncode}: {log.read_text(errors='replace')[-2000:]}"
        )
    stamps = np.sort(labelled_at(store, out))
    begin = float(stamps[first - 1])
    end = max(float(stamps[-1]), watch.writing if to_end else 0.0)
    roles = watch.used(begin, end)
    images = len(stamps) - first
    return Pace(images, end - begin, sum(roles.values()), wall, mb * images / len(stamps), roles)


def labelled_at(store: Store, out: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return when each record of a run was made (seconds since the epoch)."""
    files = store.download(f"{out}/records/").values()
    tables = [pq.read_table(io.BytesIO(data), columns=["labelled_at"]) for data in files]
    stamps = np.concatenate([table["labelled_at"].to_numpy() for table in tables])
    return stamps.astype("datetime64[ms]").astype(np.float64) / 1000


def _start(script: str, arguments: Sequence[str], env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - scripts of this project
        [sys.executable, str(HERE / script), *arguments],
        env={**os.environ, **QUIET, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate()
    try:
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        raise BenchmarkError(f"{process.args} ended with {process.returncode}: {err[-2000:]}") from None
    return found


def end_session(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a session, of which Ray's daemons end by themselves."""
    for _ in range(50):
        left = [each for each in session(process.pid) if each != process.pid or process.poll() is None]
        if not left:
            break
        time.sleep(0.1)
    for each in session(process.pid):
        with suppress(ProcessLookupError):
            os.kill(each, 9)
    process.wait()
