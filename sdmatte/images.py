"""Image files as upright 8-bit RGB, whatever they were: the only way in for pixels that others made.

What comes out is what a person sees in a browser: turned upright by its EXIF orientation, alpha over white, the first
frame of an animation. Sample values are taken as sRGB; colour profiles are not applied (neither does the reference
implementation), and CMYK is converted without one. What was changed on the way is listed in ``notes``:

``first_frame``
    An animation or a file of several pages; only the first one is used.
``exif_rotated``
    Turned or mirrored as its EXIF (or TIFF) orientation asks.
``converted_cmyk``
    CMYK or YCCK converted to RGB.
``reduced_16bit``
    More than 8 bits per sample, rounded to 8.
``flattened_alpha``
    Has an alpha channel or a transparent colour; was put over white.
``scaled_decode``
    A JPEG much larger than was asked for, decoded at a half, a quarter or an eighth of its size.

Codes of the :class:`~sdmatte.errors.ImageError` raised here:

``image_missing``
    There is no file at this path, or it can't be read.
``image_empty``
    No bytes, or an array without pixels.
``image_unsupported``
    No image, or one of a format, sample type or array type that is not handled.
``image_corrupt``
    Damaged: the decoder gave up, or a checksum is wrong.
``image_truncated``
    Its end is missing. Nothing is ever padded.
``image_too_large``
    More pixels than allowed, by its header; nothing of it was decoded.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from sdmatte.errors import ImageError, SDMatteError
from sdmatte.image_headers import (
    Format,
    canvas_size,
    damage,
    describe_foreign,
    exif_orientation,
    sniff_format,
)
from sdmatte.image_samples import is_deep, is_uncommon_ppm, read_deep, read_ppm, reduce_integers, to_rgb
from sdmatte.png_chunks import png_exif, without_texts
from sdmatte.scaled import shrink

MAX_PIXELS = 178_956_970
"""Default limit on width x height: what Pillow refuses by default. Decoding so many takes about 2 GB."""

_OPENERS: dict[Format, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "GIF": GifImageFile,
    "PPM": PpmImageFile,
}

_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS = 256, 257, 258
_TIFF_ORIENTATION, _TIFF_PLANAR, _TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 274, 284, 322, 323
_TURNED = (5, 6, 7, 8)  # orientations that swap width and height


@dataclass(frozen=True)
class ImageInfo:
    """What an image file's header says.

    Attributes:
        width: Of the upright image, pixels.
        height: Of the upright image, pixels.
        format: ``"JPEG"``, ``"PNG"``, ``"WEBP"``, ``"BMP"``, ``"TIFF"``, ``"GIF"`` or ``"PPM"``; MPO counts as JPEG.
        notes: What decoding will change, see :mod:`sdmatte.images`.
        orientation: EXIF orientation (or the TIFF tag) that decoding undoes, 2 to 8; 1 where the file is stored
            upright.
    """

    width: int
    height: int
    format: Format
    notes: tuple[str, ...]
    orientation: int = 1


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """An image, decoded.

    Attributes:
        pixels: ``(H, W, 3)`` uint8, RGB, upright, C-contiguous.
        notes: What was changed on the way, see :mod:`sdmatte.images`.
        width: Of the upright image at its full size, pixels; that of ``pixels`` unless it was decoded smaller.
        height: Likewise.
    """

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...]
    width: int
    height: int


def probe_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Read an image file's header, and no pixels.

    Args:
        data: The file's bytes.
        max_pixels: Limit on width x height.

    Returns:
        Size, format and notes. For bytes that decode, the notes and the size are those of :func:`decode_image`, but
        for ``scaled_decode``.

    Raises:
        ImageError: Any code but ``image_missing``; damage behind the header is not noticed.
    """
    return _open(data, max_pixels)[0]


