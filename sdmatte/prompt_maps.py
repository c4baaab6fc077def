"""From a prompt to what the network sees: a one-channel prompt image and a vector of coordinates.

Sources: the paper's section on visual prompts (arXiv 2508.00443), and the behaviour of the public implementation where
the paper is silent (borders of point maps, bounding boxes of masks).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from sdmatte.geometry import nearest
from sdmatte.prompts import TRAINED_POINTS, Auto, Box, Mask, Points, Prompt, Trimap

_FRAME = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class PromptMap:
    """A prompt on the model's grid.

    Attributes:
        pixels: ``(h, w)`` float32 in [-1, 1]: +1 inside, -1 outside.
        coordinates: float32 in [0, 1]: ``x0, y0, x1, y1``, or at least 20 numbers ``x, y, x, y, ...`` of points.
        is_points: The coordinates are those of points.
        masks_attention: Self-attention is restricted to the prompt (boxes, points and masks; the other kinds were
            never used with it).
    """

    pixels: NDArray[np.float32]
    coordinates: NDArray[np.float32]
    is_points: bool
    masks_attention: bool


def point_sigma(grid: tuple[int, int]) -> float:
    """Return the standard deviation of the Gaussian around a point, in pixels of the model's grid.

    The released models use 35 px at 1024 px and 25 px at 512 px; other sizes follow the power law through the two
    (nearly a square root). The side of a grid that is not square is that of a square of the same area.
    """
    side = math.sqrt(grid[0] * grid[1])
    return float(35.0 * (side / 1024) ** math.log2(35 / 25))


def prompt_map(
    prompt: Prompt, width: int, height: int, grid: tuple[int, int], *, sigma: float | None = None
) -> PromptMap:
    """Draw a prompt on the model's grid.

    Args:
        prompt: In pixels of the upright image; already validated against its size.
        width: Of the upright image, pixels.
        height: Of the upright image, pixels.
        grid: Height and width of the model's input, pixels.
        sigma: Of the Gaussian around points, pixels of the grid; default :func:`point_sigma`.

    Returns:
        The map and its coordinates.
    """
    if isinstance(prompt, Box):
        return _box(prompt, width, height, grid)
    if isinstance(prompt, Points):
        return _points(prompt, width, height, grid, point_sigma(grid) if sigma is None else sigma)
    if isinstance(prompt, Mask):
        return _mask(prompt, grid)
    if isinstance(prompt, Trimap):
        pixels = nearest(prompt.pixels, grid).astype(np.float32) / 127.5 - 1.0
        return PromptMap(pixels, np.array(_FRAME, np.float32), is_points=False, masks_attention=False)
    assert isinstance(prompt, Auto)
    return PromptMap(np.ones(grid, np.float32), np.array(_FRAME, np.float32), is_points=False, masks_attention=False)


def _box(box: Box, width: int, height: int, grid: tuple[int, int]) -> PromptMap:
    x0, x1 = (min(max(x / width, 0.0), 1.0) for x in (box.x0, box.x1))
    y0, y1 = (min(max(y / height, 0.0), 1.0) for y in (box.y0, box.y1))
    left, right = _span(x0, x1, grid[1])
    top, bottom = _span(y0, y1, grid[0])
    pixels = np.full(grid, -1.0, np.float32)
    pixels[top:bottom, left:right] = 1.0
    return PromptMap(pixels, np.array([x0, y0, x1, y1], np.float32), is_points=False, masks_attention=True)


def _span(start: float, stop: float, cells: int) -> tuple[int, int]:
    """Return the half-open range of cells covered by [start, stop] in [0, 1]: rounded, and never empty."""
    first = min(round(start * cells), cells - 1)
    return first, max(round(stop * cells), first + 1)


def _points(points: Points, width: int, height: int, grid: tuple[int, int], sigma: float) -> PromptMap:
    inside = np.zeros(grid, np.float32)
    numbers = np.zeros(max(2 * TRAINED_POINTS, 2 * len(points.xy)), np.float32)
    for index, (x, y) in enumerate(points.xy):
        column, row = int(x / width * grid[1]), int(y / height * grid[0])
        # A Gaussian filter is separable, so the response to one impulse is an outer product: exact, and far cheaper.
        blob = np.outer(_impulse_response(grid[0], row, sigma), _impulse_response(grid[1], column, sigma))
        np.maximum(inside, blob / blob.max(), out=inside)
        numbers[2 * index : 2 * index + 2] = column / grid[1], row / grid[0]
    return PromptMap(inside * 2 - 1, numbers, is_points=True, masks_attention=True)


def _impulse_response(length: int, at: int, sigma: float) -> NDArray[np.float32]:
    """Return SciPy's Gaussian of a unit impulse: reflecting borders, cut at 4 sigma."""
    impulse = np.zeros(length, np.float32)
    impulse[at] = 1.0
    return np.asarray(gaussian_filter1d(impulse, sigma), np.float32)


def _mask(mask: Mask, grid: tuple[int, int]) -> PromptMap:
    binary = mask.binary()
    inside = nearest(binary.astype(np.uint8), grid) > 0
    if not inside.any():  # too thin for nearest neighbours: an empty map would not prompt at all
        rows, columns = np.nonzero(binary)
        inside[rows * grid[0] // binary.shape[0], columns * grid[1] // binary.shape[1]] = True
    pixels = np.where(inside, np.float32(1), np.float32(-1))
    return PromptMap(pixels, _bounding_box(inside), is_points=False, masks_attention=True)


def _bounding_box(inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the box of a mask on the grid: first and *last* row and column inside; the whole frame where none is."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not rows.size:
        return np.array(_FRAME, np.float32)
    height, width = inside.shape
    box = (columns[0] / width, rows[0] / height, columns[-1] / width, rows[-1] / height)
    return np.array(box, np.float32)
