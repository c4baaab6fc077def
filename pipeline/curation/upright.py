"""Originals as files that any reader shows upright, so that their pixels lie under those of their alphas.

Alphas belong to the upright 8-bit RGB image that :func:`sdmatte.images.decode_image` makes. Readers who just open a
file see something else where it is to be turned by its EXIF orientation, is animated, has an alpha, a palette, 16 bits
or CMYK.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdmatte.images import ImageInfo, decode_image, probe_image

JPEG_QUALITY = 95
"""Of JPEGs that have to be encoded again; without subsampling of colours."""

_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_ORIENTATION = 0x0112


@dataclass(frozen=True, eq=False)
class Upright:
    """An image file that every reader shows as the pipeline saw it.

    Attributes:
        data: Its bytes: the original ones, or encoded again.
        suffix: ``jpg``, ``png`` or ``webp``.
        width: Pixels.
        height: Pixels.
        notes: What decoding did (:mod:`sdmatte.images`), and ``reencoded_jpeg`` or ``reencoded_png``; the latter
            loses nothing but what the other notes say.
        pixels: ``(H, W, 3)`` uint8 RGB, where asked for.
    """

    data: bytes
    suffix: str
    width: int
    height: int
    notes: tuple[str, ...]
    pixels: NDArray[np.uint8] | None


def upright(data: bytes, max_pixels: int, *, pixels: bool = False, file: bool = True) -> Upright:
    """Return an original as a file that needs no turning and no converting.

    An upright 8-bit RGB JPEG, PNG or WebP is kept, byte for byte, with its metadata. Other JPEGs become JPEGs of
    quality 95, everything else becomes PNG.

    Args:
        data: The original's bytes.
        max_pixels: Limit on width x height.
        pixels: Whether they are needed, too.
        file: Whether the file is needed; if not, `data` is the original's.

    Raises:
        ImageError: It can't be decoded.
    """
    info = probe_image(data, max_pixels=max_pixels)
    decoded = decode_image(data, max_pixels=max_pixels)
    wanted = decoded.pixels if pixels else None
    if not file or _is_plain(data, info):
        suffix = _SUFFIXES.get(info.format, info.format.lower())
        return Upright(data, suffix, info.width, info.height, info.notes, wanted)
    target = "JPEG" if info.format == "JPEG" else "PNG"
    buffer = io.BytesIO()
    options = {"quality": JPEG_QUALITY, "subsampling": 0} if target == "JPEG" else {}
    Image.fromarray(decoded.pixels).save(buffer, target, **options)
    notes = (*info.notes, f"reencoded_{target.lower()}")
    return Upright(buffer.getvalue(), _SUFFIXES[target], info.width, info.height, notes, wanted)


def _is_plain(data: bytes, info: ImageInfo) -> bool:
    """Tell whether readers that know nothing of this project see the same pixels at the same place."""
    if info.notes or info.format not in _SUFFIXES:
        return False
    try:
        # Pillow's own view, as `datasets` and most others have it: it finds an orientation in XMP, too.
        with Image.open(io.BytesIO(data), formats=[info.format, "MPO"]) as image:
            turned = image.getexif().get(_ORIENTATION, 1) not in (None, 1)
            return image.mode == "RGB" and not turned and image.size == (info.width, info.height)
    except Exception:  # noqa: BLE001 - of metadata alone: the pixels were decoded already
        return False
