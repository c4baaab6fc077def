"""One case of the chaos matrix: a corpus, a place for the run, and the jobs that work on it one after the other."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pyarrow.parquet as pq

from benchmarks.chaos_job import Corpus, Job, NotInjected, data_files
from pipeline import storage
from pipeline.commit_log import read_commits
from pipeline.errors import PipelineError
from support.faulty_store import Fault, FaultyStore
from support.s3.store import Store

JOB_SECONDS = 240.0
"""After which a job is taken for stuck, and killed."""

MOST_JOBS = 6
"""How often the same command may be given until the run must be complete."""


@dataclass
class Case:
    """A case; a context manager that ends all its processes.

    Attributes:
        folder: Of its own.
        corpus: What is labelled.
        rng: Seeded.
        store: Where corpus and run are; None for the local disk.
        earlier: How often the fault came too late so far; moments are earlier then.
        jobs: That were started.
        notes: For the table.
        breaches: What jobs did that they must not do, whatever the records say: the case has failed.
        discarded: Records seen in data files that don't count.
    """

    folder: Path
    corpus: Corpus
    rng: random.Random
    store: Store | None = None
    earlier: int = 0
    jobs: list[Job] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)
    discarded: dict[str, int] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    proxy: FaultyStore | None = None
    _ends: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.store is None:
            (self.folder / "in").mkdir()
            for name, data in self.corpus.shards.items():
                (self.folder / "in" / name).write_bytes(data)
            self.input, self.run = f"{self.folder}/in/*.tar", str(self.folder / "run")
        else:
            name = self.folder.name
            self.store.upload({f"{name}/in/{shard}": data for shard, data in self.corpus.shards.items()})
            self.input, self.run = self.store.url(name, "in", "*.tar"), self.store.url(name, "run")
            self.env = dict(self.store.environment)
        return self

    def __exit__(self, *_: object) -> None:
        for job in self.jobs:
            job.close()
        self._ends.close()

    def faulty(self, faults: Sequence[Fault] = ()) -> FaultyStore:
        """Put a proxy between the jobs to come and their store."""
        assert self.store is not None
        seed = self.rng.randrange(2**32)
        self.proxy = self._ends.enter_context(FaultyStore(self.store.endpoint, faults, seed=seed))
        self.env["AWS_ENDPOINT_URL"] = self.proxy.url
        return self.proxy

    def at_end(self, end: Callable[[], object]) -> None:
        """Call something when the case is over."""
        self._ends.callback(end)

    def start(self, env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()) -> Job:
        """Start the command."""
        settings = ["input.kind=webdataset", f"input.path={self.input}", f"output.path={self.run}", *self.overrides]
        job = Job(settings, self.folder, self.env | dict(env or {}), prefix)
        self.jobs.append(job)
        return job

    def written(self) -> int:
        """Return the number of data files there are."""
        with suppress(PipelineError):
            return len(storage.list_files(storage.join(self.run, "records"), [".parquet"]))
        return 0

    def claims(self) -> int:
        """Return the number of claims there are."""
        with suppress(PipelineError):
            return len(storage.list_files(storage.join(self.run, "claims"), [".json"]))
        return 0

    def moment(self, job: Job, first: int = 0, last: int = 11) -> None:
        """Wait for a random moment of a job: when it has claimed the run and written some parts, and a bit later.

        Raises:
            NotInjected: It ended before.
        """
        already, claims = self.written(), self.claims()
        parts = self.rng.randint(first, max(first, last - 4 * self.earlier))
        pause = self.rng.random() * 0.4
        end = time.monotonic() + JOB_SECONDS
        while self.claims() == claims or self.written() < already + parts:
            if job.ended or time.monotonic() > end:
                raise NotInjected(f"the job ended before part {parts}: {job.output[-500:]}")
            time.sleep(0.02)
        time.sleep(pause)
        if job.ended:
            raise NotInjected("the job was faster")

    def end(self, job: Job) -> int | None:
        """Wait for a job; one that is stuck is killed, and None returned."""
        code = job.wait(JOB_SECONDS)
        if code is None:
            self.breaches.append(f"stuck for {JOB_SECONDS:g} s, killed")
            job.close()
        return code

    def finish(self) -> None:
        """Give the same command until the run is complete."""
        while len(self.jobs) < MOST_JOBS:
            self.count_discarded()
            if self.end(self.start()) == 0:
                return
        self.breaches.append(f"not complete after {len(self.jobs)} jobs: {self.jobs[-1].output[-300:]}")

    def count_discarded(self) -> None:
        """Note the records in data files that don't count: the next job makes them again."""
        with suppress(PipelineError):
            kept = {commit.data for commit in read_commits(self.run)}
            for name, data in data_files(self.run):
                if f"records/{name}" not in kept:
                    with suppress(Exception):  # a file that isn't whole has no rows
                        self.discarded[name] = pq.read_metadata(_buffer(data)).num_rows


def _buffer(data: bytes) -> object:
    import pyarrow as pa

    return pa.BufferReader(data)
