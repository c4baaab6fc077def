"""What the first bytes of an image file say, read without a decoder.

Pillow decides most of this by itself, but not all of it early or strictly enough for files from the open web: its GIF
and WebP readers allocate the canvas while they open a file, its PNG reader skips the checksums of the pixel data, and
a JPEG whose end was overwritten with zeros decodes to gray. Nothing here raises for damaged bytes: it returns what it
could find.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Literal

from sdmatte.jpeg_scans import has_hole
from sdmatte.png_chunks import lacks_rows, png_chunks

Format = Literal["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"]
"""Allowed formats. MPO files (several JPEGs in a row, written by phones) count as JPEG: their first image is used."""

_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
)

_FOREIGN: tuple[tuple[bytes, int, str], ...] = (
    (b"ftypavi", 4, "an AVIF image"),
    (b"ftyphei", 4, "a HEIC image"),
    (b"ftyphev", 4, "a HEIC image"),
    (b"ftypmif1", 4, "a HEIF image"),
    (b"ftyp", 4, "a video"),
    (b"\0\0\0\x0cjP", 0, "a JPEG 2000 image"),
    (b"\0\0\0\x0cJXL", 0, "a JPEG XL image"),
    (b"\xff\x0a", 0, "a JPEG XL image"),
    (b"8BPS", 0, "a Photoshop file"),
    (b"%PDF", 0, "a PDF document"),
    (b"\x76\x2f\x31\x01", 0, "an OpenEXR image"),
    (b"Pf", 0, "a floating-point PFM image"),
    (b"PF", 0, "a floating-point PFM image"),
    (b"PK\x03\x04", 0, "a zip archive"),
    (b"\x1f\x8b", 0, "a gzip file"),
)


def sniff_format(data: bytes) -> Format | None:
    """Return the allowed image format that ``data`` starts like, None for anything else."""
    for magic, name in _MAGIC:
        if data.startswith(magic) and not _is_jpeg_ls(data):
            return name
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace():
        return "PPM"
    return None


def describe_foreign(data: bytes) -> str:
    """Say in a few words what bytes that are no allowed image look like, e.g. ``"an HTML or XML document"``."""
    if _is_jpeg_ls(data):
        return "a JPEG-LS image"
    for magic, offset, name in _FOREIGN:
        if data.startswith(magic, offset):
            return name
    if data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "an HTML, XML or SVG document (often a server's error page)"
    if not data.strip(b"\0"):
        return "nothing but zero bytes"
    return f"unknown data starting with the bytes {data[:8].hex(' ')}"


def canvas_size(data: bytes, file_format: Format) -> tuple[int, int] | None:
    """Return width and height of the canvas that Pillow would allocate while *opening* a GIF or WebP file, pixels.

    Returns:
        None for other formats (Pillow allocates nothing before their pixels are asked for) and damaged headers.
    """
    if file_format == "GIF":
        return _gif_canvas(data)
    if file_format == "WEBP":
        return _webp_canvas(data)
    return None


def _gif_canvas(data: bytes) -> tuple[int, int] | None:
    """Union of the logical screen and the first frame's rectangle, which may stick out of it (GIF89a, 18 and 20)."""
    if len(data) < 13:
        return None
    width, height = _u16(data, 6), _u16(data, 8)
    position = 13 + _color_table_bytes(data[10])
    while position + 10 <= len(data):
        if data[position] == 0x2C:  # image descriptor: left, top, width, height
            left, top, frame_width, frame_height = (_u16(data, position + 1 + 2 * i) for i in range(4))
            return max(width, left + frame_width), max(height, top + frame_height)
        if data[position] == 0x21:  # extension: label, then sub-blocks up to an empty one
            position += 2
            while position < len(data) and data[position]:
                position += 1 + data[position]
        position += 1
    return width, height


def _color_table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Canvas of the first chunk: extended, lossless or lossy (RFC 9649, sections 2.7, 3.4 and 2.5)."""
    if len(data) < 30:
        return None
    match data[12:16]:
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            return _u16(data, 26) & 0x3FFF, _u16(data, 28) & 0x3FFF
        case _:
            return None


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")


def exif_orientation(exif: bytes) -> int:
    """Return the orientation (1 to 8, 1 is upright) that an EXIF block asks for; 1 if it says nothing readable.

    Args:
        exif: A TIFF structure, with or without the ``Exif`` and two zero bytes in front.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order: Literal["little", "big"] = "little" if exif.startswith(b"II") else "big"

    def number(offset: int, size: int) -> int:
        return int.from_bytes(exif[offset : offset + size], order)

    if exif[:2] not in (b"II", b"MM") or number(2, 2) != 42:
        return 1
    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + 12 * number(directory, 2), 12):
        if entry + 12 > len(exif):
            break
        if number(entry, 2) == 0x0112:
            size = {1: 1, 3: 2, 4: 4}.get(number(entry + 2, 2), 2)  # BYTE, SHORT (the standard), LONG
            value = number(entry + 8, size)
            return value if 1 <= value <= 8 else 1
    return 1


def damage(data: bytes, file_format: Format) -> Literal["truncated", "corrupt"] | None:
    """Look for damage that Pillow would decode over without a word.

    Returns:
        ``"truncated"`` if the format's own end is missing (JPEG, PNG, WebP), or rows are (PNG), ``"corrupt"`` if a
        checksum over pixels is wrong (PNG) or zeros stand where pixels were (JPEG, see :mod:`sdmatte.jpeg_scans`),
        None if nothing was found.
    """
    if file_format == "JPEG":
        if not _has_jpeg_end(data):
            return "truncated"
        return "corrupt" if has_hole(data) else None
    if file_format == "WEBP":
        return "truncated" if 8 + int.from_bytes(data[4:8], "little") > len(data) else None
    if file_format == "PNG":
        return _png_damage(data)
    return None


def _jpeg_markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the markers of a JPEG, each with its offset, up to its first scan's (SOS)."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        yield marker, position
        if marker == 0xDA:
            return
        # Fill bytes and the markers without content: TEM and RSTn.
        alone = marker in (0x01, 0xFF) or 0xD0 <= marker <= 0xD7
        position += (
            (1 if marker == 0xFF else 2) if alone else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        )


def jpeg_frame(data: bytes) -> int | None:
    """Return the marker of a JPEG's frame, which names its compression (ITU-T T.81, table B.1); None without one."""
    others = {0xC4, 0xC8, 0xCC}  # tables among the markers of frames
    return next((marker for marker, _ in _jpeg_markers(data) if marker in {*range(0xC0, 0xD0)} - others), None)


def _is_jpeg_ls(data: bytes) -> bool:
    """Tell another compression (ITU-T T.87), whose files begin like a JPEG's, by the marker of its frame."""
    return data.startswith(b"\xff\xd8\xff") and any(marker == 0xF7 for marker, _ in _jpeg_markers(data))


def _has_jpeg_end(data: bytes) -> bool:
    """Tell whether an end marker (EOI) follows the first scan; a thumbnail's, which stands before, doesn't count."""
    scan = max((position for _, position in _jpeg_markers(data)), default=2)
    return data.find(b"\xff\xd9", scan) >= 0


def _png_damage(data: bytes) -> Literal["truncated", "corrupt"] | None:
    view = memoryview(data)
    for kind, start, end in png_chunks(data):
        if end + 4 > len(data):
            return "truncated"
        if kind == b"IEND":
            return "truncated" if lacks_rows(data) else None
        if kind == b"IDAT" and zlib.crc32(view[start - 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return "corrupt"
    return "truncated"
