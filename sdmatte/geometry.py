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


def to_grid(pixels: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.float32]:
    """Resize an image to the model's input.

    As in the reference: float32, OpenCV's bilinear interpolation without antialiasing.

    Args:
        pixels: ``(H, W, 3)`` RGB.
        grid: Height and width of the model's input.

    Returns:
        ``(3, grid height, grid width)`` float32 in [-1, 1].
    """
    scaled = _resize(pixels.astype(np.float32) / 255.0, grid, cv2.INTER_LINEAR)
    return np.ascontiguousarray((scaled * 2.0 - 1.0).transpose(2, 0, 1))


def from_grid(alpha: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """Resize an alpha ``(h, w)`` from the model's grid to ``(height, width)``: bilinear, and clipped to [0, 1]."""
    return _resize(alpha, (height, width), cv2.INTER_LINEAR).clip(0.0, 1.0)


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
    return np.rint(alpha.astype(np.float64) * np.iinfo(dtype).max).astype(dtype)


def _resize(pixels: NDArray[Any], grid: tuple[int, int], interpolation: int) -> NDArray[Any]:
    if pixels.shape[:2] == grid:
        return pixels
    return np.asarray(cv2.resize(pixels, (grid[1], grid[0]), interpolation=interpolation))
