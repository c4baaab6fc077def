"""Originals as files that any reader shows upright, so that their pixels lie under those of their alphas.

Alphas belong to the upright 8-bit RGB image that :func:`sdmatte.images.decode_image` makes. Readers who just open a
file see something else where it is to be turned by its EXIF orientation, is animated, has an alpha, a palette, 16 bits
or CMYK.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import BadInputError, ErrorCode
from sdmatte.images import ImageInfo, decode_image, probe_image
from sdmatte.urls import redact

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
        sha256: Of the original's bytes, hexadecimal.
    """

    data: bytes
    suffix: str
    width: int
    height: int
    notes: tuple[str, ...]
    pixels: NDArray[np.uint8] | None
    sha256: str

    def check_unchanged(self, record: Mapping[str, Any]) -> None:
        """Refuse an original that isn't any more the file that a record's alpha was made of.

        Args:
            record: With `image_sha256`, `image_width`, `image_height` and `image_uri`; what is null isn't compared.

        Raises:
            BadInputError: ``image_corrupt``: its bytes are others; ``prompt_frame_mismatch``: its size is another.
        """
        name = redact(record["image_uri"] or "the image")
        size = (record["image_width"] or self.width, record["image_height"] or self.height)
        if size != (self.width, self.height):
            raise BadInputError(
                ErrorCode.PROMPT_FRAME_MISMATCH,
                f"{name} has {self.width} x {self.height} pixels now, its record {size[0]} x {size[1]}: it has "
                "changed since; label it again",
            )
        if record["image_sha256"] not in (None, self.sha256):
            raise BadInputError(
                ErrorCode.IMAGE_CORRUPT,
                f"{name} has changed since its alpha was made (SHA-256): label it again",
            )


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
    sha256 = hashlib.sha256(data).hexdigest()
    if not file or _is_plain(data, info):
        suffix = _SUFFIXES.get(info.format, info.format.lower())
        return Upright(data, suffix, info.width, info.height, info.notes, wanted, sha256)
    target = "JPEG" if info.format == "JPEG" else "PNG"
    buffer = io.BytesIO()
    options = {"quality": JPEG_QUALITY, "subsampling": 0} if target == "JPEG" else {}
    Image.fromarray(decoded.pixels).save(buffer, target, **options)
    notes = (*info.notes, f"reencoded_{target.lower()}")
    return Upright(buffer.getvalue(), _SUFFIXES[target], info.width, info.height, notes, wanted, sha256)


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
