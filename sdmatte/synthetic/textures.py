"""Procedural surfaces: what covers a drawn object, or lies behind it.

A surface is a scalar field (clouds, stripes, wood, cloth, ...) painted with a small palette of related colours, then
given some grain and uneven light. Smooth fields are small random grids enlarged with a cubic filter (value noise,
after Perlin, "An Image Synthesizer", SIGGRAPH 1985), which costs little at any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]  # (h, w) in [0, 1]
Picture = NDArray[np.float32]  # (h, w, 3) RGB in [0, 1]

_SHADES = 1024  # entries of a painted palette; fine enough that slow gradients do not band


def texture(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Draw a random surface.

    Args:
        rng: Everything random comes from here; equal states give equal surfaces.
        height: Pixels, at least 1.
        width: Pixels, at least 1.

    Returns:
        ``(height, width, 3)`` float32 RGB in [0, 1].
    """
    field = _FIELDS[rng.choice(len(_FIELDS), p=_WEIGHTS)](rng, height, width)
    colours = palette(rng, int(rng.integers(2, 6)))
    picture = paint(field, colours)
    if rng.random() < 0.6:
        light = (clouds(rng, height, width, cells=3, octaves=1) - 0.5) * np.float32(rng.uniform(0.05, 0.4)) + 1.0
        picture *= in_channels(light)
    if rng.random() < 0.5:
        picture += in_channels(grain(rng, height, width, strength=math.exp(rng.uniform(-5.0, -2.5))))
    return np.clip(picture, 0.0, 1.0, out=picture)


def palette(rng: np.random.Generator, count: int) -> Picture:
    """Choose colours that go together: neighbouring hues, or now and then opposite ones, of varied lightness.

    Args:
        rng: Source of chance.
        count: How many, at least 1.

    Returns:
        ``(1, count, 3)`` float32 RGB in [0, 1].
    """
    spread = float(rng.choice([12.0, 40.0, 120.0], p=[0.5, 0.35, 0.15]))
    middle = rng.normal(35, 20) if rng.random() < 0.4 else rng.uniform(0, 360)  # browns and skin tones are common
    hue = (middle + rng.uniform(-spread, spread, count)) % 360
    if rng.random() < 0.15:
        hue[::2] = (hue[::2] + 180) % 360
    saturation = (rng.beta(1.0, 2.2) + rng.uniform(-0.2, 0.2, count)).clip(0.0, 1.0)
    contrast = rng.uniform(0.02, 0.5)
    value = (rng.uniform(0.08, 0.95) + rng.uniform(-contrast, contrast, count)).clip(0.02, 1.0)
    colours = np.stack([hue, saturation, value], axis=-1)[None].astype(np.float32)
    return np.asarray(cv2.cvtColor(colours, cv2.COLOR_HSV2RGB), np.float32)


def paint(field: Field, colours: Picture) -> Picture:
    """Colour a field: 0 gets the first colour, 1 the last, in between they blend.

    Args:
        field: ``(h, w)`` in [0, 1].
        colours: ``(1, n, 3)`` RGB in [0, 1], as from ``palette``.

    Returns:
        ``(h, w, 3)`` float32 RGB in [0, 1].
    """
    at = np.linspace(0, colours.shape[1] - 1, _SHADES)
    stops = np.arange(colours.shape[1])
    ramp = np.stack([np.interp(at, stops, colours[0, :, c]) for c in range(3)], axis=-1).astype(np.float32)
    return ramp.take((field * (_SHADES - 1)).astype(np.intp), axis=0, mode="clip")


def in_channels(field: Field) -> Picture:
    """Repeat a field ``(h, w)`` as ``(h, w, 3)``: several times quicker to compute with than a broadcast view."""
    return np.asarray(cv2.merge((field, field, field)), np.float32)


def clouds(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    cells: float,
    octaves: int = 4,
    roughness: float = 0.5,
    stretch: float = 1.0,
) -> Field:
    """Draw smooth noise.

    Args:
        rng: Source of chance.
        height: Pixels.
        width: Pixels.
        cells: Bumps of the coarsest octave along the longer side.
        octaves: How many; each is twice as fine as the one before.
        roughness: Strength of an octave relative to the one before.
        stretch: Above 1 the bumps are elongated horizontally by this factor.

    Returns:
        ``(height, width)`` float32 in [0, 1], mean around one half.
    """
    total = np.zeros((height, width), np.float32)
    weight, sum_of_weights = 1.0, 0.0
    for _ in range(octaves):
        pitch = max(height, width) / cells
        rows, columns = math.ceil(height / pitch) + 1, math.ceil(width / pitch / stretch) + 1
        grid = rng.random((min(rows, height), min(columns, width)), np.float32)
        total += weight * np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
        sum_of_weights += weight
        weight *= roughness
        cells *= 2
    total /= np.float32(sum_of_weights)
    return np.clip(total, 0.0, 1.0, out=total)


def grain(rng: np.random.Generator, height: int, width: int, *, strength: float) -> Field:
    """Draw independent noise per pixel, ``(height, width)`` float32 in ``[-strength, strength]``."""
    return ((rng.random((height, width), np.float32) - 0.5) * np.float32(2 * strength)).astype(np.float32)


