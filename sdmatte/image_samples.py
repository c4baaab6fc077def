"""Samples of any depth and layout to 8-bit RGB: where Pillow would truncate, clip or turn wrongly, it is done here."""

from __future__ import annotations

import io
import sys
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from sdmatte.errors import ImageError

_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262
_STRIP = 64  # rows


def to_rgb(img: Image.Image, orientation: int) -> NDArray[np.uint8]:
    """Return an 8-bit Pillow image of any mode as upright RGB, alpha over white.

    Args:
        img: The image; its pixels are loaded here if they are not yet.
        orientation: EXIF orientation to undo, 1 (none) to 8.

    Returns:
        ``(H, W, 3)`` uint8, C-contiguous, writable.

    Raises:
        ImageError: ``image_unsupported``: floating-point or L*a*b* samples.
    """
    if img.mode in ("F", "LAB"):
        raise ImageError("image_unsupported", f"an image of Pillow's mode {img.mode}; convert it to RGB first")
    if img.has_transparency_data:
        rgba = (img.convert("LA") if img.mode == "La" else img).convert("RGBA")
        rgb = Image.new("RGB", img.size, (255, 255, 255))
        rgb.paste(rgba, mask=rgba.getchannel("A"))
    else:
        rgb = img if img.mode == "RGB" else img.convert("RGB")  # which would copy even then
    swapped = orientation in (5, 6, 7, 8)
    upright = np.empty((rgb.width, rgb.height, 3) if swapped else (rgb.height, rgb.width, 3), np.uint8)
    as_stored = turn_upright(upright, {6: 8, 8: 6}.get(orientation, orientation))  # the other turns undo themselves
    for top in range(0, rgb.height, _STRIP):  # Pillow's own way to an array needs two copies of the whole
        strip = (0, top, rgb.width, min(top + _STRIP, rgb.height))
        as_stored[top : top + _STRIP] = np.asarray(rgb.crop(strip))
    return upright


def turn_upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo an EXIF orientation (tag 0x0112) of an ``(H, W, ...)`` array; returns a view."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def is_deep(img: ImageFile, data: bytes) -> bool:
    """Tell whether an opened file has more than 8 bits per sample."""
    if isinstance(img, PngImageFile):
        return data[24] == 16  # IHDR's bit depth
    if isinstance(img, TiffImageFile):
        return int(max(img.tag_v2.get(_TIFF_BITS, (1,)))) > 8
    return img.mode == "I" or (is_uncommon_ppm(img) and _ppm_maximum(img) > 255)


def is_uncommon_ppm(img: ImageFile) -> bool:
    """Tell whether an opened file is a binary PGM or PPM whose largest value is not that of 8 or 16 full bits."""
    return bool(img.tile) and img.tile[0][0] == "ppm"


def read_ppm(img: ImageFile, data: bytes) -> Image.Image:
    """Read what :func:`is_uncommon_ppm` found; Pillow would decode it sample by sample in Python.

    Raises:
        ImageError: ``image_truncated``.
    """
    maximum, bands = _ppm_maximum(img), 3 if img.mode == "RGB" else 1
    dtype = np.dtype(">u2" if maximum > 255 else "u1")
    count, offset = img.width * img.height * bands, img.tile[0][2]
    if offset + count * dtype.itemsize > len(data):
        raise ImageError("image_truncated", "this PPM file ends too early; fetch it again")
    values = np.frombuffer(data, dtype, count, offset).reshape(img.height, img.width, bands)
    return _eight_bit(values if bands == 3 else values[..., 0], maximum)


def reduce_integers(img: Image.Image) -> Image.Image:
    """Scale a grayscale image of 16- or 32-bit integers from [0, 65535] to 8 bits.

    Raises:
        ImageError: ``image_unsupported``: a 32-bit sample beyond this range.
    """
    return _eight_bit(_integers(img), key=img.info.get("transparency"))


def read_deep(img: ImageFile, data: bytes) -> Image.Image:
    """Read a file of more than 8 bits per sample as an 8-bit image, rounded where Pillow would truncate.

    Args:
        img: The opened file, see :func:`is_deep`.
        data: Its bytes.

    Raises:
        ImageError: ``image_unsupported``: a 32-bit sample beyond 0 to 65535.
    """
    key = img.info.get("transparency")  # a transparent colour, in 16-bit samples
    if not img.mode.startswith("I"):
        return _eight_bit(_both_bytes(img, data), key=key, mode="CMYK" if img.mode == "CMYK" else None)
    img.load()
    values, maximum = _integers(img), 65535
    if isinstance(img, TiffImageFile):
        maximum = 2 ** int(max(img.tag_v2[_TIFF_BITS])) - 1
        if img.tag_v2.get(_TIFF_PHOTOMETRIC) == 0:  # white is zero; Pillow turns it round for 8 bits only
            values = maximum - values
    return _eight_bit(values, maximum, key=key)


def _eight_bit(
    values: NDArray[Any], maximum: int = 65535, *, key: object = None, mode: str | None = None
) -> Image.Image:
    """Scale samples from [0, maximum] to [0, 255], rounded; make those equal to ``key`` transparent."""
    table = np.rint(np.arange(65536) * (255 / maximum)).clip(max=255).astype(np.uint8)
    reduced = Image.fromarray(table[values], mode)
    if key is not None:
        matches = values == np.asarray(key)
        opaque = ~(matches.all(axis=2) if values.ndim == 3 else matches)
        reduced.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    return reduced


def _integers(img: Image.Image) -> NDArray[Any]:
    values = np.asarray(img)
    if img.mode == "I" and (values.min() < 0 or values.max() > 65535):
        raise ImageError("image_unsupported", "32-bit samples beyond 0 to 65535; convert them to 8 or 16 bits first")
    return values


def _ppm_maximum(img: ImageFile) -> int:
    _rawmode, maximum = cast("tuple[str, int]", img.tile[0][3])
    return maximum


def _both_bytes(img: ImageFile, data: bytes) -> NDArray[np.uint16]:
    """Return the 16-bit samples of a colour image, ``(H, W, C)``.

    Pillow keeps the upper byte of each sample only. Read a second time as if it were of the other byte order, the
    file gives the lower ones.
    """
    arguments = img.tile[0][3]
    rawmode = str(arguments[0] if isinstance(arguments, tuple) else arguments)
    if rawmode == "LA;16B":  # has no twin, but four 8-bit channels are the same bytes
        quads = np.asarray(_reopened(img, data, "RGBA")).astype(np.uint16)
        gray, alpha = quads[..., 0] << 8 | quads[..., 1], quads[..., 2] << 8 | quads[..., 3]
        return np.stack([gray, gray, gray, alpha], axis=-1)
    upper = np.asarray(img).astype(np.uint16)
    if rawmode.startswith("RGBa"):  # premultiplied: Pillow divides the upper bytes by alpha; exact to one level
        return cast("NDArray[np.uint16]", upper * np.uint16(257))
    twin = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[rawmode[-1]]
    lower = np.asarray(_reopened(img, data, rawmode[:-1] + twin)).astype(np.uint16)
    return cast("NDArray[np.uint16]", upper << 8 | lower)


def _reopened(img: ImageFile, data: bytes, rawmode: str) -> ImageFile:
    """Open the file once more, with its samples laid out as ``rawmode``."""
    again = type(img)(io.BytesIO(data))
    again.tile = [
        tile._replace(args=(rawmode, *tile[3][1:]) if isinstance(tile[3], tuple) else rawmode) for tile in again.tile
    ]
    return again
