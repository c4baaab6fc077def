"""How fast the engine is beside a plain baseline that computes as the public code does: `make bench-engine`.

The baseline (benchmarks/engine_baseline.py) mattes one object at a time in float32, encodes the image for every
prompt, runs the text encoder every time, and holds all attention scores in memory. It has a process of its own. Same
weights, same photographs, in turn; ratios are taken per round, since other load on the machine is on both sides of it.
Also measured: how far the engine's alphas are from the baseline's in every precision, and its share of the machine's
own peak.

Prints tables, and last each target with `met` or `MISSED`; exits with 0 if all are met, 1 if not, 2 if it can't be run
so. About a quarter of an hour and 20 GB of memory on two cores. docs/engine.md says how to read the figures.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # for `benchmarks`, when run as a script


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        config: Packaged configuration in the place of the released one.
        device: Where.
        threads: Of torch, on the CPU.
        size: Input of the released configuration, pixels.
        nano_size: Input of the bundled model in its timings, pixels.
        emulated_size: Input of the released configuration where bfloat16 is emulated, pixels.
        rounds: With one prompt per image, and with four.
        nano_rounds: Of the bundled model's batch.
        objects: Photographs' objects in the bundled model's deviations, each with box, mask and points.
        peak_shrink: Divides the sides of what measures the peaks.
    """

    config: str = "sdmatte"
    device: str = "cpu"
    threads: int = 2
    size: int = 512
    nano_size: int = 512
    emulated_size: int = 256
    rounds: tuple[int, int] = (3, 2)
    nano_rounds: int = 7
    objects: int = 12
    peak_shrink: int = 1

    @classmethod
    def quick(cls, device: str, threads: int) -> Plan:
        """Return a plan of seconds, for tests; it never passes."""
        return cls("sdmatte-mini", device, threads, 64, 64, 64, (1, 1), 1, 2, peak_shrink=8)


@dataclass
class Results:
    """What was found.

    Attributes:
        machine: See :func:`benchmarks.engine_peak.machine`.
        peaks: By precision.
        comparisons: By name: `one`, `four`, `nano`.
        work: FLOP that a round needs, by comparison.
        deviations: By model and mode.
        memory: Peak memory of a batch of four on a GPU, GiB by precision.
    """

    machine: dict[str, Any] = field(default_factory=dict)
    peaks: dict[str, Any] = field(default_factory=dict)
    comparisons: dict[str, Any] = field(default_factory=dict)
    work: dict[str, Any] = field(default_factory=dict)
    deviations: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="default the GPU if there is one")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch, on the CPU")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="a small model, seconds; never passes")
    parser.add_argument("--profile", type=Path, help="only write the engine's time by operator to this file")
    parser.add_argument("--against", type=Path, help="clone of the public implementation, in the baseline's place")
    parser.add_argument("--against-configs", type=Path, help="its model folder, with tokenizer/; default made here")
    arguments = parser.parse_args(argv)

    import torch  # only now: it takes seconds

    from benchmarks import engine_parts as parts
    from benchmarks.engine_process import ProcessError
    from sdmatte.devices import choose_device
    from sdmatte.errors import SDMatteError

    torch.set_num_threads(arguments.threads)
    try:
        device = str(choose_device(arguments.device))
        on_gpu = torch.device(device).type == "cuda"
        threads = arguments.threads
        plan = Plan(device=device, threads=threads, size=1024 if on_gpu else 512)
        if arguments.quick:
            plan = Plan.quick(device, threads)
        if arguments.profile:
            arguments.profile.write_text(parts.profiles(plan) + "\n", encoding="utf-8")
            return 0
        if arguments.against:
            return _against(plan, arguments)
    except (ProcessError, SDMatteError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return _measure(plan, arguments)


def _measure(plan: Plan, arguments: argparse.Namespace) -> int:
    """Measure everything of a plan."""
    from benchmarks import engine_parts as parts
    from benchmarks.engine_peak import machine
    from benchmarks.engine_report import report, verdicts
    from benchmarks.engine_targets import passed

    start = time.perf_counter()
    results = Results(machine(plan.device))
    parts.peaks(plan, results)
    parts.nano(plan, results)
    gc.collect()
    parts.released(plan, results)
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    results.machine |= {"load_after": os.getloadavg()[0], "seconds": seconds, "peak_memory_gib": round(memory, 1)}
    found = verdicts(plan, results)
    print(report(results))
    print("\n".join(map(str, found)))
    if arguments.json:
        _write(arguments.json, plan, results, [asdict(each) | {"met": each.met} for each in found])
    if arguments.quick:
        print("MISSED: this was a quick look with small models; the targets are about the released one")
        return 1
    return 0 if passed(found) else 1


def _against(plan: Plan, arguments: argparse.Namespace) -> int:
    """Measure the released configuration beside the public code itself."""
    from benchmarks import engine_parts as parts
    from benchmarks.engine_peak import machine
    from benchmarks.engine_report import report

    results = Results(machine(plan.device))
    parts.against(plan, results, arguments.against, arguments.against_configs)
    print(report(results))
    if arguments.json:
        _write(arguments.json, plan, results, [])
    return 0


def _write(path: Path, plan: Plan, results: Results, found: list[dict[str, Any]]) -> None:
    figures = asdict(plan) | {
        "machine": results.machine,
        "peaks": {name: asdict(peak) for name, peak in results.peaks.items()},
        "comparisons": {name: each.figures() for name, each in results.comparisons.items()},
        "work": {name: asdict(work) for name, work in results.work.items()},
        "deviations": {name: asdict(each) for name, each in results.deviations.items()},
        "memory": results.memory,
        "targets": found,
    }
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or gigabytes of weights would stay behind
    sys.exit(main())
