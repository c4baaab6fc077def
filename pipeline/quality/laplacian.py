"""How far a matte is from a local linear function of the colours: the matting Laplacian's energy, without a matrix."""

from __future__ import annotations

from dataclasses import dataclass

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
        windows: ``(h - 2, w - 2, 9)`` float64: the mean colour (r, g, b), and the elements rr, rg, rb, gg, gb, bb of
            the inverse of the regularised covariance.
    """

    pixels: NDArray[np.uint8]
    windows: NDArray[np.float64]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> LocalColours:
        """Compute the statistics of a picture, ``(h, w, 3)`` uint8 RGB; without windows, if a side is below 3."""
        planes = [plane.astype(np.float64) / 255 for plane in cv2.split(pixels)]
        mean = [_means(plane) for plane in planes]
        rr, rg, rb, gg, gb, bb = (_means(planes[i] * planes[j]) - mean[i] * mean[j] for i, j in _PAIRS)
        rr, gg, bb = (variance + EPSILON / _AREA for variance in (rr, gg, bb))
        cofactors = [gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg]
        scale = 1 / (rr * cofactors[0] + rg * cofactors[1] + rb * cofactors[2])
        cofactors += [rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg]
        inverse = [cofactor * scale for cofactor in cofactors]
        return cls(pixels, np.stack([*mean, *inverse], axis=-1))


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
    inner = centres[1:-1, 1:-1]
    if not inner.any():
        return 0.0
    values = alpha.astype(np.float64)
    mean = _means(values)[inner]
    variance = _means(values * values)[inner] - mean * mean
    r, g, b, rr, rg, rb, gg, gb, bb = local.windows[inner].T
    together = _means(values[..., None] / 255 * local.pixels)[inner].T
    x, y, z = (covariance - mean * colour for covariance, colour in zip(together, (r, g, b), strict=True))
    explained = x * (rr * x + 2 * (rg * y + rb * z)) + y * (gg * y + 2 * gb * z) + bb * z * z
    return max(_AREA * float((variance - explained).sum()), 0.0)


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


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means over the 3 x 3 windows inside."""
    return np.asarray(cv2.boxFilter(values, cv2.CV_64F, (3, 3))[1:-1, 1:-1])