def decode_image(
    source: bytes | str | Path | Image.Image | NDArray[np.uint8],
    *,
    max_pixels: int = MAX_PIXELS,
    enough: int | None = None,
) -> DecodedImage:
    """Decode an image completely, to upright RGB.

    JPEGs have no checksum, and their decoder repairs what it can without a word. Not noticed are a missing rest that
    was sealed with an end marker, and damage in the middle: other bytes than zeros, and zeros that are legal under
    the file's own tables (see :mod:`sdmatte.jpeg_scans`; most holes in JPEGs with the tables of the standard are
    found, and most in optimised and progressive ones are not).

    Args:
        source: The bytes of a file, a path, a Pillow image (its current frame; its EXIF orientation is applied), or
            an ``(H, W, 3)`` uint8 RGB array, which is returned as it is, not copied, if it is contiguous.
        max_pixels: Limit on width x height, checked against the header before anything is decoded.
        enough: Shorter side that serves, pixels. JPEG files of which a half, a quarter or an eighth is as large are
            decoded at that size, rounded up (:mod:`sdmatte.scaled`); everything else, and by default, at full size.

    Returns:
        Pixels, notes, and the full size.

    Raises:
        ImageError: With a code of :mod:`sdmatte.images`. No other exception leaves for any bytes.
        SDMatteError: Pillow was told, in this process, to accept truncated files.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return _from_pillow(source, max_pixels)
    if isinstance(source, str | Path):
        try:
            return _from_bytes(_read(source), max_pixels, enough)
        except ImageError as error:
            raise ImageError(error.code, f"{source}: {error}") from error
    if isinstance(source, bytes):
        return _from_bytes(source, max_pixels, enough)
    raise ImageError(
        "image_unsupported",
        f"expected bytes, a path, a Pillow image or a uint8 array, got {type(source).__name__}",
    )


# --- sources ---------------------------------------------------------------------------------------------------------


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError("image_missing", f"can't read this file ({reason}); check the path") from error


def _from_array(pixels: NDArray[Any], max_pixels: int) -> DecodedImage:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ImageError(
            "image_unsupported",
            f"expected an (H, W, 3) uint8 RGB array, got {pixels.dtype} {pixels.shape}; convert it first",
        )
    if pixels.size == 0:
        raise ImageError("image_empty", f"the array has no pixels: its shape is {pixels.shape}")
    _check_size(pixels.shape[1], pixels.shape[0], max_pixels)
    return DecodedImage(np.ascontiguousarray(pixels), (), pixels.shape[1], pixels.shape[0])


def _from_pillow(img: Image.Image, max_pixels: int) -> DecodedImage:
    if 0 in img.size:
        raise ImageError("image_empty", f"the image has no pixels: its size is {img.size}")
    _check_size(*img.size, max_pixels)
    with _only_image_errors():
        _check_pillow()
        img.load()
        orientation = img.getexif().get(_TIFF_ORIENTATION, 1)
        orientation = orientation if orientation in range(2, 9) else 1
        notes = _notes(img, first_frame=False, turned=orientation != 1, deep=img.mode.startswith("I"))
        if img.mode.startswith("I"):
            img = reduce_integers(img)
        pixels = to_rgb(img, orientation)
        return DecodedImage(pixels, notes, pixels.shape[1], pixels.shape[0])


def _from_bytes(data: bytes, max_pixels: int, enough: int | None) -> DecodedImage:
    info, img, orientation = _open(data, max_pixels)
    with _only_image_errors(img.fp):
        _check_damage(data, info.format)
        divisor = 1 if enough is None else shrink(img, data, enough)
        pixels: Image.Image = img
        if is_uncommon_ppm(img):
            pixels = read_ppm(img, data)
        elif "reduced_16bit" in info.notes:
            pixels = read_deep(img, data)
        upright = to_rgb(pixels, orientation)
    if upright.shape[:2] != (-(-info.height // divisor), -(-info.width // divisor)):
        raise ImageError("image_corrupt", f"this {info.format} file's pixels don't have the size its header says")
    notes = info.notes if divisor == 1 else (*info.notes, "scaled_decode")
    return DecodedImage(upright, notes, info.width, info.height)


# --- headers ---------------------------------------------------------------------------------------------------------


def _open(data: bytes, max_pixels: int) -> tuple[ImageInfo, ImageFile.ImageFile, int]:
    """Return the header's content, Pillow's image (no pixels decoded), and the orientation left to apply."""
    if not data:
        raise ImageError("image_empty", "no bytes: the file is empty; fetch it again")
    file_format = sniff_format(data)
    if file_format is None:
        raise ImageError(
            "image_unsupported",
            f"no image of an allowed format ({', '.join(_OPENERS)}), but {describe_foreign(data)}; convert it first",
        )
    if canvas := canvas_size(data, file_format):
        _check_size(*canvas, max_pixels)
    if file_format == "WEBP":  # parsed whole while it is opened
        _check_damage(data, file_format)
    reader = _Reader(without_texts(data) if file_format == "PNG" else data)
    with _only_image_errors(reader):
        _check_pillow()
        img = _OPENERS[file_format](reader)
        if isinstance(img, TiffImageFile):
            size, orientation = _check_tiff(img, max_pixels)
        else:
            exif = img.info.get("exif") or (png_exif(data) if file_format == "PNG" else None)
            size, orientation = img.size, exif_orientation(exif) if isinstance(exif, bytes) else 1
        _check_size(*size, max_pixels)
        if img.mode == "F":
            raise ImageError("image_unsupported", "floating-point samples; convert them to 8 or 16 bits first")
        notes = _notes(
            img,
            first_frame=bool(getattr(img, "is_animated", False)),
            turned=orientation != 1,
            deep=is_deep(img, data),
        )
    width, height = size if orientation not in _TURNED else (size[1], size[0])
    # Pillow turns TIFFs itself while it loads them.
    info = ImageInfo(width, height, file_format, notes, orientation)
    return info, img, 1 if file_format == "TIFF" else orientation


def _check_tiff(img: TiffImageFile, max_pixels: int) -> tuple[tuple[int, int], int]:
    """Return size (as stored) and orientation of a TIFF; refuse what Pillow can't decode, or decodes wrongly."""
    tags = img.tag_v2
    tile = tags.get(_TIFF_TILE_WIDTH, 1), tags.get(_TIFF_TILE_LENGTH, 1)
    if tile[0] * tile[1] > max_pixels:  # a tile is decoded whole, however small the image
        raise ImageError("image_too_large", f"tiles of {tile[0]} x {tile[1]} pixels; at most {max_pixels} are allowed")
    bits = max(tags.get(_TIFF_BITS, (1,)))
    if img.mode in ("I", "LAB") or (bits > 8 and tags.get(_TIFF_PLANAR, 1) != 1):
        raise ImageError(
            "image_unsupported",
            "a TIFF of signed, 32-bit, L*a*b* or planar 16-bit samples; save it as 8- or 16-bit RGB first",
        )
    orientation = tags.get(_TIFF_ORIENTATION, 1)
    return (tags[_TIFF_WIDTH], tags[_TIFF_HEIGHT]), orientation if orientation in range(2, 9) else 1


