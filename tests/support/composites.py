"""Photographs composed with a known matte, for tests of what a matte tells about itself."""

import cv2
import numpy as np
from skimage import data


def composite(height: int = 192, width: int = 256, edge: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Returns a photograph with a disc of another one in it, ``(h, w, 3)`` uint8, and the disc's exact alpha.

    The disc has a third of the sides as its radius, and `edge` pixels of soft border.
    """
    front, back = (
        cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        for photo in (data.coffee()[:, :, ::-1], data.astronaut())
    )
    y, x = np.mgrid[:height, :width].astype(np.float32)
    distance = np.hypot((x - width / 2), (y - height / 2))
    alpha = np.clip((min(height, width) / 3 - distance) / edge + 0.5, 0, 1).astype(np.float32)
    pixels = alpha[..., None] * front + (1 - alpha[..., None]) * back
    return np.rint(pixels).astype(np.uint8), alpha
