"""What the chaos matrix labels, how it runs jobs, and how it looks at what they left behind."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline import storage
from pipeline.errors import PipelineError
from pipeline.ids import image_id, record_id
from pipeline.inspection import open_chain, reconcile
from pipeline.schema import RECORDS

ROOT = Path(__file__).resolve().parents[1]
SHARDS = 8
IMAGES = 6
"""Images of each shard."""

SETTINGS = (
    "model.source=sdmatte-nano",
    "model.input_size=64",
    "model.batch_size=2",
    "output.contact_sheet=0",
    "output.file_mb=1e-4",  # a commit for every block
    "workers.actors=1",
    "workers.cpus_per_actor=0.5",
    "workers.local_cpus=2",
    "workers.object_store_mb=120",
    "workers.images_per_block=4",
)
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen on the loopback interface only
    "RAY_USAGE_STATS_ENABLED": "0",
}


class NotInjected(Exception):  # noqa: N818 - no fault of a program: the job was faster
    """The job ended before the fault struck."""


@dataclass(frozen=True)
class Corpus:
    """Images in tar shards.

    Attributes:
        shards: The tars, by name.
        expected: Status and error code of each record that must come out, by its id.
        shard_of: Name of each record's shard, by its id.
    """

    shards: dict[str, bytes]
    expected: dict[int, tuple[str, str | None]]
    shard_of: dict[int, str]


def make_corpus(shards: int = SHARDS, images: int = IMAGES) -> Corpus:
    """Make small images with one or two boxes each, and one without a prompt in every other shard."""
    tars: dict[str, bytes] = {}
    expected: dict[int, tuple[str, str | None]] = {}
    shard_of: dict[int, str] = {}
    for shard in range(shards):
        name, file = f"{shard:02}.tar", io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for number in range(images):
                key = f"{shard:02}-{number:02}"
                _add(tar, f"{key}.png", _picture(shard * images + number))
                if number == 0 and shard % 2:
                    expected[record_id(image_id(name, key), {})] = ("error", "prompt_missing")
                    continue
                prompts: list[dict[str, Any]] = [
                    {"box": [8 + 4 * n, 6, 80, 56], "label": f"{key}-{n}"} for n in range(1 + number % 2)
                ]
                _add(tar, f"{key}.prompts.jsonl", "".join(json.dumps(p) + "\n" for p in prompts).encode())
                expected |= {record_id(image_id(name, key), prompt): ("ok", None) for prompt in prompts}
        tars[name] = file.getvalue()
        shard_of |= dict.fromkeys(expected.keys() - shard_of.keys(), name)
    return Corpus(tars, expected, shard_of)


def _picture(number: int) -> bytes:
    file = io.BytesIO()
    image = Image.new("RGB", (96, 64), (number * 5 % 256, 60, 200))
    image.paste((250, 240, 60 + number), (20, 12, 72, 50))
    image.save(file, "PNG")
    return file.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


class Job:
    """A labelling job in a session of its own: its processes are those of that session, and nobody else's.

    Args:
        overrides: `section.key=value`, besides :data:`SETTINGS`.
        folder: For what it prints.
        env: Added to the environment.
        prefix: Command that the job is run by.
    """

    def __init__(
        self, overrides: Sequence[str], folder: Path, env: Mapping[str, str], prefix: Sequence[str] = ()
    ) -> None:
        self._log = folder / f"job-{time.monotonic_ns()}.log"
        command = [*prefix, sys.executable, str(ROOT / "jobs" / "label.py"), *SETTINGS, *overrides]
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **QUIET, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it printed."""
        return self._log.read_text(errors="replace")

    @property
    def ended(self) -> bool:
        """Whether the driver has."""
        return self.process.poll() is not None

    def wait(self, seconds: float) -> int | None:
        """Wait for the driver; return its exit code, None if it still runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        return None

    def processes(self) -> dict[int, str]:
        """Return the titles of the session's processes, by number."""
        found = {}
        for number in session(self.process.pid):
            with suppress(OSError):
                found[number] = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return found

    def find(self, title: str, seconds: float = 60.0) -> list[int]:
        """Return the processes whose titles match; wait for one, as long as the job goes on.

        Raises:
            NotInjected: The job has ended, or the time is over.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.ended:
            if found := [number for number, text in self.processes().items() if re.search(title, text)]:
                return found
            time.sleep(0.01)
        raise NotInjected(f"no process {title!r}")

    def kill_driver(self) -> None:
        """SIGKILL the driver alone; Ray's processes notice by themselves."""
        self.process.kill()
        self.process.wait()

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the session, the driver last."""
        for process in sorted(session(self.process.pid), reverse=True):
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def close(self) -> None:
        """Kill what is left of the session."""
        for _ in range(50):
            if not session(self.process.pid):
                break
            self.signal_all(signal.SIGKILL)
            self.process.poll()
            time.sleep(0.1)
        self.process.wait()


def session(leader: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == leader and fields[0] not in "ZX":
                    found.append(int(entry.name))
    return found


@dataclass(frozen=True)
class Outcome:
    """What stands in a run directory at the end; all must be 0 but `discarded`.

    Attributes:
        lost: Objects without a record.
        doubled: Records beyond the first of an id.
        unexpected: Records of no object, or of the wrong status or error code, or files that are in the way.
        discarded: Records in data files that didn't count, before they were cleared away: work done in vain.
        faults: For people.
    """

    lost: int
    doubled: int
    unexpected: int
    discarded: int = 0
    faults: tuple[str, ...] = field(default=())

    @property
    def exact(self) -> bool:
        """Whether every object has exactly the record that it must have."""
        return not (self.lost or self.doubled or self.unexpected or self.faults)


def look(run: str, corpus: Corpus, discarded: int = 0, *, list_input: bool = True) -> Outcome:
    """Reconcile a run, and read its records back as anybody would: all Parquet files that are there."""
    try:
        found = reconcile(open_chain(run), list_input=list_input)
    except PipelineError as error:
        return Outcome(len(corpus.expected), 0, 0, discarded, (str(error),))
    faults = [fault for each in found.runs.values() for fault in each.faults]
    lost, doubled, unexpected = (
        sum(getattr(each, name) for each in found.runs.values()) for name in ("lost", "doubled", "unexpected")
    )
    if not found.complete and not faults:
        faults.append(f"reconciliation: {str(found).splitlines()[-1]}")
    rows = _rows(run)
    times = Counter(row["record_id"] for row in rows)
    wrong = [
        row
        for row in rows
        if corpus.expected.get(row["record_id"]) != (row["status"], row["error_code"])
        or (row["status"] == "ok") != bool(row["alpha"] and row["alpha"]["bytes"])
    ]
    faults += [
        f"record {row['record_id']} of {row['image_key']}: {row['status']} {row['error_code']}" for row in wrong
    ]
    return Outcome(
        lost=max(lost, len(corpus.expected.keys() - times.keys())),
        doubled=max(doubled, sum(times.values()) - len(times)),
        unexpected=max(unexpected, len(wrong)),
        discarded=discarded,
        faults=tuple(faults),
    )


def _rows(run: str) -> list[dict[str, Any]]:
    columns = ["record_id", "image_key", "status", "error_code", "alpha"]
    tables = [pq.read_table(io.BytesIO(data), columns=columns) for _, data in data_files(run)]
    empty = RECORDS.empty_table().select(columns)
    rows: list[dict[str, Any]] = pa.concat_tables([empty, *tables], promote_options="permissive").to_pylist()
    return rows


def data_files(run: str) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of the Parquet files in a run directory's `records/`."""
    for file in storage.list_files(storage.join(run, "records"), [".parquet"]):
        with suppress(storage.NotFoundError):
            yield file.name, storage.read_bytes(file.uri)
