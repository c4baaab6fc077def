"""How much of the engine's pace the pipeline keeps, and what it costs by itself: `make bench-pipeline`.

Photographs in tar shards are labelled from a real S3 server (Ceph's object gateway where it is installed, else moto's)
into the same. Measured in alternation, medians of all rounds:

* the bare engine, which is the model's calls on images decoded before and nothing else, against `jobs/label.py` with
  the same model, images, threads and number of actors;
* with a stand-in for the model that computes nothing, `pipeline.label` against plain Python that does the same reads,
  decodes, scores, encodings and writes (benchmarks/pipeline_plain.py): two workers beside two processes;
* two workers against one, with that stand-in, and with one that waits as for an accelerator.

A run's pace counts from its first finished batch to its last record (with the stand-in: to the end of the last write).
Prints tables, and last each target with `met` or `MISSED`. Exits with 0 if all are met, 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # for `support`: servers that the tests use, too
sys.path.insert(0, str(Path(__file__).parent.parent))  # for `benchmarks`, when run as a script

from benchmarks.pipeline_runs import BenchmarkError, Pace, engine, pipeline, plain
from benchmarks.pipeline_set import Corpus, corpus
from benchmarks.scores import Verdict
from pipeline.cluster import usable_cpus
from support.s3.moto_store import moto_store
from support.s3.radosgw import missing, radosgw_store
from support.s3.store import Store

SOURCE, INPUT_SIZE, BATCH = "untrained:sdmatte-mini", 768, 4
"""The model that dominates: more than a second per object on two cores."""

OBJECTS, IMAGES, WAITED = 40, 640, 240
"""Of a run with the model, with the stand-in, and with the one that waits."""

SECONDS = 0.1
"""Waited per object by the stand-in for a model on an accelerator."""

SIZE = (640, 480)
BLOCK = 8
"""Images handed to an actor at a time, the default of `workers.images_per_block`."""

FILE_MB = 4.0
"""Of the Parquet files: so small that most are written while the run goes on, as in a long one."""

LEAST_OF_ENGINE, LEAST_OF_PLAIN, LEAST_SCALING = 0.95, 0.8, 1.8


@dataclass
class Bench:
    """What all measurements need.

    Attributes:
        store: Has the shards, and takes the records.
        folder: For files of the processes.
        cores: That this process may use.
        paces: What was measured, by what it is, in the order of the rounds.
    """

    store: Store
    folder: Path
    cores: int
    paces: dict[str, list[Pace]] = field(default_factory=dict)
    _runs: int = 0

    def measure(self, name: str, run: Callable[[], Pace]) -> None:
        """Measure once more, and say so."""
        pace = run()
        self.paces.setdefault(name, []).append(pace)
        print(f"{name:34}{pace.rate:9.2f} images/s {pace.cpu_ms:9.1f} ms of CPU each, {pace.wall:6.1f} s", flush=True)

    def median(self, name: str, figure: Callable[[Pace], float] = lambda pace: pace.rate) -> float:
        """Return the median over the rounds."""
        return statistics.median(figure(pace) for pace in self.paces[name])

    def settings(self, name: str, actors: int) -> tuple[str, list[str]]:
        """Return the name of a new run directory, and the overrides of a run that reads a corpus."""
        self._runs += 1
        out = f"out-{self._runs}"
        return out, [
            "input.kind=webdataset",
            f"input.path={self.store.url(name)}",
            f"output.path={self.store.url(out)}",
            f"output.file_mb={FILE_MB}",
            f"model.source={SOURCE}",
            f"model.input_size={INPUT_SIZE}",
            f"model.batch_size={BATCH}",
            f"workers.actors={actors}",
            f"workers.cpus_per_actor={max(1, self.cores // actors)}",
            f"workers.images_per_block={BLOCK}",
        ]

    def job(self, made: Corpus) -> Pace:
        """Time `jobs/label.py` with the model."""
        out, settings = self.settings("model", 1)
        return pipeline(
            ["jobs/label.py", *settings], self.store, out, BLOCK, made.bytes / 1e6, self.folder, to_end=False
        )

    def stand_in(self, name: str, made: Corpus, actors: int, seconds: float = 0.0) -> Pace:
        """Time the pipeline with a stand-in for the model."""
        out, settings = self.settings(name, actors)
        command = ["benchmarks/pipeline_job.py", "-", str(seconds), *settings]
        return pipeline(command, self.store, out, BLOCK * actors, made.bytes / 1e6, self.folder, to_end=not seconds)


@contextmanager
def s3_server(folder: Path) -> Iterator[Store]:
    """Start Ceph's gateway if it is installed, else moto's server."""
    with moto_store(folder / "s3") if missing() else radosgw_store(folder / "s3") as store:
        yield store


def measure(bench: Bench, rounds: int) -> None:
    """Measure all, in alternation."""
    sets = {
        "model": corpus([SIZE] * OBJECTS, BLOCK * 2),
        "stand-in": corpus([SIZE] * IMAGES, BLOCK * 4, seed=1),
        "waiting": corpus([SIZE] * WAITED, BLOCK * 2, seed=2),
    }
    for name, made in sets.items():
        bench.store.upload({f"{name}/{key}": data for key, data in made.shards.items()})
    local = bench.folder / "model"
    local.mkdir()
    for key, data in sets["model"].shards.items():
        (local / key).write_bytes(data)
    shards = [f"stand-in/{key}" for key in sets["stand-in"].shards]
    for number in range(rounds):
        bench.measure("engine", lambda: engine(local, SOURCE, INPUT_SIZE, BATCH, bench.cores))
        bench.measure("jobs/label.py", lambda: bench.job(sets["model"]))
        for processes in sorted({1, min(2, bench.cores)}):
            out = f"plain-{number}-{processes}"
            bench.measure(_plain(processes), lambda: plain(bench.store, shards, out, FILE_MB, processes))  # noqa: B023
        for actors in (1, 2):
            bench.measure(_workers(actors), lambda: bench.stand_in("stand-in", sets["stand-in"], actors))  # noqa: B023
        for actors in (1, 2):
            run = lambda: bench.stand_in("waiting", sets["waiting"], actors, SECONDS)  # noqa: B023, E731
            bench.measure(f"{_workers(actors)}, waiting", run)


def _plain(processes: int) -> str:
    return f"plain Python, {processes} process{'es' * (processes > 1)}"


def _workers(actors: int) -> str:
    return f"pipeline, {actors} worker{'s' * (actors > 1)}"


def tables(bench: Bench) -> str:
    """Lay out the medians, and where the CPU time went."""
    head = f"{'':34}{'images/s':>9}{'MB/s':>8}{'CPU ms':>9}{'cores':>7}{'seconds':>9}{'all of it':>10}{'spread':>8}"
    lines = [head]
    for name, paces in bench.paces.items():
        rates = [pace.rate for pace in paces]
        lines.append(
            f"{name:34}{bench.median(name):9.2f}{bench.median(name, lambda pace: pace.mb / pace.seconds):8.2f}"
            f"{bench.median(name, lambda pace: pace.cpu_ms):9.1f}"
            f"{bench.median(name, lambda pace: pace.cpu / pace.seconds):7.2f}"
            f"{bench.median(name, lambda pace: pace.seconds):9.1f}{bench.median(name, lambda pace: pace.wall):10.1f}"
            f"{max(rates) / min(rates) - 1:8.1%}"
        )
    lines += ["", "CPU ms per image by process (medians)"]
    for name, paces in bench.paces.items():
        if paces[0].roles:
            parts = {
                role: statistics.median(pace.roles.get(role, 0.0) / pace.images * 1000 for pace in paces)
                for role in paces[0].roles
            }
            listed = sorted(parts.items(), key=lambda part: -part[1])
            lines.append(f"{name:34}" + ", ".join(f"{role} {spent:.1f}" for role, spent in listed if spent >= 0.05))
    return "\n".join(lines)


def judge(bench: Bench) -> list[Verdict]:
    """Hold the medians against the targets."""
    workers = min(2, bench.cores)
    kept = bench.median("jobs/label.py") / bench.median("engine")
    per_core = bench.median(_workers(workers)) / bench.median(_plain(workers))
    scaling = bench.median(_workers(2)) / bench.median(_workers(1))
    return [
        Verdict("objects/s of jobs/label.py / of the bare engine", kept, LEAST_OF_ENGINE, at_least=True),
        Verdict(f"images/s / plain Python's, {workers} of each", per_core, LEAST_OF_PLAIN, at_least=True),
        Verdict(f"images/s of 2 workers / of 1, {bench.cores} cores in all", scaling, LEAST_SCALING, at_least=True),
    ]


def notes(bench: Bench) -> str:
    """Return figures that no target is about."""

    def cpu(pace: Pace) -> float:
        return pace.cpu_ms

    def whole(pace: Pace) -> float:
        return OBJECTS / pace.wall

    job, bare = "jobs/label.py", "engine"
    one, two = (bench.median(f"{_workers(actors)}, waiting") for actors in (1, 2))
    started = bench.median(job, whole) / bench.median(bare, whole)
    lines = {
        "objects/s of jobs/label.py / of the engine, starts and loading with them": started,
        "CPU time per object of the engine / of jobs/label.py": bench.median(bare, cpu) / bench.median(job, cpu),
        "CPU time per image of plain Python / of the pipeline, one worker": (
            bench.median(_plain(1), cpu) / bench.median(_workers(1), cpu)
        ),
        f"busy share of a model that waits {SECONDS:g} s per object": one * SECONDS,
        "images/s of 2 workers / of 1, with that model": two / one,
    }
    return "\n".join(f"{meaning:74}{value:.3f}" for meaning, value in lines.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="for all figures")
    arguments = parser.parse_args(argv)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        with s3_server(folder) as store:
            bench = Bench(store, folder, usable_cpus())
            print(f"S3 server: {store.name}; {bench.cores} cores, which it shares; load {os.getloadavg()[0]:.1f}")
            try:
                measure(bench, arguments.rounds)
            except BenchmarkError as error:
                print(f"pipeline: {error}", file=sys.stderr)
                return 1
    verdicts = judge(bench)
    print(f"\n{tables(bench)}\n\n{notes(bench)}\nmeasured in {time.monotonic() - start:.0f} s\n")
    if arguments.json:
        report = {
            "store": store.name,
            "cores": bench.cores,
            "paces": {each: [asdict(pace) for pace in paces] for each, paces in bench.paces.items()},
            "targets": [asdict(verdict) | {"met": verdict.met} for verdict in verdicts],
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("\n".join(map(str, verdicts)))
    return 0 if all(verdict.met for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
