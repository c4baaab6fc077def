"""Masks as COCO run lengths, the form in which masks of other formats go into the native one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.prompt_formats.base import malformed


def run_length_mask(inside: NDArray[np.bool_], left: int, top: int, width: int, height: int) -> dict[str, Any]:
    """Return the ``mask`` of a prompt, of which a part is given.

    Takes time and memory in proportion to the part's columns, whatever the size of the whole.

    Args:
        inside: ``(h, w)`` booleans; outside of this part the mask is empty.
        left: Column of the part in the whole.
        top: Row of the part in the whole.
        width: Of the whole, pixels.
        height: Of the whole, pixels.

    Raises:
        BadInputError: ``prompt_malformed``: the part isn't inside the whole.
    """
    rows, columns = inside.shape
    if not (0 <= left <= width - columns and 0 <= top <= height - rows):
        raise malformed(
            f"the mask of {columns} x {rows} pixels at {left}, {top} leaves its image of {width} x {height} pixels"
        )
    strip = np.zeros((columns, height), bool)
    strip[:, top : top + rows] = inside.T
    flat = strip.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=False, append=False)) + left * height
    total = width * height
    counts = np.diff(edges[edges < total], prepend=0, append=total)
    return {"size": [height, width], "counts": _compressed(counts.tolist())}


def _compressed(counts: Iterable[int]) -> str:
    """Write run lengths as COCO's text (read by :func:`pipeline.masks.from_run_lengths`)."""
    text = bytearray()
    runs: list[int] = []
    for count in counts:
        rest = count - runs[-2] if len(runs) > 2 else count
        runs.append(count)
        more = True
        while more:
            group = rest & 31
            rest >>= 5
            more = rest != (-1 if group & 16 else 0)
            text.append((group | 32 if more else group) + 48)
    return text.decode()
