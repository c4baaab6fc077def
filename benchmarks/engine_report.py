"""Tables and verdicts of `make bench-engine`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from benchmarks.engine_parts import NO_BFLOAT16, default_precision
from benchmarks.engine_targets import (
    CPU_RATIOS,
    CUDA_MEMORY,
    CUDA_RATIO,
    CUDA_SHARE,
    NANO_MEAN,
    NANO_P999,
    NANO_RATIO,
    RELEASED_MEAN,
    Verdict,
    unmeasured,
)  # fmt: skip
from benchmarks.engine_timing import PLAIN, Comparison, Deviation

if TYPE_CHECKING:
    from benchmarks.engine import Plan, Results

NO_CUDA = "not measured: no CUDA device"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return a median with the least and the largest value."""
    median, least, most = statistics.median(values), min(values), max(values)
    return f"{median:.{digits}f} [{least:.{digits}f} - {most:.{digits}f}]"


def report(results: Results) -> str:
    """Lay out what was measured."""
    facts = results.machine
    lines = [
        f"{facts.get('gpu', facts['cpu'])}, {facts['threads']} threads of {facts['cores']} cores "
        f"({facts['capability']}), torch {facts['torch']}, load {facts['load']:.1f} before"
        + (f" and {facts['load_after']:.1f} after" if "load_after" in facts else ""),
    ]
    if "seconds" in facts:
        lines.append(f"{facts['seconds']:.0f} s, peak memory {facts['peak_memory_gib']} GiB")
    lines += [
        f"peak of {name}: matrix product {peak.matrix / 1e9:.0f} GFLOP/s, convolution {peak.convolution / 1e9:.0f}"
        for name, peak in results.peaks.items()
    ]
    for key, comparison in results.comparisons.items():
        lines += ["", *_table(results, key, comparison)]
    lines += ["", f"{'255 |alpha - baseline alpha|':64}{'objects':>8}{'mean':>9}{'99.9 %':>9}{'worst':>9}"]
    lines += [
        f"{name:64}{each.objects:8}{each.mean:9.4f}{each.p999:9.3f}{each.worst:9.3f}"
        for name, each in results.deviations.items()
    ]
    lines += [f"peak memory of a batch of 4, {name}: {gib:.2f} GiB" for name, gib in results.memory.items()]
    return "\n".join([*lines, ""])


def _table(results: Results, key: str, comparison: Comparison) -> list[str]:
    """Return the lines of one comparison; medians with [least - largest] of the rounds."""
    work = results.work[key].total
    rounds = len(comparison.answers[PLAIN])
    lines = [
        f"{comparison.title}: {rounds} rounds; needed work {work / comparison.objects / 1e9:,.1f} GFLOP per object",
        f"{'':12}{'s per object':>24}{'times the baseline':>24}{'GFLOP/s':>10}{'of peak':>9}{'first call':>12}",
    ]
    for side in comparison.answers:
        seconds = comparison.seconds(side)
        rate = work / comparison.objects / statistics.median(seconds)
        share, first = f"{_share(results, key, side):.0%}" if _has_peak(results, side) else "-", "-"
        if side in comparison.warm_up:
            first = f"{comparison.warm_up[side]:.2f} s"
        ratio = "1" if side == PLAIN else spread(comparison.ratios(side))
        lines.append(f"{side:12}{spread(seconds, 3):>24}{ratio:>24}{rate / 1e9:10.0f}{share:>9}{first:>12}")
    return lines


def _has_peak(results: Results, side: str) -> bool:
    return ("float32" if side == PLAIN else side) in results.peaks


def _share(results: Results, key: str, side: str) -> float:
    """Return the time that the machine's peaks would take for the needed work, over the time taken."""
    peak = results.peaks["float32" if side == PLAIN else side]
    comparison = results.comparisons[key]
    return float(results.work[key].floor(peak) / comparison.objects / statistics.median(comparison.seconds(side)))


def verdicts(plan: Plan, results: Results) -> list[Verdict]:
    """Hold the figures against their targets: those of CPUs or of GPUs, and those of both."""
    on_gpu = torch.device(plan.device).type == "cuda"
    return [*_cpu(plan, results, not on_gpu), *_cuda(results, on_gpu), *_both(plan, results)]


def _cpu(plan: Plan, results: Results, applies: bool) -> list[Verdict]:
    found = []
    for (precision, prompts), limit in CPU_RATIOS.items():
        meaning = f"objects/s over the baseline, released at 512 px, {precision}, {prompts} per image"
        comparison = results.comparisons["one" if prompts == 1 else "four"]
        if not applies:
            found.append(Verdict(meaning, math.nan, limit, True, "x", "a target of CPUs", applies=False))
        elif precision in comparison.answers:
            found.append(Verdict(meaning, comparison.ratio(precision), limit, True, "x"))
        else:
            found.append(unmeasured(meaning, limit, NO_BFLOAT16))
    comparison = results.comparisons["nano"]
    meaning = f"objects/s over its own baseline, nano at {plan.nano_size} px, batch of 8, default mode"
    return [*found, Verdict(meaning, comparison.ratio(default_precision(plan.device)), NANO_RATIO, True, "x")]


def _cuda(results: Results, applies: bool) -> list[Verdict]:
    nan = math.nan
    values = [nan, nan, nan]
    if applies and "bfloat16" in results.comparisons["one"].answers:
        comparison = results.comparisons["one"]
        rate = results.work["one"].total / comparison.objects / statistics.median(comparison.seconds("bfloat16"))
        share = rate / results.peaks["bfloat16"].matrix
        values = [comparison.ratio("bfloat16"), share, results.memory["bfloat16"]]
    meanings = (
        ("objects/s over the baseline, released at 1024 px, bfloat16 on a GPU", CUDA_RATIO, True, "x"),
        ("needed FLOP/s over the GPU's measured peak of matrix products, bfloat16", CUDA_SHARE, True, ""),
        ("peak memory of a batch of 4 at 1024 px, bfloat16 on a GPU", CUDA_MEMORY, False, " GiB"),
    )
    reason = "not measurable: this GPU has no bfloat16" if applies else NO_CUDA
    return [
        Verdict(meaning, value, limit, at_least, unit, reason, applies)
        for (meaning, limit, at_least, unit), value in zip(meanings, values, strict=True)
    ]


def _both(plan: Plan, results: Results) -> list[Verdict]:
    """Hold the default mode's deviations against their targets; of the bundled model those at its own size."""
    default = default_precision(plan.device)
    nano = [each for name, each in results.deviations.items() if name.startswith("sdmatte-nano") and default in name]
    big = [each for name, each in results.deviations.items() if "name-seeded" in name and name.endswith(default)]
    return [
        Verdict("mean 255 |d alpha|, nano on photographs, default mode", _most(nano, "mean"), NANO_MEAN, False),
        Verdict("99.9th percentile of 255 |d alpha|, likewise", _most(nano, "p999"), NANO_P999, False),
        Verdict("mean 255 |d alpha|, name-seeded weights, default mode", _most(big, "mean"), RELEASED_MEAN, False),
    ]


def _most(found: Sequence[Deviation], figure: str) -> float:
    """Return the largest of a figure over all input sizes; NaN if any is, or if there are none."""
    values = [float(getattr(each, figure)) for each in found]
    return max(values) if values and not any(map(math.isnan, values)) else math.nan
