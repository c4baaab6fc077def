"""What grows with the corpus, and how: a simulation of a run of a million records, and plans for larger ones.

    python benchmarks/scale.py [--rows 1000000] [--json FILE] [--docs docs]
    python benchmarks/scale.py --plan images=1e9 objects_per_image=2 seconds_per_object=0.05 gpus=512

The first measures at a hundredth, a tenth and all of the rows: what a job does before and after its work (resuming,
reconciling, follow-ups, report, decisions), over runs that the pipeline's own modules wrote; and the real Ray Data
plan with a stand-in for the model. Each step has a process of its own. Prints targets last, and exits with 1 when one
is missed. The second prints what a corpus takes, by the coefficients of an earlier measurement; it needs a moment.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # for `benchmarks`, when run as a script

from benchmarks import scale_measure, scale_requests, scale_run, scale_tables
from benchmarks.scale_plan import Coefficients, Corpus

HERE = Path(__file__).parent
COEFFICIENTS = HERE / "scale.json"
STEPS = ("resume", "reconcile", "follow", "report", "decide")
SCANS = ("scan", "tally")
JOB_ROWS = 100_000
"""A job's records take a millisecond or two each: a million take most of an hour on two busy CPUs."""
GROWTH = 0.10
"""By how much the driver's memory, Ray and all, may grow from a tenth of the rows to all of them."""
LOG_BYTES = 5.0
"""Per record: about 1 for a shard and a commit per 1,000 of them, and what the allocators make of reading."""
EXPONENT = 1.1
RESUME_SECONDS = 60.0
FOLLOW_BYTES = 26.0
"""Per record: 8 that are kept, 8 while they are put in order, 1 of a mask, and Python's allocator."""
SCHEDULED_BLOCKS = 500
ATTEMPTS = 5
SMALL = 10
"""In the run of many small files, these are so many times smaller."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure or plan; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="records of the largest run (at least 10,000)")
    parser.add_argument("--job-rows", type=int, default=JOB_ROWS, help="records of the largest job on Ray")
    parser.add_argument("--folder", type=Path, help="where runs are written, on a disk of about 1 kB per record")
    parser.add_argument("--json", type=Path, help="writes what was measured")
    parser.add_argument("--docs", type=Path, help="renews tables and picture of scale.md in this folder")
    parser.add_argument(
        "--plan", nargs="*", metavar="NAME=NUMBER", help="prints what a corpus takes, and measures nothing"
    )
    parser.add_argument("--coefficients", type=Path, default=COEFFICIENTS, help="for --plan")
    arguments = parser.parse_args(argv)
    if arguments.plan is not None:
        return _plan(arguments.plan, arguments.coefficients)
    if min(arguments.rows, arguments.job_rows) < 10_000:
        parser.error("--rows and --job-rows: at least 10,000, or nothing can be told from them")
    with tempfile.TemporaryDirectory(prefix="scale-", dir=arguments.folder) as name:
        found = measure(Path(name), arguments.rows, arguments.job_rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    print(scale_tables.of_measurements(found))
    print()
    print(scale_tables.of_jobs(found))
    if arguments.docs:
        renew(arguments.docs, found)
    missed = 0
    print("\ntargets")
    for what, value, limit in targets(found):
        met = value <= limit
        missed += not met
        print(f"  {what:<70} {value:>8.3g} (at most {limit:g})  {'met' if met else 'MISSED'}")
    return 1 if missed else 0


def _plan(words: Sequence[str], path: Path) -> int:
    try:
        corpus = Corpus.parse(words)
    except ValueError as error:
        print(f"scale: {error}", file=sys.stderr)
        return 2
    measured = Coefficients.from_dict(json.loads(path.read_text())["coefficients"])
    print(scale_tables.of_plan([corpus], measured, ["this corpus"]))
    print()
    print(scale_tables.of_limits(corpus, measured))
    return 0


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(folder: Path, rows: int, job_rows: int) -> dict[str, Any]:
    """Measure all; returns what `--json` writes."""
    steps: list[dict[str, Any]] = []
    builds = []
    sizes = [rows // 100, rows // 10, rows]
    shapes = [(size, scale_run.PER_PART) for size in sizes] + [(rows // 10, scale_run.PER_PART // SMALL)]
    for size, per_part in shapes:
        run = folder / f"{size}-{per_part}"
        builds.append(scale_run.build(str(run), size, per_part) | {"per_part": per_part})
        _say(f"{size:,} records written in {builds[-1]['parts']:,} files")
        for step in ("holds", *STEPS):
            if step == "decide":
                scale_run.finish(str(run), size)
            steps.append({"step": step, "rows": size, "per_part": per_part, **_step(step, run, size)})
        shutil.rmtree(run)
    jobs = [_job(folder, size, 32, 2.0) for size in (job_rows // 100, job_rows // 10, job_rows)]
    scheduled = _job(folder, SCHEDULED_BLOCKS * 4, 1, 2.0)
    logs = folder / "logs"
    many = []
    for size in (rows, 10 * rows):
        scale_run.build_logs(str(logs), size)
        many += [{"step": step, "rows": size, **_step(step, logs, size)} for step in SCANS]
        shutil.rmtree(logs)
    inputs = folder / "input"
    inputs.mkdir()
    listed = _step("listed", inputs, 0)
    requests = scale_requests.count()
    found: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "rows": rows,
        "steps": [each for each in steps if each["per_part"] == scale_run.PER_PART and each["step"] != "holds"],
        "small_files": [each for each in steps if each["per_part"] != scale_run.PER_PART],
        "logs": many,
        "holds": [each for each in steps if each["step"] == "holds"],
        "builds": builds,
        "jobs": jobs,
        "scheduled": scheduled,
        "listed": listed,
        "requests": requests,
    }
    found["exponents"] = exponents(found)
    found["coefficients"] = coefficients(found)
    return found


def _step(step: str, run: Path, rows: int) -> dict[str, Any]:
    if step == "job":  # Ray wants a script
        done = subprocess.run(  # noqa: S603 - this program
            [sys.executable, str(HERE / "scale_measure.py"), step, str(run), str(rows)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    else:
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(["benchmarks.scale_measure"])
        receiving, sending = server.Pipe(duplex=False)
        process = server.Process(target=scale_measure.send, args=(sending, step, str(run), rows))
        process.start()
        sending.close()
        found = receiving.recv()  # EOFError where it failed; it has said why
        process.join()
    _say(f"{step:<10} {rows:>10,} rows {found['seconds']:8.2f} s {found['memory'] / 1e6:8.1f} MB")
    return found


def _job(folder: Path, rows: int, per_block: int, file_mb: float) -> dict[str, Any]:
    place = folder / f"job-{rows}-{per_block}"
    scale_measure.corpus(place, rows, per_block, file_mb)
    for attempt in itertools.count(1):
        try:
            found = _step("job", place, rows)
            break
        except subprocess.CalledProcessError:
            if attempt == ATTEMPTS:
                raise
            _say("the job failed; on a busy machine Ray may not start in its 30 s: once more")
            shutil.rmtree(place / "run", ignore_errors=True)
    shutil.rmtree(place)
    return {"rows": rows, "per_block": per_block, **found}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- figures ---------------------------------------------------------------------------------------------------------


def _at(found: dict[str, Any], step: str) -> dict[int, dict[str, Any]]:
    return {each["rows"]: each for each in [*found["steps"], *found["logs"]] if each["step"] == step}


def exponent(at: dict[int, dict[str, Any]]) -> float:
    """Return the exponent of growth in CPU seconds, by the two largest sizes: below them constant costs rule."""
    small, large = sorted(at)[-2:]
    return math.log(at[large]["cpu"] / at[small]["cpu"]) / math.log(large / small)


def exponents(found: dict[str, Any]) -> dict[str, float]:
    """Return the exponents of all steps that were measured at several sizes."""
    return {step: exponent(_at(found, step)) for step in (*STEPS, *SCANS)}


def coefficients(found: dict[str, Any]) -> dict[str, float]:
    """Split what was measured into costs per record, commit, shard and block.

    Seconds are those of one CPU; waiting for a store is added by the plan.
    """
    rows = found["rows"]
    tenth = rows // 10
    parts = {each["per_part"]: each["parts"] for each in found["builds"] if each["rows"] == tenth}
    few, many = min(parts.values()), max(parts.values())
    small = {each["step"]: each for each in found["small_files"]}

    def per(step: str, key: str = "cpu") -> tuple[float, float]:
        """Return costs per record and per commit."""
        at = _at(found, step)
        commit = max(0.0, (small[step][key] - at[tenth][key]) / (many - few))
        largest = max(0.0, at[rows][key] - at[tenth][key])
        grown = (rows - tenth) * few / tenth  # commits that the largest run has more
        return max(0.0, (largest - commit * grown) / (rows - tenth)), commit

    held = {(each["rows"], each["per_part"]): each for each in found["holds"]}
    large, small_files = max(parts), min(parts)
    whole, least, most = held[rows, large], held[tenth, large], held[tenth, small_files]
    commits = most["commits"] - least["commits"]
    kept = max(0.0, (most["kept"] - least["kept"]) / commits)
    name = max(0.0, (most["names"] - least["names"]) / commits)
    of_shards = whole["kept"] - least["kept"] - kept * (whole["commits"] - least["commits"])
    shard = max(0.0, of_shards / (whole["shards"] - least["shards"])) + found["listed"]["bytes"]
    resume, reconcile = per("resume"), per("reconcile")
    jobs = sorted(found["jobs"], key=lambda each: int(each["rows"]))[-2:]
    blocks = jobs[1]["blocks"] - jobs[0]["blocks"]
    largest = max(found["builds"], key=lambda each: int(each["rows"]))
    return {
        "resume_record": resume[0],
        "resume_commit": resume[1],
        "reconcile_record": reconcile[0],
        "reconcile_commit": reconcile[1],
        "follow_record": per("follow")[0],
        "follow_bytes": per("follow", "memory")[0],
        "report_record": per("report")[0],
        "decide_record": per("decide")[0],
        "decide_bytes": per("decide", "memory")[0],
        "shard_bytes": shard,
        "commit_bytes": kept + name,
        "listed_bytes": found["requests"]["listing"]["bytes per file"],
        "block_cpu": max(0.0, (jobs[1]["execute_cpu"] - jobs[0]["execute_cpu"]) / blocks),
        "block_bytes": max(0.0, (jobs[1]["memory_during"] - jobs[0]["memory_during"]) / blocks),
        "commit_object": largest["commit_object"],
        "commit_record": largest["commit_record"],
        "log_record": largest["log_record"],
        "plan_shard": largest["plan_shard"],
    }


def targets(found: dict[str, Any]) -> Iterator[tuple[str, float, float]]:
    """Yield what is aimed at: words, value, and the largest value that is fine."""
    rows = found["rows"]
    small, large = sorted(found["jobs"], key=lambda each: int(each["rows"]))[-2:]
    driver = small["memory_during"]
    for step in ("resume", "reconcile"):
        at = _at(found, step)
        growth = (at[rows]["memory"] - at[rows // 10]["memory"]) / driver
        yield f"{step}: growth of the driver's memory, {rows // 10:,} to {rows:,} records", growth, GROWTH
    for step in SCANS:
        few, many = (each for each in found["logs"] if each["step"] == step)
        each = (many["memory"] - few["memory"]) / (many["rows"] - few["rows"])
        yield f"{step}: bytes of memory per record, {few['rows']:,} to {many['rows']:,} records", each, LOG_BYTES
    words = f"{small['rows']:,} to {large['rows']:,} records"
    yield f"job on Ray: growth of the driver's memory, {words}", large["memory_during"] / driver - 1, GROWTH
    yield "follow-up: bytes of memory per record", found["coefficients"]["follow_bytes"], FOLLOW_BYTES
    for step in ("resume", "reconcile", "follow", "report", *SCANS):
        yield f"{step}: exponent of its CPU seconds", found["exponents"][step], EXPONENT
    yield f"resume: seconds for {rows:,} records", _at(found, "resume")[rows]["seconds"], RESUME_SECONDS


# --- page ------------------------------------------------------------------------------------------------------------


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Return the tables of docs/scale.md by the name of their place."""
    measured = Coefficients.from_dict(found["coefficients"])
    default, tuned = scale_tables.BILLION, scale_tables.TUNED
    return {
        "plan": scale_tables.of_plan([default, tuned], measured, ["defaults, one run", "as it should be set up"]),
        "limits": scale_tables.of_limits(default, measured),
        "limits-tuned": scale_tables.of_limits(tuned, measured),
        "speeds": scale_tables.of_speeds(tuned, measured),
        "floors": scale_tables.of_floors(),
        "requests": scale_tables.of_requests(),
        "measured": scale_tables.of_measurements(found),
        "jobs": scale_tables.of_jobs(found),
        "targets": scale_tables.of_targets(list(targets(found))),
    }


