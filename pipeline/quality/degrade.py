"""Mattes that are worse on purpose: what a calibration should recognise although the model seldom makes it.

Strengths are relative to the object, so that a small one is damaged like a large one. A damaged matte is not always
further from the truth (a threshold may come as a relief to a blurred one): its true error is measured, not assumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

Alpha = NDArray[np.float32]


def blur(alpha: Alpha, rng: np.random.Generator) -> Alpha:
    """Blur it, as a model that works at too low a resolution."""
    sigma = max(1.0, extent(alpha) * rng.uniform(0.03, 0.15))
    return np.asarray(cv2.GaussianBlur(alpha, (0, 0), sigma), np.float32)


def shift(alpha: Alpha, rng: np.random.Generator) -> Alpha:
    """Move it, as coordinates of another frame do."""
    angle, far = rng.uniform(0, 2 * math.pi), max(2.0, extent(alpha) * rng.uniform(0.05, 0.3))
    move = np.array([[1, 0, far * math.cos(angle)], [0, 1, far * math.sin(angle)]], np.float32)
    return np.asarray(cv2.warpAffine(alpha, move, alpha.shape[::-1]), np.float32)


def erode(alpha: Alpha, rng: np.random.Generator) -> Alpha:
    """Eat away its edge, and what is thin altogether."""
    return np.asarray(cv2.erode(alpha, _disc(alpha, rng)), np.float32)


def dilate(alpha: Alpha, rng: np.random.Generator) -> Alpha:
    """Grow it over the background."""
    return np.asarray(cv2.dilate(alpha, _disc(alpha, rng)), np.float32)


def holes(alpha: Alpha, rng: np.random.Generator) -> Alpha:
    """Take discs out of the object."""
    return _discs(alpha, rng, np.float32(0), inside=True)


def blobs(alpha: Alpha, rng: np.random.Generator) -> Alpha:
    """Add discs of background."""
    return _discs(alpha, rng, np.float32(1), inside=False)


def threshold(alpha: Alpha, rng: np.random.Generator) -> Alpha:
    """Flatten it into a binary mask."""
    return (alpha > rng.uniform(0.3, 0.7)).astype(np.float32)


def noise(alpha: Alpha, rng: np.random.Generator) -> Alpha:
    """Make it patchy: smooth noise, where the matte is not empty."""
    height, width = alpha.shape
    side = max(2, round(12 * rng.uniform(0.3, 1.0)))
    coarse = rng.uniform(-1, 1, (side, side)).astype(np.float32)
    patches = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    near = np.minimum(1, 4 * cv2.GaussianBlur(alpha, (0, 0), max(1.0, 0.05 * extent(alpha))))
    return np.clip(alpha + rng.uniform(0.3, 1.0) * patches * near, 0, 1).astype(np.float32)


KINDS: Mapping[str, Callable[[Alpha, np.random.Generator], Alpha]] = {
    each.__name__: each for each in (blur, shift, erode, dilate, holes, blobs, threshold, noise)
}
"""The kinds of damage that one matte can be given; the ninth, `other`, is another object's matte."""


def degrade(alpha: Alpha, rng: np.random.Generator, other: Alpha | None = None) -> tuple[str, Alpha]:
    """Damage a matte in a random way.

    Args:
        alpha: `(H, W)` float32 in [0, 1].
        rng: Source of chance.
        other: Matte of another object of the same image, which may take its place.

    Returns:
        The kind of damage, and the damaged matte: of 8 bits, as most stored ones.
    """
    kinds = [*KINDS, *(["other"] if other is not None else [])]
    kind = kinds[int(rng.integers(len(kinds)))]
    damaged = other if kind == "other" and other is not None else KINDS[kind](alpha, rng)
    return kind, (np.rint(damaged * 255) / 255).astype(np.float32)


def extent(alpha: Alpha) -> float:
    """Return the side of the square that has the matte's area, at least 1 (unit: pixel)."""
    return max(1.0, math.sqrt(float(alpha.sum(dtype=np.float64))))


def _disc(alpha: Alpha, rng: np.random.Generator) -> NDArray[np.uint8]:
    diameter = 2 * max(1, round(extent(alpha) * rng.uniform(0.02, 0.1))) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter)), np.uint8)


def _discs(alpha: Alpha, rng: np.random.Generator, level: np.float32, *, inside: bool) -> Alpha:
    rows, columns = np.nonzero((alpha > 0.5) == inside)
    found = alpha.copy()
    for _ in range(int(rng.integers(1, 4)) if len(rows) else 0):
        at = int(rng.integers(len(rows)))
        radius = max(1, round(extent(alpha) * rng.uniform(0.08, 0.25)))
        cv2.circle(found, (int(columns[at]), int(rows[at])), radius, float(level), -1, cv2.LINE_AA)
    return found
