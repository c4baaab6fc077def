"""Visual prompts: what tells the model which object of a picture to matte.

All coordinates are pixels of the *upright original image* (after its EXIF orientation has been applied): ``x`` grows
to the right, ``y`` downwards, and the top left corner of the top left pixel is ``(0, 0)``. Whole images of width ``W``
and height ``H`` are therefore ``Box(0, 0, W, H)``.

``transparent`` tells the model that the object itself lets light through (glass, smoke, veils): the paper's opacity
embedding (SDMatte, arXiv 2508.00443).

Codes of the :class:`~sdmatte.errors.PromptError` raised by :meth:`validate`:

``prompt_malformed``
    NaN or infinite coordinates, no points at all or too many, a mask that is not a 2-D array of a known range.
``prompt_degenerate``
    A box without area (``x1 <= x0`` or ``y1 <= y0``).
``prompt_out_of_frame``
    A box that does not overlap the image, or a point outside of it.
``prompt_empty_mask``
    A mask without a single pixel inside.
``prompt_size_mismatch``
    A mask or trimap whose size is not the image's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sdmatte.errors import PromptError

PromptKind = Literal["box", "points", "mask", "auto", "trimap"]

TRAINED_POINTS = 10
"""Number of points per prompt that the released weights were trained with; fewer are zero-padded."""

MAX_POINTS = 840
"""Number of points per prompt that the coordinate embedding (1680 features) has room for."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle around the object.

    Attributes:
        x0: Left edge, pixels.
        y0: Top edge, pixels.
        x1: Right edge, pixels, exclusive (the first column that is not inside).
        y1: Bottom edge, pixels, exclusive.
        transparent: The object is transparent.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    transparent: bool = False
    kind: ClassVar[PromptKind] = "box"

    def validate(self, width: int, height: int) -> None:
        """Check the box against an image of ``width`` x ``height`` pixels.

        Raises:
            PromptError: ``prompt_malformed``, ``prompt_degenerate`` or ``prompt_out_of_frame``.
        """
        edges = (self.x0, self.y0, self.x1, self.y1)
        if not all(math.isfinite(edge) for edge in edges):
            raise PromptError("prompt_malformed", f"box {edges} has a coordinate that is not a finite number")
        if self.x1 <= self.x0 or self.y1 <= self.y0:
            raise PromptError(
                "prompt_degenerate",
                f"box {edges} has no area; expected x0 < x1 and y0 < y1 in pixels (xyxy, not xywh)",
            )
        if self.x1 <= 0 or self.y1 <= 0 or self.x0 >= width or self.y0 >= height:
            raise PromptError(
                "prompt_out_of_frame",
                f"box {edges} does not overlap the upright image of {width} x {height} pixels; "
                "check the image it belongs to, and whether its coordinates were taken before EXIF rotation",
            )


