"""What the machine itself reaches: its multiplication and convolution peaks, and the facts that figures go with.

A peak is the best of several shapes and repetitions: what torch's own kernels get out of the machine when nothing else
is in their way. It is measured in the same run as the models, since clocks and neighbours change.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

CPU_BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16", "svebf16")
"""Flags in /proc/cpuinfo of CPUs that compute in bfloat16: two of x86, two of ARM."""

_MATRICES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
_IMAGES = ((64, 512, 512), (128, 256, 256), (256, 128, 128))  # side, input and output channels, as in the VAE
_REPEATS = 6


@dataclass(frozen=True)
class Peak:
    """FLOP/s of the best matrix product and of the best 3x3 convolution, each multiply-add counted as two."""

    matrix: float
    convolution: float


def cpu_flags() -> frozenset[str]:
    """Return the instruction sets that the CPU names, in Linux's words; empty on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def computes_bfloat16(device: str) -> bool:
    """Say whether the device has instructions for bfloat16; without them it is emulated, at a crawl."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return not cpu_flags().isdisjoint(CPU_BFLOAT16_FLAGS)


def machine(device: str) -> dict[str, Any]:
    """Return what figures depend on: processor, its flags of interest, threads, versions, load."""
    text = ""
    if Path("/proc/cpuinfo").exists():
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    facts: dict[str, Any] = {
        "cpu": model[1].strip() if model else platform.processor() or platform.machine(),
        "cpu_flags": sorted(f for f in cpu_flags() if re.match(r"avx|amx|fma|f16c|sse4|asimd|sve|bf16|i8mm", f)),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
    }
    if torch.device(device).type == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return facts


def measure(device: str, dtype: torch.dtype, shrink: int = 1) -> Peak:
    """Measure both peaks of a device; takes about ten seconds on two cores.

    Args:
        device: Where.
        dtype: Of the operands.
        shrink: Divides all sides: for tests, which need figures and no peaks.
    """
    kind = torch.device(device).type
    matrix = max(_matrix(device, dtype, side // shrink) for side in _MATRICES.get(kind, _MATRICES["cuda"]))
    shapes = [(side // shrink, inputs, outputs) for side, inputs, outputs in _IMAGES]
    layouts = (torch.contiguous_format, torch.channels_last)
    batch = 1 if kind == "cpu" else 8
    convolution = max(_convolution(device, dtype, (batch, *shape), layout) for shape in shapes for layout in layouts)
    return Peak(matrix, convolution)


def _matrix(device: str, dtype: torch.dtype, side: int) -> float:
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / _best(lambda: torch.mm(one, other), device)


def _convolution(
    device: str, dtype: torch.dtype, shape: tuple[int, int, int, int], layout: torch.memory_format
) -> float:
    batch, side, inputs, outputs = shape
    images = torch.randn(batch, inputs, side, side, device=device).to(dtype).contiguous(memory_format=layout)
    kernel = torch.randn(outputs, inputs, 3, 3, device=device).to(dtype).contiguous(memory_format=layout)
    seconds = _best(lambda: F.conv2d(images, kernel, padding=1), device)
    return 2 * batch * side**2 * inputs * outputs * 9 / seconds


@torch.no_grad()
def _best(work: Callable[[], torch.Tensor], device: str) -> float:
    """Return the least seconds of several repetitions; the first is not counted."""
    best = float("inf")
    for repeat in range(_REPEATS + 1):
        start = time.perf_counter()
        work()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        if repeat:
            best = min(best, time.perf_counter() - start)
    return best
