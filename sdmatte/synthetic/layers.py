"""Layers: an object's colour and its alpha; how to place them in a frame and lay them over each other.

Compositing follows Porter and Duff, "Compositing Digital Images" (SIGGRAPH 1984): ``over``, on values as they are
stored (no linearisation: that is what matting data sets do).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_VISIBLE = 1.0 / 512  # below half a level of 8 bits, a premultiplied colour cannot be divided back


@dataclass(frozen=True, slots=True)
class Layer:
    """One object.

    Attributes:
        colour: ``(h, w, 3)`` float32 RGB in [0, 1], straight (not premultiplied).
        alpha: ``(h, w)`` float32 in [0, 1].
        transparent: The object itself lets light through (glass, smoke, veils).
        family: What drew it.
    """

    colour: NDArray[np.float32]
    alpha: NDArray[np.float32]
    transparent: bool = False
    family: str = ""

    def replaced(self, colour: NDArray[np.float32], alpha: NDArray[np.float32]) -> Layer:
        """Return the same object with other pixels."""
        return Layer(colour, alpha, self.transparent, self.family)


def place(
    layer: Layer,
    height: int,
    width: int,
    *,
    centre: tuple[float, float],
    side: float,
    angle: float = 0.0,
    flip: bool = False,
) -> Layer:
    """Scale, turn and move a layer into a frame.

    The warp runs on premultiplied colour, so that colours of invisible pixels do not bleed in; a layer that shrinks is
    averaged first, so that strands thin out instead of breaking up.

    Args:
        layer: Of any size.
        height: Of the frame, pixels.
        width: Of the frame, pixels.
        centre: ``(x, y)`` of the layer's centre in the frame, pixels; may lie outside.
        side: What the layer's longer side becomes, pixels.
        angle: Degrees, counter-clockwise.
        flip: Mirror left and right first.

    Returns:
        A layer of the frame's size.
    """
    pixels = premultiplied(layer)
    if flip:
        pixels = pixels[:, ::-1]
    rows, columns = pixels.shape[:2]
    scale = side / max(rows, columns)
    if scale < 1:
        smaller = max(1, round(columns * scale)), max(1, round(rows * scale))
        reduced = cv2.resize(np.ascontiguousarray(pixels), smaller, interpolation=cv2.INTER_AREA)
        pixels = np.asarray(reduced, np.float32)
        scale *= max(rows, columns) / max(pixels.shape[:2])
        rows, columns = pixels.shape[:2]
    turn = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), angle, scale)
    turn[0, 2] += centre[0] - (columns - 1) / 2
    turn[1, 2] += centre[1] - (rows - 1) / 2
    warped = cv2.warpAffine(np.ascontiguousarray(pixels), turn, (width, height), flags=cv2.INTER_LINEAR)
    moved = np.asarray(warped, np.float32)
    return layer.replaced(*unpremultiply(moved[..., :3], moved[..., 3]))


def premultiplied(layer: Layer) -> NDArray[np.float32]:
    """Return ``(h, w, 4)``: colour times alpha, and alpha."""
    alpha = layer.alpha
    return np.asarray(cv2.merge((layer.colour * cv2.merge((alpha, alpha, alpha)), alpha)), np.float32)


def unpremultiply(
    colour: NDArray[np.float32], alpha: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Divide a premultiplied colour ``(h, w, 3)`` by its alpha ``(h, w)``; invisible pixels become black.

    Returns:
        Straight colour in [0, 1] and the alpha in [0, 1].
    """
    alpha = np.asarray(alpha, np.float32).clip(0.0, 1.0)
    factor = np.where(alpha > _VISIBLE, 1.0 / np.maximum(alpha, _VISIBLE), 0.0).astype(np.float32)
    straight = colour * cv2.merge((factor, factor, factor))
    return np.asarray(straight, np.float32).clip(0.0, 1.0), alpha


def composite(
    background: NDArray[np.float32], layers: Sequence[Layer]
) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """Lay layers over a background.

    Args:
        background: ``(h, w, 3)`` RGB in [0, 1].
        layers: Of the same size, from back to front.

    Returns:
        The picture ``(h, w, 3)``, and for each layer the alpha ``(h, w)`` with which it is *visible*: its own, times
        what the layers in front of it let through. That is the matte that a prompt for this object should give.
    """
    image = background
    for layer in layers:
        image = image + layer.alpha[..., None] * (layer.colour - image)
    return image.astype(np.float32), visible(layers)


def visible(layers: Sequence[Layer]) -> list[NDArray[np.float32]]:
    """Return the alphas ``(h, w)`` with which layers, from back to front, are seen; see :func:`composite`."""
    seen: list[NDArray[np.float32]] = []
    through = np.ones(layers[0].alpha.shape, np.float32) if layers else np.ones(0, np.float32)
    for layer in reversed(layers):
        seen.append(layer.alpha * through)
        through = through * (1.0 - layer.alpha)
    return seen[::-1]


def shadow(
    background: NDArray[np.float32], layer: Layer, *, offset: tuple[float, float], blur: float, strength: float
) -> NDArray[np.float32]:
    """Darken a background where a layer keeps the light out.

    Args:
        background: ``(h, w, 3)`` RGB in [0, 1].
        layer: Of the same size.
        offset: ``(x, y)`` from the object to its shadow, pixels.
        blur: Standard deviation of the penumbra, pixels.
        strength: Share of light lost in the umbra, in [0, 1].

    Returns:
        ``(h, w, 3)``. A shadow belongs to the background: it never changes an alpha.
    """
    height, width = layer.alpha.shape
    shift = np.array([[1, 0, offset[0]], [0, 1, offset[1]]], np.float32)
    dark = cv2.warpAffine(layer.alpha, shift, (width, height))
    if blur > math.ulp(1.0):
        dark = cv2.GaussianBlur(dark, (0, 0), blur)
    return np.asarray(background * (1.0 - strength * dark[..., None]), np.float32)
