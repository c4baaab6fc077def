"""Label Studio's run lengths of brush strokes: those of the rle-pack package, over the bytes of an RGBA image.

The mask is in the alphas, with all its 256 levels; the other three channels repeat it, as Label Studio and its SDK
write it, and count for nothing.

A stream of bits, most significant first: 32 for the number of values, 5 for the bits of a value less one, four times
4 for the bits of a length less one. Then runs: one bit that says whether a value repeats, two that choose one of the
four sizes, the length less one in so many bits, and the value, or so many values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.prompt_formats.base import malformed

_SIZES = (3, 4, 8, 16)
_LONGEST = 2 ** _SIZES[-1]
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

    def run(self, sizes: list[int]) -> tuple[int, int, int]:
        """Return whether a value repeats, the length, and the value if it does; soft masks have millions of runs."""
        first = self._at >> 3
        # 3 + 16 + 8 bits at most; past the end there are zeros, which `number` and `octets` would refuse.
        window = int.from_bytes(self._data[first : first + 5].ljust(5, b"\0"), "big")
        left = 40 - (self._at & 7) - 3
        kind = window >> left
        size = sizes[kind & 3]
        left -= size
        length = ((window >> left) & ((1 << size) - 1)) + 1
        repeats = (kind >> 2) & 1
        left -= 8 * repeats
        self._at = (first << 3) + 40 - left
        if self._at > len(self._data) * 8:
            raise malformed(f"{_DAMAGED} (they end too early)")
        return repeats, length, (window >> left) & 255

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


def decode_levels(rle: object, width: int, height: int) -> NDArray[np.uint8]:
    """Decode a brush's ``rle`` with all its levels.

    Args:
        rle: List of numbers from 0 to 255.
        width: Of the image it was drawn on, pixels. Nothing larger than this is laid out.
        height: Of the same.

    Returns:
        ``(H, W)`` uint8, 0 to 255.

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
        repeats, length, value = bits.run(sizes)
        stop = at + length
        if stop > total:
            raise malformed(f"{_DAMAGED} (they go on beyond the image)")
        # Every fourth value is an alpha: those from `at` on begin with pixel at // 4.
        alpha[at // 4 : stop // 4] = value if repeats else bits.octets(length)[3 - at % 4 :: 4]
        at = stop
    return alpha.reshape(height, width)


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
    return decode_levels(rle, width, height) >= 128


def encode_levels(mask: NDArray[np.uint8]) -> list[int]:
    """Encode a soft mask as a brush's ``rle``: the same numbers as ``label_studio_sdk``'s ``mask2rle``, in C's time.

    Args:
        mask: ``(H, W)`` uint8, at least one pixel. Label Studio shows 0 as nothing and 255 as full, so a mask of 0
            and 1 would be invisible.

    Returns:
        Numbers from 0 to 255; :func:`decode_levels` returns `mask` bit for bit.
    """
    levels = mask.ravel()
    starts = np.flatnonzero(np.concatenate(([True], levels[1:] != levels[:-1])))
    lengths = 4 * np.diff(np.append(starts, levels.size))
    # Runs of more values than 16 bits can count are cut into several; the last one holds the rest.
    pieces = -(-lengths // _LONGEST)
    last = np.cumsum(pieces) - 1
    sizes = np.full(int(pieces.sum()), _LONGEST)
    sizes[last] = lengths - (pieces - 1) * _LONGEST
    values = np.repeat(levels[starts], pieces).astype(np.int64)

    which = np.searchsorted([2**size for size in _SIZES], sizes)
    widths = np.array(_SIZES)[which]
    tokens = (((4 | which) << widths | (sizes - 1)) << 8) | values
    header = f"{4 * levels.size:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in _SIZES)
    return _packed(header, tokens, 3 + widths + 8)


def _packed(header: str, tokens: NDArray[np.int64], widths: NDArray[np.int64]) -> list[int]:
    """Write numbers of so many bits each behind a header, and fill up to whole octets."""
    stops = len(header) + np.cumsum(widths)
    total = int(stops[-1])
    bits = np.zeros(total + 8 - total % 8, np.uint8)  # a whole octet of zeros where none is needed, as the SDK does
    bits[: len(header)] = np.frombuffer(header.encode(), np.uint8) - ord("0")
    for place in range(int(widths.max())):
        there = widths > place
        bits[stops[there] - 1 - place] = (tokens[there] >> place) & 1
    octets: list[int] = np.packbits(bits).tolist()
    return octets
