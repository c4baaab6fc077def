"""Things that one sees through because they are full of holes: nets, fences, chains, wheels, wires."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sdmatte.synthetic.canvas import Canvas, Mask, Paint, joined, smooth, tint, turned
from sdmatte.synthetic.layers import Layer
from sdmatte.synthetic.shapes import moved, rounded, skin

_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 73)), np.sin(np.linspace(0, 2 * np.pi, 73))], axis=1)


def bars(canvas: Canvas, lines: list[NDArray[np.float64]], width: float) -> Mask:
    """Return the coverage ``(size, size)`` of lines ``(n, 2)``, each ``width`` units wide."""
    mask = np.zeros((canvas.size, canvas.size), np.uint8)
    cv2.polylines(mask, [canvas.fixed(p) for p in lines], False, 255, canvas.thick(width), cv2.LINE_AA, 4)
    return mask


def net(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw a net: square or diamond meshes, sagging, in an outline of its own, sometimes with a border or a frame."""
    canvas = Canvas(rng, side, paint)
    count, turn = int(rng.integers(6, 22)), rng.choice([0.0, np.pi / 4, rng.uniform(0, np.pi)])
    sag, waves = rng.uniform(0, 0.12, 2), rng.uniform(1, 4, 4)
    stretch = rng.uniform(0.6, 1.0)

    def warped(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = points[..., 0], points[..., 1]
        moved = [x + sag[0] * np.sin(waves[0] * y + waves[1]), y * stretch + sag[1] * np.sin(waves[2] * x + waves[3])]
        return np.stack(moved, axis=-1) * 0.85

    ticks, long = np.linspace(-1.42, 1.42, 2 * count), np.linspace(-1.42, 1.42, 60)
    straight = [
        np.stack([long, np.full_like(long, t)], axis=1) for t in ticks + rng.normal(0, 0.2 / count, len(ticks))
    ]
    crossing = [p[:, ::-1] for p in straight]
    outline = _outline(rng)
    region = canvas.polygon(warped(outline))
    width = rng.uniform(0.006, 0.05) * 10 / count
    mask = np.minimum(bars(canvas, [warped(turned(p, turn)) for p in straight + crossing], width), region)
    if rng.random() < 0.7:
        hem = bars(canvas, [warped(np.concatenate([outline, outline[:1]]))], width * rng.uniform(1.5, 5))
        mask = joined(mask, hem)
    canvas.solid(mask, skin(canvas), roundness=1)
    if rng.random() < 0.3:
        handle = moved(rounded(rng.uniform(0.02, 0.05), 0.2, 0.02), 0, 0.75)
        canvas.solid(canvas.polygon(handle), tint(rng))
    return canvas.layer()


def _outline(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the outline of a net: a rectangle, an ellipse, or something in between."""
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    power = rng.choice([1.0, rng.uniform(0.3, 0.7), 0.1])
    points = np.stack([np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power,
                       np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power], axis=1)  # fmt: skip
    return np.asarray(points * (1 + rng.uniform(0, 0.1) * np.cos(rng.integers(2, 6) * angle))[:, None] * 0.9)


def fence(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw a fence, a grille, a gate, a ladder or a shelf."""
    canvas = Canvas(rng, side, paint)
    wide, high = 0.85, rng.uniform(0.35, 0.85)
    if rng.random() < 0.4:
        wide, high = high, wide
    count, surface = int(rng.integers(3, 16)), skin(canvas)
    thick = rng.uniform(0.08, 0.3) * wide / count
    rails = np.sort(rng.uniform(-high * 0.95, high * 0.95, int(rng.integers(2, 6))))
    rail = rounded(wide, rng.uniform(0.012, 0.05), 0.01)
    behind = rng.random() < 0.5
    top, crown = int(rng.integers(0, 4)), rng.uniform(0, 0.3) * high
    posts = []
    for x in np.linspace(-wide + thick, wide - thick, count):
        rise = crown * (1 - (x / wide) ** 2)
        post = rounded(thick, high, thick if top == 1 else 0.005)
        post[post[:, 1] < 0, 1] += crown - rise
        post += (x, rng.normal(0, 0.004))
        if top == 2:
            post = np.concatenate([post, [[x, -high + crown - rise - thick * 1.6]]])
            post = post[np.argsort(np.arctan2(post[:, 1] * 0.9 / high, (post[:, 0] - x) / thick))]
        posts.append(post)
    bodies = [[canvas.polygon(moved(rail, 0, y)) for y in rails], [canvas.polygon(p) for p in posts]]
    for group in bodies if behind else bodies[::-1]:
        canvas.solid(joined(*group), surface * rng.uniform(0.7, 1.0), roundness=1, bumps=1)
    if rng.random() < 0.2:
        canvas.solid(bars(canvas, [np.array([[-wide, high], [wide, -high]])], thick), surface, roundness=1)
    return canvas.layer()


def rings(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw a ring, a chain, a wheel with spokes, or a plate with holes."""
    canvas = Canvas(rng, side, paint)
    [_ring, _chain, _wheel, _sieve][rng.integers(4)](canvas)
    return canvas.layer()


def _ring(canvas: Canvas) -> None:
    """One to four rings that lie over each other."""
    rng = canvas.rng
    for _ in range(rng.integers(1, 5)):
        outer = _CIRCLE * (1, rng.uniform(0.5, 1)) * rng.uniform(0.35, 0.65)
        place = rng.uniform(-0.25, 0.25, 2)
        mask = canvas.polygon(outer + place, outer * rng.uniform(0.35, 0.9) + place)
        canvas.solid(mask, skin(canvas), roundness=1, bumps=rng.uniform(0, 2))


def _chain(canvas: Canvas) -> None:
    """Links on a curve; every second one is seen from its edge."""
    rng = canvas.rng
    count = int(rng.integers(7, 18))
    knots = np.stack([np.linspace(-0.65, 0.65, 5), rng.uniform(-0.45, 0.45, 5)], axis=1)
    path = smooth(knots, count)
    surface = skin(canvas)
    long = float(np.linalg.norm(np.diff(path, axis=0), axis=1).mean())
    for i, way in enumerate(np.gradient(path, axis=0)):
        wide = long * (0.42 if i % 2 else 0.14)
        link = _CIRCLE * (long * 0.75, wide)
        hole = _CIRCLE * (long * 0.55, wide * (0.55 if i % 2 else 0.2))
        place = [turned(p, np.arctan2(way[1], way[0])) + path[i] for p in (link, hole)]
        canvas.solid(canvas.polygon(*place), surface, roundness=1)


def _wheel(canvas: Canvas) -> None:
    """A rim, a hub and spokes, now and then two wheels on a frame."""
    rng = canvas.rng
    wheels = 2 if rng.random() < 0.35 else 1
    radius, squeeze = (0.38, 1.0) if wheels == 2 else (0.85, rng.uniform(0.4, 1.0))
    rim, count = rng.uniform(0.02, 0.16), int(rng.integers(3, 33))
    metal, tyre = tint(rng, vivid=0.4), tint(rng, bright=0.6)
    hubs = [(-0.5, 0.3), (0.5, 0.3)][:wheels] if wheels == 2 else [(0.0, 0.0)]
    for hub in hubs:
        angle = np.arange(count) * 2 * np.pi / count + rng.uniform(0, 1)
        ends = np.stack([np.cos(angle), np.sin(angle) * squeeze], axis=1) * radius
        start = np.roll(ends, int(rng.integers(0, 3)), axis=0) * rng.uniform(0.02, 0.12)
        spokes = [np.stack([a, b]) + hub for a, b in zip(start, ends, strict=True)]
        canvas.solid(bars(canvas, spokes, rng.uniform(0.03, 0.4) * radius / count), metal, roundness=1)
        outer = _CIRCLE * (1, squeeze) * radius
        canvas.solid(canvas.polygon(outer + hub, outer * (1 - rim) + hub), tyre, roundness=1)
        canvas.solid(canvas.polygon(outer * rng.uniform(0.06, 0.2) + hub), metal, roundness=1)
    if wheels == 2:
        bottom, seat, bar = (0.0, 0.32), (-0.22, -0.3), (0.32, -0.3)
        tubes = [(hubs[0], seat), (hubs[0], bottom), (bottom, seat), (seat, bar), (bottom, bar), (bar, hubs[1]),
                 (bar, (0.36, -0.45)), ((0.24, -0.47), (0.42, -0.45)), ((-0.34, -0.33), (-0.12, -0.33))]  # fmt: skip
        canvas.solid(bars(canvas, [np.array(t) for t in tubes], rng.uniform(0.02, 0.05)), skin(canvas), roundness=1)


def _sieve(canvas: Canvas) -> None:
    """A plate with holes, round or square, in a regular or a loose order."""
    rng = canvas.rng
    wide, high = 0.85, rng.uniform(0.4, 0.85)
    plate = rounded(wide, high, rng.choice([0.03, 0.2, 0.85])) if rng.random() < 0.7 else _CIRCLE * (wide, high)
    step = rng.uniform(0.09, 0.35)
    radius, loose = step * rng.uniform(0.2, 0.42), rng.choice([0.0, 0.15])
    form = _CIRCLE if rng.random() < 0.7 else rounded(1, 1, rng.uniform(0.05, 0.5))
    holes = np.zeros((canvas.size, canvas.size), np.uint8)
    for row, y in enumerate(np.arange(-high, high, step)):
        for x in np.arange(-wide, wide, step):
            spot = np.array([x + step / 2 * (row % 2), y]) + rng.normal(0, loose * step, 2)
            cv2.fillPoly(holes, [canvas.fixed(form * radius + spot)], 255, cv2.LINE_AA, 4)
    inner = canvas.polygon(plate * 0.92)
    mask = canvas.polygon(plate) - np.minimum(holes, inner)
    canvas.solid(mask, skin(canvas), roundness=rng.uniform(0.2, 1))


def wire(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw something thin: a tangle, a spring, glasses, a hanger, a coil of cable."""
    canvas = Canvas(rng, side, paint)
    kind, width = rng.random(), rng.uniform(0.008, 0.05)
    t = np.linspace(0, 1, 300)
    if kind < 0.3:
        lines = [smooth(rng.uniform(-0.75, 0.75, (int(rng.integers(4, 12)), 2)), 200).clip(-0.95, 0.95)]
    elif kind < 0.5:
        coils, radius = rng.integers(5, 20), rng.uniform(0.15, 0.4)
        turn = 2 * np.pi * coils * t
        lines = [np.stack([-0.7 + 1.4 * t + 0.1 * np.cos(turn), radius * np.sin(turn)], axis=1)]
    elif kind < 0.7:
        lines = _spectacles(rng)
    else:
        turn, grow = 2 * np.pi * rng.uniform(2, 6) * t, rng.uniform(0.3, 0.9)
        spread = 0.75 * (grow + (1 - grow) * t)
        knots = np.array([[0.7, 0.0], [0.6, 0.5], *rng.uniform(-0.8, 0.8, (3, 2))])
        lines = [np.stack([spread * np.cos(turn), spread * np.sin(turn) * 0.6], axis=1), smooth(knots, 60)]
    lean = rng.uniform(0, np.pi)
    mask = bars(canvas, [turned(p, lean) * 0.95 for p in lines], width)
    canvas.solid(mask, skin(canvas) if width > 0.02 else tint(rng), roundness=1)
    return canvas.layer()


def _spectacles(rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Return the lines of a pair of glasses."""
    gap, high = rng.uniform(0.05, 0.12), rng.uniform(0.2, 0.4)
    rim = rounded(0.36, high, rng.uniform(0.1, 0.4))
    rim = np.concatenate([rim, rim[:1]])
    bow = smooth([(-gap - 0.02, -0.05), (0, -0.12), (gap + 0.02, -0.05)], 12)
    earpiece = smooth([(0.72 + gap, -0.1), (0.85, -0.3), (0.8, -0.6)], 20)
    return [moved(rim, 0.36 + gap), moved(rim, -0.36 - gap), bow, earpiece, earpiece * (-1, 1)]
