"""People from head to foot."""

from __future__ import annotations

import numpy as np

from sdmatte.synthetic.canvas import Canvas, Paint, Photo, merged, natural, smooth, tint
from sdmatte.synthetic.creatures import Limb, body
from sdmatte.synthetic.layers import Layer
from sdmatte.synthetic.shapes import moved, skin
from sdmatte.synthetic.strands import draw, grown, shades

Joint = tuple[float, float]


def complexion(rng: np.random.Generator) -> Photo:
    """Return a colour of human skin ``(3,)``, or now and then any other (statues, dolls)."""
    if rng.random() < 0.1:
        return tint(rng)
    shade = rng.random()
    light, deep = np.array([0.95, 0.78, 0.68]), np.array([0.32, 0.2, 0.14])
    return np.asarray((light * shade + deep * (1 - shade)) * rng.uniform(0.9, 1.05), np.float32).clip(0, 1)


def figure(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw a person who stands, walks, waves or jumps, in trousers or a skirt."""
    canvas = Canvas(rng, side, paint)
    flesh, top, legwear = complexion(rng), skin(canvas), skin(canvas)
    stout = rng.uniform(0.8, 1.5)
    neck, hip = (rng.uniform(-0.06, 0.06), -0.45), (rng.uniform(-0.05, 0.05), 0.05)
    arms = [
        _chain(rng, (neck[0] + s * 0.15 * stout, neck[1] + 0.05), s * rng.uniform(0, 2.2), (0.25, 0.24), (-0.3, 1.4))
        for s in (-1, 1)
    ]
    legs = [
        _chain(rng, (hip[0] + s * 0.08 * stout, hip[1]), s * rng.uniform(0, 0.5), (0.38, 0.38), (-0.7, 0.2))
        for s in (-1, 1)
    ]
    width = 0.045 * stout
    _draw(canvas, _tube(arms[0], width * 1.2, width * 0.8), top if rng.random() < 0.7 else flesh)
    for leg in legs:
        _draw(
            canvas,
            [(leg[2], (leg[2][0] + 0.09 * np.sign(leg[2][0] - hip[0]), leg[2][1] + 0.01), 0.045, 0.035)],
            tint(rng, bright=0.5),
        )
        _draw(canvas, _tube(leg, width * 1.8, width * 0.9), legwear if rng.random() < 0.9 else flesh)
    if rng.random() < 0.35:
        flare, hem = rng.uniform(0.15, 0.5), rng.uniform(0.3, 0.75)
        swing = rng.uniform(-0.1, 0.1)
        skirt = np.array(
            [
                (-0.12 * stout, -0.1),
                (0.12 * stout, -0.1),
                (flare + swing, hem),
                (swing, hem + 0.04),
                (-flare + swing, hem),
            ]
        )
        canvas.solid(canvas.polygon(moved(skirt, hip[0])), legwear, roundness=0.7, bumps=2)
    right = np.array(
        [(0.05, -0.03), (0.13 * stout, 0.0), (0.17 * stout, 0.06), (0.14 * stout, 0.3), (0.14 * stout, 0.55)]
    )
    right = right * (1, 1) + np.linspace(0, 1, 5)[:, None] * (hip[0] - neck[0], 0)
    left = right[::-1] * (-1, 1) + 2 * np.linspace(1, 0, 5)[:, None] * (hip[0] - neck[0], 0)
    canvas.solid(canvas.polygon(smooth(np.concatenate([right, left]), 60) + neck), top, roundness=0.8, bumps=1.5)
    head = (neck[0] + rng.uniform(-0.05, 0.05), neck[1] - 0.2)
    _draw(canvas, [(neck, head, 0.05, 0.05)], flesh)
    locks = natural(rng)
    _hair(canvas, head, locks, back=True)
    _draw(canvas, [((head[0], head[1] - 0.03), (head[0], head[1] + 0.06), 0.105, 0.08)], flesh)
    _look(canvas, head)
    _hair(canvas, head, locks, back=False)
    _draw(canvas, _tube(arms[1], width * 1.2, width * 0.8), top if rng.random() < 0.8 else flesh)
    for arm in arms:
        _draw(canvas, [(arm[2], (arm[2][0], arm[2][1] + 0.02), width, width * 0.8)], flesh)
    return canvas.layer()


def _chain(
    rng: np.random.Generator, start: Joint, angle: float, lengths: tuple[float, float], fold: Joint
) -> list[Joint]:
    """Return three joints of an arm or a leg; an angle of 0 hangs down, a positive one goes to the right."""
    joints = [start]
    outward = 1 if angle >= 0 else -1
    for long in lengths:
        x, y = joints[-1]
        joints.append((x + long * float(np.sin(angle)), y + long * float(np.cos(angle))))
        angle += outward * rng.uniform(*fold)
    return joints


def _tube(joints: list[Joint], thick: float, thin: float) -> list[Limb]:
    """Return the two limbs between three joints."""
    middle = (thick + thin) / 2
    return [(joints[0], joints[1], thick, middle), (joints[1], joints[2], middle, thin)]


def _draw(canvas: Canvas, limbs: list[Limb], colour: Photo, *, bumps: float = 0.0) -> None:
    """Draw limbs that belong together."""
    canvas.solid(canvas.inside(merged([body(canvas, limbs, 0.03)], 0.01)), colour, roundness=0.9, bumps=bumps)


def _look(canvas: Canvas, head: Joint) -> None:
    """Draw eyes and a mouth, or nothing: the person looks away."""
    if canvas.rng.random() < 0.25:
        return
    x = head[0] + canvas.rng.uniform(-0.03, 0.03)
    for flip in (-1, 1):
        canvas.disc((x + flip * 0.035, head[1]), 0.011, (0.1, 0.08, 0.07))
    canvas.line(np.array([(x - 0.025, head[1] + 0.07), (x + 0.025, head[1] + 0.07)]), 0.01, (0.6, 0.25, 0.25))


def _hair(canvas: Canvas, head: Joint, colour: Photo, *, back: bool) -> None:
    """Draw hair on a small head."""
    rng = canvas.rng
    count = 220 if back else 90
    turn = rng.uniform(-0.6, np.pi + 0.6, count) if back else rng.uniform(0.1, np.pi - 0.1, count)
    roots = np.stack([head[0] + 0.1 * np.cos(turn), head[1] - 0.03 - 0.1 * np.sin(turn)], axis=1)
    long = rng.uniform(0.05, 0.3) if back else 0.08
    paths = grown(
        rng, roots, -turn, long * rng.uniform(0.6, 1.2, count), pull=(0.0, rng.uniform(0.5, 3)), wander=0.4, knots=7
    )
    draw(canvas, paths, shades(rng, colour * (0.7 if back else 1.0), count, 0.2), 0.008)
