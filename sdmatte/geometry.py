"""Between the image's own size and the model's grid: which grid, and how to get there and back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, overload

import cv2
import numpy as np
from numpy.typing import NDArray

from sdmatte.errors import SDMatteError

Resize = Literal["square", "aspect"]
AlphaType = Literal["float32", "uint8", "uint16"]


def checked_input_size(size: int | None, default: int, stride: int) -> int:
    """Return the side of the model's square input in pixels: ``size``, or the model's own ``default``.

    Raises:
        SDMatteError: It is no positive multiple of ``stride``.
    """
    size = default if size is None else size
    if size < stride or size % stride:
        raise SDMatteError(f"input_size {size} must be a positive multiple of {stride}")
    return size


def model_grid(width: int, height: int, input_size: int, resize: Resize, stride: int) -> tuple[int, int]:
    """Choose the model's input size for an image.

    Args:
        width: Of the upright image, pixels.
        height: Of the upright image, pixels.
        input_size: Side of the square input, pixels; for ``"aspect"`` the side of a square of the same area.
        resize: ``"square"`` distorts the image as in the paper; ``"aspect"`` keeps its aspect ratio (to the nearest
            multiple of ``stride``, and unless the shorter side would become less than one stride).
        stride: Height and width are multiples of it.

    Returns:
        Height and width of the model's input, pixels.
    """
    if resize == "square":
        return input_size, input_size
    aspect = math.sqrt(height / width)
    longest = input_size**2 // stride  # beyond it, strips of one stride would grow in area, and in memory

    def snap(side: float) -> int:
        return min(max(round(side / stride), 1) * stride, longest)

    return snap(input_size * aspect), snap(input_size / aspect)


def by_grid(grids: Sequence[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """Group the indices of equal grids, which can go through the model as one batch; in order of first appearance."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, grid in enumerate(grids):
        groups.setdefault(grid, []).append(index)
    yield from groups.items()


