"""What one step of a job costs, each measured in a fresh process: seconds, CPU seconds, and memory.

As a script, `python benchmarks/scale_measure.py STEP RUN ROWS` prints one line of JSON; benchmarks/scale.py forks the
light steps from a server that has everything loaded and has done nothing.
"""

from __future__ import annotations

import io
import json
import resource
import sys
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # for `benchmarks`, when run as a script

from PIL import Image

from benchmarks import scale_run
from pipeline import claims, commit_log, label
from pipeline.assignments import assignment
from pipeline.commits import ByShard
from pipeline.curation.config import DecideSettings
from pipeline.curation.job import curate
from pipeline.latest import Chain
from pipeline.reconcile import Tally
from pipeline.report.choose import Chooser
from pipeline.report.survey import look
from pipeline.runs import RunDirectory
from pipeline.scopes import Scope
from pipeline.sources import Shard, make_source
from pipeline.stages.read import plan_table

IMAGES_PER_SHARD = 500
PROMPTS = 4
"""Of each image of the job that runs on Ray."""


def resume(run: str, rows: int) -> dict[str, Any]:
    """Seal what the last job left, and find out what is left to do: all that a job does before it starts Ray."""
    claim = claims.latest(run)
    commit_log.seal(run, claim, "sealed-900000-abcdef.parquet")
    progress = RunDirectory.open(run).progress()
    left = [name for name in scale_run.shard_names(rows) if name not in progress or not progress[name].finished]
    plan_table([Shard(name, {}) for name in left], {name: shard.done for name, shard in progress.items()})
    assert sum(shard.count for shard in progress.values()) == rows, "the run is not whole"
    return {"left": len(left)}


def reconcile(run: str, rows: int) -> dict[str, Any]:
    """Prove that nothing is lost or doubled."""
    found = RunDirectory.open(run).reconcile(scale_run.shard_names(rows))
    assert found.complete, found.faults[:3]
    return {"found": found.found}


def follow(run: str, rows: int) -> dict[str, Any]:
    """Find out what a follow-up has to do, where nothing is new (`--incremental`)."""
    names = scale_run.shard_names(rows)
    sources = dict.fromkeys(names, scale_run.SOURCE)
    found = assignment(
        Chain.open(run), Scope("incremental", None, ("",)), [Shard(name, {}) for name in names], sources
    )
    assert not found.shards
    return {"seen": len(found.seen.records)}


def report(run: str, rows: int) -> dict[str, Any]:
    """Look at all records for the report; without its pictures, of which there is a fixed number."""
    survey = look(RunDirectory.open(run), Chooser(200))
    assert survey.distributions["quality"].count == rows
    return {}


def decide(run: str, _: int) -> dict[str, Any]:
    """Decide about all records (jobs/curate.py decide), which a run must be complete for."""
    curate(DecideSettings(runs=(run,), out=f"{run.rstrip('/')}-decisions", budget=1000))
    return {}


def scan(run: str, rows: int) -> dict[str, Any]:
    """Read all commits of :func:`benchmarks.scale_run.build_logs`, as a job does that goes on."""
    progress = commit_log.fold(run, lambda: ByShard(frozenset())).shards()
    assert sum(shard.count for shard in progress.values()) == rows
    return {}


def tally(run: str, rows: int) -> dict[str, Any]:
    """The same, as a job does that reconciles."""
    assert commit_log.fold(run, Tally).ids.count() == (rows, rows)
    return {}


def holds(run: str, _: int) -> dict[str, Any]:
    """Count the bytes that a driver keeps of what a run holds, and those of a listing of its data files."""
    RunDirectory.open(run).progress()  # what is loaded the first time
    tracemalloc.start()
    progress = RunDirectory.open(run).progress()
    kept = tracemalloc.get_traced_memory()[0]
    names = set(commit_log.data_files(run))
    names_bytes = tracemalloc.get_traced_memory()[0] - kept
    tracemalloc.stop()
    return {"kept": kept, "shards": len(progress), "names": names_bytes, "commits": len(names)}


def listed(folder: str, _: int) -> dict[str, Any]:
    """Count the bytes of the shards of an input of empty tars."""
    for number in range(1000):
        (Path(folder) / f"part-{number:07d}.tar").touch()
    config = scale_run.config_of(f"{folder}/run")
    config = config.model_copy(update={"input": config.input.model_copy(update={"path": f"{folder}/*.tar"})})
    tracemalloc.start()
    shards = make_source(config).shards()
    return {"bytes": tracemalloc.get_traced_memory()[0] / len(shards)}


