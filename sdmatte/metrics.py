"""Errors of a predicted alpha against the truth: MSE, MAD, SAD, Gradient and Connectivity.

The five measures of Rhemann et al., "A Perceptually Motivated Online Benchmark for Image Matting" (CVPR 2009,
alphamatting.com), as the Composition-1k evaluation code (Xu et al., "Deep Image Matting", CVPR 2017) defines them in
MATLAB. Smaller is better, 0 is perfect. Units, as in the papers' tables:

=================  ==============================================================================================
``mse``, ``mad``   mean over the region's pixels of the squared and of the absolute difference; in [0, 1]
``sad``            sum over the region of the absolute difference, in thousands
``grad``           sum over the region of the squared difference of gradient magnitudes, in thousands
``conn``           sum over the region of the difference in connectedness, in thousands
``conn_sdmatte``   the same with a fault of SDMatte's public evaluation code; for comparison with its tables alone
=================  ==============================================================================================

Every function measures the whole image, or only the unknown region where a trimap is given: the pixels that are
exactly :data:`UNKNOWN`. The region limits the sums alone: gradients and components see the whole matte.

Alphas are ``(H, W)``: floats in [0, 1]; uint8 or uint16, where the type's maximum is opaque; or bool. The two may be
of different types.

One difference to the MATLAB code is deliberate: that stretches either matte to its own minimum and maximum before
``grad``. Mattes that reach 0 and 1 are not changed by it; for others it would hide errors of contrast (and divide by
zero where a matte is constant). SDMatte's code doesn't stretch either.

Computed in float32 (8-bit alphas meet the thresholds of ``conn`` exactly), summed in float64. Measured on mattes of
2000 x 2000 pixels with one thread of a server CPU: ``mse``, ``mad`` and ``sad`` 0.02 s each, ``grad`` 0.06 s, ``conn``
and ``conn_sdmatte`` 0.45 s each, :func:`evaluate` 0.65 s for all six over both regions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sdmatte.errors import SDMatteError

UNKNOWN = 128
"""Value of the unknown region in a trimap."""

_SIGMA = 1.4  # of the Gaussian whose derivative gives the gradients, pixels
_TAIL = 0.01  # the kernel ends where the Gaussian has fallen to this
_LEVELS = 10  # thresholds of the connectivity: 0.1, 0.2, ... 1
_THETA = np.float32(0.15)  # a pixel that sticks out of its component by less counts as fully connected

Map = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Errors:
    """All errors over one region; units in the module's docstring."""

    mse: float
    mad: float
    sad: float
    grad: float
    conn: float
    conn_sdmatte: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What :func:`evaluate` measured.

    Attributes:
        whole: Over the whole image.
        unknown: Over the unknown region; None without a trimap.
    """

    whole: Errors
    unknown: Errors | None


def evaluate(predicted: NDArray[Any], truth: NDArray[Any], trimap: NDArray[np.uint8] | None = None) -> Evaluation:
    """Measure every error; cheaper than the single functions one after the other.

    Args:
        predicted: ``(H, W)`` alpha: float in [0, 1], uint8, uint16 or bool.
        truth: ``(H, W)`` alpha of the same size; its type may differ.
        trimap: ``(H, W)`` uint8, unknown where exactly 128; without it only the whole image is measured.

    Returns:
        The errors over the whole image and over the unknown region.

    Raises:
        SDMatteError: Sizes differ, a value is not finite or outside [0, 1], a type is not listed above, an image is
            empty, or the trimap has no unknown pixel.
    """
    predicted, truth = _pair(predicted, truth)
    unknown = None if trimap is None else _unknown(trimap, truth.shape)
    difference = np.abs(predicted - truth)
    gradient = _gradient_error(predicted, truth)
    conn, conn_sdmatte = _connectivity_errors(predicted, truth)

    def over(region: NDArray[np.bool_] | None) -> Errors:
        return Errors(
            mse=_mean(difference**2, region),
            mad=_mean(difference, region),
            sad=_thousands(difference, region),
            grad=_thousands(gradient, region),
            conn=_thousands(conn, region),
            conn_sdmatte=_thousands(conn_sdmatte, region),
        )

    return Evaluation(over(None), None if unknown is None else over(unknown))


def mse(predicted: NDArray[Any], truth: NDArray[Any], trimap: NDArray[np.uint8] | None = None) -> float:
    """Return the mean squared error, in [0, 1]; arguments and errors as of :func:`evaluate`."""
    predicted, truth = _pair(predicted, truth)
    return _mean((predicted - truth) ** 2, _region(trimap, truth.shape))


def mad(predicted: NDArray[Any], truth: NDArray[Any], trimap: NDArray[np.uint8] | None = None) -> float:
    """Return the mean absolute difference, in [0, 1]; arguments and errors as of :func:`evaluate`."""
    predicted, truth = _pair(predicted, truth)
    return _mean(np.abs(predicted - truth), _region(trimap, truth.shape))


def sad(predicted: NDArray[Any], truth: NDArray[Any], trimap: NDArray[np.uint8] | None = None) -> float:
    """Return the sum of absolute differences, in thousands; arguments and errors as of :func:`evaluate`."""
    predicted, truth = _pair(predicted, truth)
    return _thousands(np.abs(predicted - truth), _region(trimap, truth.shape))


def grad(predicted: NDArray[Any], truth: NDArray[Any], trimap: NDArray[np.uint8] | None = None) -> float:
    """Return the gradient error, in thousands; arguments and errors as of :func:`evaluate`.

    The gradients are first derivatives of a Gaussian with a standard deviation of 1.4 px, cut at 4 px; the kernel's
    squares sum to 1, and the border's pixels are repeated outwards.
    """
    predicted, truth = _pair(predicted, truth)
    return _thousands(_gradient_error(predicted, truth), _region(trimap, truth.shape))


def conn(predicted: NDArray[Any], truth: NDArray[Any], trimap: NDArray[np.uint8] | None = None) -> float:
    """Return the connectivity error, in thousands; arguments and errors as of :func:`evaluate`.

    For every threshold 0.1, 0.2, ... 1, the source is the largest 4-connected component of the pixels where both
    mattes reach the threshold (the first in row order where several are largest). A pixel's level is the last
    threshold, counted from 0, up to which it belongs to all the sources. A matte's connectedness is
    1 - (alpha - level), or 1 where alpha is less than 0.15 above the level; the error sums its absolute differences.
    """
    predicted, truth = _pair(predicted, truth)
    return _thousands(_connectivity_errors(predicted, truth)[0], _region(trimap, truth.shape))


def conn_sdmatte(predicted: NDArray[Any], truth: NDArray[Any], trimap: NDArray[np.uint8] | None = None) -> float:
    """Return the connectivity error of SDMatte's evaluation code, in thousands, for comparison with its tables.

    It differs from :func:`conn` by a fault: in search of the largest component it also counts the pixels that do
    *not* reach the threshold as one. Where they are the most, as with every object smaller than half of its frame, the
    source is the background: the object's pixels then count by their plain difference, connected or not, and what
    the prediction wrongly adds elsewhere doesn't count at all.
    Arguments and errors as of :func:`evaluate`.
    """
    predicted, truth = _pair(predicted, truth)
    return _thousands(_connectivity_errors(predicted, truth)[1], _region(trimap, truth.shape))


def _mean(error: Map, region: NDArray[np.bool_] | None) -> float:
    return float(np.mean(error if region is None else error[region], dtype=np.float64))


def _thousands(error: Map, region: NDArray[np.bool_] | None) -> float:
    return float(np.sum(error if region is None else error[region], dtype=np.float64)) / 1000


def _gradient_error(predicted: Map, truth: Map) -> Map:
    return np.asarray((_gradient_magnitude(predicted) - _gradient_magnitude(truth)) ** 2)


def _gradient_magnitude(alpha: Map) -> Map:
    smooth, derivative = _kernels()
    across = cv2.sepFilter2D(alpha, cv2.CV_32F, derivative, smooth, borderType=cv2.BORDER_REPLICATE)
    down = cv2.sepFilter2D(alpha, cv2.CV_32F, smooth, derivative, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.magnitude(across, down), np.float32)


def _kernels() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a Gaussian and its derivative, whose outer product has an L2 norm of 1 (as each of them has)."""
    radius = math.ceil(_SIGMA * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * _SIGMA * _TAIL)))
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    smooth = np.exp(-(x**2) / (2 * _SIGMA**2))
    derivative = x * smooth
    return smooth / np.linalg.norm(smooth), derivative / np.linalg.norm(derivative)


