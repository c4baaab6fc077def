"""The tables of docs/scale.md, as Markdown, from measured coefficients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.scale_plan import (
    FLOPS,
    PER_BEAT,
    PER_FILE_LOOKED_AT,
    PER_LOG,
    PER_PART,
    PER_SHARD,
    Coefficients,
    Corpus,
    floor_seconds,
    gpus_per_driver,
    limits,
    plan,
)

BILLION = Corpus()
"""The corpus of the page, with the defaults of the pipeline."""

TUNED = replace(BILLION, file_mb=512, images_per_block=64, images_per_shard=5000, runs=20)
"""The same, as it should be set up."""

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2)
_UTILISATION = 0.4


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def of_plan(corpora: Sequence[Corpus], measured: Coefficients, names: Sequence[str] = ()) -> str:
    """Show what corpora take, one column each."""
    plans = [plan(corpus, measured) for corpus in corpora]
    rows: list[tuple[str, list[str]]] = [
        ("images, objects", [f"{p.corpus.images:,.0f}, {p.corpus.objects:,.0f}" for p in plans]),
        ("runs (outputs)", [f"{p.corpus.runs}" for p in plans]),
        (
            "`file_mb`, `images_per_block`, images per shard",
            [f"{p.corpus.file_mb:g}, {p.corpus.images_per_block}, {p.corpus.images_per_shard:,.0f}" for p in plans],
        ),
        ("GPU-hours", [f"{p.gpu_hours:,.0f}" for p in plans]),
        ("nodes, GPUs", [f"{p.nodes}, {p.corpus.gpus}" for p in plans]),
        ("days, if GPUs bound it", [f"{p.days:.1f}" for p in plans]),
        ("days, if a driver's scheduling does", [f"{p.driver_days:.1f}" for p in plans]),
        ("output", [f"{p.output_tb:,.0f} TB" for p in plans]),
        ("requests: GET and HEAD", [_short(p.requests.get) for p in plans]),
        ("requests: PUT", [_short(p.requests.put) for p in plans]),
        ("requests: LIST", [_short(p.requests.list) for p in plans]),
        ("**of each run:** shards", [_short(p.shards) for p in plans]),
        ("data files", [_short(p.files) for p in plans]),
        ("blocks", [_short(p.blocks) for p in plans]),
        ("commit logs, plan", [f"{p.metadata_gb:.2f} GB" for p in plans]),
        ("listing input and data files", [_time(p.listing) for p in plans]),
        ("resuming, at the very end", [_time(p.resume) for p in plans]),
        ("reconciling", [_time(p.reconcile) for p in plans]),
        ("report", [_time(p.report) for p in plans]),
        ("driver's memory, beside the program", [f"{p.driver_gb:.2f} GB" for p in plans]),
        ("chance of two equal ids", [f"{p.collision:.2g}" for p in plans]),
    ]
    if any(p.cost for p in plans):
        rows.insert(6, ("cost, GPUs and requests", [f"{p.cost:,.0f}" for p in plans]))
    return table(
        ["", *(names or [f"plan {n + 1}" for n in range(len(plans))])], [[what, *cells] for what, cells in rows]
    )


def of_limits(corpus: Corpus, measured: Coefficients) -> str:
    """Show what breaks first."""
    rows = [[_short(limit.rows), limit.what, limit.because, limit.cure] for limit in limits(corpus, measured)]
    return table(["records of one run", "what breaks", "because", "what helps"], rows)


def of_speeds(corpus: Corpus, measured: Coefficients) -> str:
    """Show GPU-hours for several speeds, and how many GPUs one driver can keep busy."""
    rows = []
    for seconds in _SECONDS:
        one = replace(corpus, seconds_per_object=seconds)
        found = plan(one, measured)
        drivers = [gpus_per_driver(replace(one, images_per_block=blocks), measured) for blocks in (8, 64)]
        rows.append([f"{seconds:g}", f"{found.gpu_hours:,.0f}", f"{found.days:.1f}", *(f"{n:,.0f}" for n in drivers)])
    head = ["seconds per object", "GPU-hours", f"days on {corpus.gpus} GPUs", "GPUs per driver, blocks of 8", "of 64"]
    return table(head, rows)


def of_floors() -> str:
    """Show the least seconds per object, from counted work at an assumed utilisation."""
    rows = []
    for side in sorted(FLOPS):
        for objects in (1.0, 2.0, 4.0):
            work = floor_seconds(side, objects, 1e12, 1.0)
            cells = [f"{floor_seconds(side, objects, peak * 1e12, _UTILISATION):.3f}" for peak in (100, 300, 1000)]
            rows.append([f"{side} px", f"{objects:g}", f"{work:.2f}", *cells])
    head = ["input", "objects per image", "TFLOP per object", "100 TFLOP/s", "300 TFLOP/s", "1,000 TFLOP/s"]
    return table(head, rows)


def of_requests() -> str:
    """Show what the protocol asks of the store."""
    named = {
        "shard read": PER_SHARD,
        "data file with its commit": PER_PART,
        "data file, for the report": PER_FILE_LOOKED_AT,
        "commit log, each time it is read": PER_LOG,
        "sign of life, every 5 s": PER_BEAT,
    }
    cells = [
        [what, *(f"{getattr(each, kind):g}" for kind in ("get", "put", "list", "delete"))]
        for what, each in named.items()
    ]
    return table(["for each", "GET, HEAD", "PUT", "LIST", "DELETE"], cells)


def of_measurements(found: dict[str, Any]) -> str:
    """Show what was measured."""
    steps = [*found["steps"], *found["logs"]]
    sizes = sorted({each["rows"] for each in steps})
    rows = []
    for step in dict.fromkeys(each["step"] for each in steps):
        at = {each["rows"]: each for each in steps if each["step"] == step}
        cells = [f"{at[size]['cpu']:.2f} s, {at[size]['memory'] / 1e6:.0f} MB" if size in at else "" for size in sizes]
        slope = found["exponents"].get(step)
        rows.append([step, *cells, "" if slope is None else f"{slope:.2f}"])
    return table(["", *(f"{size:,} records" for size in sizes), "exponent"], rows)


def of_jobs(found: dict[str, Any]) -> str:
    """Show what the jobs on Ray did."""
    rows = []
    for each in [found["scheduled"], *found["jobs"]]:
        seconds, cpu = each["execute"], each["execute_cpu"]
        rows.append(
            [
                f"{each['rows']:,}",
                f"{each['blocks']:,}, {each['tasks']:,}",
                f"{seconds:.0f}",
                f"{each['rows'] / seconds:.0f}, {each['blocks'] / seconds:.1f}, {each['tasks'] / seconds:.1f}",
                f"{cpu:.1f} s, {cpu / each['blocks'] * 1e3:.0f} ms",
                f"{each['memory_before'] / 1e6:.0f}, {each['memory_during'] / 1e6:.0f}",
            ]
        )
    head = ["records", "blocks, tasks", "seconds", "records, blocks, tasks per second"]
    return table([*head, "driver's CPU: all, per block", "driver's memory before and at most (MB)"], rows)


def of_targets(targets: Sequence[tuple[str, float, float]]) -> str:
    """Show what was aimed at."""
    rows = [
        [what, f"{value:.3g}", f"{limit:g}", "met" if value <= limit else "**missed**"]
        for what, value, limit in targets
    ]
    return table(["target", "measured", "at most", ""], rows)


def _short(number: float) -> str:
    if math.isinf(number):
        return "not found"
    for unit, size in (("e9", 1e9), ("e6", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit.replace('e9', ' billion').replace('e6', ' million')}"
    return f"{number:.3g}"


def _time(seconds: float) -> str:
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