def to_grid(
    pixels: NDArray[np.uint8], grid: tuple[int, int], size: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Resize an image to the model's input.

    As in the reference: float32, OpenCV's bilinear interpolation without antialiasing. Of images much larger than the
    grid only the pixels that count are converted, four per cell: the others would cost 24 bytes each.

    Args:
        pixels: ``(H, W, 3)`` RGB.
        grid: Height and width of the model's input.
        size: Width and height of the original, where it was decoded smaller (:mod:`sdmatte.scaled`); its last row
            and column of pixels may stand for less than a whole one.

    Returns:
        ``(3, grid height, grid width)`` float32 in [-1, 1].
    """
    height, width = pixels.shape[:2]
    extent = (float(height), float(width)) if size is None else scaled_extent(width, height, *size)
    if extent == (height, width) and height * width <= 4 * grid[0] * grid[1]:
        scaled = _resize(pixels.astype(np.float32) / 255.0, grid, cv2.INTER_LINEAR)
    else:
        scaled = _interpolated(pixels, grid, extent)
    return np.ascontiguousarray((scaled * 2.0 - 1.0).transpose(2, 0, 1))


def scaled_extent(width: int, height: int, full_width: int, full_height: int) -> tuple[float, float]:
    """Return height and width of an original in pixels of its scaled decode, of which the last may be cut.

    Args:
        width: Of the scaled decode, pixels: that of the original divided by 1, 2, 4 or 8, rounded up.
        height: Likewise.
        full_width: Of the original, pixels.
        full_height: Likewise.

    Raises:
        SDMatteError: No such divisor gives this size.
    """
    for divisor in (1, 2, 4, 8):
        if (-(-full_width // divisor), -(-full_height // divisor)) == (width, height):
            return full_height / divisor, full_width / divisor
    raise SDMatteError(f"{width} x {height} pixels are no scaled decode of an image of {full_width} x {full_height}")


def from_grid(alpha: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """Resize an alpha ``(h, w)`` from the model's grid to ``(height, width)``: bilinear, and clipped to [0, 1]."""
    resized = _resize(alpha, (height, width), cv2.INTER_LINEAR)
    return np.clip(resized, 0.0, 1.0, out=None if resized is alpha else resized)  # a copy has 200 MB at 50 megapixels


def nearest(pixels: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize ``(H, W)`` labels to ``grid`` (height, width) without mixing them (OpenCV's INTER_NEAREST)."""
    return _resize(pixels, grid, cv2.INTER_NEAREST)


@overload
def quantise(alpha: NDArray[np.float32], dtype: Literal["float32"]) -> NDArray[np.float32]: ...
@overload
def quantise(alpha: NDArray[np.float32], dtype: Literal["uint8"]) -> NDArray[np.uint8]: ...
@overload
def quantise(alpha: NDArray[np.float32], dtype: Literal["uint16"]) -> NDArray[np.uint16]: ...
@overload
def quantise(alpha: NDArray[np.float32], dtype: AlphaType) -> NDArray[Any]: ...
def quantise(alpha: NDArray[np.float32], dtype: AlphaType) -> NDArray[Any]:
    """Convert an alpha in [0, 1] to its stored type: rounded to 8 or 16 bits, never truncated.

    Args:
        alpha: ``(H, W)`` float32 in [0, 1].
        dtype: ``"float32"`` (returned as it is), ``"uint8"`` or ``"uint16"`` (0 to the type's maximum).

    Returns:
        ``(H, W)`` of ``dtype``.
    """
    if dtype == "float32":
        return alpha
    stored = np.empty(alpha.shape, dtype)
    rows = max(1, 2**16 // max(1, alpha[:1].size))  # at a time: in float64, all of it would take 24 bytes per pixel
    for top in range(0, len(alpha), rows):
        part = alpha[top : top + rows].astype(np.float64)
        part *= np.iinfo(dtype).max
        stored[top : top + rows] = np.rint(part, out=part)
    return stored


def _interpolated(
    pixels: NDArray[np.uint8], grid: tuple[int, int], extent: tuple[float, float]
) -> NDArray[np.float32]:
    """Do what OpenCV's bilinear interpolation does with ``pixels / 255``, but touch only the pixels that count."""
    (top, bottom, down), (left, right, across) = (
        _taps(cells, length, covered) for cells, length, covered in zip(grid, pixels.shape[:2], extent, strict=True)
    )
    flat = np.ascontiguousarray(pixels).view("V3").ravel()  # whole pixels are what take() is fast with
    shape = (-1, grid[1], 3)

    def row(at: NDArray[np.intp]) -> NDArray[np.float32]:
        start = (at * pixels.shape[1])[:, None]
        near, far = (flat.take(start + column).view(np.uint8).reshape(shape) for column in (left, right))
        mixed: NDArray[np.float32] = near.astype(np.float32)
        mixed += np.subtract(far, mixed) * across[:, None]
        return mixed

    scaled = np.empty((*grid, 3), np.float32)
    rows = max(1, 2**14 // grid[1])  # at a time: what is at hand stays in the processor's cache
    for start in range(0, grid[0], rows):
        part = slice(start, start + rows)
        upper, lower = row(top[part]), row(bottom[part])
        lower -= upper
        lower *= down[part, None, None]
        np.add(upper, lower, out=scaled[part])
    scaled /= np.float32(255)
    return scaled


def _taps(cells: int, length: int, covered: float) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return for each cell of an axis the two pixels next to its centre, and the weight of the second one."""
    centres = ((np.arange(cells) + 0.5) * (covered / cells) - 0.5).clip(0, length - 1)
    first = np.floor(centres).astype(np.intp)
    return first, np.minimum(first + 1, length - 1), (centres - first).astype(np.float32)


def _resize(pixels: NDArray[Any], grid: tuple[int, int], interpolation: int) -> NDArray[Any]:
    if pixels.shape[:2] == grid:
        return pixels
    return np.asarray(cv2.resize(pixels, (grid[1], grid[0]), interpolation=interpolation))
