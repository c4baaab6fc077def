"""Perceptual hashes: images that look alike get hashes that differ in few bits."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.quality.image_terms import sampled

_SIDE, _KEPT = 32, 8


def phash(pixels: NDArray[np.uint8]) -> int:
    """Return the 64-bit DCT hash of an image, as a signed integer.

    The image is reduced to 32 x 32 gray pixels; each of the 8 x 8 lowest frequencies of their discrete cosine
    transform gives one bit: whether it is above the median of the 64 (Zauner 2010, 3.2.1; the constant one is among
    them). Equal for the same picture at other sizes and JPEG qualities, but for a few bits. Turned and mirrored
    pictures have other hashes: it is the hash of the *upright* image.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB, upright.
    """
    gray = cv2.cvtColor(np.ascontiguousarray(sampled(pixels)), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    lowest = cv2.dct(small)[:_KEPT, :_KEPT].round(2)  # of plain colours the others are noise, not 0
    bits = np.packbits(lowest > np.median(lowest))
    return int.from_bytes(bits.tobytes(), "big", signed=True)


def hash_distance(first: int, second: int) -> int:
    """Return in how many of the 64 bits two hashes differ."""
    return ((first ^ second) & (2**64 - 1)).bit_count()
