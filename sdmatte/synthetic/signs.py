"""Letters, figures and signs: solid, in relief, or cut out of a board."""

from __future__ import annotations

import cv2
import numpy as np

from sdmatte.synthetic.canvas import Canvas, Mask, Paint, tint
from sdmatte.synthetic.layers import Layer
from sdmatte.synthetic.shapes import moved, rounded, skin

_SIGNS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789&?!%#@+*$")
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX,
          cv2.FONT_HERSHEY_SCRIPT_SIMPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX)  # fmt: skip


def glyphs(rng: np.random.Generator, side: int, paint: Paint) -> Layer:
    """Draw a few letters: plain, extruded, or on a board (raised, or cut through it)."""
    canvas = Canvas(rng, side, paint)
    letters = _written(canvas)
    kind = rng.random()
    if kind < 0.35:
        canvas.solid(letters, skin(canvas), roundness=rng.uniform(0.2, 1), bumps=1)
    elif kind < 0.65:
        depth, way = rng.uniform(0.03, 0.12), rng.uniform(0.2, np.pi - 0.2)
        dark = tint(rng, bright=0.6)
        for share in np.linspace(1, 0, 8):
            shift = np.array([[1, 0, np.cos(way)], [0, 1, np.sin(way)]]) * (1, 1, depth * share * canvas.size / 2)
            shifted = cv2.warpAffine(letters, shift, letters.shape[::-1])
            if share:
                canvas.over(np.asarray(shifted, np.uint8), dark * (1 - 0.4 * share))
        canvas.solid(letters, skin(canvas), roundness=0.3)
    else:
        x, y, width, height = cv2.boundingRect(letters)
        unit = 2 / canvas.size
        board = rounded(width * unit / 2 + 0.08, height * unit / 2 + 0.08, rng.uniform(0.01, 0.3))
        plate = canvas.polygon(moved(board, (x + width / 2) * unit - 1, (y + height / 2) * unit - 1).clip(-0.95, 0.95))
        if kind < 0.85:
            canvas.solid(plate - np.minimum(letters, plate), skin(canvas), roundness=0.1)
        else:
            canvas.solid(plate, skin(canvas), roundness=0.1)
            canvas.over(letters, tint(rng))
    return canvas.layer()


def _written(canvas: Canvas) -> Mask:
    """Return the coverage ``(size, size)`` of one to three lines of random letters in a random hand."""
    rng = canvas.rng
    mask = np.zeros((canvas.size, canvas.size), np.uint8)
    font, rows = int(rng.choice(_FONTS)), int(rng.choice([1, 1, 2, 3]))
    long = int(rng.integers(1, 7))
    heavy = rng.uniform(0.3, 1.0) if rng.random() < 0.7 else rng.uniform(0.05, 0.2)
    lines = ["".join(rng.choice(_SIGNS, long)) for _ in range(rows)]
    widest = max(cv2.getTextSize(line, font, 1, 1)[0][0] for line in lines)
    scale = canvas.size * min(0.8 / widest, 0.8 / (rows * 34))
    thick = max(2, round(scale * 6 * heavy))
    for k, line in enumerate(lines):
        (width, _), _ = cv2.getTextSize(line, font, scale, thick)
        foot = canvas.size * 0.5 + (k - (rows - 1) / 2) * 34 * scale + 10 * scale
        spot = (canvas.size - width) // 2, round(foot)
        cv2.putText(mask, line, spot, font, scale, 255, thick, cv2.LINE_AA)
    return mask
