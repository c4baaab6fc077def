"""Which image coordinates and masks refer to, and their way from there to the upright image.

Prompts are made for the image as viewers show it, or for the image as it is stored, before its EXIF orientation is
applied; and sometimes for a smaller or larger copy of either. Coordinates are continuous: ``(0, 0)`` is the top left
corner of the top left pixel, and an image of width ``w`` ends at ``x = w``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sdmatte.image_samples import turn_upright

ASPECT_TOLERANCE = 0.01
"""Relative difference of aspect ratios up to which one image is taken for a copy of the other at another size."""

_LARGEST = 2**31
_SMALLEST_ROUNDED = 16  # pixels of the shorter side above which a difference of one pixel is taken for rounding


class Affine(NamedTuple):
    """``x' = a x + b y + c``, ``y' = d x + e y + f``."""

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point goes."""
        return self.a * x + self.b * y + self.c, self.d * x + self.e * y + self.f

    def points(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where ``(n, 2)`` points go."""
        x, y = xy.T
        return np.stack([self.a * x + self.b * y + self.c, self.d * x + self.e * y + self.f], axis=1)

    def then_scaled(self, across: float, down: float) -> Affine:
        """Return this, followed by a change of size."""
        a, b, c, d, e, f = self
        return Affine(a * across, b * across, c * across, d * down, e * down, f * down)

    def of_fractions(self, width: float, height: float) -> Affine:
        """Return the same for points in fractions of a width and a height."""
        a, b, c, d, e, f = self
        return Affine(a * width, b * height, c, d * width, e * height, f)


def turning(orientation: int, width: int, height: int) -> Affine:
    """Return what turns points of a stored image of this size upright.

    Args:
        orientation: EXIF orientation of the image, 1 to 8.
        width: Of the image as it is stored, pixels.
        height: Of the image as it is stored, pixels.
    """
    # As turn_upright does it with pixels: exchange x and y first, then mirror.
    if orientation >= 5:
        width, height = height, width
    mirror_x = -1 if orientation in (2, 3, 6, 7) else 1
    mirror_y = -1 if orientation in (3, 4, 7, 8) else 1
    along = (mirror_x, 0) if orientation < 5 else (0, mirror_x)
    down = (0, mirror_y) if orientation < 5 else (mirror_y, 0)
    return Affine(*along, width if mirror_x < 0 else 0, *down, height if mirror_y < 0 else 0)


class Fit(NamedTuple):
    """How something of another frame is brought to the upright image.

    Attributes:
        orientation: EXIF orientation to turn it by; 1 for none.
        rotated: It belongs to the other one of the stored and the upright image than was said.
        scaled: Its size differs, once it is turned.
    """

    orientation: int
    rotated: bool
    scaled: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """An image, and what its prompts refer to.

    Attributes:
        width: Of the upright image, pixels.
        height: Of the upright image, pixels.
        orientation: Its EXIF orientation, 1 to 8; 1 for images that are stored upright.
        stored: Prompts refer to the image as it is stored, not to the upright one.
    """

    width: int
    height: int
    orientation: int = 1
    stored: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the image that prompts refer to, pixels."""
        return self._sizes()[0]

    @property
    def usual(self) -> Fit:
        """What is done to prompts that are as they were said to be."""
        return Fit(self.orientation if self.stored else 1, rotated=False, scaled=False)

    def _sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the size that prompts refer to, and that of the other one of the stored and the upright image."""
        upright = (self.width, self.height)
        stored = (self.height, self.width) if self.orientation >= 5 else upright
        return (stored, upright) if self.stored else (upright, stored)

    def fit(self, width: int, height: int) -> Fit | None:
        """Tell how something of this size belongs to the image.

        Sizes that are equal, or in the same ratio within :data:`ASPECT_TOLERANCE` or a pixel of rounding, fit. If that
        is so both for the image that prompts refer to and for the same image turned by its EXIF orientation, the
        closer one counts.

        Returns:
            None if it doesn't.
        """
        said, other = self._sizes()
        found = [(said, self.usual)]
        if other != said:
            found.append((other, Fit(1 if self.stored else self.orientation, rotated=True, scaled=False)))
        fits = [
            (distance, fit._replace(scaled=(width, height) != size))
            for size, fit in found
            if (distance := _distance((width, height), size)) is not None
        ]
        return min(fits, key=lambda each: each[0])[1] if fits else None

    def placing(self, fit: Fit, width: int, height: int) -> Affine:
        """Return what brings coordinates of something of this size, which fits so, to pixels of the upright image."""
        turned = turning(fit.orientation, width, height)
        if fit.orientation >= 5:
            width, height = height, width
        return turned.then_scaled(self.width / width, self.height / height)


def _distance(size: tuple[int, int], other: tuple[int, int]) -> float | None:
    """Return by how much two aspect ratios differ; None where that is too much for copies of the same image."""
    if min(size) <= 0 or max(size) > _LARGEST:
        return None
    (width, height), (other_width, other_height) = size, other
    across, down = width * other_height, height * other_width
    distance = abs(across - down) / max(across, down)
    if distance <= ASPECT_TOLERANCE:
        return distance
    # A copy's sides are rounded; what that makes of a side is seen in the smaller one of the two images.
    small, large = sorted((size, other))
    off = min(abs(small[1] - small[0] * large[1] / large[0]), abs(small[0] - small[1] * large[0] / large[1]))
    return distance if off <= 1 and min(small) >= _SMALLEST_ROUNDED else None


def turn_mask(inside: NDArray[np.bool_], orientation: int) -> NDArray[np.bool_]:
    """Return an ``(H, W)`` mask of a stored image as one of the upright image."""
    return np.ascontiguousarray(turn_upright(inside, orientation))


def scale_mask(inside: NDArray[np.bool_], width: int, height: int) -> NDArray[np.bool_]:
    """Return an ``(H, W)`` mask at another size.

    Enlarged by nearest neighbours; reduced to the pixels that it covers at least by half, or, where there are none, to
    those that it touches.
    """
    rows, columns = inside.shape
    pixels = inside.astype(np.uint8) * 255
    if width >= columns and height >= rows:
        return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT) > 0)
    found = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA) > 127)
    if not found.any():
        ys, xs = np.nonzero(inside)
        found[ys * height // rows, xs * width // columns] = True
    return found
