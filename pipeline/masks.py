"""Rough masks as they stand in prompt files (PNG, COCO run lengths, polygons), decoded to the image's size.

Nothing here trusts its input: sizes are compared with the image's before anything is decoded, run lengths are counted
before they are laid out, so that no prompt can ask for more memory than its image.
"""

from __future__ import annotations

import base64
import binascii
import math
import reprlib
import struct
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from pipeline.errors import BadInputError, ErrorCode
from sdmatte.errors import PromptError
from sdmatte.prompts import Mask

MaskLoader = Callable[[str], bytes]
"""Returns the bytes of the mask file of that name; raises BadInputError."""

MAX_VERTICES = 100_000
"""Vertices of the polygons of one mask."""

MAX_PIXELS = 2**30
"""Pixels of a PNG where the image's own size isn't at hand; more would take gigabytes."""

_FORMS = 'a file name, {"png": base64}, {"size": [h, w], "counts": ...} or {"polygon": [[x, y, x, y, ...], ...]}'
_PNG = b"\x89PNG\r\n\x1a\n"
_FARTHEST = 1e9  # pixels from the image; no drawing tool goes there


def decode_mask(
    value: object, width: int, height: int, load_mask: MaskLoader
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Decode the ``mask`` of a prompt.

    Args:
        value: As in the native form (docs/prompts.md); bytes are those of a PNG.
        width: Of the upright image, pixels.
        height: Of the upright image, pixels.
        load_mask: Fetches mask files.

    Returns:
        ``(H, W)`` booleans with at least one pixel inside, and what was repaired: ``mask_clipped``.

    Raises:
        BadInputError: ``prompt_malformed``, ``prompt_size_mismatch``, ``prompt_empty_mask``, ``prompt_out_of_frame``,
            or what `load_mask` raises.
    """
    repairs: tuple[str, ...] = ()
    match value:
        case str():
            inside = from_png(load_mask(value), width, height)
        case bytes():
            inside = from_png(value, width, height)
        case {"png": str() | bytes() as png, **rest} if not rest:
            inside = from_png(_base64(png) if isinstance(png, str) else png, width, height)
        case {"size": size, "counts": str() | bytes() | list() as counts, **rest} if not rest:
            inside = from_run_lengths(size, counts, width, height)
        case {"polygon": list() as polygons, **rest} if not rest:
            inside, repairs = from_polygons(polygons, width, height)
        case _:
            raise _malformed(f"the mask must be {_FORMS}, got {reprlib.repr(value)}")
    if not inside.any():
        raise BadInputError(ErrorCode.PROMPT_EMPTY_MASK, "the mask has no pixel inside; nothing to matte")
    return inside, repairs


def encode_mask(inside: NDArray[np.bool_]) -> bytes:
    """Return ``(H, W)`` booleans as a 1-bit PNG."""
    buffer = BytesIO()
    Image.fromarray(inside).save(buffer, "PNG")
    return buffer.getvalue()


def from_png(data: bytes, width: int, height: int) -> NDArray[np.bool_]:
    """Decode a PNG: inside where its one channel is at least half (non-zero if there are only 0 and 1).

    Raises:
        BadInputError: ``prompt_malformed`` or ``prompt_size_mismatch``.
    """
    _check_size(_png_size(data), width, height)
    try:
        return Mask(decode_png(data, width * height)).binary()
    except PromptError as error:
        raise _malformed(str(error)) from None


def decode_png(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """Decode a PNG to one channel: of several the alpha, or, if that is opaque throughout, the brightest colour.

    Args:
        data: Of the file.
        max_pixels: Limit on width x height, checked against the header before anything is decoded.

    Returns:
        ``(H, W)`` bool, uint8 or uint16.

    Raises:
        BadInputError: ``prompt_malformed``: no PNG, damaged, or too large. No other exception leaves for any bytes.
    """
    width, height = _png_size(data)
    if width * height > max_pixels:
        raise _malformed(
            f"the mask has {width} x {height} pixels, more than the {max_pixels} allowed; make it smaller"
        )
    try:
        with PngImageFile(BytesIO(data)) as image:  # not Image.open: its limit on pixels is not ours
            image.load()
            return _one_channel(image)
    except Exception as error:  # Pillow raises nearly anything over damaged files
        raise _malformed(f"the mask's PNG is damaged ({error}); fetch it again") from error


def _png_size(data: bytes) -> tuple[int, int]:
    """Return width and height, by the header."""
    if not data.startswith(_PNG) or len(data) < 33 or data[12:16] != b"IHDR":
        raise _malformed("the mask is not a PNG; save it as one")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _one_channel(image: Image.Image) -> NDArray[Any]:
    if image.mode in ("1", "L"):
        return np.asarray(image)
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)
    rgba = np.asarray(image.convert("RGBA"))
    alpha = rgba[..., 3]
    return alpha if alpha.min() < 255 else rgba[..., :3].max(axis=2)


def from_run_lengths(
    size: object, counts: str | bytes | Sequence[object], width: int, height: int
) -> NDArray[np.bool_]:
    """Decode COCO run lengths: runs of outside and inside pixels in turn, column by column.

    Args:
        size: ``[height, width]``.
        counts: The runs as a list, or in COCO's compressed text.
        width: Of the upright image, pixels.
        height: Of the upright image, pixels.

    Raises:
        BadInputError: ``prompt_malformed`` or ``prompt_size_mismatch``.
    """
    match size:
        case [int() as rows, int() as columns]:
            _check_size((columns, rows), width, height)
        case _:
            raise _malformed(f"the size of run lengths must be [height, width], got {reprlib.repr(size)}")
    runs = _uncompressed(counts) if isinstance(counts, str | bytes) else counts
    total = width * height
    lengths = [run for run in runs if isinstance(run, int) and 0 <= run <= total]
    if len(lengths) != len(runs) or sum(lengths) != total:
        raise _malformed(
            f"the run lengths don't add up to the {width} x {height} pixels of the image, or are no counts"
        )
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def _uncompressed(text: str | bytes) -> list[int]:
    """Read COCO's compressed run lengths.

    Each number is cut into groups of 5 bits, lowest first, one printable character (from ``0``) per group; bit 5 says
    that another follows, and bit 4 of the last is the sign. From the fourth run on, numbers are differences to the
    run before last.
    """
    runs: list[int] = []
    number = shift = 0
    for code in text if isinstance(text, bytes) else map(ord, text):
        group = code - 48
        if not 0 <= group < 64 or shift > 40:
            raise _malformed("the compressed run lengths are damaged; write them with pycocotools, or as a list")
        number |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            number -= 1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number = shift = 0
    if shift:
        raise _malformed("the compressed run lengths end in the middle of a number; fetch them again")
    return runs


def from_polygons(polygons: Sequence[object], width: int, height: int) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Rasterise polygons: inside are the pixels whose centre is inside of any of them (even-odd rule).

    Args:
        polygons: Lists of x, y, x, y, ... in pixels of the upright image, at least three points each.
        width: Of the upright image, pixels.
        height: Of the upright image, pixels.

    Returns:
        ``(H, W)`` booleans, and ``("mask_clipped",)`` where a polygon leaves the image.

    Raises:
        BadInputError: ``prompt_malformed``, or ``prompt_out_of_frame`` where no polygon touches the image.
    """
    rings = [_ring(polygon) for polygon in polygons]
    if not rings:
        raise _malformed("the list of polygons is empty")
    vertices = np.concatenate(rings)
    if len(vertices) > MAX_VERTICES:
        raise _malformed(f"{len(vertices)} vertices are more than {MAX_VERTICES}; simplify the polygons or give a PNG")
    if all((ring.max(0) <= 0).any() or (ring.min(0) >= (width, height)).any() for ring in rings):
        raise BadInputError(
            ErrorCode.PROMPT_OUT_OF_FRAME,
            f"the polygons don't touch the upright image of {width} x {height} pixels; "
            "check the image they belong to, and whether they were drawn before EXIF rotation",
        )
    inside = np.zeros((height, width), bool)
    for ring in rings:
        _fill(ring, inside)
    leaves = bool((vertices < 0).any() or (vertices > (width, height)).any())
    return inside, ("mask_clipped",) if leaves else ()


def _ring(polygon: object) -> NDArray[np.float64]:
    numbers = polygon if isinstance(polygon, list | tuple) else ()
    usable = all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
    if not usable or len(numbers) < 6 or len(numbers) % 2 or not all(abs(number) <= _FARTHEST for number in numbers):
        raise _malformed(
            f"a polygon must be a list x, y, x, y, ... of at least three points in pixels, got {reprlib.repr(polygon)}"
        )
    return np.array(numbers, np.float64).reshape(-1, 2)


def _fill(ring: NDArray[np.float64], inside: NDArray[np.bool_]) -> None:
    x0, y0 = ring.T
    x1, y1 = np.roll(ring, -1, axis=0).T
    height, width = inside.shape
    top, bottom = max(0, math.ceil(y0.min() - 0.5)), min(height - 1, math.floor(y0.max() - 0.5))
    for row in range(top, bottom + 1):
        y = row + 0.5
        cut = (y0 <= y) != (y1 <= y)
        crossings = np.sort(x0[cut] + (y - y0[cut]) * (x1[cut] - x0[cut]) / (y1[cut] - y0[cut]))
        columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(int)
        for start, stop in columns.reshape(-1, 2):
            inside[row, start:stop] = True


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _malformed("the mask's png is not valid base64") from None


def _check_size(size: tuple[int, int], width: int, height: int) -> None:
    if size != (width, height):
        hint = "; it was probably drawn before EXIF rotation" if size == (height, width) else ""
        raise BadInputError(
            ErrorCode.PROMPT_SIZE_MISMATCH,
            f"the mask has {size[0]} x {size[1]} pixels, the upright image {width} x {height}; "
            f"they must be equal{hint}",
        )


def _malformed(message: str) -> BadInputError:
    return BadInputError(ErrorCode.PROMPT_MALFORMED, message)
