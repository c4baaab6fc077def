"""How well the colours of an object and of what surrounds it can be told apart."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

LEVELS = 8
"""Bins per channel of the colour histograms."""

_SHIFT = np.uint8(5)  # 256 >> 5 are the levels

REACH = 1 / 12
"""How far from the visible object the surroundings go, as a share of the picture's longer side."""

_SMOOTHING = np.clip(1 - np.abs(np.subtract.outer(np.arange(LEVELS), np.arange(LEVELS))) / 2, 0, 1)
_SMOOTHING /= _SMOOTHING.sum(axis=0)


def colour_bins(pixels: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return the RGB histogram bin of each pixel, 0 to :data:`LEVELS` ** 3 - 1.

    Args:
        pixels: ``(h, w, 3)`` uint8 RGB.

    Returns:
        ``(h, w)`` int16.
    """
    red, green, blue = (np.right_shift(plane, _SHIFT) for plane in cv2.split(pixels))
    bins: NDArray[np.int16] = red.astype(np.int16) * np.int16(LEVELS**2)
    bins += green * np.uint8(LEVELS) + blue  # below 64: no overflow
    return bins


def colour_overlap(alpha: NDArray[np.float32], bins: NDArray[np.int16], opaque: float, visible: float) -> float | None:
    """Return the Bhattacharyya coefficient of the colours of the opaque object and of its surroundings.

    0 is said of colours that share no bin, 1 of equal histograms. Histograms of 8 x 8 x 8 RGB bins are smoothed by
    1-2-1 along each channel, so that neighbouring bins count as similar.

    Args:
        alpha: ``(h, w)`` float32 in [0, 1].
        bins: ``(h, w)``, of :func:`colour_bins`.
        opaque: Alphas above it are the object.
        visible: Alphas up to it, within :data:`REACH` of higher ones, are its surroundings.

    Returns:
        In [0, 1]; None where nothing is opaque, or the object has no surroundings.
    """
    seen = (alpha > visible).view(np.uint8)
    radius = max(round(max(alpha.shape) * REACH), 1)
    near = cv2.dilate(seen, np.ones((2 * radius + 1, 2 * radius + 1), np.uint8))
    inside = _histogram(bins[alpha > opaque])
    outside = _histogram(bins[near > seen])
    if inside is None or outside is None:
        return None
    return min(float(np.sqrt(inside * outside).sum()), 1.0)


def _histogram(bins: NDArray[np.int16]) -> NDArray[np.float64] | None:
    if not bins.size:
        return None
    counts = np.bincount(bins, minlength=LEVELS**3).reshape((LEVELS,) * 3) / bins.size
    for _ in range(3):  # each turn smooths the first axis, and makes it the last
        counts = np.tensordot(counts, _SMOOTHING, axes=(0, 1))
    return np.asarray(counts)