def renewed(page: str, found: dict[str, Any]) -> str:
    """Return the page with its tables made anew, between ``<!-- NAME -->`` and ``<!-- end -->``."""
    for name, text in tables(found).items():
        head, begin, rest = page.partition(f"<!-- {name} -->\n")
        assert begin, f"scale.md has no place for {name}"
        page = head + begin + "\n" + text + "\n\n<!-- end -->" + rest.partition("<!-- end -->")[2]
    return page


def renew(docs: Path, found: dict[str, Any]) -> None:
    """Write tables and picture."""
    path = docs / "scale.md"
    path.write_text(renewed(path.read_text(), found))
    _draw(found, docs / "images" / "scale.png")


def _draw(found: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for step in STEPS:
        at = _at(found, step)
        sizes = sorted(at)
        axes[0].plot(
            sizes, [at[size]["cpu"] for size in sizes], marker="o", label=f"{step}, {found['exponents'][step]:.2f}"
        )
        axes[1].plot(sizes, [at[size]["memory_peak"] / 1e6 for size in sizes], marker="o", label=step)
    jobs = sorted(found["jobs"], key=lambda each: int(each["rows"]))
    axes[1].plot(
        [each["rows"] for each in jobs],
        [each["memory_during"] / 1e6 for each in jobs],
        marker="s",
        color="black",
        label="job on Ray",
    )
    axes[0].set_yscale("log")
    axes[0].set_ylabel("CPU seconds (legend: exponent)")
    axes[1].set_ylim(bottom=0)
    axes[1].set_ylabel("memory of the process (MB)")
    for axis in axes:
        axis.set_xscale("log")
        axis.set_xlabel("records")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
