"""Solid things with clean outlines: blobs, stars, everyday objects, signs."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sdmatte.synthetic.canvas import Canvas, Paint, Photo, noise, smooth, tint, turned
from sdmatte.synthetic.layers import Layer

Outline = NDArray[np.float64]
"""``(n, 2)`` units."""


def blob(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw a smooth, lumpy body, sometimes in two or three pieces that touch."""
    canvas = Canvas(rng, side, paint)
    for _ in range(1 if rng.random() < 0.6 else rng.integers(2, 4)):
        angle = np.linspace(0, 2 * np.pi, 240, endpoint=False)
        radius = np.ones_like(angle)
        for wave in range(2, rng.integers(4, 9)):
            radius += rng.uniform(0, 0.9) / wave**1.3 * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
        radius = np.abs(radius).clip(0.15, None)
        points = np.stack([np.cos(angle) * radius, np.sin(angle) * radius * rng.uniform(0.45, 1)], axis=1)
        points = turned(points / np.abs(points).max() * rng.uniform(0.5, 0.7), rng.uniform(0, 2 * np.pi))
        points += rng.uniform(-0.2, 0.2, 2)
        canvas.solid(canvas.polygon(points), skin(canvas), roundness=rng.uniform(0.2, 1), bumps=rng.uniform(0, 4))
    return canvas.layer()


