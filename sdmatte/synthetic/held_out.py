"""Families that nothing trains on: what a model makes of them says how far its training carries."""

from __future__ import annotations

import cv2
import numpy as np

from sdmatte.synthetic.canvas import (
    Canvas,
    Paint,
    Photo,
    capsule,
    fitted,
    merged,
    natural,
    noise,
    shrunk,
    smooth,
    tint,
    turned,
)
from sdmatte.synthetic.creatures import Limb, body, coat, face
from sdmatte.synthetic.layers import Layer
from sdmatte.synthetic.plants import foliage
from sdmatte.synthetic.shapes import moved, profile, skin
from sdmatte.synthetic.strands import draw, grown, sampled, scattered, shades

_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 97)), np.sin(np.linspace(0, 2 * np.pi, 97))], axis=1)


def tree(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw a tree that forks over and over, bare or in leaf."""
    canvas = Canvas(rng, side, paint)
    bark, spread, shrink = natural(rng), rng.uniform(0.3, 0.65), rng.uniform(0.68, 0.8)
    tips = [(np.array([0.0, 0.88]), -np.pi / 2, rng.uniform(0.28, 0.4), rng.uniform(0.06, 0.12))]
    ends = []
    for depth in range(8):
        grown_tips = []
        for start, angle, long, thick in tips:
            end = start + long * np.array([np.cos(angle), np.sin(angle)])
            if np.abs(end).max() > 0.93:
                continue
            dim = np.clip(bark * rng.uniform(0.7, 1.2), 0, 1)
            canvas.line(np.stack([start, (start + end) / 2 + rng.normal(0, 0.02 * long, 2), end]), thick, dim)
            if canvas.thick(thick) > 2:
                aside = thick * 0.2 * canvas.light.direction[0]
                canvas.line(moved(np.stack([start, end]), aside), thick * 0.3, np.clip(dim * 1.4, 0, 1))
            forks = 2 if rng.random() < 0.85 or depth > 3 else 3
            turns = np.linspace(-spread, spread, forks) + rng.normal(0, 0.2, forks)
            grown_tips += [(end, angle + t, long * shrink * rng.uniform(0.8, 1.15), thick * 0.66) for t in turns]
            ends += [end] if depth > 4 else []
        tips = grown_tips
    if ends and rng.random() < 0.6:
        green, size = foliage(rng), rng.uniform(0.01, 0.03)
        for spot in np.concatenate(
            [np.array(ends) + rng.normal(0, 0.025, (len(ends), 2)) for _ in range(int(rng.integers(1, 4)))]
        ):
            x, y = spot.clip(-0.96, 0.96)
            canvas.disc(
                (float(x), float(y)), size * rng.uniform(0.5, 1.2), np.clip(green * rng.uniform(0.5, 1.4), 0, 1)
            )
    return canvas.layer()


def jellyfish(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw a jellyfish: a translucent bell, frills and trailing tentacles."""
    canvas = Canvas(rng, side, paint)
    wide, high, tone = rng.uniform(0.4, 0.7), rng.uniform(0.3, 0.55), tint(rng, dark=0.5, bright=1.0)
    count = int(rng.integers(8, 40))
    at = rng.uniform(-0.85, 0.85, count)
    roots = np.stack([at * wide, np.full(count, -0.35)], axis=1)
    thin = grown(
        rng, roots, np.pi / 2 + at * 0.2, rng.uniform(0.5, 1.15, count), wander=0.25, curl=0.04, turns=3, knots=24
    )
    draw(canvas, thin, shades(rng, tone, count, 0.15), rng.uniform(0.004, 0.012))
    canvas.pixels = np.asarray(canvas.pixels * rng.uniform(0.4, 0.7), np.uint8)
    for root in rng.uniform(-0.4, 0.4, int(rng.integers(2, 6))) * wide:
        path = grown(
            rng, [(root, -0.3)], [np.pi / 2], [rng.uniform(0.4, 0.9)], wander=0.3, curl=0.06, turns=3, knots=30
        )[0]
        frill = rng.uniform(0.03, 0.08) * np.abs(np.sin(np.linspace(0, 40, 30)))[:, None] * (1, 0)
        mask = canvas.polygon(np.concatenate([path - frill, (path + frill)[::-1]]))
        canvas.over(np.asarray(mask * rng.uniform(0.25, 0.5), np.uint8), np.clip(tone * rng.uniform(0.8, 1.2), 0, 1))
    angle = np.linspace(np.pi, 2 * np.pi, 60)
    rim = np.linspace(wide, -wide, 80)
    lower = np.stack([rim, -0.35 + rng.uniform(0.02, 0.06) * np.abs(np.sin(rim * rng.uniform(15, 40)))], axis=1)
    bell = canvas.polygon(
        np.concatenate([np.stack([wide * np.cos(angle), -0.35 + high * np.sin(angle)], axis=1), lower])
    )
    x, y = canvas.grid(1)
    away = np.sqrt((x / wide) ** 2 + ((y + 0.35) / high) ** 2).clip(0, 1)
    ribs = 0.5 + 0.5 * np.cos(np.arctan2(x, -(y + 0.4)) * rng.integers(8, 30))
    dense = rng.uniform(0.25, 0.45) + 0.35 * away**5 + 0.12 * ribs
    glow = tone * (0.8 + 0.4 * (1 - away[..., None])) + 0.15 * ribs[..., None]
    canvas.over(np.asarray(bell * dense.clip(0, 1), np.uint8), np.asarray(glow, np.float32).clip(0, 1))
    return canvas.layer(transparent=True)


def dandelion(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw the seed head of a dandelion: filaments in all directions, each with a parachute."""
    canvas = Canvas(rng, side, paint)
    heart = np.array([rng.uniform(-0.1, 0.1), -0.3])
    reach, pale = rng.uniform(0.4, 0.58), tint(rng, dark=0.75, vivid=0.2)
    stalk = smooth([tuple(heart), (rng.uniform(-0.2, 0.2), 0.3), (rng.uniform(-0.3, 0.3), 0.95)], 20)
    canvas.line(stalk, rng.uniform(0.015, 0.04), foliage(rng))
    count = int(rng.integers(90, 190))
    missing = rng.uniform(0, 2 * np.pi)
    turn = rng.uniform(0, 2 * np.pi, count)
    if rng.random() < 0.4:
        turn = turn[np.abs((turn - missing + np.pi) % (2 * np.pi) - np.pi) > 0.6]
        count = len(turn)
    long = reach * rng.beta(4, 1.5, count)
    threads = grown(rng, np.tile(heart, (count, 1)), turn, long, wander=0.05, knots=4)
    draw(canvas, threads, shades(rng, pale * 0.75, count, 0.1))
    fine = int(rng.integers(10, 22))
    ends, way = np.repeat(threads[:, -1], fine, axis=0), np.repeat(turn, fine)
    heads = way + rng.uniform(-1.3, 1.3, len(way))
    paths = grown(rng, ends, heads, rng.uniform(0.07, 0.15, len(way)), wander=0.1, knots=3)
    draw(canvas, paths, shades(rng, pale, len(way), 0.1))
    x, y = float(heart[0]), float(heart[1])
    canvas.disc((x, y), rng.uniform(0.04, 0.09), tint(rng, bright=0.5, vivid=0.6))
    return canvas.layer()


def vase(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw a vase of revolution with bands and handles."""
    canvas = Canvas(rng, side, paint)
    knots = int(rng.integers(4, 7))
    radii = smooth(np.stack([np.zeros(knots), rng.uniform(0.12, 0.65, knots)], axis=1), 90)[:, 1].clip(0.06, 0.7)
    radii = np.convolve(np.pad(radii, 6, mode="edge"), np.full(13, 1 / 13), mode="valid")
    outline = profile(radii, -0.88, 0.88)
    surface = skin(canvas).copy()
    half = canvas.size // 2
    for _ in range(rng.integers(0, 5)):
        top = rng.integers(0, half)
        surface[top : top + rng.integers(2, half // 8)] = tint(rng)
    if rng.random() < 0.5:
        bow = smooth([(radii[20], -0.5), (0.85, -0.5), (0.75, 0.1), (radii[55], 0.15)], 30)
        mask = np.zeros((canvas.size, canvas.size), np.uint8)
        for handle in (bow, bow * (-1, 1)):
            cv2.polylines(
                mask, [canvas.fixed(handle)], False, 255, canvas.thick(rng.uniform(0.05, 0.1)), cv2.LINE_AA, 4
            )
        canvas.solid(mask, surface, roundness=1)
    x, y = canvas.grid(2)
    reach = np.interp(y[:, 0], np.linspace(-0.88, 0.88, 90), radii).astype(np.float32)[:, None]
    relief = np.sqrt((reach**2 - x**2).clip(0, None)) * (half / 2)
    canvas.over(canvas.polygon(outline), canvas.light.on(np.asarray(relief, np.float32), surface))
    mouth = _CIRCLE * (radii[0], rng.uniform(0.02, 0.07)) - (0, 0.88)
    canvas.over(canvas.polygon(mouth), surface.mean(axis=(0, 1)))
    canvas.over(canvas.polygon(moved(_CIRCLE * (radii[0] * 0.85, 0.015), 0, -0.88)), (0.05, 0.05, 0.05))
    return canvas.layer()


def web(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw a spider's web, with dew on some."""
    canvas = Canvas(rng, side, paint)
    spokes, hub, pale = (
        int(rng.integers(9, 22)),
        rng.uniform(-0.2, 0.2, 2),
        tint(rng, dark=0.65, bright=1.0, vivid=0.15),
    )
    turn = np.sort(np.arange(spokes) * 2 * np.pi / spokes + rng.normal(0, 0.1, spokes))
    ends = hub + np.stack([np.cos(turn), np.sin(turn)], axis=1) * rng.uniform(0.6, 0.95, (spokes, 1))
    ends = ends.clip(-0.95, 0.95)
    width, sag = rng.uniform(0.003, 0.012), rng.uniform(0.05, 0.3)
    for end in ends:
        canvas.line(np.stack([hub, end]), width * 1.4, pale)
    count = int(rng.integers(8, 26))
    for share in np.linspace(0.08, rng.uniform(0.75, 0.92), count):
        knots = hub + (ends - hub) * (share + rng.normal(0, 0.006, (spokes, 1)))
        for a, b in zip(knots, np.roll(knots, -1, axis=0), strict=True):
            if rng.random() < 0.02:
                continue
            middle = (a + b) / 2 + (hub - (a + b) / 2) * sag * min(1.0, float(np.linalg.norm(a - b)) * 3)
            canvas.line(smooth([a, middle, b], 7), width, np.clip(pale * rng.uniform(0.75, 1.1), 0, 1))
            if sag > 0.2:
                canvas.disc((float(middle[0]), float(middle[1])), rng.uniform(0.004, 0.012), (0.95, 0.97, 1.0))
    if rng.random() < 0.5:
        _spider(canvas, float(hub[0]), float(hub[1]))
    return canvas.layer()


def _spider(canvas: Canvas, x: float, y: float) -> None:
    """Draw what made the web."""
    dark, size = tint(canvas.rng, bright=0.3), canvas.rng.uniform(0.04, 0.09)
    for flip in (-1, 1):
        for lift in (-1.2, -0.5, 0.4, 1.1):
            leg = np.array([(0, 0), (1.6 * flip, lift - 0.6), (2.6 * flip, lift * 1.6)]) * size + (x, y)
            canvas.line(leg, size * 0.2, dark)
    canvas.disc((x, y + size * 0.5), size, dark)
    canvas.disc((x, y - size * 0.7), size * 0.6, np.clip(dark * 1.6, 0, 1))


def bubble(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw soap bubbles: iridescent films, thicker to look through at the rim, with the reflections of windows."""
    canvas = Canvas(rng, side, paint)
    half = canvas.size // 2
    shown = np.zeros((half, half, 4), np.float32)
    x, y = canvas.grid(2)
    count = int(rng.choice([1, 1, 2, 4]))
    for _ in range(count):
        radius = 0.9 if count == 1 else rng.uniform(0.25, 0.5)
        at = (0.0, 0.0) if count == 1 else rng.uniform(-0.45, 0.45, 2)
        away = np.sqrt((x - at[0]) ** 2 + (y - at[1]) ** 2) / radius
        film = ((1 - away) * radius * half / 2 + 0.5).clip(0, 1)
        depth = away.clip(0, 1) ** rng.uniform(3, 7)
        swirl = 5 * depth + 4 * noise(rng, half, 3, 3) + rng.uniform(0, 6)
        colour = 0.6 + 0.4 * np.cos(swirl[..., None] + np.array([0, 2.1, 4.2], np.float32))
        alpha = rng.uniform(0.18, 0.3) + rng.uniform(0.35, 0.6) * depth
        for flip in (1, -1)[: rng.integers(1, 3)]:
            spot = turned(np.array([(-0.5, -0.5)]) * flip, rng.normal(0, 0.3))[0] * radius + at
            lamp = np.exp(-((((x - spot[0]) / (0.12 * radius)) ** 2 + ((y - spot[1]) / (0.2 * radius)) ** 2) ** 2))
            alpha, colour = alpha + 0.6 * lamp, colour + lamp[..., None] * (1 - colour)
        alpha = alpha.clip(0, 0.95) * film
        shown = np.dstack([colour * alpha[..., None], alpha]).astype(np.float32) + shown * (1 - alpha[..., None])
    return fitted(shown, side, transparent=True)


def fish(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw a fish: an opaque, scaly body and fins that one sees through between their rays."""
    canvas = Canvas(rng, side, paint)
    deep, tone = rng.uniform(0.18, 0.38), tint(rng, dark=0.4, vivid=1.0)
    for root, angle, spread, reach in (
        (0.4, 0.0, 0.8, 0.45),
        (0.0, -np.pi / 2 + 0.3, 0.9, 0.5),
        (0.0, np.pi / 2 - 0.4, 0.5, 0.45),
    ):
        start = np.array([root, np.sign(np.round(angle, 2)) * deep * 0.75])
        _fin(canvas, start, angle, spread * rng.uniform(0.6, 1.2), reach * rng.uniform(0.5, 1.1), tone)
    length = np.linspace(-0.75, 0.45, 60)
    share = (length + 0.75) / 1.2
    half_high = deep * (np.sin(np.pi * share**0.75) ** 0.8) + 0.06 * share
    trunk = canvas.polygon(
        np.concatenate([np.stack([length, -half_high], axis=1), np.stack([length, half_high], axis=1)[::-1]])
    )
    x, y = canvas.grid(2)
    scales = 0.8 + 0.25 * np.abs(np.sin(x * 60) * np.cos(y * 60 + np.floor(x * 60 / np.pi) * 1.57))
    back = 1 / (1 + np.exp(-y * 12))
    canvas.solid(
        trunk, (coat(canvas) * (1 - 0.6 * back[..., None]) + 0.5 * back[..., None]) * scales[..., None], roundness=0.9
    )
    _fin(canvas, np.array([-0.25, 0.05]), rng.uniform(0.2, 0.9), 0.5, 0.22, tone)
    face(canvas, (-0.58, 0.0), rng.uniform(0.15, 0.25))
    return canvas.layer()


def _fin(canvas: Canvas, root: Photo, angle: float, spread: float, reach: float, tone: Photo) -> None:
    """Draw a membrane between rays."""
    rng = canvas.rng
    turns = angle + np.linspace(-spread, spread, 24)
    edge = reach * (0.75 + 0.25 * np.abs(np.linspace(-1, 1, 24)) ** 2 + 0.08 * rng.random(24))
    tips = (root + np.stack([np.cos(turns), np.sin(turns)], axis=1) * edge[:, None]).clip(-0.96, 0.96)
    skin_part = canvas.polygon(np.concatenate([[root], tips]))
    canvas.over(np.asarray(skin_part * rng.uniform(0.25, 0.6), np.uint8), tone)
    for tip in tips:
        canvas.line(np.stack([root, root + (tip - root) * 0.97]), 0.005, np.clip(tone * rng.uniform(0.5, 1.1), 0, 1))


def longhair(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw a beast on four legs whose long coat hangs down: a yak, a sheepdog, a pony with mane and tail."""
    canvas = Canvas(rng, side, paint)
    deep, high = rng.uniform(0.17, 0.25), rng.uniform(-0.2, -0.05)
    head = (-0.62, high + rng.uniform(-0.3, 0.1))
    withers = high + rng.uniform(-0.04, 0.08)
    limbs: list[Limb] = [((-0.3, high), (0.05, withers), deep, deep * 0.9),
                         ((0.05, withers), (0.42, high + 0.02), deep * 0.9, deep),
                         ((-0.3, high), head, deep * 0.8, 0.12),
                         (head, (head[0] - 0.15, head[1] + 0.12), 0.12, 0.07)]  # fmt: skip
    for at in (-0.32, -0.2, 0.3, 0.42):
        knee = (at + rng.uniform(-0.06, 0.06), 0.42)
        limbs += [((at, high), knee, 0.12, 0.055), (knee, (knee[0] + rng.uniform(-0.05, 0.05), 0.82), 0.05, 0.045)]
    mask = canvas.inside(body(canvas, limbs, 0.06))
    lit = canvas.solid(mask, coat(canvas), roundness=0.8)
    x, y = canvas.grid()
    trunk = canvas.inside(merged([capsule(x, y, *limb) for limb in limbs[:3]], 0.06))
    small = shrunk(trunk, 4)
    count, long = int(rng.uniform(1000, 1800)), rng.uniform(0.2, 0.5)
    roots = scattered(rng, small, count)
    roots = roots[np.argsort(-roots[:, 1])]
    heading = np.pi / 2 + rng.normal(0, 0.25, count) + 0.5 * np.sign(roots[:, 0]) * rng.random(count)
    paths = grown(rng, roots, heading, long * rng.uniform(0.5, 1.1, count), pull=(float(rng.normal(0, 0.4)), 0.5),
                  wander=0.3, curl=rng.uniform(0, 0.06), turns=2, knots=8)  # fmt: skip
    draw(canvas, paths, shades(rng, sampled(lit, roots), count, 0.2), rng.uniform(0.004, 0.01))
    tail = grown(rng, rng.normal((0.58, high - 0.05), 0.015, (150, 2)), rng.normal(0.4, 0.3, 150),
                 rng.uniform(0.4, 0.7, 150),
                 pull=(float(rng.normal(0, 0.5)), 2.5), wander=0.2, knots=10)  # fmt: skip
    draw(canvas, tail, shades(rng, natural(rng), 150, 0.2), 0.006)
    face(canvas, (head[0] - 0.02, head[1]), 0.13)
    return canvas.layer()
