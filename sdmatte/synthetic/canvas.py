"""What objects are drawn on: a supersampled picture with premultiplied alpha, light, noise and a few solid forms.

Coordinates are units: ``(0, 0)`` is the middle, ``x`` grows to the right and ``y`` downwards, and the canvas ends at
-1 and 1. Drawings only need to stay inside: :func:`fitted` crops and scales what was drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdmatte.synthetic.layers import Layer

Photo = NDArray[np.float32]
"""``(h, w, 3)`` RGB in [0, 1], or a plane ``(h, w)`` that goes with one."""
Mask = NDArray[np.uint8]
"""``(size, size)`` coverage of a canvas, 0 to 255."""
Paint = Callable[[np.random.Generator, int, int], Photo]
"""``paint(rng, height, width)`` gives a surface texture ``(height, width, 3)`` in [0, 1]."""

_SUPERSAMPLING = 2.5
_MARGIN = 2  # pixels that stay free around a fitted object
_SHIFT = 4  # fractional bits of OpenCV's coordinates
_FAINT = 1.0 / 255


@dataclass(frozen=True, slots=True)
class Light:
    """A distant lamp, and how the surfaces under it answer.

    Attributes:
        direction: Unit vector ``(x, y, z)`` towards the lamp; ``z`` points at the viewer.
        ambient: Share of light that comes from everywhere, in [0, 1].
        gloss: Strength of the highlight, in [0, 1].
        shine: Phong exponent of the highlight.
    """

    direction: tuple[float, float, float]
    ambient: float
    gloss: float
    shine: float

    @staticmethod
    def anywhere(rng: np.random.Generator) -> Light:
        """Draw a lamp, more often above than below, and a matt or a glossy surface."""
        turn = rng.uniform(0, 2 * np.pi) if rng.random() < 0.3 else rng.uniform(1.1, 1.9) * np.pi
        lift = rng.uniform(0.35, 1.2)
        flat = np.cos(lift)
        gloss = rng.uniform(0.3, 0.9) if rng.random() < 0.4 else rng.uniform(0.0, 0.15)
        direction = (float(flat * np.cos(turn)), float(flat * np.sin(turn)), float(np.sin(lift)))
        return Light(direction, float(rng.uniform(0.3, 0.7)), float(gloss), float(rng.uniform(8, 60)))

    def on(self, height: Photo, colour: Photo) -> Photo:
        """Light a relief.

        Args:
            height: ``(h, w)``, in pixels.
            colour: ``(h, w, 3)`` or ``(3,)``, what the surface shows in full light.

        Returns:
            ``(h, w, 3)`` in [0, 1].
        """
        slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.125)
        slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.125)
        length = np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
        x, y, z = self.direction
        facing = ((z - x * slope_x - y * slope_y) / length).clip(0, 1)
        lit = colour * (self.ambient + (1.1 - self.ambient) * facing)[..., None]
        if self.gloss > 0.02:
            mirrored = (2 * facing / length - z).clip(0, 1)
            lit = lit + (self.gloss * mirrored**self.shine)[..., None]
        return np.asarray(lit, np.float32).clip(0, 1)


class Canvas:
    """A square picture to draw on.

    Attributes:
        size: Its side, pixels.
        side: The side of the layer that it becomes, pixels.
        pixels: ``(size, size, 4)`` uint8, RGB premultiplied with alpha. OpenCV's antialiased drawing, with a colour
            whose fourth channel is 255, is then exactly the operator ``over``.
        light: What :meth:`solid` lights with.
    """

    def __init__(self, rng: np.random.Generator, side: int, paint: Paint) -> None:
        """Start with nothing drawn.

        Args:
            rng: Everything random comes from here.
            side: Of the layer, pixels.
            paint: Makes surfaces.
        """
        self.rng = rng
        self.side = side
        self.size = 4 * round(max(side, 32) * _SUPERSAMPLING / 4)
        self.pixels = np.zeros((self.size, self.size, 4), np.uint8)
        self.light = Light.anywhere(rng)
        self._paint = paint

    def paint(self) -> Photo:
        """Return a new surface ``(size / 2, size / 2, 3)``."""
        made = self._paint(self.rng, self.side, self.side)
        half = self.size // 2
        return np.asarray(cv2.resize(made, (half, half), interpolation=cv2.INTER_LINEAR), np.float32)

    def fixed(self, points: ArrayLike) -> NDArray[np.int32]:
        """Turn units ``(..., 2)`` into OpenCV's fixed-point pixels."""
        scaled = (np.asarray(points, np.float64) + 1) * (self.size / 2) - 0.5
        return np.rint(scaled * (1 << _SHIFT)).astype(np.int32)

    def thick(self, width: float) -> int:
        """Turn a width in units into whole pixels, at least one."""
        return max(1, round(width * self.size / 2))

    def grid(self, shrink: int = 4) -> tuple[Photo, Photo]:
        """Return ``x`` ``(1, n)`` and ``y`` ``(n, 1)``, units, of the pixels of a canvas ``shrink`` times smaller."""
        count = self.size // shrink
        line = ((np.arange(count, dtype=np.float32) + 0.5) * (2 / count) - 1).astype(np.float32)
        return line[None, :], line[:, None]

    def polygon(self, *outlines: ArrayLike) -> Mask:
        """Return the coverage ``(size, size)`` of closed outlines ``(n, 2)``; outlines inside others are holes."""
        mask = np.zeros((self.size, self.size), np.uint8)
        cv2.fillPoly(mask, [self.fixed(o) for o in outlines], 255, cv2.LINE_AA, _SHIFT)
        return mask

    def inside(self, distance: Photo) -> Mask:
        """Return the coverage ``(size, size)`` of a signed distance ``(n, n)`` in units, negative inside."""
        large = cv2.resize(distance, (self.size, self.size), interpolation=cv2.INTER_CUBIC)
        return np.asarray((127.5 - large * (255 * self.size / 2)).clip(0, 255), np.uint8)

    def solid(self, mask: Mask, colour: ArrayLike, *, roundness: float = 1.0, bumps: float = 0.0) -> Photo:
        """Draw a solid body: its outline inflated to a relief, lit.

        Args:
            mask: Coverage ``(size, size)``.
            colour: ``(3,)``, or ``(size / 2, size / 2, 3)``.
            roundness: 1 inflates to the middle; small values round off only the rim.
            bumps: How much the colour's brightness counts as relief, pixels.

        Returns:
            The lit colour, ``(size / 2, size / 2, 3)``.
        """
        half = self.size // 2
        small = shrunk(mask, 2)
        rows, columns = _around(small, 3)
        albedo = np.asarray(colour, np.float32)
        part = albedo[rows, columns] if albedo.ndim == 3 else albedo
        relief = inflated(small[rows, columns], roundness)
        if bumps and part.ndim == 3:
            relief = relief + bumps * part.mean(axis=2)
        lit = np.zeros((half, half, 3), np.float32)
        lit[rows, columns] = self.light.on(relief, part)
        self.over(mask, lit)
        return lit

    def over(self, mask: Mask, colour: ArrayLike) -> None:
        """Draw a colour where a mask ``(size, size)`` lets it.

        Args:
            mask: Coverage.
            colour: ``(3,)``, or a picture of the whole canvas whose side is ``size`` divided by 1, 2 or 4.
        """
        if not mask.any():
            return
        rows, columns = _around(mask, 0)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        part = np.asarray(colour, np.float32)
        if part.ndim == 3:
            step = self.size // len(part)
            part = part[rows.start // step : rows.stop // step, columns.start // step : columns.stop // step]
            part = np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
        drawn = np.empty((height, width, 4), np.float32)
        np.multiply(part, 255, out=drawn[..., :3])
        drawn[..., 3] = 255
        share = mask[rows, columns, None] * np.float32(1 / 255)
        below = self.pixels[rows, columns].astype(np.float32)
        drawn -= below
        drawn *= share
        drawn += below
        drawn += 0.5
        self.pixels[rows, columns] = drawn.clip(0, 255).astype(np.uint8)

    def line(self, points: ArrayLike, width: float, colour: ArrayLike, *, closed: bool = False) -> None:
        """Draw an antialiased line through ``(n, 2)``, ``width`` units wide, in one colour ``(3,)``."""
        cv2.polylines(self.pixels, [self.fixed(points)], closed, ink(colour), self.thick(width), cv2.LINE_AA, _SHIFT)

    def disc(self, centre: tuple[float, float], radius: float, colour: ArrayLike) -> None:
        """Draw a filled disc."""
        x, y = (int(v) for v in self.fixed(centre))
        cv2.circle(
            self.pixels,
            (x, y),
            max(1, round(radius * self.size / 2 * (1 << _SHIFT))),
            ink(colour),
            -1,
            cv2.LINE_AA,
            _SHIFT,
        )

    def tint(self, field: Photo) -> None:
        """Multiply what was drawn with brightness ``(n, n)``, upscaled."""
        large = cv2.resize(field, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        lit = self.pixels[..., :3] * large[..., None]
        self.pixels[..., :3] = np.minimum(lit, self.pixels[..., 3:]).astype(np.uint8)

    def layer(self, *, transparent: bool = False) -> Layer:
        """Return what was drawn, cropped and scaled to the side that was asked for."""
        return fitted(self.pixels, self.side, transparent=transparent)


def _around(mask: Mask, room: int) -> tuple[slice, slice]:
    """Return the rows and columns that hold a mask and ``room`` pixels around it, on multiples of 4."""
    x, y, width, height = cv2.boundingRect(mask)
    low, high = [max(0, v - room) // 4 * 4 for v in (y, x)], (y + height + room, x + width + room)
    ends = [min(-(-v // 4) * 4, size) for v, size in zip(high, mask.shape, strict=True)]
    return slice(low[0], ends[0]), slice(low[1], ends[1])


def ink(colour: ArrayLike) -> tuple[int, int, int, int]:
    """Turn a colour ``(3,)`` in [0, 1] into what OpenCV draws with on a canvas."""
    r, g, b = (int(v) for v in (np.asarray(colour).clip(0, 1) * 255).round())
    return r, g, b, 255


def shrunk(mask: Mask, times: int) -> Mask:
    """Return a mask averaged to a canvas some times smaller."""
    size = len(mask) // times
    return np.asarray(cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def joined(*masks: Mask) -> Mask:
    """Return the union of masks."""
    return np.asarray(np.maximum.reduce(masks), np.uint8)


def inflated(mask: Mask, roundness: float) -> Photo:
    """Return a relief ``(h, w)``, in pixels, that rises from a mask's outline like half a pillow."""
    depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3)
    radius = max(1.0, roundness * float(depth.max()))
    share = np.minimum(depth / radius, 1)
    relief = np.asarray(radius * np.sqrt(1 - (1 - share) ** 2), np.float32)
    return np.asarray(cv2.GaussianBlur(relief, (0, 0), max(0.6, radius * 0.12)), np.float32)


def fitted(pixels: Mask | Photo, side: int, *, transparent: bool = False) -> Layer:
    """Crop a drawing to what is visible and scale it to a layer.

    Args:
        pixels: ``(h, w, 4)`` premultiplied, uint8 or float32 in [0, 1]; something in it has to be visible.
        side: Of the layer, pixels.
        transparent: Whether the object lets light through.

    Returns:
        A layer of ``(side, side)`` whose object spans all but two pixels on each end of the longer side. Its colour
        continues smoothly into where nothing is visible.
    """
    alpha = pixels[..., 3]
    x, y, width, height = cv2.boundingRect((alpha > (0 if pixels.dtype == np.uint8 else _FAINT)).astype(np.uint8))
    crop = pixels[y : y + height, x : x + width].astype(np.float32)
    if pixels.dtype == np.uint8:
        crop *= np.float32(1 / 255)
    scale = (side - 2 * _MARGIN) / max(width, height)
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(np.ascontiguousarray(crop), (columns, rows), interpolation=method)
    premultiplied = np.zeros((side, side, 4), np.float32)
    top, left = (side - rows) // 2, (side - columns) // 2
    premultiplied[top : top + rows, left : left + columns] = scaled
    matte = premultiplied[..., 3].clip(0, 1)
    sure = (matte * 32).clip(0, 1)[..., None]
    straight = premultiplied[..., :3] / np.maximum(matte, 1e-4)[..., None]
    colour = sure * straight + (1 - sure) * continued(premultiplied)
    return Layer(colour.clip(0, 1).astype(np.float32), matte, transparent)


def continued(premultiplied: Photo) -> Photo:
    """Let colours flow from where they are visible to everywhere else, coarse to fine.

    Args:
        premultiplied: ``(h, w, 4)``.

    Returns:
        ``(h, w, 3)``.
    """
    height, width = premultiplied.shape[:2]
    if min(height, width) <= 2:
        total = premultiplied.reshape(-1, 4).sum(axis=0)
        return np.broadcast_to(total[:3] / max(float(total[3]), 1e-6), (height, width, 3)).astype(np.float32)
    smaller = cv2.resize(premultiplied, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
    below = cv2.resize(continued(np.asarray(smaller, np.float32)), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(premultiplied[..., :3] + (1 - premultiplied[..., 3:]) * below, np.float32)


def noise(rng: np.random.Generator, size: int, cells: float, octaves: int = 3) -> Photo:
    """Return noise ``(size, size)`` in [0, 1]: ``cells`` bumps across, and finer ones from ``octaves`` above 1."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        count = min(size, max(2, round(cells * 2**octave)) + 3)
        coarse = rng.random((count, count), np.float32)
        total += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC) * 0.5**octave
    total -= total.min()
    return total / max(float(total.max()), 1e-6)


def capsule(x: Photo, y: Photo, start: ArrayLike, end: ArrayLike, thick: float, thin: float) -> Photo:
    """Return the signed distance to a limb: a segment whose radius goes from ``thick`` to ``thin``.

    Args:
        x: ``(1, n)`` units.
        y: ``(n, 1)`` units.
        start: ``(x, y)``.
        end: ``(x, y)``.
        thick: Radius at the start, units.
        thin: Radius at the end, units.

    Returns:
        ``(n, n)`` units, negative inside.
    """
    (left, top), (right, bottom) = (np.asarray(p, np.float32) for p in (start, end))
    dx, dy = right - left, bottom - top
    along = (((x - left) * dx + (y - top) * dy) / (dx * dx + dy * dy + 1e-9)).clip(0, 1)
    away = np.sqrt((x - left - along * dx) ** 2 + (y - top - along * dy) ** 2)
    return np.asarray(away - (thick + (thin - thick) * along), np.float32)


def merged(parts: Sequence[Photo], soft: float) -> Photo:
    """Return the union of signed distances, with joints rounded over ``soft`` units."""
    total = parts[0]
    for part in parts[1:]:
        blend = (0.5 + 0.5 * (part - total) / soft).clip(0, 1)
        total = part + (total - part) * blend - soft * blend * (1 - blend)
    return np.asarray(total, np.float32)


def smooth(points: ArrayLike, count: int) -> NDArray[np.float64]:
    """Return ``count`` points of a Catmull-Rom curve through ``(n, 2)``, with the ends doubled."""
    knots = np.asarray(points, np.float64)
    knots = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    at = np.linspace(0, len(knots) - 3, count).clip(0, len(knots) - 3 - 1e-6)
    first = at.astype(int)
    t = (at - first)[:, None]
    a, b, c, d = (knots[first + i] for i in range(4))
    return np.asarray(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * (b - c) + d - a) * t**3))


def turned(points: ArrayLike, angle: float) -> NDArray[np.float64]:
    """Turn points ``(..., 2)`` about the middle by radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(np.asarray(points, np.float64) @ np.array([[c, s], [-s, c]]))


def tint(rng: np.random.Generator, *, dark: float = 0.08, bright: float = 0.95, vivid: float = 0.9) -> Photo:
    """Return a random colour ``(3,)``: brightness between two bounds, saturation up to ``vivid``, often much less."""
    hue, value = rng.uniform(0, 6), rng.uniform(dark, bright)
    saturation = vivid * rng.random() ** 1.5
    wheel = (np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1).clip(0, 1)
    return np.asarray(value * (1 - saturation * (1 - wheel)), np.float32)


def natural(rng: np.random.Generator) -> Photo:
    """Return a colour ``(3,)`` of hair, fur and wood: black, brown, red, blond, grey or white."""
    shades = [(0.07, 0.06, 0.06), (0.25, 0.15, 0.09), (0.45, 0.27, 0.14), (0.58, 0.3, 0.14), (0.8, 0.63, 0.4),
              (0.5, 0.48, 0.46), (0.88, 0.85, 0.8)]  # fmt: skip
    mixed = rng.dirichlet(np.full(len(shades), 0.25)) @ np.array(shades)
    return np.asarray((mixed * rng.uniform(0.8, 1.15)).clip(0, 1), np.float32)