def _axes(rng: np.random.Generator, height: int, width: int) -> tuple[Field, Field]:
    """Pixel coordinates along two perpendicular directions, often the frame's own, at a random offset."""
    angle = rng.uniform(0, math.pi) if rng.random() < 0.7 else rng.choice([0.0, math.pi / 2])
    x = np.arange(width, dtype=np.float32)[None] - np.float32(rng.uniform(0, width))
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32(rng.uniform(0, height))
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _period(rng: np.random.Generator, height: int, width: int, finest: float = 5.0) -> float:
    """Length of one repetition in pixels, any scale from ``finest`` to half the frame equally likely."""
    longest = max(finest, max(height, width) / 2)
    return float(math.exp(rng.uniform(math.log(finest), math.log(longest))))


def _wave(along: Field, period: float, sharpness: float) -> Field:
    """A wave in [0, 1]; ``sharpness`` 0 is a sine, 1 bars whose edges are about one pixel wide."""
    gain = 0.5 * (1 - sharpness) + sharpness * max(0.5, period / (2 * math.pi))
    turns = np.sin(along * np.float32(2 * math.pi / period))
    turns *= np.float32(gain)
    turns += np.float32(0.5)
    return np.asarray(np.clip(turns, 0.0, 1.0, out=turns), np.float32)


def _bent(rng: np.random.Generator, along: Field, reach: float) -> Field:
    """Coordinates pushed about by smooth noise, by up to ``reach`` pixels."""
    height, width = along.shape
    bend = clouds(rng, height, width, cells=rng.uniform(1.5, 6), octaves=2)
    return (along + np.float32(2 * reach) * bend).astype(np.float32)


def _plain(rng: np.random.Generator, height: int, width: int) -> Field:
    level, span = rng.uniform(0, 0.9), rng.uniform(0, 0.1)
    return (level + span * clouds(rng, height, width, cells=2, octaves=1)).astype(np.float32)


def _noise(rng: np.random.Generator, height: int, width: int) -> Field:
    cells = math.exp(rng.uniform(math.log(1.5), math.log(24)))
    field = clouds(rng, height, width, cells=cells, octaves=int(rng.integers(1, 6)), roughness=rng.uniform(0.4, 0.8))
    return _contrast(field, rng.uniform(1.0, 2.5))


def _contrast(field: Field, gain: float) -> Field:
    """Stretch a field around one half."""
    return np.asarray(((field - 0.5) * np.float32(gain) + 0.5).clip(0.0, 1.0), np.float32)


def _patches(rng: np.random.Generator, height: int, width: int) -> Field:
    """Blotches with crisp outlines: animal coats, camouflage, lichen."""
    cells = math.exp(rng.uniform(math.log(3), math.log(20)))
    field = clouds(rng, height, width, cells=cells, octaves=3, stretch=rng.uniform(1, 3))
    edge = max(height, width) / cells / 2
    return _contrast(field + np.float32(rng.uniform(-0.1, 0.1)), max(2.0, edge))