def _notes(img: Image.Image, *, first_frame: bool, turned: bool, deep: bool) -> tuple[str, ...]:
    applies = {
        "first_frame": first_frame,
        "exif_rotated": turned,
        "converted_cmyk": img.mode == "CMYK",
        "reduced_16bit": deep,
        "flattened_alpha": img.has_transparency_data,
    }
    return tuple(note for note, holds in applies.items() if holds)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            "image_too_large",
            f"{width} x {height} pixels; at most {max_pixels} are allowed: make it smaller, or raise max_pixels",
        )


def _check_damage(data: bytes, file_format: Format) -> None:
    match damage(data, file_format):
        case "truncated":
            raise ImageError("image_truncated", f"this {file_format} file ends too early; fetch it again")
        case "corrupt":
            raise ImageError("image_corrupt", f"this {file_format} file's pixels are damaged; fetch it again")


def _check_pillow() -> None:
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise SDMatteError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on in this process: truncated photos would be filled with gray. "
            "Find what sets it, and set it to False"
        )


# --- errors ----------------------------------------------------------------------------------------------------------


class _Reader(io.BytesIO):
    """A file in memory that remembers whether more was asked of it than it has."""

    ran_out = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        # Pixels are read in blocks of 64 KiB: the last one is short in every file.
        if size is not None and len(data) < size and (not data or size < ImageFile.MAXBLOCK):
            self.ran_out = True
        return data


@contextmanager
def _only_image_errors(reader: object = None) -> Iterator[None]:
    """Turn whatever Pillow raises over damaged bytes, which is nearly anything, into an ImageError."""
    try:
        yield
    except SDMatteError:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise ImageError("image_too_large", f"does not fit into memory, or into Pillow's limits: {error}") from error
    except Exception as error:
        raise _blame(str(error), ran_out=getattr(reader, "ran_out", False)) from error


def _blame(message: str, *, ran_out: bool) -> ImageError:
    lower = message.lower()
    if any(words in lower for words in ("unknown pixel mode", "unsupported", "not supported", "cannot handle")):
        return ImageError("image_unsupported", f"a variant that can't be decoded ({message}); convert it first")
    if ran_out or any(words in lower for words in ("truncated", "eof", "not enough image data", "cannot load this")):
        return ImageError("image_truncated", f"the file ends too early ({message}); fetch it again")
    return ImageError("image_corrupt", f"the file is damaged ({message}); fetch it again")
