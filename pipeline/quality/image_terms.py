"""What the features of all objects in one image share: its reduced picture and what follows from it alone.

Features look at pictures of at most :data:`WORKING_SIDE` pixels. So their cost does not grow with the image, and a
calibration fitted on small pictures holds for large ones: the model itself sees no more detail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.quality.colours import colour_bins
from pipeline.quality.edges import ImageEdges
from pipeline.quality.laplacian import LocalColours

WORKING_SIDE = 320
"""Longer side of the pictures that features are computed on, pixels."""

SAMPLED_SIDE = 4 * WORKING_SIDE
"""Longer side beyond which only every n-th pixel is looked at: reading all of 12 megapixels would cost 30 ms."""

OPAQUE, CORE, VISIBLE = 0.9, 0.5, 0.1
"""Alphas above these count as opaque, as the object's core, and as visible."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageTerms:
    """What features need of an image, 5 to 9 MB. Made by :func:`prepare`, read by any number of threads.

    Attributes:
        shape: Height and width of the image, pixels.
        colours: ``(h, w)`` int16, the colour bin of each pixel of the reduced picture
            (:func:`pipeline.quality.colours.colour_bins`).
        edges: Its edges.
        local: Colour statistics of its 3 x 3 windows.
    """

    shape: tuple[int, int]
    colours: NDArray[np.int16]
    edges: ImageEdges
    local: LocalColours


def prepare(pixels: NDArray[np.uint8], size: tuple[int, int] | None = None) -> ImageTerms:
    """Compute what the features of all objects of an image share; takes about as long as the features of one.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB, upright.
        size: Width and height of the image and of its alphas, where ``pixels`` were decoded smaller.
    """
    height, width = pixels.shape[:2] if size is None else size[::-1]
    shape = _fitted(*_fitted(height, width, SAMPLED_SIDE), WORKING_SIDE)  # that of the alphas, to the pixel
    small = _resized(sampled(pixels), shape, cv2.INTER_AREA)
    return ImageTerms((height, width), colour_bins(small), ImageEdges.of(small), LocalColours.of(small))


def sampled(array: NDArray[Any]) -> NDArray[Any]:
    """Return at most :data:`SAMPLED_SIDE` rows and columns of an image, alpha or mask (uint8 or float32)."""
    height, width = array.shape[:2]
    return _resized(array, _fitted(height, width, SAMPLED_SIDE), cv2.INTER_NEAREST)


def reduced(array: NDArray[Any]) -> NDArray[Any]:
    """Return an image, alpha or mask at the working size: each pixel is the mean of those it stands for."""
    height, width = array.shape[:2]
    return _resized(array, _fitted(height, width, WORKING_SIDE), cv2.INTER_AREA)


def band(lowest: NDArray[np.float32], highest: NDArray[np.float32] | None = None) -> NDArray[np.bool_]:
    """Return where an object ends or is seen through: pixels that are, or touch, both visible and not opaque ones.

    Args:
        lowest: ``(h, w)`` float32 alpha, or the lowest of several.
        highest: The highest of them; default: the same.
    """
    square = np.ones((3, 3), np.uint8)
    visible = cv2.dilate(lowest if highest is None else highest, square) > VISIBLE
    return np.asarray(visible & (cv2.erode(lowest, square) <= OPAQUE))


def _fitted(height: int, width: int, side: int) -> tuple[int, int]:
    scale = min(side / max(height, width), 1)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _resized(array: NDArray[Any], shape: tuple[int, int], interpolation: int) -> NDArray[Any]:
    if array.shape[:2] == shape:
        return array
    return np.asarray(cv2.resize(array, shape[::-1], interpolation=interpolation))
