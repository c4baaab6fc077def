"""How far a matte is from a local linear function of the colours: the matting Laplacian's energy, without a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-7
"""Regularisation of :func:`pymatting.cf_laplacian` by default, for colours in [0, 1]."""

LEAST = 1e-7
"""Added to the energy per pixel before its logarithm is taken: a perfect matte has none."""

_AREA = 9  # pixels of a window

_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


@dataclass(frozen=True, slots=True, eq=False)
class LocalColours:
    """Statistics of the 3 x 3 windows that lie in a picture, for its matting Laplacian.

    Attributes:
        pixels: ``(h, w, 3)`` uint8 RGB: the picture.
        sums: ``(h - 2, w - 2, 9)`` float32: of r, g and b, and of their products rr, rg, rb, gg, gb and bb, over each
            window. They are whole numbers below 2 ** 24, and therefore exact.
    """

    pixels: NDArray[np.uint8]
    sums: NDArray[np.float32]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> LocalColours:
        """Compute the statistics of a picture, ``(h, w, 3)`` uint8 RGB; without windows, if a side is below 3."""
        planes = cv2.split(pixels.astype(np.float32))
        return cls(pixels, _sums(cv2.merge([*planes, *(cv2.multiply(planes[i], planes[j]) for i, j in _PAIRS)])))


def matting_energy(alpha: NDArray[np.float32], local: LocalColours, centres: NDArray[np.bool_]) -> float:
    """Return the part of ``alpha' L alpha``, ``L`` the matting Laplacian, that comes from some of its windows.

    The whole (Levin, Lischinski, Weiss 2008, eq. 12) is a sum over all 3 x 3 windows, of what remains of alpha after
    the best regularised linear function of the colours (their eq. 3): ``9 (var(alpha) - k' C^-1 k)``, with ``k`` the
    covariance of alpha and colours, and ``C`` that of the colours plus ``EPSILON / 9`` on its diagonal.

    Args:
        alpha: ``(h, w)`` float32 in [0, 1].
        local: Of the picture.
        centres: ``(h, w)``: the windows that count. Those that do not lie in the picture never do.

    Returns:
        At least 0.
    """
    at = np.flatnonzero(centres[1:-1, 1:-1])
    if not at.size:
        return 0.0
    r, g, b, *products = local.sums.reshape(-1, 9).take(at, axis=0).T.astype(np.float64)
    colours = r, g, b
    scale = 1 / (_AREA * 255.0) ** 2  # sums of whole numbers to means of colours in [0, 1]
    rr, rg, rb, gg, gb, bb = (
        (_AREA * product - colours[i] * colours[j]) * scale for product, (i, j) in zip(products, _PAIRS, strict=True)
    )
    rr, gg, bb = (variance + EPSILON / _AREA for variance in (rr, gg, bb))
    first, second, third = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    determinant = rr * first + rg * second + rb * third

    total, squares, *together = _moments(alpha, local.pixels, at)
    x, y, z = (
        (_AREA * product - total * colour) * (1 / (_AREA * _AREA * 255.0))
        for product, colour in zip(together, colours, strict=True)
    )
    across = (rr * bb - rb * rb) * y + 2 * (rg * rb - rr * gb) * z
    adjugate = x * (first * x + 2 * (second * y + third * z)) + y * across + (rr * gg - rg * rg) * z * z
    variances = (squares - total * total / _AREA) / _AREA
    return max(_AREA * float((variances - adjugate / determinant).sum()), 0.0)


def laplacian_energy(alpha: NDArray[np.float32], local: LocalColours, band: NDArray[np.bool_]) -> float | None:
    """Return log10 of the matting Laplacian's energy in the band, per pixel of it (:data:`LEAST` added).

    Args:
        alpha: ``(h, w)`` float32 in [0, 1].
        local: Of the picture.
        band: ``(h, w)``: where the object ends or is seen through.

    Returns:
        None without a band, and of pictures too small for a window.
    """
    pixels = int(np.count_nonzero(band[1:-1, 1:-1]))
    return float(np.log10(matting_energy(alpha, local, band) / pixels + LEAST)) if pixels else None


def _moments(alpha: NDArray[np.float32], pixels: NDArray[np.uint8], at: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the sums of alpha, of its square, and of its products with r, g and b over some windows, ``(5, N)``.

    Pixel by pixel of a window, for all of them: a band has few windows, and only these are touched.

    Args:
        alpha: ``(h, w)`` float32.
        pixels: ``(h, w, 3)`` uint8 RGB.
        at: Numbers of the windows, counted along the rows of those that lie in the picture.
    """
    width = alpha.shape[1]
    corner = at + at // (width - 2) * 2  # the number of its first pixel
    sums = np.zeros((5, at.size))
    for offset in (row * width + column for row in range(3) for column in range(3)):
        values = alpha.ravel().take(corner + offset).astype(np.float64)
        colours = pixels.reshape(-1, 3).take(corner + offset, axis=0)
        sums[0] += values
        sums[1] += values * values
        for channel in range(3):
            sums[2 + channel] += values * colours[:, channel]
    return sums


def _sums(values: NDArray[Any]) -> NDArray[Any]:
    """Return the sums over the 3 x 3 windows inside, ``(h - 2, w - 2, C)``, of ``(h, w, C)`` of floats."""
    return np.ascontiguousarray(cv2.boxFilter(values, -1, (3, 3), normalize=False)[1:-1, 1:-1])
