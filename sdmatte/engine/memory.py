"""Memory of CPU computations: pages that stay, and scratch space that is used again."""

from __future__ import annotations

import ctypes
import math
import sys
import threading
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # mallopt(3)
_local = threading.local()


@cache
def keep_pages() -> None:
    """Make the C library keep freed memory of this process for the next tensor, instead of returning it each time.

    Activations are hundreds of megabytes each. By default glibc maps every one anew, and the kernel clears it page by
    page on first touch: that took 3/4 of the time of an element-wise operation. It holds for the whole process, whose
    memory then stays at its peak. glibc does it for the main thread only, unless the process was started with
    ``MALLOC_ARENA_MAX=1``: other threads pay as before. Without glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never


def scratch(*shapes: Sequence[int]) -> list[Tensor]:
    """Return uninitialised float32 CPU tensors of this thread's scratch space; the next call overwrites them."""
    sizes = [-(-math.prod(shape) // 16) * 16 for shape in shapes]
    space: Tensor | None = getattr(_local, "space", None)
    if space is None or space.numel() < sum(sizes):
        with torch.inference_mode(False):  # else only calls in inference mode could write to it
            space = _local.space = torch.empty(sum(sizes), dtype=torch.float32, device="cpu")
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    return [space[at : at + math.prod(shape)].view(*shape) for at, shape in zip(starts, shapes, strict=True)]
