"""Image files written byte by byte, without a library that might think along: the only way to some odd ones."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def encode(image: Image.Image | NDArray[Any], file_format: str, **options: Any) -> bytes:
    """Encode with Pillow."""
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, file_format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, bits: int, color: int, rows: Sequence[bytes], *extra: bytes) -> bytes:
    """A PNG from raw rows (bytes each); extra chunks stand before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return PNG_HEAD + b"".join(chunks)


def tiff(pixels: NDArray[Any], *, order: str = "<", tags: Mapping[int, Sequence[int]] | None = None) -> bytes:
    """An uncompressed TIFF of ``(H, W)`` or ``(H, W, C)`` samples; tags are added or replaced as {tag: values}."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    raw = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    entries = {
        256: (width,), 257: (height,), 258: (pixels.dtype.itemsize * 8,) * channels, 259: (1,),
        262: (1 if channels == 1 else 2,), 273: (8,), 277: (channels,), 278: (height,), 279: (len(raw),), 284: (1,),
    } | dict(tags or {})  # fmt: skip
    directory_at = 8 + len(raw)
    values_at = directory_at + 2 + 12 * len(entries) + 4
    directory, values = struct.pack(order + "H", len(entries)), b""
    for tag, numbers in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        directory += struct.pack(order + "HHI", tag, 4, len(numbers))
        if len(numbers) == 1:
            directory += packed
        else:
            directory += struct.pack(order + "I", values_at + len(values))
            values += packed
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(order + "I", directory_at) + raw + directory + bytes(4) + values


def exif(orientation: int, order: str = ">") -> bytes:
    """An EXIF block that holds an orientation."""
    head = b"MM\0*" if order == ">" else b"II*\0"
    return head + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def gif(width: int, height: int, frame_width: int, frame_height: int, disposal: int = 2) -> bytes:
    """A GIF of a screen and a frame of these sizes, and a few bytes of pixels."""
    control = b"\x21\xf9\x04" + bytes([disposal << 2]) + b"\0\0\0\0"
    frame = b"," + struct.pack("<HHHHB", 0, 0, frame_width, frame_height, 0) + b"\x02\x02\x4c\x01\0"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + control + frame + b";"


def webp(width: int, height: int) -> bytes:
    """The head of a lossless WebP of this size, without pixels."""
    bits = (width - 1) | (height - 1) << 14
    lossless = b"\x2f" + struct.pack("<I", bits) + bytes(60)
    body = b"WEBPVP8L" + struct.pack("<I", len(lossless)) + lossless + bytes(len(lossless) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def segment(marker: int, content: bytes) -> bytes:
    """One segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def bmp(width: int, height: int, bits: int, compression: int, palette: bytes, pixels: bytes) -> bytes:
    """A Windows bitmap; compression is 0 (none), 1 (RLE8) or 2 (RLE4)."""
    start = 54 + len(palette)
    head = struct.pack("<IHHI", start + len(pixels), 0, 0, start)
    info = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(pixels), 0, 0, len(palette) // 4, 0
    )
    return b"BM" + head + info + palette + pixels
