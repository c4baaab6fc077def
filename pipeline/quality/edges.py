"""Whether the edges of a matte are edges of the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_WEAKEST = 2 / 255
"""Added to the mean contrast of a picture: noise of one without any edges is not an edge."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageEdges:
    """Edges of a colour picture, each array ``(h, w)`` float32.

    They come from its structure tensor (Di Zenzo 1986): the sum, over the channels, of the outer products of the
    gradients, averaged over 3 x 3 pixels so that an edge beside the matte's still counts.

    Attributes:
        strength: ``g / (g + k)`` in [0, 1): ``g`` is the root of the tensor's trace, the length of the gradient, and
            ``k`` its mean over the picture, so that an edge counts for more than the texture around it.
        xx, xy, yy: The tensor's elements divided by its trace; 0 where there is no gradient.
    """

    strength: NDArray[np.float32]
    xx: NDArray[np.float32]
    xy: NDArray[np.float32]
    yy: NDArray[np.float32]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> ImageEdges:
        """Find the edges of a picture, ``(h, w, 3)`` uint8 RGB."""
        x, y = _gradient(pixels, 255)
        xx, xy, yy = _tensor(x, x), _tensor(x, y), _tensor(y, y)
        trace = xx + yy
        length = np.sqrt(trace)
        scale = 1 / np.maximum(trace, np.float32(1e-12))
        return cls(length / (length + (length.mean() + np.float32(_WEAKEST))), xx * scale, xy * scale, yy * scale)


def edge_alignment(alpha: NDArray[np.float32], edges: ImageEdges) -> float | None:
    r"""Return how well the edges of a matte lie on those of its picture, in [0, 1].

    The mean, weighted by the length of alpha's gradient ``a``, of ``strength * |cos|``: the strength of the picture's
    edge, times the cosine of the angle between the gradients, which is ``sqrt(n' J n / trace J)`` with the direction
    ``n = a / |a|`` and the structure tensor ``J``.

    Args:
        alpha: ``(h, w)`` float32 in [0, 1].
        edges: Of the picture.

    Returns:
        None where alpha is the same everywhere.
    """
    x, y = _gradient(alpha)
    length = np.sqrt(x * x + y * y)
    total = float(length.sum(dtype=np.float64))
    if total < 1e-6:
        return None
    along = edges.xx * x * x + 2 * edges.xy * x * y + edges.yy * y * y  # |a|^2 cos^2
    aligned = float((edges.strength * np.sqrt(np.maximum(along, 0))).sum(dtype=np.float64))
    return min(aligned / total, 1.0)


def _tensor(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the products of two derivatives, summed over the channels and averaged over 3 x 3 pixels."""
    product = cv2.transform(first * second, np.ones((1, 3), np.float32))
    # Not by running sums, as cv2.blur does: they leave small negative squares behind.
    third = np.full(3, 1 / 3, np.float32)
    return np.asarray(cv2.sepFilter2D(product, -1, third, third, borderType=cv2.BORDER_REPLICATE), np.float32)


def _gradient(values: NDArray[Any], highest: int = 1) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the derivatives to the right and downwards, per pixel (Scharr's kernels), of values in [0, highest]."""
    x, y = (
        cv2.Scharr(values, cv2.CV_32F, *order, scale=1 / (32 * highest), borderType=cv2.BORDER_REPLICATE)
        for order in ((1, 0), (0, 1))
    )
    return np.asarray(x, np.float32), np.asarray(y, np.float32)
