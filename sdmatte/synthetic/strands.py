"""Strands: growing and drawing hair, fur, fibres and other lines that are thinner than a pixel."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdmatte.synthetic.canvas import Canvas, Mask, Photo

Paths = NDArray[np.float64]
"""``(strands, knots, 2)`` in units, from root to tip."""


def grown(
    rng: np.random.Generator,
    roots: ArrayLike,
    headings: ArrayLike,
    lengths: ArrayLike,
    *,
    pull: tuple[float, float] = (0.0, 0.0),
    wander: float = 0.2,
    curl: float = 0.0,
    turns: float = 2.0,
    knots: int = 8,
) -> Paths:
    """Let strands grow; those that would leave the canvas stay shorter.

    Args:
        rng: Everything random comes from here.
        roots: ``(n, 2)`` units.
        headings: ``(n,)`` radians; 0 is right, pi / 2 down.
        lengths: ``(n,)`` units.
        pull: What bends every strand on its way (gravity, wind), relative to its own stiffness of 1.
        wander: How much the headings of single strands change on the way, radians.
        curl: Width of the waves relative to the length; they open towards the tip.
        turns: Waves on one strand.
        knots: Points on one strand.

    Returns:
        ``(n, knots, 2)``.
    """
    start = np.asarray(roots, np.float64)
    count = len(start)
    length = np.broadcast_to(np.asarray(lengths, np.float64), (count,))
    along = np.linspace(0, 1, knots)
    bend = rng.normal(0, wander, (count, 1)) * along + rng.normal(0, wander / 2, (count, 1)) * along**2
    angle = np.broadcast_to(np.asarray(headings, np.float64), (count,))[:, None] + bend
    way = np.stack([np.cos(angle), np.sin(angle)], axis=-1) + np.asarray(pull) * along[None, :, None]
    way /= np.linalg.norm(way, axis=-1, keepdims=True) + 1e-6
    if curl:
        phase = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.7, (count, 1))
        wave = np.cos(phase + 2 * np.pi * turns * rng.uniform(0.8, 1.2, (count, 1)) * along)
        side = np.stack([-way[..., 1], way[..., 0]], axis=-1)
        way = way + side * (2 * np.pi * turns * curl * wave * along.clip(0.1, 1))[..., None]
    steps = way * (length / (knots - 1))[:, None, None]
    steps[:, 0] = 0
    return kept(start[:, None] + np.cumsum(steps, axis=1))


def kept(paths: Paths, edge: float = 0.95) -> Paths:
    """Shorten strands that would grow over the edge of the canvas."""
    roots = paths[:, :1].clip(-edge, edge)
    way = paths - paths[:, :1]
    room = np.where(way > 0, edge - roots, edge + roots) / np.maximum(np.abs(way), 1e-9)
    share = room.min(axis=(1, 2), keepdims=True)
    uneven = 0.7 + 0.3 * (np.arange(len(paths)) * 0.618 % 1)[:, None, None]  # or their tips would line up at the edge
    return np.asarray(roots + way * np.where(share < 1, share * uneven, 1))


def shades(rng: np.random.Generator, colours: ArrayLike, count: int, spread: float = 0.25) -> Photo:
    """Return ``(count, 3)`` colours of single strands around ``(3,)`` or ``(count, 3)``, darker and brighter."""
    base = np.broadcast_to(np.asarray(colours, np.float32), (count, 3))
    bright = 1 + rng.normal(0, spread, (count, 1)).clip(-2 * spread, 2.5 * spread)
    return np.asarray((base * bright + rng.normal(0, 0.015, (count, 3))).clip(0, 1), np.float32)


def draw(canvas: Canvas, paths: Paths, colours: Photo, width: float = 0.0, *, shine: float = 0.0) -> None:
    """Draw strands in order, thinner towards the tip.

    Args:
        canvas: To draw on.
        paths: ``(n, knots, 2)``.
        colours: ``(n, 3)``.
        width: At the root, units; anything is at least one pixel of the canvas wide.
        shine: Brightness that a stretch in the middle of each strand gains, as hair has it, in [0, 1].
    """
    fixed = canvas.fixed(paths)
    thick = canvas.thick(width)
    inks = (
        np.concatenate([colours.clip(0, 1) * 255, np.full((len(colours), 1), 255)], axis=1)
        .round()
        .astype(int)
        .tolist()
    )
    lit = ((colours + shine).clip(0, 1) * 255).round().astype(int).tolist()
    knots = paths.shape[1]
    pixels = canvas.pixels
    for path, colour, bright in zip(fixed, inks, lit, strict=True):
        cv2.polylines(pixels, [path], False, colour, max(1, thick // 2), cv2.LINE_AA, 4)
        if thick > 1:
            cv2.polylines(pixels, [path[: 2 * knots // 3]], False, colour, thick, cv2.LINE_AA, 4)
        if shine:
            part = path[knots // 4 : max(knots // 2, knots // 4 + 2)]
            cv2.polylines(pixels, [part], False, (*bright, 255), max(1, thick // 2), cv2.LINE_AA, 4)


def scattered(rng: np.random.Generator, mask: Mask, count: int) -> NDArray[np.float64]:
    """Return ``count`` random points ``(count, 2)``, in units, on a mask ``(n, n)`` of the whole canvas."""
    rows, columns = np.nonzero(mask > 127)
    chosen = rng.integers(0, len(rows), count)
    spot = np.stack([columns[chosen], rows[chosen]], axis=1) + rng.random((count, 2))
    return np.asarray(spot * (2 / len(mask)) - 1)


def sampled(picture: Photo, points: ArrayLike) -> Photo:
    """Return a picture's values, ``(n, ...)``, at points ``(n, 2)`` in units."""
    size = len(picture)
    spot = ((np.asarray(points) + 1) * (size / 2)).astype(int).clip(0, size - 1)
    return np.asarray(picture[spot[:, 1], spot[:, 0]])


def outward(mask: Mask) -> tuple[Photo, Photo]:
    """Say which way a body's outline is.

    Args:
        mask: ``(n, n)`` coverage of the whole canvas.

    Returns:
        For each pixel inside, the heading to the outline in radians ``(n, n)``, and the depth under it in units.
    """
    depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 5)
    soft = cv2.GaussianBlur(depth, (0, 0), max(1.0, 0.012 * len(mask)))
    across = cv2.Sobel(soft, cv2.CV_32F, 1, 0)
    down = cv2.Sobel(soft, cv2.CV_32F, 0, 1)
    return np.arctan2(-down, -across), np.asarray(depth * (2 / len(mask)), np.float32)