def job(folder: str, rows: int) -> dict[str, Any]:
    """Run the labelling job on Ray, with :class:`benchmarks.scale_stage.SimulatedMatte` in place of the model.

    Args:
        folder: Holds the corpus (:func:`corpus`), and gets the run.
        rows: Records that come of it.
    """
    from benchmarks.scale_stage import SimulatedMatte, SimulatedModel
    from pipeline.config import LabelConfig
    from pipeline.stages import matte

    per_block, file_mb = json.loads((Path(folder) / "settings.json").read_text())
    config = LabelConfig.model_validate(
        {
            "input": {"kind": "webdataset", "path": f"{folder}/corpus/*.tar"},
            "model": {"source": "untrained:sdmatte-mini", "device": "cpu"},
            "output": {"path": f"{folder}/run", "contact_sheet": 0, "report_objects": 0, "file_mb": file_mb},
            "workers": {"actors": 1, "cpus_per_actor": 0.5, "readers": 1, "images_per_block": per_block},
        }
    )
    matte.MatteImages = SimulatedMatte  # type: ignore[misc, assignment]
    found: dict[str, Any] = {}
    execute = label._Plan.execute  # noqa: SLF001 - timed as it is

    def timed(plan: Any, *arguments: Any, **named: Any) -> None:
        found["memory_before"] = _resident()
        start, cpu = time.monotonic(), time.process_time()
        with _watched() as memory:
            execute(plan, *arguments, **named)
        found.update(execute=time.monotonic() - start, execute_cpu=time.process_time() - cpu)
        found["memory_during"] = max(memory)

    label._Plan.execute = timed  # type: ignore[method-assign]  # noqa: SLF001
    summary = label.label(config, model=SimulatedModel())  # type: ignore[arg-type]
    assert summary.complete, summary
    assert summary.reconciliation.found == rows
    images = rows // PROMPTS
    shards = -(-images // IMAGES_PER_SHARD)
    blocks = sum(-(-min(IMAGES_PER_SHARD, images - at) // per_block) for at in range(0, images, IMAGES_PER_SHARD))
    parts = len(commit_log.data_files(f"{folder}/run"))
    return {**found, "blocks": blocks, "parts": parts, "tasks": shards + blocks + parts}


def corpus(folder: Path, rows: int, per_block: int, file_mb: float) -> None:
    """Write shards of one tiny image and its prompts, many times over."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (90, 120, 30)).save(file, "JPEG")
    prompts = "".join(json.dumps({"box": [1, 1, 20 + n, 24], "label": "a"}) + "\n" for n in range(PROMPTS)).encode()
    images = rows // PROMPTS
    (folder / "corpus").mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps([per_block, file_mb]))
    for first in range(0, images, IMAGES_PER_SHARD):
        with tarfile.open(folder / "corpus" / f"{first:09d}.tar", "w") as tar:
            for number in range(first, min(images, first + IMAGES_PER_SHARD)):
                for suffix, data in (("jpg", file.getvalue()), ("prompts.jsonl", prompts)):
                    member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


@contextmanager
def _watched() -> Any:
    """Look at this process's memory twice a second."""
    seen = [_resident()]
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.5):
            seen.append(_resident())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
        seen.append(_resident())


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


STEPS: dict[str, Callable[[str, int], dict[str, Any]]] = {
    step.__name__: step for step in (resume, reconcile, follow, report, decide, scan, tally, holds, listed, job)
}


def measured(step: str, run: str, rows: int) -> dict[str, Any]:
    """Measure one step.

    Returns:
        What the step says; `seconds`, `cpu` seconds of this process; `memory`: bytes by which it grew at the most;
        `memory_peak`: at most.
    """
    if step not in ("scan", "tally", "listed", "job"):
        RunDirectory.open(run).plan()  # the first Parquet file costs some 70 MB, whatever it holds
    before = _resident()
    start, cpu = time.monotonic(), time.process_time()
    found = STEPS[step](run, rows)
    found |= {"seconds": time.monotonic() - start, "cpu": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**found, "memory": max(0, peak - before), "memory_peak": peak}


def send(pipe: Any, step: str, run: str, rows: int) -> None:
    """Measure one step, and send what was found into a pipe."""
    pipe.send(measured(step, run, rows))


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
