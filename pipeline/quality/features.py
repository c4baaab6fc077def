"""What a matte tells about itself, without ground truth: cheap features of one forward pass.

They are raw material: a calibrated prediction of the error comes from them later, in the columns ``predicted_mad`` and
``quality``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdmatte.prompts import Box, Mask, Points, Prompt

OPAQUE, CORE, VISIBLE = 0.9, 0.5, 0.1
"""Alphas above these count as opaque, as the object's core, and as visible."""


@dataclass(frozen=True)
class Features:
    """Features of one matte; None where one is not defined.

    The attributes are columns of :data:`pipeline.schema.RECORDS`, where they are described.
    """

    coverage: float
    definiteness: float | None
    semi_transparent: float | None = None
    softness: float | None = None
    fragments: int | None = None
    fragment_share: float | None = None
    holes: int | None = None
    hole_share: float | None = None
    frame_contact: float | None = None
    prompt_outside: float | None = None
    prompt_iou: float | None = None
    prompt_point_alpha: float | None = None
    prompt_area: float | None = None
    edge_alignment: float | None = None
    laplacian_energy: float | None = None
    colour_overlap: float | None = None
    second_difference: float | None = None
    second_agreement: float | None = None


def features(alpha: NDArray[np.float32], prompt: Prompt) -> Features:
    """Compute the features of a matte.

    Args:
        alpha: ``(H, W)`` float32 in [0, 1], at the size of the upright image.
        prompt: What it was made from, in pixels of the upright image.
    """
    visible = int(np.count_nonzero(alpha > VISIBLE))
    definiteness = float(np.count_nonzero(alpha > OPAQUE) / visible) if visible else None
    mass = float(alpha.sum(dtype=np.float64))
    outside = iou = at_points = None
    if isinstance(prompt, Box):
        rows, columns = box_slices(prompt, alpha.shape[1], alpha.shape[0])
        outside = _share_outside(mass, float(alpha[rows, columns].sum(dtype=np.float64)))
        iou = _box_iou(alpha > CORE, prompt)
    elif isinstance(prompt, Mask):
        inside = prompt.binary()
        outside = _share_outside(mass, float(alpha[inside].sum(dtype=np.float64)))
        core = alpha > CORE
        union = int(np.count_nonzero(core | inside))
        iou = float(np.count_nonzero(core & inside) / union) if union else None
    elif isinstance(prompt, Points):
        at_points = float(np.mean([alpha[int(y), int(x)] for x, y in prompt.xy]))
    return Features(
        mass / alpha.size, definiteness, prompt_outside=outside, prompt_iou=iou, prompt_point_alpha=at_points
    )


def box_slices(box: Box, width: int, height: int) -> tuple[slice, slice]:
    """Return the rows and columns of the pixels whose centres lie in a box, clipped to the image."""
    x0, x1 = (min(max(round(x), 0), width) for x in (box.x0, box.x1))
    y0, y1 = (min(max(round(y), 0), height) for y in (box.y0, box.y1))
    return slice(y0, y1), slice(x0, x1)


def _share_outside(mass: float, inside: float) -> float | None:
    return min(max(1 - inside / mass, 0.0), 1.0) if mass else None


def _box_iou(core: NDArray[np.bool_], box: Box) -> float:
    rows, columns = np.flatnonzero(core.any(axis=1)), np.flatnonzero(core.any(axis=0))
    if not rows.size:
        return 0.0
    x0, y0, x1, y1 = float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
    overlap = max(min(x1, box.x1) - max(x0, box.x0), 0) * max(min(y1, box.y1) - max(y0, box.y0), 0)
    union = (x1 - x0) * (y1 - y0) + (box.x1 - box.x0) * (box.y1 - box.y0) - overlap
    return overlap / union