def star(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw a polygon: regular, random, or a star; with hard or rounded corners, some hollow."""
    canvas = Canvas(rng, side, paint)
    corners = int(rng.integers(3, 12))
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners)) if rng.random() < 0.3 else (
        np.arange(corners) * 2 * np.pi / corners)  # fmt: skip
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if rng.random() < 0.6:
        middle = (angle + np.roll(angle, -1) + 2 * np.pi * (np.roll(angle, -1) < angle)) / 2
        inner = np.stack([np.cos(middle), np.sin(middle)], axis=1) * rng.uniform(0.25, 0.8)
        points = np.stack([points, inner], axis=1).reshape(-1, 2)
    if rng.random() < 0.4:
        points = smooth(np.concatenate([points, points[:1]]), 12 * len(points))
    points = turned(points * (0.9, rng.uniform(0.45, 0.9)), rng.uniform(0, 2 * np.pi)) * 0.9
    outlines = [points, points * rng.uniform(0.4, 0.8)] if rng.random() < 0.2 else [points]
    canvas.solid(canvas.polygon(*outlines), skin(canvas), roundness=rng.uniform(0.02, 0.5), bumps=rng.uniform(0, 3))
    return canvas.layer()


def skin(canvas: Canvas) -> Photo:
    """Return a surface ``(size / 2, size / 2, 3)``: a texture, one tinted, two colours in noise, or one colour."""
    rng, half = canvas.rng, canvas.size // 2
    kind = rng.random()
    if kind < 0.45:
        return canvas.paint()
    if kind < 0.65:
        grey = canvas.paint().mean(axis=2, keepdims=True)
        return np.asarray(tint(rng) * (0.5 + grey) * (1 + 0 * grey), np.float32).clip(0, 1)
    if kind < 0.8:
        share = noise(rng, half, rng.uniform(1, 8))[..., None]
        if rng.random() < 0.5:
            share = ((share - 0.5) * 12 + 0.5).clip(0, 1)
        return np.asarray(tint(rng) * share + tint(rng) * (1 - share), np.float32)
    return np.asarray(
        np.broadcast_to(tint(rng), (half, half, 3)) * (0.9 + 0.1 * noise(rng, half, 4)[..., None]), np.float32
    )


def rounded(width: float, height: float, corner: float) -> Outline:
    """Return a rectangle with half sides ``width`` and ``height`` and round corners, about the middle."""
    corner = min(corner, width, height)
    quarter = np.linspace(0, np.pi / 2, 8)
    arcs = []
    for turn, (x, y) in enumerate([(1, 1), (-1, 1), (-1, -1), (1, -1)]):
        angle = quarter + turn * np.pi / 2
        centre = np.array([x * (width - corner), y * (height - corner)])
        arcs.append(centre + corner * np.stack([np.cos(angle), np.sin(angle)], axis=1))
    return np.concatenate(arcs)


def moved(outline: Outline, x: float = 0.0, y: float = 0.0) -> Outline:
    """Return an outline somewhere else."""
    return np.asarray(outline + np.array([x, y]))


def profile(radii: NDArray[np.float64], top: float, bottom: float) -> Outline:
    """Return the outline of a body of revolution from its radii ``(n,)``, from top to bottom."""
    y = np.linspace(top, bottom, len(radii))
    right = np.stack([radii, y], axis=1)
    return np.concatenate([right, (right * (-1, 1))[::-1]])


def everyday(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw a thing of daily life: a box, a bottle, a mug, a lamp, a chair, a car, some device."""
    canvas = Canvas(rng, side, paint)
    things = [_box, _bottle, _mug, _lamp, _chair, _car, _gadget, _gadget]
    things[rng.integers(len(things))](canvas)
    return canvas.layer()


def _lathe(canvas: Canvas, outline: Outline, surface: Photo) -> None:
    """Draw a body of revolution: lit across as a cylinder is."""
    rng = canvas.rng
    canvas.over(canvas.polygon(outline), surface)
    reach = float(np.abs(outline[:, 0]).max())
    x, y = canvas.grid()
    spot, lamp = (x / reach).clip(-1, 1), canvas.light.direction[0] * 0.9
    facing = (np.sqrt(1 - spot**2) * np.sqrt(1 - lamp**2) + spot * lamp).clip(0, 1)
    canvas.tint(np.asarray((canvas.light.ambient + (1.15 - canvas.light.ambient) * facing) + 0 * y, np.float32))
    if rng.random() < 0.6:
        centre = lamp * reach * 0.5
        band = moved(
            rounded(rng.uniform(0.02, 0.07) * reach, rng.uniform(0.2, 0.6), 0.03), centre, rng.uniform(-0.2, 0.2)
        )
        mask = cv2.min(canvas.polygon(band), canvas.polygon(outline))
        canvas.over(np.asarray(mask * rng.uniform(0.2, 0.8), np.uint8), (1.0, 1.0, 1.0))


def _box(canvas: Canvas) -> None:
    """Three visible faces of a box, in a parallel projection, each in its own light."""
    rng = canvas.rng
    wide, high, deep = rng.uniform(0.25, 0.55), rng.uniform(0.2, 0.6), rng.uniform(0.1, 0.4)
    lean = rng.uniform(0.2, 0.9)
    right, down, back = np.array([wide, 0.15 * wide]), np.array([0, high]), np.array([deep * lean, -deep * lean * 0.8])
    front = np.array([-right - down, right - down, right + down, -right + down]) - back / 2
    top = np.array([front[0], front[1], front[1] + 2 * back * 0.6, front[0] + 2 * back * 0.6])
    flank = np.array([front[1], front[1] + 2 * back * 0.6, front[2] + 2 * back * 0.6, front[2]])
    surface = skin(canvas)
    for face, bright in zip((front, top, flank), rng.permutation([1.0, 0.75, 0.45]), strict=True):
        canvas.solid(canvas.polygon(face), surface * bright, roundness=0.04)
    if rng.random() < 0.5:
        label = front.mean(axis=0) + (front - front.mean(axis=0)) * rng.uniform(0.3, 0.8, 2)
        canvas.over(canvas.polygon(label), canvas.paint())


def _bottle(canvas: Canvas) -> None:
    """A bottle or a jar with a cap and a label."""
    rng = canvas.rng
    body, neck = rng.uniform(0.2, 0.42), rng.uniform(0.06, 0.16)
    shoulder = rng.uniform(0.2, 0.5)
    level = np.linspace(0, 1, 60)
    step = 1 / (1 + np.exp(-(level - shoulder) * rng.uniform(15, 40)))
    radii = (neck + (body - neck) * step) * np.where(level > 0.97, 1 - (level - 0.97) * 6, 1)
    outline = profile(radii, -0.9, 0.9)
    surface = skin(canvas)
    half = canvas.size // 2
    rows = [
        round((0.05 + 0.9 * share) * half)
        for share in (rng.uniform(0.05, 0.14), shoulder + 0.12, rng.uniform(0.75, 0.95))
    ]
    if rng.random() < 0.8:
        surface = surface.copy()
        surface[rows[1] : rows[2]] = canvas.paint()[rows[1] : rows[2]]
    surface[: rows[0]] = tint(rng)
    _lathe(canvas, outline, surface)


def _mug(canvas: Canvas) -> None:
    """A mug, a cup or a pot, with a handle."""
    rng = canvas.rng
    wide, high = rng.uniform(0.35, 0.6), rng.uniform(0.35, 0.7)
    taper = rng.uniform(0.6, 1.1)
    surface = skin(canvas)
    angle = np.linspace(-1.3, 1.3, 24)
    bow = np.stack([wide * 0.9 + rng.uniform(0.2, 0.35) * np.cos(angle), 0.6 * high * np.sin(angle)], axis=1)
    handle = np.zeros((canvas.size, canvas.size), np.uint8)
    cv2.polylines(handle, [canvas.fixed(bow)], False, 255, canvas.thick(rng.uniform(0.06, 0.13)), cv2.LINE_AA, 4)
    canvas.solid(handle, surface, roundness=1)
    level = np.linspace(0, 1, 30)
    radii = wide * (1 + (taper - 1) * level) * np.minimum(1, 0.75 + (1 - level) * 4)
    _lathe(canvas, profile(radii, -high, high), surface)
    rim = np.stack([np.cos(level * 2 * np.pi), np.sin(level * 2 * np.pi)], axis=1) * (
        wide,
        wide * rng.uniform(0.1, 0.25),
    )
    canvas.over(canvas.polygon(rim - (0, high)), surface.mean(axis=(0, 1)) * 0.9)
    canvas.over(canvas.polygon(rim * 0.9 - (0, high)), tint(rng, dark=0.03, bright=0.4))


def _lamp(canvas: Canvas) -> None:
    """A lamp: foot, stem and shade."""
    rng = canvas.rng
    metal, reach = tint(rng, vivid=0.4), rng.uniform(0.25, 0.55)
    canvas.solid(canvas.polygon(rounded(rng.uniform(0.015, 0.05), 0.8, 0.02)), metal)
    foot = np.stack([np.cos(np.linspace(0, 2 * np.pi, 40)), np.sin(np.linspace(0, 2 * np.pi, 40))], axis=1)
    canvas.solid(canvas.polygon(foot * (rng.uniform(0.2, 0.4), 0.07) + (0, 0.8)), metal, roundness=0.5)
    upper = reach * rng.uniform(0.3, 0.9)
    shade = np.array([[-upper, -0.9], [upper, -0.9], [reach, rng.uniform(-0.4, -0.1)], [-reach, -0.2]])
    shade[3, 1] = shade[2, 1]
    glow = skin(canvas) * 0.6 + 0.4 * np.array([1.0, 0.9, 0.7], np.float32)
    canvas.solid(canvas.polygon(shade), glow, roundness=0.8)


def _chair(canvas: Canvas) -> None:
    """A chair, a stool or a table: slats and legs with gaps between them."""
    rng = canvas.rng
    wood, leg = skin(canvas), rng.uniform(0.025, 0.06)
    wide, seat, lean = rng.uniform(0.35, 0.75), rng.uniform(-0.1, 0.3), rng.uniform(-0.1, 0.1)
    dark = rng.uniform(0.5, 0.8)
    for x, shade, end in ((-wide * 0.7, dark, 0.75), (wide * 0.75, dark, 0.75), (-wide, 1, 0.9), (wide, 1, 0.9)):
        post = np.array([[x - leg, seat], [x + leg, seat], [x + leg * 0.7 + lean, end], [x - leg * 0.7 + lean, end]])
        canvas.solid(canvas.polygon(post), wood * shade)
    if rng.random() < 0.7:
        for x in np.linspace(-wide * 0.75, wide * 0.8, int(rng.integers(2, 8))):
            canvas.solid(canvas.polygon(moved(rounded(leg, 0.45, leg), x, seat - 0.45)), wood)
        rest = rounded(wide * 0.9, rng.uniform(0.04, 0.2), 0.05)
        canvas.solid(canvas.polygon(moved(rest, 0.02, seat - 0.75)), wood)
    top = np.array(
        [[-wide * 0.8, seat - 0.1], [wide * 0.85, seat - 0.1], [wide * 1.1, seat + 0.06], [-wide * 1.1, seat + 0.06]]
    )
    canvas.solid(canvas.polygon(top), skin(canvas), roundness=0.3)


def _car(canvas: Canvas) -> None:
    """A car from the side: body, windows, wheels."""
    rng = canvas.rng
    roof, nose = rng.uniform(-0.45, -0.25), rng.uniform(0.5, 0.75)
    knots = np.array([(-0.9, 0.25), (-0.88, 0), (-nose, -0.08), (-0.35, roof), (0.35, roof), (nose, -0.05),
                      (0.9, 0.03), (0.9, 0.28)])  # fmt: skip
    knots[1:-1] += rng.normal(0, 0.02, (6, 2))
    body = np.concatenate([smooth(knots, 60), [[0.8, 0.3], [-0.8, 0.3]]])
    canvas.solid(canvas.polygon(body), tint(rng) if rng.random() < 0.6 else skin(canvas), roundness=0.5)
    for left, right in ((-0.36, -0.02), (0.03, 0.36)):
        slant = 0.12 if left < -0.1 else -0.12
        pane = np.array(
            [[left, roof + 0.06], [right, roof + 0.06], [right - min(slant, 0), -0.04], [left - max(slant, 0), -0.04]]
        )
        canvas.solid(canvas.polygon(pane), tint(rng, dark=0.1, bright=0.4, vivid=0.3), roundness=0.3)
    size = rng.uniform(0.13, 0.2)
    for x in (-rng.uniform(0.45, 0.6), rng.uniform(0.45, 0.6)):
        canvas.disc((x, 0.3), size, (0.07, 0.07, 0.07))
        canvas.disc((x, 0.3), size * 0.6, tint(rng, dark=0.4, vivid=0.1))
        canvas.disc((x, 0.3), size * 0.2, (0.15, 0.15, 0.15))


def _gadget(canvas: Canvas) -> None:
    """Boxes, discs, rods and wedges stuck to each other: a tool, a toy, a machine."""
    rng = canvas.rng
    surfaces = [skin(canvas) for _ in range(2)] + [tint(rng), tint(rng, bright=0.3)]
    place, mirrored = np.zeros(2), rng.random() < 0.4
    for _ in range(rng.integers(3, 9)):
        size = rng.uniform(0.06, 0.4, 2)
        kind = rng.random()
        if kind < 0.5:
            part = rounded(size[0], size[1], rng.uniform(0, 1) ** 2 * size.min())
        elif kind < 0.8:
            angle = np.linspace(0, 2 * np.pi, 60)
            part = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (size if rng.random() < 0.5 else size[0])
        else:
            part = rng.uniform(-1, 1, (int(rng.integers(3, 6)), 2)) * size
        part = turned(part, rng.uniform(0, np.pi) if rng.random() < 0.3 else 0.0)
        outlines = [part + place, part * 0.6 + place] if rng.random() < 0.15 else [part + place]
        for flip in ((1, 1), (-1, 1))[: 1 + mirrored]:
            mask = canvas.polygon(*(o.clip(-0.93, 0.93) * flip for o in outlines))
            surface = surfaces[rng.integers(4)]
            canvas.solid(mask, surface, roundness=rng.choice([0.1, 0.3, 1.0]), bumps=1)
        edge = part[rng.integers(len(part))] * 0.8 + place
        place = edge.clip(-0.6, 0.6)
