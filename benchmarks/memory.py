"""Whether the memory of a labelling run depends on how much it labels: part of `make bench-pipeline`.

`pipeline.label` labels corpora of small photographs (64 x 64 pixels) from tar shards on this machine's disk, with a
stand-in for the model that computes nothing: 1,000 of them, 20,000, and 1,000 with photographs of 50 megapixels among
them. Looked at are the driver's largest resident memory, as the kernel keeps it, the most bytes in Ray's object store
at a time, and all bytes that were ever put there. The last run is of ordinary photographs, whose bytes in the store
are held against those of the encoded images and of the alphas' PNGs.

The buffers (`output.file_mb=1`, blocks of 64 images) are such that 1,000 images fill them: what is not full yet
grows. Prints a table, and last each target with `met` or `MISSED`. Exits with 0 if all are met, 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # for `support`: servers that the tests use, too
sys.path.insert(0, str(Path(__file__).parent.parent))  # for `benchmarks`, when run as a script

from benchmarks.chaos_job import QUIET, ROOT
from benchmarks.pipeline_runs import BenchmarkError, end_session
from benchmarks.pipeline_set import corpus
from benchmarks.scores import Verdict

FEW, MANY = 1_000, 20_000
SMALL, ORDINARY, HUGE = (64, 64), (640, 480), (8660, 5774)
"""Widths and heights, pixels; the last is of 50 megapixels."""

HUGE_IMAGES, ORDINARY_IMAGES = 4, 160
MOST_GROWTH, MOST_TRAFFIC = 1.1, 1.2


@dataclass(frozen=True)
class Case:
    """A corpus to label.

    Attributes:
        name: What it is.
        sizes: Width and height of each image, pixels.
        block: Images handed on at a time.
    """

    name: str
    sizes: Sequence[tuple[int, int]]
    block: int = 64


def cases(many: int) -> list[Case]:
    """Return what is measured."""
    step = FEW // HUGE_IMAGES
    mixed = [HUGE if number % step == step // 2 else SMALL for number in range(FEW)]
    return [
        Case(f"{FEW:,} small", [SMALL] * FEW),
        Case(f"{many:,} small", [SMALL] * many),
        Case(f"{FEW:,}, {HUGE_IMAGES} of them huge", mixed),
        Case(f"{ORDINARY_IMAGES} ordinary", [ORDINARY] * ORDINARY_IMAGES, block=8),
    ]


def run(case: Case, folder: Path) -> dict[str, Any]:
    """Label a corpus; return what its driver saw, and bytes of the encoded images and of the alphas (MB)."""
    import pyarrow.compute as pc

    from pipeline.runs import read_records

    place = folder / case.name.replace(" ", "-").replace(",", "")
    (place / "shards").mkdir(parents=True)
    made = corpus(case.sizes, case.block * 4)
    for name, data in made.shards.items():
        (place / "shards" / name).write_bytes(data)
    report, out = place / "seen.json", place / "out"
    settings = [f"input.path={place / 'shards'}", f"output.path={out}", f"workers.images_per_block={case.block}"]
    fixed = ["input.kind=webdataset", "model.source=untrained:sdmatte-mini", "model.device=cpu", "output.file_mb=1"]
    start = time.monotonic()
    with (place / "log").open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - a script of this project
            [sys.executable, "benchmarks/pipeline_job.py", str(report), "0", *fixed, *settings],
            env={**os.environ, **QUIET}, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        process.wait()
    finally:
        end_session(process)
    if not report.exists():
        raise BenchmarkError(f"{case.name}: the run ended with {process.returncode}: {(place / 'log').read_text()}")
    alphas = read_records(str(out), ["alpha"])["alpha"].combine_chunks().field("bytes")
    seen: dict[str, Any] = json.loads(report.read_text())
    return seen | {
        "images": made.images,
        "encoded_mb": made.bytes / 1e6,
        "alphas_mb": (pc.sum(pc.binary_length(alphas)).as_py() or 0) / 1e6,
        "seconds": time.monotonic() - start,
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """Lay out what was seen."""
    columns = {
        "records": "records", "driver_mb": "driver MB", "own_mb": "of its own", "store_mb": "store MB",
        "spilled_mb": "spilled", "stored_mb": "all stored", "encoded_mb": "encoded", "alphas_mb": "alphas",
        "seconds": "seconds",
    }  # fmt: skip
    lines = [f"{'':28}" + "".join(f"{title:>12}" for title in columns.values())]
    for name, seen in found.items():
        lines.append(f"{name:28}" + "".join(f"{seen[key]:12,.{0 if key == 'records' else 2}f}" for key in columns))
    return "\n".join(lines)


def judge(found: dict[str, dict[str, Any]]) -> list[Verdict]:
    """Hold what was seen against the targets; the cases are in the order of :func:`cases`."""
    few, many, _, ordinary = found.values()
    whole = float(all(seen["complete"] and seen["records"] == seen["images"] for seen in found.values()))
    traffic = ordinary["stored_mb"] / (ordinary["encoded_mb"] + ordinary["alphas_mb"])
    growth = {"driver's memory": "driver_mb", "bytes in the object store": "store_mb"}
    return [
        *(
            Verdict(f"{what}, {many['images']:,} / {few['images']:,} images", many[key] / few[key], MOST_GROWTH,
                    at_least=False)
            for what, key in growth.items()
        ),
        Verdict(f"records of all images, {HUGE_IMAGES} of 50 megapixels among them", whole, 1.0, at_least=True),
        Verdict("MB put into the store / encoded images and alphas", traffic, MOST_TRAFFIC, at_least=False),
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--many", type=int, default=MANY, help="fewer for a quick look, which never passes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="for all figures")
    arguments = parser.parse_args(argv)
    found = {}
    with tempfile.TemporaryDirectory(prefix="memory-") as name:
        for case in cases(arguments.many):
            try:
                found[case.name] = run(case, Path(name))
            except BenchmarkError as error:
                print(f"memory: {error}", file=sys.stderr)
                return 1
            print(table({case.name: found[case.name]}), flush=True)
    verdicts = judge(found)
    if arguments.json:
        report = {"runs": found, "targets": [asdict(each) | {"met": each.met} for each in verdicts]}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"\n{table(found)}\n\n" + "\n".join(map(str, verdicts)))
    if arguments.many != MANY:
        print(f"MISSED: these are {arguments.many} of the {MANY} images that the targets are about")
        return 1
    return 0 if all(verdict.met for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