def _brushed(rng: np.random.Generator, height: int, width: int) -> Field:
    """Long fine streaks in one direction: brushed metal, planks, combed hair."""
    size = math.ceil(math.hypot(height, width)) + 2
    cells = math.exp(rng.uniform(math.log(8), math.log(max(9, size / 3))))
    straight = clouds(rng, size, size, cells=cells, octaves=2, roughness=0.8, stretch=rng.uniform(8, 40))
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), rng.uniform(0, 180), 1.0)
    turn[0, 2] += (width - size) / 2
    turn[1, 2] += (height - size) / 2
    turned = cv2.warpAffine(straight, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
    return _contrast(np.asarray(turned, np.float32), rng.uniform(1, 2.5))


def _stripes(rng: np.random.Generator, height: int, width: int) -> Field:
    along, _ = _axes(rng, height, width)
    period = _period(rng, height, width)
    if rng.random() < 0.5:
        along = _bent(rng, along, reach=rng.uniform(0, 2) * period)
    bars = _wave(along, period, rng.choice([0.0, 1.0]))
    if rng.random() < 0.4:  # a second rhythm, as in a striped shirt
        bars = (0.65 * bars + 0.35 * _wave(along, period * rng.uniform(0.2, 0.6), 1.0)).astype(np.float32)
    return bars


def _checks(rng: np.random.Generator, height: int, width: int) -> Field:
    along, across = _axes(rng, height, width)
    period = _period(rng, height, width)
    sharpness = rng.choice([0.2, 1.0])
    first = _wave(along, period, sharpness)
    second = _wave(across, period * rng.choice([1.0, rng.uniform(0.4, 2.0)]), sharpness)
    if rng.random() < 0.5:
        return np.asarray(first + second - 2 * first * second, np.float32)  # chessboard
    return np.asarray(0.5 * (first + second), np.float32)  # plaid


def _dots(rng: np.random.Generator, height: int, width: int) -> Field:
    along, across = _axes(rng, height, width)
    period = _period(rng, height, width, finest=7.0)
    row = np.floor(across / np.float32(period))
    shift = 0.5 * (row % 2) if rng.random() < 0.6 else 0.0
    x = (along / np.float32(period) + shift) % 1 - 0.5
    y = across / np.float32(period) - row - 0.5
    distance = np.sqrt(x * x + y * y)
    soft = rng.choice([1.0, period / 4])
    inside = (np.float32(rng.uniform(0.15, 0.45)) - distance) * np.float32(period / soft) + 0.5
    return np.asarray(inside.clip(0.0, 1.0), np.float32)


def _bricks(rng: np.random.Generator, height: int, width: int) -> Field:
    """Rows of tiles or bricks, each of its own shade, with joints between them."""
    along, across = _axes(rng, height, width)
    period = _period(rng, height, width, finest=10.0)
    aspect = rng.uniform(1.0, 3.0)
    row = np.floor(across / np.float32(period))
    x = along / np.float32(period * aspect) + np.float32(rng.choice([0.0, 0.5])) * (row % 2)
    column = np.floor(x)
    shades = rng.random((64, 64), np.float32)[row.astype(np.intp) % 64, column.astype(np.intp) % 64]
    edge_x = (0.5 - np.abs(x - column - 0.5)) * np.float32(period * aspect)
    edge_y = (0.5 - np.abs(across / np.float32(period) - row - 0.5)) * np.float32(period)
    joint = np.clip(np.minimum(edge_x, edge_y) - np.float32(period * rng.uniform(0, 0.08)), 0.0, 1.0)
    return np.asarray(joint * (0.35 + rng.uniform(0.1, 0.65) * shades), np.float32)


def _wood(rng: np.random.Generator, height: int, width: int) -> Field:
    """Growth rings, cut lengthwise."""
    along, across = _axes(rng, height, width)
    period = _period(rng, height, width)
    radius = np.sqrt(across * across + np.float32(rng.uniform(0.002, 0.05)) * along * along)
    rings = _wave(_bent(rng, radius, reach=rng.uniform(0.5, 3) * period), period, rng.uniform(0, 0.3))
    return np.asarray(0.75 * rings + 0.25 * clouds(rng, height, width, cells=24, octaves=2), np.float32)


def _marble(rng: np.random.Generator, height: int, width: int) -> Field:
    along, _ = _axes(rng, height, width)
    period = _period(rng, height, width, finest=16.0)
    veins = clouds(rng, height, width, cells=rng.uniform(2, 6), octaves=5, roughness=0.6)
    wave = np.abs(np.sin((along / np.float32(period) + np.float32(rng.uniform(2, 8)) * veins) * np.float32(math.pi)))
    return np.asarray(wave ** np.float32(rng.choice([0.5, 1.0, 2.0])), np.float32)


def _gradient(rng: np.random.Generator, height: int, width: int) -> Field:
    along, across = _axes(rng, height, width)
    field = along if rng.random() < 0.6 else np.sqrt(along * along + across * across)
    low, high = float(field.min()), float(field.max())
    return np.asarray((field - np.float32(low)) / np.float32(max(high - low, 1.0)), np.float32)


def _weave(rng: np.random.Generator, height: int, width: int) -> Field:
    """Threads over and under each other: cloth, baskets."""
    along, across = _axes(rng, height, width)
    period = np.float32(math.exp(rng.uniform(math.log(4), math.log(24))))
    u, v = along / period, across / period
    over = (np.floor(u) + np.floor(v)) % 2
    thread = np.abs(np.sin(np.where(over > 0, u, v) * np.float32(math.pi)))
    tone = np.float32(rng.uniform(0, 0.5))
    return np.asarray(thread * (1 - tone) + tone * over, np.float32)


def _cells(rng: np.random.Generator, height: int, width: int) -> Field:
    """Cobbles, scales, cracked ground: each point belongs to its nearest seed."""
    count = round(math.exp(rng.uniform(math.log(6), math.log(400))))
    seeds = np.ones((height, width), np.uint8)
    seeds[rng.integers(0, height, count), rng.integers(0, width, count)] = 0
    distance, owner = cv2.distanceTransformWithLabels(
        seeds, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    size = math.sqrt(height * width / count)
    shades = rng.random(count + 1, np.float32)[owner % (count + 1)]
    dome = np.clip(1 - np.asarray(distance, np.float32) / np.float32(size), 0.0, 1.0)
    share = np.float32(rng.uniform(0, 1))
    return np.asarray(share * shades + (1 - share) * dome, np.float32)


_KINDS: dict[Callable[[np.random.Generator, int, int], Field], float] = {
    _plain: 4.0,
    _noise: 5.0,
    _patches: 2.0,
    _brushed: 3.0,
    _stripes: 2.0,
    _checks: 1.0,
    _dots: 1.0,
    _bricks: 1.5,
    _wood: 2.0,
    _marble: 2.0,
    _gradient: 3.0,
    _weave: 1.5,
    _cells: 1.5,
}
_FIELDS = tuple(_KINDS)
_WEIGHTS = np.array(list(_KINDS.values())) / sum(_KINDS.values())
