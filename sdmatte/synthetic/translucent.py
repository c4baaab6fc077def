"""Things that let light through: glass, smoke, veils."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sdmatte.synthetic.canvas import Canvas, Mask, Paint, Photo, fitted, joined, noise, shrunk, tint
from sdmatte.synthetic.lattices import bars
from sdmatte.synthetic.layers import Layer
from sdmatte.synthetic.shapes import profile


def glass(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw a glass, a bottle or a bowl: clear in the middle, denser at the rims, with highlights, sometimes filled."""
    canvas = Canvas(rng, side, paint)
    level = np.linspace(0, 1, 80)
    radii = vessel(rng, level)
    outline = profile(radii, -0.9, 0.9)
    half = canvas.size // 2
    circle = np.linspace(0, 2 * np.pi, 60)
    lip = np.stack([np.cos(circle), np.sin(circle) * rng.uniform(0.05, 0.2)], axis=1) * radii[0] - np.array([0, 0.88])
    mask = _share(joined(canvas.polygon(outline), canvas.polygon(lip)))
    reach = np.interp(np.linspace(-1, 1, half), np.linspace(-0.9, 0.9, 80), radii).astype(np.float32)[:, None]
    x, y = canvas.grid(2)
    across = (x / np.maximum(reach, 0.02)).clip(-1, 1)
    fresnel = np.abs(across) ** rng.uniform(4, 12)
    clear, tone = rng.uniform(0.2, 0.4), tint(rng, dark=0.3, vivid=0.6)
    alpha = clear + rng.uniform(0.25, 0.55) * fresnel
    colour = np.broadcast_to(tone, (half, half, 3)) * (0.75 + 0.5 * noise(rng, half, 3, 2))[..., None]
    edge = tint(rng, dark=0.05, bright=0.4) if rng.random() < 0.5 else tint(rng, dark=0.7, bright=1.0, vivid=0.3)
    colour = colour + (edge - colour) * fresnel[..., None]
    if rng.random() < 0.5:
        alpha, colour = _filled(canvas, alpha, colour, across, y, float(rng.uniform(-0.4, 0.5)))
    refracted = cv2.GaussianBlur(noise(rng, half, 8, 2), (0, 0), half / 100)
    alpha = alpha + 0.35 * (refracted - 0.5) * (1 - np.abs(across))
    shown = np.concatenate([colour * alpha[..., None], alpha[..., None]], axis=2).clip(0, 1) * mask[..., None]
    rim = _share(bars(canvas, [lip], rng.uniform(0.008, 0.025)))[..., None] * rng.uniform(0.2, 0.7)
    shown = np.asarray(shown + rim * (np.append(edge, 1) - shown), np.float32)
    for _ in range(rng.integers(1, 5)):
        _reflect(canvas, shown, radii, mask)
    return fitted(shown, side, transparent=True)


def _share(mask: Mask) -> Photo:
    """Return the coverage of a canvas as shares ``(size / 2, size / 2)`` in [0, 1]."""
    return np.asarray(shrunk(mask, 2) * np.float32(1 / 255), np.float32)


