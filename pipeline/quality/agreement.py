"""Whether a matte agrees with what it was made from, and with a second one."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.quality.image_terms import CORE, band, sampled
from sdmatte.prompts import Box, Mask, Points, Prompt

TEMPERATURE = 0.05
"""Of the soft minimum: how much better than the worst pixels others must be to stop counting."""


@dataclass(frozen=True, slots=True)
class PromptAgreement:
    """How a matte and its prompt agree; the attributes are columns of :data:`pipeline.schema.RECORDS`."""

    prompt_outside: float | None = None
    prompt_iou: float | None = None
    prompt_point_alpha: float | None = None
    prompt_area: float | None = None


def prompt_agreement(alpha: NDArray[np.float32], seen: NDArray[np.float32], prompt: Prompt) -> PromptAgreement:
    """Compare a matte with its prompt.

    Args:
        alpha: ``(H, W)`` float32 in [0, 1].
        seen: Those pixels of it that are looked at (:func:`pipeline.quality.image_terms.sampled`).
        prompt: In pixels of the upright image.
    """
    height, width = alpha.shape
    if isinstance(prompt, Points):
        at_points = [alpha[min(int(y), height - 1), min(int(x), width - 1)] for x, y in prompt.xy]
        return PromptAgreement(prompt_point_alpha=float(np.mean(at_points)))
    if isinstance(prompt, Box):
        return _with_box(seen, prompt, seen.shape[1] / width, seen.shape[0] / height)
    if isinstance(prompt, Mask):
        return _with_mask(seen, sampled(prompt.binary().view(np.uint8)))
    return PromptAgreement()


def box_slices(box: Box, width: int, height: int) -> tuple[slice, slice]:
    """Return the rows and columns of the pixels whose centres lie in a box, clipped to the image."""
    x0, x1 = (min(max(round(x), 0), width) for x in (box.x0, box.x1))
    y0, y1 = (min(max(round(y), 0), height) for y in (box.y0, box.y1))
    return slice(y0, y1), slice(x0, x1)


def second_difference(alpha: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return the mean absolute difference of two mattes, ``(h, w)`` float32 in [0, 1]."""
    return float(cv2.norm(alpha, second, cv2.NORM_L1) / alpha.size)


def second_agreement(alpha: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return how well two mattes agree where it is hard: the soft minimum of ``1 - |difference|`` over the band.

    The soft minimum of ``x`` is ``-T log(mean(exp(-x / T)))`` with the :data:`TEMPERATURE` ``T``; it lies between
    the minimum and the mean. The band is where either matte ends or is seen through, or where they contradict.

    Args:
        alpha: ``(h, w)`` float32 in [0, 1].
        second: The other one.

    Returns:
        In [0, 1]; 1 of mattes without a band, for then both are empty or both are full.
    """
    where = band(np.minimum(alpha, second), np.maximum(alpha, second))
    if not where.any():
        return 1.0
    agreement = 1 - cv2.absdiff(alpha, second)[where].astype(np.float64)
    worst = float(agreement.min())
    softened = worst - TEMPERATURE * float(np.log(np.exp((worst - agreement) / TEMPERATURE).mean()))
    return min(max(softened, 0.0), 1.0)


def _with_box(seen: NDArray[np.float32], box: Box, x_scale: float, y_scale: float) -> PromptAgreement:
    height, width = seen.shape
    scaled = Box(box.x0 * x_scale, box.y0 * y_scale, box.x1 * x_scale, box.y1 * y_scale)
    rows, columns = box_slices(scaled, width, height)
    inside = seen[rows, columns]
    shown = max(min(scaled.x1, width) - max(scaled.x0, 0), 0) * max(min(scaled.y1, height) - max(scaled.y0, 0), 0)
    return PromptAgreement(
        prompt_outside=_share_outside(_mass(seen), _mass(inside) if inside.size else 0.0),
        prompt_iou=_box_iou(seen > CORE, scaled),
        prompt_area=min(shown / seen.size, 1.0),
    )


def _with_mask(seen: NDArray[np.float32], inside: NDArray[np.uint8]) -> PromptAgreement:
    core = (seen > CORE).view(np.uint8)
    union = int(np.count_nonzero(core | inside))
    return PromptAgreement(
        prompt_outside=_share_outside(_mass(seen), cv2.mean(seen, inside)[0] * int(np.count_nonzero(inside))),
        prompt_iou=float(np.count_nonzero(core & inside) / union) if union else None,
        prompt_area=float(np.count_nonzero(inside) / inside.size),
    )


def _mass(alpha: NDArray[np.float32]) -> float:
    return float(cv2.sumElems(alpha)[0])


def _share_outside(mass: float, inside: float) -> float | None:
    return min(max(1 - inside / mass, 0.0), 1.0) if mass > 0 else None


def _box_iou(core: NDArray[np.bool_], box: Box) -> float:
    rows, columns = np.flatnonzero(core.any(axis=1)), np.flatnonzero(core.any(axis=0))
    if not rows.size:
        return 0.0
    x0, y0, x1, y1 = float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
    overlap = max(min(x1, box.x1) - max(x0, box.x0), 0) * max(min(y1, box.y1) - max(y0, box.y0), 0)
    union = (x1 - x0) * (y1 - y0) + (box.x1 - box.x0) * (box.y1 - box.y0) - overlap
    return overlap / union
