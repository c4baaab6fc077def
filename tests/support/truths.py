"""Tiny data sets with true alphas, laid out as the public ones."""

from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 60, 40


def disc(radius: float = 12, x: float = 28, y: float = 20, soft: float = 3) -> np.ndarray:
    """A soft disc as an 8-bit alpha."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(columns - x, rows - y)
    return np.rint(255 * np.clip((radius - distance) / soft + 0.5, 0, 1)).astype(np.uint8)


def write_gray(path: Path, levels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).save(path)


def write_photo(path: Path, alpha: np.ndarray, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    """A bright object on a gradient, of another size where it is to be wrong."""
    ramp = np.linspace(0, 120, WIDTH)[None, :, None] * np.ones((HEIGHT, 1, 3))
    share = alpha[..., None] / 255
    pixels = share * np.array([250, 220, 40]) + (1 - share) * ramp
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).resize(size).save(path, quality=95)


def write_object(root: Path, key: str, image: str = "image", alpha: str = "alpha", trimap: str | None = None) -> None:
    """One photograph with its alpha and, if its folder is given, a trimap."""
    levels = disc()
    write_photo(root / image / f"{key}.jpg", levels)
    write_gray(root / alpha / f"{key}.png", levels)
    if trimap:
        known = np.where(levels == 0, 0, np.where(levels == 255, 255, 128)).astype(np.uint8)
        write_gray(root / trimap / f"{key}.png", known)
