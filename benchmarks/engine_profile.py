"""Where the engine's time goes, by operator: `benchmarks/engine.py --profile FILE`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

GROUPS = {
    "attention": ("scaled_dot_product", "softmax", "flash", "attention"),
    "convolution": ("conv", "winograd", "slow_conv", "cudnn"),
    "linear": ("addmm", "aten::mm", "linear", "gemm", "aten::bmm", "baddbmm", "einsum", "matmul"),
    "norm and activation": (
        "norm", "silu", "gelu", "relu", "sigmoid", "tanh", "aten::mul", "aten::add", "aten::div", "aten::sub",
    ),
    "copies": (
        "copy", "cat", "clone", "contiguous", "aten::_to_copy", "pad", "upsample", "index", "gather", "fill", "zero",
        "empty", "stack", "expand", "repeat", "memcpy", "memset",
    ),
}  # fmt: skip
"""Operators by what they are for: the first group of which a part occurs in the name."""


def group(name: str) -> str:
    """Return the group of an operator."""
    lowered = name.lower()
    return next((kind for kind, parts in GROUPS.items() if any(part in lowered for part in parts)), "other")


def table(title: str, work: Callable[[], object], device: str, least: float = 0.003) -> str:
    """Profile one call and lay out the time by group and by operator.

    Args:
        title: Of the table.
        work: The call; it runs once before, not profiled.
        device: Where it computes.
        least: Share of the time from which an operator gets a line of its own.

    Returns:
        Text. Time that no operator of torch accounts for (Python, NumPy, extensions of another kind) has a line.
    """
    work()
    activities = [ProfilerActivity.CPU]
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        activities.append(ProfilerActivity.CUDA)
    start = time.perf_counter()
    with profile(activities=activities) as found:
        work()
        wall = time.perf_counter() - start
    rows = [(_seconds(event, on_gpu), event.count, event.key) for event in found.key_averages()]
    known = sum(seconds for seconds, _, _ in rows)
    kinds: dict[str, float] = {}
    for seconds, _, name in rows:
        kinds[group(name)] = kinds.get(group(name), 0.0) + seconds
    kinds["outside of torch's operators"] = max(wall - known, 0.0)
    lines = [f"{title}: {wall:.2f} s", ""]
    lines += [f"{kind:40}{seconds:9.3f} s {seconds / wall:7.1%}" for kind, seconds in _largest(kinds)]
    lines += ["", f"{'operator':56}{'calls':>7}{'self':>11}{'share':>8}"]
    lines += [
        f"{name[:55]:56}{calls:7}{seconds:9.3f} s{seconds / wall:8.1%}  {group(name)}"
        for seconds, calls, name in sorted(rows, reverse=True)
        if seconds >= least * wall
    ]
    return "\n".join(lines)


def _largest(kinds: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(kinds.items(), key=lambda item: -item[1])


def _seconds(event: Any, on_gpu: bool) -> float:
    return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
