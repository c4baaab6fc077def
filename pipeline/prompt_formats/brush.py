"""Label Studio's run lengths of brush strokes: those of the rle-pack package, over the bytes of an RGBA image.

A stream of bits, most significant first: 32 for the number of values, 5 for the bits of a value less one, four times
4 for the bits of a length less one. Then runs: one bit that says whether a value repeats, two that choose one of the
four sizes, the length less one in so many bits, and the value, or so many values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.prompt_formats.base import malformed

_DAMAGED = "the brush's run lengths are damaged; export them again"


class _Bits:
    """Reads a stream of bits."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, count: int) -> int:
        stop = self._at + count
        if stop > len(self._data) * 8:
            raise malformed(f"{_DAMAGED} (they end too early)")
        window = int.from_bytes(self._data[self._at // 8 : -(-stop // 8)], "big")
        self._at = stop
        return (window >> (-stop % 8)) & ((1 << count) - 1)

    def octets(self, count: int) -> NDArray[np.uint8]:
        """Return numbers of eight bits each."""
        first, shift = divmod(self._at, 8)
        self._at += 8 * count
        if self._at > len(self._data) * 8:
            raise malformed(f"{_DAMAGED} (they end too early)")
        window = np.frombuffer(self._data, np.uint8, -(-self._at // 8) - first, first)
        if not shift:
            return window
        return ((window[:-1] << shift) | (window[1:] >> (8 - shift))).astype(np.uint8)


def decode_brush(rle: object, width: int, height: int) -> NDArray[np.bool_]:
    """Decode a brush's ``rle``; inside is what it covers at least by half.

    Args:
        rle: List of numbers from 0 to 255.
        width: Of the image it was drawn on, pixels.
        height: Of the same.

    Returns:
        ``(H, W)`` booleans.

    Raises:
        BadInputError: ``prompt_malformed``.
    """
    try:
        data = bytes(rle if isinstance(rle, list) else [None])  # type: ignore[list-item]
    except (TypeError, ValueError, OverflowError):
        raise malformed("a brush's rle must be a list of numbers from 0 to 255") from None
    bits = _Bits(data)
    total, word = bits.number(32), bits.number(5) + 1
    sizes = [bits.number(4) + 1 for _ in range(4)]
    if total != width * height * 4 or word != 8:
        raise malformed(
            f"the brush's run lengths stand for {total} values of {word} bits, not for the RGBA values of "
            f"{width} x {height} pixels"
        )
    alpha = np.zeros(width * height, np.uint8)
    at = 0
    while at < total:
        repeats = bits.number(1)
        length = bits.number(sizes[bits.number(2)]) + 1
        stop = at + length
        if stop > total:
            raise malformed(f"{_DAMAGED} (they go on beyond the image)")
        # Every fourth value is an alpha: those from `at` on begin with pixel at // 4.
        if repeats:
            alpha[at // 4 : stop // 4] = bits.number(8)
        else:
            alpha[at // 4 : stop // 4] = bits.octets(length)[3 - at % 4 :: 4]
        at = stop
    return (alpha >= 128).reshape(height, width)