def _connectivity_errors(predicted: Map, truth: Map) -> tuple[Map, Map]:
    """Return the maps of :func:`conn` and :func:`conn_sdmatte`, whose costly part is the same."""
    levels, levels_sdmatte = _levels(np.minimum(predicted, truth))
    return _connectivity_error(predicted, truth, levels), _connectivity_error(predicted, truth, levels_sdmatte)


def _connectivity_error(predicted: Map, truth: Map, levels: NDArray[np.uint8]) -> Map:
    level = levels.astype(np.float32) / np.float32(_LEVELS)
    return np.asarray(np.abs(_excess(predicted, level) - _excess(truth, level)))


def _excess(alpha: Map, level: Map) -> Map:
    """Return by how much alpha sticks out of the level, 0 where that is little: 1 - the connectedness."""
    excess = alpha - level
    excess[excess < _THETA] = 0
    return excess


def _levels(common: Map) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Count for every pixel the thresholds, from the lowest, at which it belongs to the source.

    Args:
        common: ``(H, W)`` minimum of the two alphas: it reaches a threshold where both do.

    Returns:
        ``(H, W)`` counts in 0 to 10: by the definition, and with the background counted as a component.
    """
    connected, connected_sdmatte = np.ones(common.shape, bool), np.ones(common.shape, bool)
    levels, levels_sdmatte = np.zeros(common.shape, np.uint8), np.zeros(common.shape, np.uint8)
    for step in range(1, _LEVELS + 1):
        # In float32 8-bit alphas meet their thresholds exactly: 153 / 255 is 0.6 in both.
        reached = common >= np.float32(step / _LEVELS)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(reached.view(np.uint8), connectivity=4)
        areas = stats[:, cv2.CC_STAT_AREA]  # label 0 is the background
        largest = 1 + int(np.argmax(areas[1:])) if count > 1 else -1  # no label is negative: no source
        connected &= labels == largest
        levels += connected
        connected_sdmatte &= labels == np.argmax(areas)
        levels_sdmatte += connected_sdmatte
    return levels, levels_sdmatte


def _pair(predicted: NDArray[Any], truth: NDArray[Any]) -> tuple[Map, Map]:
    if predicted.shape != truth.shape:
        raise SDMatteError(
            f"the predicted alpha has the shape {predicted.shape}, the truth {truth.shape}; "
            "resize the prediction to the truth's size first (errors are measured at the original size)"
        )
    return _alpha(predicted, "predicted alpha"), _alpha(truth, "true alpha")


def _alpha(alpha: NDArray[Any], what: str) -> Map:
    """Return an alpha as float32 in [0, 1]."""
    if alpha.ndim != 2 or not alpha.size:
        raise SDMatteError(f"the {what} must be a 2-D array with at least one pixel, got the shape {alpha.shape}")
    if alpha.dtype == bool:
        return alpha.astype(np.float32)
    if alpha.dtype in (np.uint8, np.uint16):
        return alpha.astype(np.float32) / np.float32(np.iinfo(alpha.dtype).max)
    if alpha.dtype.kind != "f":
        raise SDMatteError(f"the {what} is {alpha.dtype}; give floats in [0, 1], uint8, uint16 or bool")
    low, high = float(alpha.min()), float(alpha.max())  # NaN if there is one
    if not (math.isfinite(low) and math.isfinite(high)):
        count = int(alpha.size - np.isfinite(alpha).sum())
        raise SDMatteError(
            f"{count} of {alpha.size} pixels of the {what} are NaN or infinite; such a matte has no error, "
            "so leave it out and report it as failed"
        )
    if low < 0 or high > 1:
        raise SDMatteError(
            f"the {what} spans [{low:g}, {high:g}], outside [0, 1]; "
            + ("divide it by 255, or give it as uint8" if high > 2 else "clip it first")
        )
    return alpha.astype(np.float32, copy=False)


def _region(trimap: NDArray[np.uint8] | None, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    return None if trimap is None else _unknown(trimap, shape)


def _unknown(trimap: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    if trimap.shape != shape or trimap.dtype != np.uint8:
        raise SDMatteError(f"the trimap must be uint8 {shape} like the alphas, got {trimap.dtype} {trimap.shape}")
    unknown = np.asarray(trimap == UNKNOWN)
    if not unknown.any():
        raise SDMatteError(
            f"the trimap has no unknown pixel (exactly {UNKNOWN}); its values are {np.unique(trimap)[:8].tolist()}: "
            f"write its unknown region as {UNKNOWN}, or measure the whole image by giving no trimap"
        )
    return unknown