def vessel(rng: np.random.Generator, level: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return radii ``(n,)`` of a tumbler, a wine glass, a bottle or a bowl at heights ``level`` from 0 (top) to 1."""
    kind = rng.random()
    wide = rng.uniform(0.3, 0.55)
    if kind < 0.3:
        return np.asarray(wide * (1 - rng.uniform(0, 0.4) * level) * (1 - 0.3 * (level > 0.985)))
    if kind < 0.6:
        cup, foot = rng.uniform(0.35, 0.6), rng.uniform(0.9, 0.96)
        bowl = wide * np.sqrt((1 - (level / cup) ** 2).clip(0, 1)) ** rng.uniform(0.4, 1)
        bowl = bowl * (1 - rng.uniform(0, 0.3) * (1 - level / cup) ** 2)
        stem = rng.uniform(0.02, 0.05) + 0.8 * wide / (1 + np.exp((foot - level) * 80))
        return np.asarray(np.where(level < cup, np.maximum(bowl, stem), stem))
    if kind < 0.85:
        neck, shoulder = rng.uniform(0.08, 0.18), rng.uniform(0.2, 0.5)
        return np.asarray(neck + (wide - neck) / (1 + np.exp((shoulder - level) * rng.uniform(15, 40))))
    return np.asarray(0.85 * np.sqrt((1 - (level * 0.98) ** rng.uniform(2, 5)).clip(0, 1)))


def _filled(
    canvas: Canvas, alpha: Photo, colour: Photo, across: Photo, y: Photo, surface: float
) -> tuple[Photo, Photo]:
    """Pour a drink into a glass up to a height; return the new alpha and colour."""
    rng = canvas.rng
    wet = ((y - surface - 0.02 * np.sqrt(1 - across**2)) * canvas.size / 4).clip(0, 1) * (np.abs(across) < 0.93)
    drink = tint(rng, dark=0.25) * (1 - 0.35 * across[..., None] ** 2)
    dense = rng.uniform(0.3, 0.75)
    line = np.exp(-((y - surface) ** 2) / 0.0002) * 0.3
    return np.asarray(alpha + wet * (1 - alpha) * dense + line), np.asarray(colour + wet[..., None] * (drink - colour))


def _reflect(canvas: Canvas, shown: Photo, radii: NDArray[np.float64], mask: Photo) -> None:
    """Add the reflection of a window or a lamp, in place, to premultiplied ``(n, n, 4)``."""
    rng = canvas.rng
    top, bottom = np.sort(rng.uniform(-0.85, 0.85, 2))
    level = np.linspace(top, bottom, 30)
    reach = np.interp(level, np.linspace(-0.9, 0.9, len(radii)), radii)
    spot, wide = rng.uniform(-0.85, 0.85), rng.uniform(0.02, 0.12)
    left, right = np.stack([reach * (spot - wide), level], axis=1), np.stack([reach * (spot + wide), level], axis=1)
    shape = canvas.polygon(np.concatenate([left, right[::-1]]))
    share = (cv2.GaussianBlur(_share(shape), (0, 0), rng.uniform(0.8, 3)) * mask * rng.uniform(0.3, 0.9))[..., None]
    shown += share * (1 - shown)


def smoke(rng: np.random.Generator, side: int, paint: Paint) -> Layer:  # noqa: ARG001 - nothing solid to paint
    """Draw smoke, steam, a cloud or a flame: density that turbulence has pulled into wisps."""
    size = max(side, 32)
    line = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = np.meshgrid(line, line)
    for cells, reach in ((rng.uniform(1, 3), rng.uniform(0.1, 0.5)), (rng.uniform(4, 7), rng.uniform(0.05, 0.18))):
        across, down = noise(rng, size, cells, 2), noise(rng, size, cells, 2)
        x, y = x + reach * (across - 0.5) * 2, y + reach * (down - 0.5) * 2
    if rng.random() < 0.5:
        middle = 0.25 * np.sin(y * rng.uniform(1, 4) + rng.uniform(0, 6))
        wide = rng.uniform(0.1, 0.25) + rng.uniform(0.1, 0.4) * (0.5 - 0.5 * y)
        envelope = np.exp(-(((x - middle) / wide) ** 2)) * (1 - np.abs(y) ** 4).clip(0, 1)
    else:
        puffs = [np.exp(-((x - a) ** 2 + (y - b) ** 2) / r**2) for a, b, r in zip(
            rng.uniform(-0.4, 0.4, 5), rng.uniform(-0.4, 0.4, 5), rng.uniform(0.12, 0.4, 5), strict=True)]  # fmt: skip
        envelope = np.maximum.reduce(puffs)
    wisps = cv2.remap(noise(rng, size, rng.uniform(3, 8), 4), (x + 1) * size / 2, (y + 1) * size / 2,
                      cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)  # fmt: skip
    rim = np.minimum(np.abs(np.meshgrid(line, line)).max(axis=0) * -1 + 1, 0.15) / 0.15
    density = (envelope * (0.15 + 1.6 * (wisps - 0.25).clip(0, None)) - 0.08).clip(0, None) * rim
    alpha = 1 - np.exp(-density * rng.uniform(1.5, 5))
    alpha = (
        (alpha * rng.uniform(0.75, 0.98) / max(float(np.percentile(alpha, 99.7)), 0.05))
        .clip(0, 0.98)
        .astype(np.float32)
    )
    lit = 1 + rng.uniform(2, 8) * cv2.GaussianBlur(cv2.Sobel(alpha, cv2.CV_32F, 1, 1), (0, 0), 2)
    tone = tint(rng, dark=0.55, bright=0.98, vivid=0.25) if rng.random() < 0.7 else tint(rng, vivid=0.6)
    inner = tone * rng.uniform(0.5, 1.0)
    if rng.random() < 0.15:
        tone, inner = np.array([0.9, 0.25, 0.05], np.float32), np.array([1.0, 0.85, 0.4], np.float32)
    colour = ((tone + alpha[..., None] * (inner - tone)) * lit[..., None]).clip(0, 1)
    return fitted(np.dstack([colour * alpha[..., None], alpha]).astype(np.float32), side, transparent=True)


def veil(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw thin cloth in folds: the steeper a fold, the more threads lie in one line of sight."""
    canvas = Canvas(rng, side, paint)
    half = canvas.size // 2
    x, y = canvas.grid(2)
    lean, bend = rng.uniform(-0.6, 0.6), noise(rng, half, rng.uniform(1, 3), 2)
    gather = 1 + rng.uniform(0, 0.8) * y
    phase = (x / np.maximum(gather, 0.3) + lean * y) * rng.uniform(8, 28) + 6 * rng.uniform(0.3, 1) * bend
    folds = np.sin(phase) + 0.5 * np.sin(phase * 2.3 + 3 * bend) + 0.4 * noise(rng, half, 6, 2)
    relief = np.asarray(folds * rng.uniform(2, 7), np.float32)
    steep = np.hypot(
        cv2.Sobel(relief, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(relief, cv2.CV_32F, 0, 1, scale=0.125)
    )
    thin = rng.uniform(0.25, 0.7)
    alpha = 1 - np.exp(-thin * np.sqrt(1 + steep**2))
    colour = tint(rng, dark=0.35, bright=0.98) if rng.random() < 0.6 else canvas.paint()
    lit = canvas.light.on(relief, np.asarray(colour, np.float32) + np.zeros((half, half, 1), np.float32))
    outline = _drape(rng)
    if rng.random() < 0.6:
        hem = np.zeros((canvas.size, canvas.size), np.uint8)
        cv2.polylines(hem, [canvas.fixed(outline)], True, 255, canvas.thick(rng.uniform(0.008, 0.03)), cv2.LINE_AA, 4)
        alpha = np.maximum(alpha, _share(hem) * rng.uniform(0.6, 0.95))
    alpha = alpha.clip(0, 0.97) * _share(canvas.polygon(outline))
    return fitted(np.dstack([lit * alpha[..., None], alpha]).astype(np.float32), side, transparent=True)


def _drape(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the outline ``(n, 2)`` of a cloth: a curtain, a scarf, a kerchief."""
    kind = rng.random()
    t = np.linspace(0, 1, 60)
    if kind < 0.5:
        top, foot = rng.uniform(0.3, 0.85), rng.uniform(0.4, 0.85)
        corners = [(-top, -0.85), (top, -0.85), (foot, 0.8), (-foot, 0.8)]
    elif kind < 0.75:
        corners = [
            (-0.85, rng.uniform(-0.6, 0)),
            (0.85, rng.uniform(-0.4, 0.2)),
            (0.8, 0.5),
            (-0.8, rng.uniform(0.2, 0.5)),
        ]
    else:
        corners = [
            (rng.uniform(-0.3, 0.3), -0.85),
            (0.85, rng.uniform(-0.2, 0.6)),
            (rng.uniform(-0.3, 0.3), 0.85),
            (-0.85, 0.2),
        ]
    sides = []
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
        line = np.asarray(start) + (np.asarray(end) - np.asarray(start)) * t[:, None]
        way = np.array([end[1] - start[1], start[0] - end[0]]) / np.hypot(end[0] - start[0], end[1] - start[1])
        wave = np.sin(2 * np.pi * (rng.uniform(1, 5) * t + rng.random()))
        bow = rng.uniform(0, 0.07) * wave * np.sin(np.pi * t)
        sides.append((line + bow[:, None] * way)[:-1])
    return np.concatenate(sides).clip(-0.97, 0.97)
