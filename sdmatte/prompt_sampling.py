"""Prompts derived from a ground-truth alpha, as the paper trains and evaluates (arXiv 2508.00443, section 4).

The same rules serve training and evaluation. Distances scale with the longer side of the picture; the paper's are for
1024 px.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sdmatte.errors import PromptError
from sdmatte.prompts import TRAINED_POINTS, Box, Mask, Points

_DOMINANT = 10.0  # the largest component alone gives the box if it is this many times as large as the second
_SOLID = 0.8  # points lie where alpha is above this
_ROUGHNESS = (15, 29)  # diameter of the erosion or dilation of masks, pixels at 1024 px
_THRESHOLDS = (0.01, 1.0)
_REFERENCE_SIDE = 1024

Alpha = NDArray[np.float32]


def derive_box(alpha: Alpha, *, transparent: bool = False) -> Box:
    """Return the rectangle around all pixels with alpha above 0.

    Where the largest connected component has at least ten times the pixels of the second, it alone counts: stray
    pixels of an annotation then don't blow up the box.

    Args:
        alpha: ``(H, W)`` in [0, 1]. Values below half a level of 8 bits count as 0.
        transparent: Passed on to the prompt.

    Raises:
        PromptError: ``prompt_empty_mask``: the alpha is empty.
    """
    inside = (alpha >= 0.5 / 255).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    if count < 2:
        raise _empty("box")
    areas = stats[1:, cv2.CC_STAT_AREA]
    order = np.argsort(areas)[::-1]
    if count == 2 or areas[order[0]] >= _DOMINANT * areas[order[1]]:
        x, y, width, height = (int(value) for value in stats[1 + order[0], :4])
        return Box(x, y, x + width, y + height, transparent=transparent)
    x, y, width, height = cv2.boundingRect(inside)
    return Box(x, y, x + width, y + height, transparent=transparent)


def derive_mask(alpha: Alpha, rng: np.random.Generator, *, side: int | None = None, transparent: bool = False) -> Mask:
    """Return a rough mask: the alpha above a random threshold, then eroded, dilated, opened or closed at random.

    Args:
        alpha: ``(H, W)`` in [0, 1].
        rng: Source of chance.
        side: Pixels that stand for the paper's 1024; default the longer side.
        transparent: Passed on to the prompt.

    Returns:
        A mask that is never empty: what erosion would wipe out is dilated instead, and where no pixel reaches the
        threshold, half of the greatest alpha takes its place.

    Raises:
        PromptError: ``prompt_empty_mask``: the alpha is empty.
    """
    threshold = rng.uniform(*_THRESHOLDS)
    first, second = (
        cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (max(1, round(diameter)),) * 2)
        for diameter in rng.uniform(*_ROUGHNESS, 2) * (side or max(alpha.shape)) / _REFERENCE_SIDE
    )
    change = rng.choice(["erode", "dilate", "open", "close"])
    greatest = float(alpha.max(initial=0.0))
    if greatest < 0.5 / 255:
        raise _empty("mask")
    solid = (alpha >= (threshold if greatest >= threshold else greatest / 2)).astype(np.uint8)
    rough = cv2.dilate(solid, first) if change in ("dilate", "close") else cv2.erode(solid, first)
    if change == "close":
        rough = cv2.erode(rough, second)
    elif change == "open":
        rough = cv2.dilate(rough, second)
    if not rough.any():
        rough = cv2.dilate(solid, first)
    return Mask(rough.astype(bool), transparent=transparent)


def derive_points(
    alpha: Alpha, rng: np.random.Generator, *, count: int = TRAINED_POINTS, transparent: bool = False
) -> Points:
    """Return random pixels of the object's solid part.

    Args:
        alpha: ``(H, W)`` in [0, 1].
        rng: Source of chance.
        count: Number of points; fewer where there are not as many pixels to choose from.
        transparent: Passed on to the prompt.

    Returns:
        Centres of different pixels with alpha above 0.8; of an object without any (smoke, glass), pixels of at least
        0.8 times its greatest alpha.

    Raises:
        PromptError: ``prompt_empty_mask``: the alpha is empty.
    """
    greatest = float(alpha.max(initial=0.0))
    if greatest < 0.5 / 255:
        raise _empty("point")
    # In float32, as the alphas are: 204 / 255 is above the 0.8 of Python's floats, but not above its own rounding.
    solid = alpha > np.float32(_SOLID)
    rows, columns = np.nonzero(solid if solid.any() else alpha >= np.float32(_SOLID * greatest))
    chosen = rng.choice(len(rows), min(count, len(rows)), replace=False)
    return Points([(columns[i] + 0.5, rows[i] + 0.5) for i in chosen], transparent=transparent)


def _empty(kind: str) -> PromptError:
    return PromptError("prompt_empty_mask", f"no {kind} prompt can be derived: the alpha is 0 everywhere")
