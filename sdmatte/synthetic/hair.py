"""Hair and fur: bodies whose outline dissolves into strands."""

from __future__ import annotations

import numpy as np

from sdmatte.synthetic.canvas import Canvas, Mask, Paint, Photo, capsule, merged, natural, noise, shrunk, smooth, tint
from sdmatte.synthetic.creatures import anatomy, body, coat, face
from sdmatte.synthetic.layers import Layer
from sdmatte.synthetic.people import complexion
from sdmatte.synthetic.shapes import Outline, moved, skin
from sdmatte.synthetic.strands import draw, grown, outward, sampled, scattered, shades


def furry(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw an animal, or a ball, in dense fur."""
    canvas = Canvas(rng, side, paint)
    x, y = canvas.grid()
    if rng.random() < 0.6:
        limbs, head = anatomy(rng)
        distance = body(canvas, limbs, rng.uniform(0.05, 0.12))
    else:
        head = (rng.uniform(-0.2, 0.2), rng.uniform(-0.3, 0.1))
        lumps = [
            capsule(x, y, rng.uniform(-0.3, 0.3, 2), rng.uniform(-0.3, 0.3, 2), *rng.uniform(0.2, 0.42, 2))
            for _ in range(2)
        ]
        distance = merged(lumps, 0.15)
    mask = canvas.inside(distance)
    lit = canvas.solid(mask, coat(canvas), roundness=rng.uniform(0.5, 1))
    fur(canvas, mask, lit, rng.uniform(0.05, 0.2), int(rng.uniform(1500, 3000)))
    face(canvas, head, rng.uniform(0.08, 0.15))
    return canvas.layer()


def fur(canvas: Canvas, mask: Mask, lit: Photo, length: float, count: int) -> None:
    """Cover a body with hair that is combed to one side and points outwards at the rim.

    Args:
        canvas: To draw on; the body is there already.
        mask: The body's coverage ``(size, size)``.
        lit: The body's colour in its light ``(n, n, 3)``: hairs take it from under their roots.
        length: Of the hairs, units.
        count: Of hairs.
    """
    rng = canvas.rng
    small = shrunk(mask, 4)
    heading, depth = outward(small)
    rim = ((depth > 0) & (depth < 0.08)).astype(np.uint8) * 255
    roots = np.concatenate([scattered(rng, small, count // 2), scattered(rng, rim, count - count // 2)])
    deep = sampled(depth, roots)
    order = np.argsort(-deep)
    roots, deep = roots[order], deep[order]
    out = sampled(heading, roots)
    comb, ruffled = rng.uniform(0, 2 * np.pi), sampled(noise(rng, len(small), 6, 1), roots) * 2 - 1
    weight = rng.uniform(0.3, 1.2)
    angle = np.arctan2(np.sin(out) + weight * np.sin(comb), np.cos(out) + weight * np.cos(comb))
    angle = angle + rng.normal(0, rng.uniform(0.1, 0.45), count) + ruffled * rng.uniform(0, 0.8)
    long = (
        length * rng.gamma(6, 1 / 6, count).clip(0.3, 2) * (0.7 + 0.6 * sampled(noise(rng, len(small), 4, 1), roots))
    )
    curl = rng.uniform(0.02, 0.12) if rng.random() < 0.3 else 0.0
    pull = (0.0, rng.uniform(0, 1.2))
    paths = grown(rng, roots, angle, long, pull=pull, wander=0.35, curl=curl, turns=rng.uniform(1, 3), knots=6)
    draw(canvas, paths, shades(rng, sampled(lit, roots), count, 0.22), rng.uniform(0.002, 0.009))


def portrait(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw head and shoulders with long, curly, wild or blown hair."""
    canvas = Canvas(rng, side, paint)
    x, y = canvas.grid()
    size = rng.uniform(0.22, 0.3)
    centre = (rng.uniform(-0.08, 0.08), 0.27 - size * rng.uniform(1.5, 1.9))
    colour = natural(rng) if rng.random() < 0.9 else tint(rng)
    style = _Style(rng)
    locks(canvas, centre, size, colour, style, back=True)
    flesh = complexion(rng)
    neck = capsule(x, y, centre, (0.0, 0.5), size * 0.5, size * 0.6)
    canvas.solid(canvas.inside(neck), flesh, roundness=1)
    canvas.solid(canvas.polygon(_bust(rng)), skin(canvas), roundness=rng.uniform(0.3, 0.7), bumps=1)
    skull = merged(
        [capsule(x, y, centre, (centre[0], centre[1] + 0.05), size * 0.92, size * 0.9),
         capsule(x, y, centre, (centre[0], centre[1] + size * 0.75), size * 0.7, size * 0.5)], 0.06)  # fmt: skip
    canvas.solid(canvas.inside(skull), flesh, roundness=0.9)
    _features(canvas, centre, size, colour)
    locks(canvas, centre, size, colour, style, back=False)
    return canvas.layer()


def _bust(rng: np.random.Generator) -> Outline:
    """Return the outline of neckline, shoulders and upper arms, cut off at the chest."""
    wide, drop, slope = rng.uniform(0.38, 0.62), rng.uniform(0.4, 0.52), rng.uniform(0.02, 0.12)
    collar, cut = rng.uniform(0.1, 0.2), rng.uniform(0.0, 0.35)
    right = np.array([(0, 0.3 + cut), (collar * 0.7, 0.27 + cut / 3), (collar, 0.26), (wide * 0.75, drop - slope),
                      (wide, drop + 0.08), (wide + rng.uniform(0, 0.12), 0.8), (wide + 0.05, 0.95),
                      (0, 0.95)])  # fmt: skip
    left = right[::-1] * (-1, 1) * (rng.uniform(0.75, 1.1), 1)
    curve = smooth(np.concatenate([right[:6], right[5:6]]), 60), smooth(np.concatenate([left[2:3], left[2:]]), 60)
    return moved(np.concatenate([curve[0], right[6:7], left[1:2], curve[1]]), rng.uniform(-0.04, 0.04))


class _Style:
    """How a head wears its hair."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.length = rng.uniform(0.25, 1.3)
        self.lift = rng.uniform(0.0, 0.8)
        self.curl = rng.uniform(0.02, 0.1) if rng.random() < 0.5 else rng.uniform(0, 0.015)
        self.turns = rng.uniform(1.5, 4)
        blown = rng.random() < 0.35
        self.pull = (
            (float(rng.normal(0, 1.6)), float(rng.uniform(-0.6, 1.5))) if blown else (0.0, float(rng.uniform(1.5, 8)))
        )
        if rng.random() < 0.2:
            self.length, self.pull, self.curl, self.lift = (
                rng.uniform(0.15, 0.4),
                (0.0, 0.2),
                rng.uniform(0.05, 0.12),
                1.0,
            )
        self.wander = rng.uniform(0.05, 0.45)
        self.knots = 11 if self.curl < 0.016 else 26
        self.count = int(rng.uniform(350, 850) if self.knots < 20 else rng.uniform(250, 500))
        self.width = rng.uniform(0.003, 0.012)
        self.fringe = rng.uniform(0.2, 0.6)


def locks(
    canvas: Canvas, centre: tuple[float, float], size: float, colour: Photo, style: _Style, *, back: bool
) -> None:
    """Draw the hair behind a head, or the hair that grows on its front and sides.

    Args:
        canvas: To draw on.
        centre: Of the head, units.
        size: Radius of the head, units.
        colour: ``(3,)``.
        style: How it is worn.
        back: Which of both.
    """
    rng = canvas.rng
    count = style.count if back else style.count // 2
    turn = rng.uniform(-1.0, np.pi + 1.0, count) if back else rng.uniform(0.1 * np.pi, 0.9 * np.pi, count)
    if not back:
        turn = np.where(
            rng.random(count) < style.fringe,
            turn,
            np.where(turn > np.pi / 2, rng.uniform(2.6, 3.6, count), rng.uniform(-0.5, 0.5, count)),
        )
    radius = size * (rng.uniform(0.4, 1.05, count) if back else rng.uniform(0.85, 1.08, count))
    roots = np.stack([centre[0] + radius * np.cos(turn), centre[1] - radius * np.sin(turn) * 1.05], axis=1)
    angle = np.arctan2(-style.lift * np.sin(turn) + 1 - style.lift, np.cos(turn)) + rng.normal(
        0, 0.1 + 0.25 * style.lift, count
    )
    if not back:
        parting = np.where(turn > np.pi / 2 + rng.normal(0, 0.1), np.pi, 0.0)
        angle = np.where(np.sin(turn) > 0.45, np.where(parting > 1, 2.7, 0.4) + rng.normal(0, 0.3, count), angle)
    long = style.length * rng.gamma(20, 1 / 20, count) * (1 if back else 0.8)
    stray = rng.random(count) < 0.06
    angle = np.where(stray, angle + rng.normal(0, 0.8, count), angle)
    paths = grown(
        rng,
        roots,
        angle,
        long,
        pull=style.pull,
        wander=style.wander,
        curl=style.curl,
        turns=style.turns,
        knots=style.knots,
    )
    sunny = 1 + 0.35 * (canvas.light.direction[0] * np.cos(turn) - canvas.light.direction[1] * np.sin(turn))
    dark = 0.6 if back else 1.0
    tone = shades(rng, colour * dark * sunny[:, None], count, 0.2)
    draw(canvas, paths, tone, style.width, shine=0.0 if back else float(rng.uniform(0, 0.2)))


def _features(canvas: Canvas, centre: tuple[float, float], size: float, colour: Photo) -> None:
    """Draw eyes, brows, nose and mouth."""
    rng = canvas.rng
    turn = rng.uniform(-0.25, 0.25) * size
    for flip in (-1, 1):
        eye = (centre[0] + turn + flip * size * 0.36, centre[1] + size * 0.1)
        canvas.disc(eye, size * 0.085, (0.85, 0.83, 0.8))
        canvas.disc(eye, size * 0.065, tint(rng, dark=0.05, bright=0.4))
        brow = np.array([(-0.16, 0.02), (0, -0.04), (0.16, 0.02)]) * size + (eye[0], eye[1] - size * 0.2)
        canvas.line(brow, size * 0.05, colour * 0.7)
    nose = np.array([(0, 0.1), (0.08, 0.45), (-0.05, 0.47)]) * size + (centre[0] + turn, centre[1])
    canvas.line(nose, size * 0.03, (0.35, 0.2, 0.16))
    mouth = np.array([(-0.22, 0.72), (0, 0.72 + rng.uniform(-0.05, 0.1)), (0.22, 0.72)]) * size + (
        centre[0] + turn,
        centre[1],
    )
    canvas.line(mouth, size * 0.08, (0.6, 0.25, 0.25))
