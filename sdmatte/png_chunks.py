"""The chunks of a PNG file, read without a decoder (PNG specification, third edition)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

_TEXTS = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_CHUNK = 2**20


class PngChunk(NamedTuple):
    """One chunk of a PNG file.

    Attributes:
        kind: Four letters, such as ``b"IDAT"``.
        start: Offset of its content in the file, bytes.
        end: Offset behind its content, where its checksum stands; may lie behind the end of a truncated file.
    """

    kind: bytes
    start: int
    end: int


def png_chunks(data: bytes) -> Iterator[PngChunk]:
    """Walk over the chunks of a PNG file up to and including IEND, or up to the end of the data."""
    position = 8
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        chunk = PngChunk(data[position + 4 : position + 8], position + 8, position + 8 + length)
        yield chunk
        if chunk.kind == b"IEND":
            return
        position = chunk.end + 4


def png_exif(data: bytes) -> bytes | None:
    """Return the content of a PNG's eXIf chunk, wherever it stands: some tools append it behind the pixels."""
    for chunk in png_chunks(data):
        if chunk.kind == b"eXIf":
            return data[chunk.start : chunk.end]
    return None


def without_texts(data: bytes) -> bytes:
    """Return a PNG without comments and colour profile, which say nothing about its pixels as they are used here.

    Pillow unpacks them while it opens a file, and gives up on the file where they are large: on bombs, but also on the
    metadata that editors write.
    """
    chunks = list(png_chunks(data))
    if not any(chunk.kind in _TEXTS for chunk in chunks):
        return data
    kept = [data[:8], *(data[chunk.start - 8 : chunk.end + 4] for chunk in chunks if chunk.kind not in _TEXTS)]
    return b"".join(kept)


def lacks_rows(data: bytes) -> bool:
    """Tell whether the packed pixels of a PNG come to their end before the last row; Pillow leaves the rest black.

    Unpacks them, a megabyte at a time, and no more than there should be.
    """
    header = next(iter(png_chunks(data)), None)
    if header is None or header.kind != b"IHDR" or header.end - header.start < 13:
        return False
    content = data[header.start : header.end]
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (0, 4))
    bits = content[8] * _SAMPLES.get(content[9], 0)
    left = _raw_bytes(width, height, bits, interlaced=bool(content[12]))
    unpacker = zlib.decompressobj()
    try:
        for chunk in png_chunks(data):
            packed = data[chunk.start : chunk.end] if chunk.kind == b"IDAT" else b""
            while packed and left > 0 and not unpacker.eof:
                left -= len(unpacker.decompress(packed, _CHUNK))
                packed = unpacker.unconsumed_tail
    except zlib.error:
        return False  # Pillow notices that
    return left > 0 and unpacker.eof


def _raw_bytes(width: int, height: int, bits: int, *, interlaced: bool) -> int:
    """Return how many bytes the filtered rows of an image take (sections 7.2 and 8.1)."""
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    total = 0
    for left, top, right, down in passes:
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total
