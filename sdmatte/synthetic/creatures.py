"""Living things with soft bodies: creatures, people."""

from __future__ import annotations

import numpy as np

from sdmatte.synthetic.canvas import Canvas, Paint, Photo, capsule, merged, natural, noise, smooth, tint, turned
from sdmatte.synthetic.layers import Layer
from sdmatte.synthetic.shapes import skin

Limb = tuple[tuple[float, float], tuple[float, float], float, float]
"""Start, end, radius at the start, radius at the end; units."""


def creature(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw an animal: body, head, limbs, often a tail, with a patterned coat."""
    canvas = Canvas(rng, side, paint)
    limbs, head = anatomy(rng)
    mask = canvas.inside(body(canvas, limbs, rng.uniform(0.04, 0.1)))
    canvas.solid(mask, coat(canvas), roundness=rng.uniform(0.5, 1), bumps=rng.uniform(0, 3))
    face(canvas, head, rng.uniform(0.08, 0.12))
    return canvas.layer()


def insect(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw an insect from above: an opaque body, thin legs and feelers, wings that may let light through."""
    canvas = Canvas(rng, side, paint)
    dark, sheer = (
        natural(rng) if rng.random() < 0.5 else tint(rng),
        rng.uniform(0.3, 0.6) if rng.random() < 0.6 else 1.0,
    )
    for lift in (-1, 1):
        reach = rng.uniform(0.18, 0.4)
        for flip in (-1, 1):
            for bend in (rng.uniform(0.1, 0.3), 0.0):
                leg = smooth(
                    [
                        (0, lift * 0.1),
                        (flip * reach, lift * (0.2 + bend)),
                        (flip * (reach + 0.15), lift * (0.4 + bend)),
                    ],
                    8,
                )
                canvas.line(leg, 0.015, np.clip(dark * 0.6, 0, 1))
    wing = (
        tint(rng, dark=0.4) * np.ones((canvas.size // 2, canvas.size // 2, 1), np.float32)
        if rng.random() < 0.4
        else coat(canvas)
    )
    for spread, long, wide in ((rng.uniform(0.1, 0.6), rng.uniform(0.6, 0.85), rng.uniform(0.1, 0.45)),
                               (rng.uniform(-0.7, -0.2), rng.uniform(0.4, 0.7),
                                rng.uniform(0.1, 0.45)))[: rng.integers(1, 3)]:  # fmt: skip
        t = np.linspace(0, 1, 30)
        edge = wide * np.sin(np.pi * t ** rng.uniform(0.8, 2)) * (1 + 0.1 * np.sin(t * rng.uniform(5, 30)))
        outline = np.concatenate([np.stack([t, -edge * 0.6], axis=1), np.stack([t, edge], axis=1)[::-1]]) * long
        for flip in (-1, 1):
            form = (turned(outline, -spread) * (flip, 1) + (0, -0.15)).clip(-0.93, 0.93)
            canvas.over(np.asarray(canvas.polygon(form) * sheer, np.uint8), wing)
            for k in range(4, 28, 4):
                vein = turned(np.array([(0, 0), outline[k]]), -spread) * (flip, 1) + (0, -0.15)
                canvas.line(vein.clip(-0.93, 0.93), 0.004, np.clip(dark * 0.8, 0, 1))
    for flip in (-1, 1):
        feeler = smooth([(0, -0.4), (flip * 0.08, -0.6), (flip * rng.uniform(0.1, 0.35), -0.8)], 8)
        canvas.line(feeler, 0.012, np.clip(dark * 0.6, 0, 1))
    stout = rng.uniform(0.05, 0.13)
    limbs: list[Limb] = [((0, -0.15), (0, rng.uniform(0.3, 0.8)), stout, stout * rng.uniform(0.3, 1.1)),
                         ((0, -0.3), (0, -0.1), stout, stout * 1.1),
                         ((0, -0.42), (0, -0.4), stout * 0.8, stout * 0.8)]  # fmt: skip
    canvas.solid(canvas.inside(body(canvas, limbs, 0.02)), coat(canvas), roundness=0.9)
    return canvas.layer()


def anatomy(rng: np.random.Generator) -> tuple[list[Limb], tuple[float, float]]:
    """Make up an animal seen from the side, looking left or right.

    Returns:
        Its limbs, and where its head is.
    """
    long, deep = rng.uniform(0.2, 0.42), rng.uniform(0.14, 0.26)
    tilt = rng.uniform(-0.15, 0.15)
    limbs: list[Limb] = [((-long, tilt), (long, -tilt), deep * rng.uniform(0.8, 1.2), deep)]
    head = (-long - rng.uniform(0.1, 0.3), tilt - rng.uniform(0.0, 0.45))
    limbs.append(((-long, tilt), head, deep * rng.uniform(0.4, 0.8), rng.uniform(0.08, 0.12)))
    size = rng.uniform(0.11, 0.19)
    limbs.append(
        (head, (head[0] - rng.uniform(0, 0.18), head[1] + rng.uniform(-0.02, 0.1)), size, size * rng.uniform(0.4, 0.9))
    )
    reach, thin = rng.uniform(0.15, 0.5), rng.uniform(0.025, 0.06)
    for at in np.linspace(-long, long, int(rng.integers(1, 4))) if rng.random() < 0.9 else ():
        for _ in range(2):
            knee = (at + rng.uniform(-0.12, 0.12), deep * 0.6 + reach * 0.5)
            foot = (knee[0] + rng.uniform(-0.1, 0.1), deep * 0.6 + reach)
            limbs += [((at, 0), knee, thin * rng.uniform(1.4, 2.5), thin), (knee, foot, thin, thin * 0.8)]
            limbs.append((foot, (foot[0] - thin * 1.5, foot[1]), thin * 0.9, thin * 0.7))
    for _ in range(rng.integers(0, 3)):
        tip = (head[0] + rng.uniform(-0.1, 0.2), head[1] - size - rng.uniform(0.03, 0.25))
        limbs.append(((head[0] + rng.uniform(-0.05, 0.1), head[1] - size * 0.6), tip, rng.uniform(0.03, 0.08), 0.015))
    if rng.random() < 0.75:
        bend = rng.uniform(-0.6, 0.4, 2)
        knots = np.array(
            [(long, -tilt), (long + 0.2, bend[0] * 0.7), (long + 0.35, bend[1]), (long + 0.45, bend.sum() * 0.6)]
        )
        knots[:, 0] = knots[:, 0].clip(None, 0.85)
        path, thick = smooth(knots, 6), rng.uniform(0.03, 0.09)
        radii = np.linspace(thick, thick * rng.uniform(0.2, 1), 6)
        limbs += [(tuple(path[i]), tuple(path[i + 1]), radii[i], radii[i + 1]) for i in range(5)]
    return fit_limbs(limbs, head)


def fit_limbs(limbs: list[Limb], head: tuple[float, float]) -> tuple[list[Limb], tuple[float, float]]:
    """Shift and scale limbs so that they fill the canvas and leave room for fur."""
    ends = np.array(
        [
            p
            for a, b, r, s in limbs
            for p in ((a[0] - r, a[1] - r), (a[0] + r, a[1] + r), (b[0] - s, b[1] - s), (b[0] + s, b[1] + s))
        ]
    )
    low, high = ends.min(axis=0), ends.max(axis=0)
    middle, scale = (low + high) / 2, 1.5 / float((high - low).max())

    def moved(point: tuple[float, float]) -> tuple[float, float]:
        return float((point[0] - middle[0]) * scale), float((point[1] - middle[1]) * scale)

    return [(moved(a), moved(b), r * scale, s * scale) for a, b, r, s in limbs], moved(head)


def body(canvas: Canvas, limbs: list[Limb], soft: float) -> Photo:
    """Return the signed distance ``(size / 4, size / 4)`` to limbs that grow into each other."""
    x, y = canvas.grid()
    return merged([capsule(x, y, *limb) for limb in limbs], soft)


def coat(canvas: Canvas) -> Photo:
    """Return an animal's surface ``(size / 2, size / 2, 3)``: plain, spotted, striped, patched, or anything at all."""
    rng, half = canvas.rng, canvas.size // 2
    kind = rng.random()
    if kind < 0.25:
        return skin(canvas)
    base = natural(rng) if rng.random() < 0.7 else tint(rng)
    other = natural(rng) if rng.random() < 0.7 else tint(rng)
    field = noise(rng, half, rng.uniform(2, 14), 2)
    if kind < 0.5:
        share = ((field - rng.uniform(0.4, 0.6)) * 14 + 0.5).clip(0, 1)
    elif kind < 0.7:
        x, y = canvas.grid(2)
        lean = rng.uniform(0, np.pi)
        share = np.sin((x * np.cos(lean) + y * np.sin(lean)) * rng.uniform(10, 50) + 6 * noise(rng, half, 3, 2))
        share = (share * 3 + rng.uniform(-1, 1.5)).clip(0, 1)
    else:
        share = field * rng.uniform(0.2, 0.8)
    grain = 0.85 + 0.3 * noise(rng, half, half / 4, 1)
    return np.asarray(((base + share[..., None] * (other - base)) * grain[..., None]).clip(0, 1), np.float32)


def face(canvas: Canvas, head: tuple[float, float], size: float) -> None:
    """Draw an eye, with a highlight."""
    rng = canvas.rng
    eye = (head[0] + rng.uniform(-0.5, 0.1) * size, head[1] - rng.uniform(0.1, 0.4) * size)
    radius = size * rng.uniform(0.15, 0.3)
    if rng.random() < 0.5:
        canvas.disc(eye, radius * 1.5, tint(rng, dark=0.4))
    canvas.disc(eye, radius, (0.04, 0.03, 0.03))
    canvas.disc((eye[0] - radius * 0.3, eye[1] - radius * 0.35), radius * 0.3, (0.95, 0.95, 0.95))
