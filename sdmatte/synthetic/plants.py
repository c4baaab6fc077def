"""Plants and feathers: stems, leaves, petals, barbs."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sdmatte.synthetic.canvas import Canvas, Paint, Photo, ink, natural, smooth, tint, turned
from sdmatte.synthetic.layers import Layer
from sdmatte.synthetic.shapes import skin
from sdmatte.synthetic.strands import draw, grown, shades

Curve = NDArray[np.float64]
"""``(n, 2)`` units."""


def stem(canvas: Canvas, path: Curve, thick: float, thin: float, colour: Photo) -> None:
    """Draw a round stalk that tapers, brighter on the side of the lamp.

    Args:
        canvas: To draw on.
        path: ``(n, 2)`` units.
        thick: Width at the start, units.
        thin: Width at the end, units.
        colour: ``(3,)``.
    """
    x, y, _ = canvas.light.direction
    widths = np.linspace(thick, thin, len(path) - 1)
    for share, bright in ((1.0, 0.6), (0.65, 0.9), (0.25, 1.2)):
        aside = np.array([x, y]) * (1 - share) * 0.3
        for start, end, width in zip(path[:-1], path[1:], widths, strict=True):
            if share < 1 and canvas.thick(width) < 3:
                continue
            canvas.line(np.stack([start, end]) + aside * width, width * share, np.clip(colour * bright, 0, 1))


def leaf(canvas: Canvas, root: Curve, angle: float, length: float, form: LeafForm, colour: Photo) -> None:
    """Draw a leaf or a petal: two halves that face the light differently, and a midrib.

    Args:
        canvas: To draw on.
        root: ``(2,)`` units.
        angle: Where it points to, radians.
        length: Units.
        form: Its outline.
        colour: ``(3,)``.
    """
    rng = canvas.rng
    rib = np.stack([form.along, form.bend * np.sin(np.pi * form.along)], axis=1)
    places = [
        turned(rib + half * (0, 1), angle) * length + root for half in (form.edge, -form.edge * rng.uniform(0.4, 1))
    ]
    middle = turned(rib, angle) * length + root
    bright = 1 + 0.25 * rng.normal() + np.array([0.12, -0.12]) * rng.choice([-1, 1])
    for edge, light in zip(places, bright, strict=True):
        outline = canvas.fixed(np.concatenate([middle, edge[::-1]]))
        cv2.fillPoly(canvas.pixels, [outline], ink(np.clip(colour * light, 0, 1)), cv2.LINE_AA, 4)
    if form.veins:
        vein = np.clip(colour * rng.uniform(0.6, 1.5), 0, 1)
        canvas.line(middle, 0.006, vein)
        for k in range(2, len(middle) - 2, 2):
            for edge in places:
                canvas.line(
                    np.stack([middle[k], middle[k] + (edge[min(k + 2, len(edge) - 1)] - middle[k]) * 0.85]), 0.0, vein
                )


class LeafForm:
    """The outline that all leaves of one plant share.

    Attributes:
        along: ``(n,)`` positions on the midrib, 0 to 1.
        edge: ``(n, 1)`` distance of the rim from the midrib, relative to the length.
        bend: How far the midrib is bent, relative to the length.
        veins: Whether veins are drawn.
    """

    def __init__(self, rng: np.random.Generator, *, petal: bool = False) -> None:
        self.along = np.linspace(0, 1, 17)
        wide = rng.uniform(0.15, 0.4) if petal else rng.choice([rng.uniform(0.02, 0.06), rng.uniform(0.1, 0.35)])
        peak = rng.uniform(0.6, 1.6) if petal else rng.uniform(0.35, 1.1)
        edge = wide * np.sin(np.pi * self.along**peak) ** rng.uniform(0.5, 1.4)
        if rng.random() < 0.3:
            edge = edge * (1 + rng.uniform(0.1, 0.5) * (np.arange(17) % 2 - 0.5))
        self.edge = edge[:, None]
        self.bend = rng.normal(0, 0.12)
        self.veins = rng.random() < 0.6 and wide > 0.1


def foliage(rng: np.random.Generator) -> Photo:
    """Return a colour ``(3,)`` of leaves: mostly green, sometimes autumnal."""
    if rng.random() < 0.75:
        return np.array([rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.7), rng.uniform(0.05, 0.3)], np.float32)
    return np.array([rng.uniform(0.5, 0.85), rng.uniform(0.15, 0.6), rng.uniform(0.03, 0.2)], np.float32)


def plant(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw a plant: stalks with leaves, a fern, a tuft of blades, a flower; sometimes in a pot."""
    canvas = Canvas(rng, side, paint)
    green, form = foliage(rng), LeafForm(rng)
    count = int(rng.integers(1, 8))
    bloom = rng.random() < 0.5
    petals = LeafForm(rng, petal=True), tint(rng, dark=0.4), int(rng.integers(4, 16)), rng.uniform(0.1, 0.3)
    for lean in rng.permutation(np.linspace(-1, 1, count)) * rng.uniform(0.2, 0.9) + rng.normal(0, 0.1, count):
        tip = np.array([lean * 0.6 / max(1, abs(lean)), rng.uniform(-0.7, 0.1)])
        path = smooth(
            [(lean * 0.05, 0.85), (lean * rng.uniform(0, 0.4), 0.3), (tip[0] - 0.1 * lean, tip[1] + 0.2), tuple(tip)],
            30,
        )
        thick = rng.uniform(0.015, 0.05)
        stem(canvas, path, thick, thick * 0.4, np.clip(green * rng.uniform(0.6, 1.1), 0, 1))
        pairs, size = int(rng.integers(3, 14)), rng.uniform(0.15, 0.45)
        for k, at in enumerate(np.linspace(0.25, 0.97, pairs)):
            spot = path[int(at * 29)]
            way = path[min(29, int(at * 29) + 1)] - path[max(0, int(at * 29) - 1)]
            for flip in (-1, 1):
                if rng.random() < 0.25:
                    continue
                angle = float(np.arctan2(way[1], way[0])) + flip * rng.uniform(0.5, 1.2)
                long = min(size * (1.1 - 0.6 * at), 0.95 - float(np.abs(spot).max()) + 0.05)
                leaf(canvas, spot, angle, long, form, np.clip(green * (0.75 + 0.5 * k / pairs), 0, 1))
        if bloom:
            blossom(canvas, tip, *petals)
    if rng.random() < 0.35:
        wide, top = rng.uniform(0.15, 0.35), rng.uniform(0.45, 0.6)
        pot = np.array([[-wide, top], [wide, top], [wide * 0.75, 0.93], [-wide * 0.75, 0.93]])
        canvas.solid(canvas.polygon(pot), skin(canvas), roundness=0.8)
    return canvas.layer()