@dataclass(frozen=True, slots=True)
class Points:
    """Clicks on the object; the model knows no negative points.

    Attributes:
        xy: ``(x, y)`` pairs, pixels. Any iterable of pairs may be given.
        transparent: The object is transparent.
    """

    xy: tuple[tuple[float, float], ...]
    transparent: bool = False
    kind: ClassVar[PromptKind] = "points"

    def __init__(self, xy: Iterable[Iterable[float]], transparent: bool = False) -> None:
        try:
            pairs = tuple(tuple(float(value) for value in pair) for pair in xy)
        except (TypeError, ValueError) as error:  # one bare pair, or something that is not a number
            raise PromptError(
                "prompt_malformed",
                f"points must be a list of (x, y) pairs, such as Points([(120, 80), (140, 95)]): {error}",
            ) from None
        if any(len(pair) != 2 for pair in pairs):
            raise PromptError("prompt_malformed", f"points must be a list of (x, y) pairs, got {pairs}")
        object.__setattr__(self, "xy", pairs)
        object.__setattr__(self, "transparent", transparent)

    def validate(self, width: int, height: int) -> None:
        """Check the points against an image of ``width`` x ``height`` pixels.

        Raises:
            PromptError: ``prompt_malformed`` or ``prompt_out_of_frame``.
        """
        if not self.xy:
            raise PromptError("prompt_malformed", "a point prompt needs at least one point")
        if len(self.xy) > MAX_POINTS:
            raise PromptError(
                "prompt_malformed",
                f"{len(self.xy)} points are more than the {MAX_POINTS} that the model can take; it was trained with "
                f"{TRAINED_POINTS}, so give about as many, or a mask",
            )
        for x, y in self.xy:
            if not (math.isfinite(x) and math.isfinite(y)):
                raise PromptError("prompt_malformed", f"point ({x}, {y}) is not a pair of finite numbers")
            if not (0 <= x < width and 0 <= y < height):
                raise PromptError(
                    "prompt_out_of_frame",
                    f"point ({x}, {y}) lies outside the upright image of {width} x {height} pixels",
                )


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A rough mask of the object, at the size of the image.

    Attributes:
        pixels: ``(H, W)`` array. Boolean; or integers, inside where positive if none is above 1, else (unsigned types
            alone) where at least half of the type's range; or floats in [0, 1], inside where at least 0.5.
        transparent: The object is transparent.
    """

    pixels: NDArray[Any]
    transparent: bool = False
    kind: ClassVar[PromptKind] = "mask"

    def binary(self) -> NDArray[np.bool_]:
        """Return the mask as ``(H, W)`` booleans.

        Raises:
            PromptError: ``prompt_malformed``: not a 2-D array of numbers, or signed integers above 1, whose full
                range nobody uses.
        """
        pixels = self.pixels
        if pixels.ndim != 2 or pixels.dtype.kind not in "bufi":
            raise PromptError("prompt_malformed", f"a mask must be a 2-D array, got {pixels.dtype} {pixels.shape}")
        if pixels.dtype.kind == "b":
            return pixels
        if pixels.dtype.kind == "f":
            return np.asarray(pixels >= 0.5)
        if pixels.size and int(pixels.max()) <= 1:
            return np.asarray(pixels > 0)
        if pixels.dtype.kind == "i":
            raise PromptError(
                "prompt_malformed",
                f"the mask is {pixels.dtype} with values above 1, so what counts as inside is not clear; "
                "convert it to bool, or to uint8 with 0 and 255",
            )
        return np.asarray(pixels > np.iinfo(pixels.dtype).max // 2)

    def validate(self, width: int, height: int) -> None:
        """Check the mask against an image of ``width`` x ``height`` pixels.

        Raises:
            PromptError: ``prompt_malformed``, ``prompt_size_mismatch`` or ``prompt_empty_mask``.
        """
        inside = self.binary()
        _check_size("mask", inside.shape, width, height)
        if not inside.any():
            raise PromptError("prompt_empty_mask", "the mask has no pixel inside; nothing to matte")


@dataclass(frozen=True, slots=True)
class Auto:
    """No prompt: the whole frame. The released weights were not trained for it.

    Attributes:
        transparent: The object is transparent.
    """

    transparent: bool = False
    kind: ClassVar[PromptKind] = "auto"

    def validate(self, width: int, height: int) -> None:
        """Accept every image."""


@dataclass(frozen=True, slots=True, eq=False)
class Trimap:
    """A trimap. The released weights were not trained for it.

    Attributes:
        pixels: ``(H, W)`` uint8: 0 background, 255 foreground, everything between unknown.
        transparent: The object is transparent.
    """

    pixels: NDArray[np.uint8] = field()
    transparent: bool = False
    kind: ClassVar[PromptKind] = "trimap"

    def validate(self, width: int, height: int) -> None:
        """Check the trimap against an image of ``width`` x ``height`` pixels.

        Raises:
            PromptError: ``prompt_malformed`` or ``prompt_size_mismatch``.
        """
        if self.pixels.ndim != 2 or self.pixels.dtype != np.uint8:
            raise PromptError(
                "prompt_malformed", f"a trimap must be 2-D uint8, got {self.pixels.dtype} {self.pixels.shape}"
            )
        _check_size("trimap", self.pixels.shape, width, height)


Prompt = Box | Points | Mask | Auto | Trimap


def _check_size(what: str, shape: tuple[int, ...], width: int, height: int) -> None:
    if shape != (height, width):
        raise PromptError(
            "prompt_size_mismatch",
            f"the {what} has {shape[1]} x {shape[0]} pixels, the upright image {width} x {height}; they must be equal",
        )


def require_prompt(value: object) -> None:
    """Check that a value is a prompt at all.

    Raises:
        PromptError: ``prompt_malformed``; of four numbers, or of pairs, the message says what they may have meant.
    """
    if isinstance(value, Prompt):
        return
    match value:
        case [int() | float(), int() | float(), int() | float(), int() | float()]:
            hint = f"; did you mean Box({', '.join(map(str, value))})?"
        case [[int() | float() as x, int() | float() as y], *_]:
            hint = f"; did you mean Points([({x}, {y}), ...])?"
        case np.ndarray():
            hint = "; did you mean Mask(array)?"
        case _:
            hint = ""
    raise PromptError(
        "prompt_malformed",
        f"a prompt must be Box, Points, Mask, Auto or Trimap, got {type(value).__name__}{hint}",
    )