def blossom(canvas: Canvas, centre: Curve, form: LeafForm, colour: Photo, count: int, size: float) -> None:
    """Draw a flower's petals and its middle."""
    rng = canvas.rng
    start = rng.uniform(0, 2 * np.pi)
    for ring in (1.0, 0.7)[: rng.integers(1, 3)]:
        for k in rng.permutation(count):
            angle = start + 2 * np.pi * k / count + ring
            leaf(
                canvas,
                centre,
                angle,
                size * ring * rng.uniform(0.9, 1.1),
                form,
                np.clip(colour * (1.3 - 0.4 * ring), 0, 1),
            )
    middle = np.array([rng.uniform(0.3, 0.9), rng.uniform(0.2, 0.7), 0.08])
    canvas.disc((float(centre[0]), float(centre[1])), size * rng.uniform(0.1, 0.25), middle)


def feather(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw one feather, or a few: a shaft, two vanes of barbs that part here and there, down at the foot."""
    canvas = Canvas(rng, side, paint)
    several = int(rng.choice([1, 1, 1, 3]))
    for k in range(several):
        turn = rng.uniform(0, 2 * np.pi) if several == 1 else (k - 1) * 0.5 + rng.normal(0, 0.1)
        _one_feather(canvas, turn, 1500 // several)
    return canvas.layer()


def _one_feather(canvas: Canvas, turn: float, count: int) -> None:
    """Draw a feather that points up before it is turned."""
    rng = canvas.rng
    bow = rng.uniform(-0.15, 0.15)
    shaft = smooth(turned([(0, 0.85), (bow, 0.3), (bow * 1.3, -0.3), (bow * 0.3, -0.8)], turn), 60)
    way = np.gradient(shaft, axis=0)
    heading = np.arctan2(way[:, 1], way[:, 0])
    base, tip = (natural(rng), natural(rng)) if rng.random() < 0.6 else (tint(rng), tint(rng))
    at = np.sort(rng.uniform(0.15, 1.0, count))
    flip = rng.choice([-1, 1], count)
    wide = np.where(flip > 0, rng.uniform(0.15, 0.35), rng.uniform(0.1, 0.35))
    long = wide * np.sin(np.pi * (0.12 + 0.88 * at ** rng.uniform(0.6, 1.4)).clip(0, 1)) ** 0.6
    down = at < rng.uniform(0.2, 0.4)
    angle = rng.uniform(0.45, 0.9) + 0.12 * np.sin(at * rng.uniform(10, 60)) * (rng.random() < 0.6)
    angle = np.where(down, angle + rng.normal(0.2, 0.45, count), angle + rng.normal(0, 0.03, count))
    index = (at * 59).astype(int)
    gap = np.sin(at * rng.uniform(15, 40) + flip * 2) > rng.uniform(0.85, 1.2)
    heads = heading[index] + flip * np.where(gap, angle * 0.7, angle)
    reach = long * np.where(down, rng.uniform(0.6, 1.5, count), rng.uniform(0.95, 1.05, count))
    along = 0.4 * float(np.cos(heading[40])), 0.4 * float(np.sin(heading[40]))
    paths = grown(rng, shaft[index], heads, reach, pull=along,
                  wander=0.03 + 0.1 * (rng.random() < 0.3), knots=6)  # fmt: skip
    bands = (
        (0.5 + 0.5 * np.sin(at * rng.uniform(3, 40) + rng.uniform(0, 6)))[:, None]
        if rng.random() < 0.5
        else at[:, None]
    )
    bright = np.where(flip > 0, 1.08, 0.88)[:, None]
    draw(canvas, paths, shades(rng, (base + bands * (tip - base)) * bright, count, 0.1), rng.uniform(0.004, 0.014))
    stem(canvas, shaft, rng.uniform(0.015, 0.03), 0.004, np.array([0.85, 0.8, 0.7], np.float32) * rng.uniform(0.3, 1))


def tuft(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw a bundle of fibres: grass, a tassel, a brush, a broom, a fringed rug."""
    canvas = Canvas(rng, side, paint)
    kind, count = rng.random(), int(rng.uniform(200, 1200))
    colour = foliage(rng) if kind < 0.4 else natural(rng) if kind < 0.7 else tint(rng)
    spread, fan = rng.uniform(0.05, 0.5), rng.uniform(0.1, 0.8)
    at = rng.uniform(-1, 1, count)
    roots = np.stack([at * spread, 0.75 - 0.03 * rng.random(count)], axis=1)
    if kind < 0.4:
        pull = (float(rng.normal(0, 0.5)), float(rng.uniform(0, 0.9)))
        paths = grown(rng, roots, -np.pi / 2 + at * fan, 1.5 * rng.beta(5, 3, count), pull=pull, wander=0.35, knots=10)
        width = rng.uniform(0.008, 0.03)
    else:
        curl = rng.uniform(0.005, 0.04) if rng.random() < 0.5 else 0.0
        long = rng.uniform(0.5, 1.0) * rng.normal(1, 0.06, count).clip(0.7, 1.2)
        paths = grown(
            rng, roots, -np.pi / 2 + at * fan, long, wander=rng.uniform(0.03, 0.25), curl=curl, turns=3, knots=10
        )
        width = rng.uniform(0.003, 0.01)
    largest = float(np.abs(paths).max())
    paths *= 0.95 / max(largest, 0.95)
    order = np.argsort(np.abs(at) * 0.3 + rng.random(count))
    dim = (0.7 + 0.5 * rng.random(count) + 0.2 * canvas.light.direction[0] * at)[:, None]
    draw(canvas, paths[order], shades(rng, colour * dim, count, 0.15), width, shine=float(rng.uniform(0, 0.15)))
    if kind >= 0.4:
        foot = np.array(
            [[-spread - 0.04, 0.62], [spread + 0.04, 0.62], [spread * 0.8 + 0.04, 0.95], [-spread * 0.8 - 0.04, 0.95]]
        )
        canvas.solid(canvas.polygon(foot), skin(canvas), roundness=0.8)
    return canvas.layer()
