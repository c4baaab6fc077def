"""Rough masks as they stand in prompt files (PNG, COCO run lengths, polygons), decoded to the image's size.

Nothing here trusts its input: sizes are compared with the image's before anything is decoded, run lengths are counted
before they are laid out, so that no prompt can ask for more memory than an image may have.
"""

from __future__ import annotations

import base64
import binascii
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
from pipeline.frames import Fit, Frame, scale_mask, turn_mask
from sdmatte.errors import PromptError
from sdmatte.prompts import Mask

MaskLoader = Callable[[str], bytes]
"""Returns the bytes of the mask file of that name; raises BadInputError, and TransientError while the store fails."""

SizeCheck = Callable[[int, int], None]
"""Is told width and height of a mask before it is decoded; raises BadInputError where they won't do."""

Place = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Brings ``(n, 2)`` points to pixels of the upright image; raises BadInputError where they can't be meant."""

MAX_VERTICES = 100_000
"""Vertices of the polygons of one mask."""

MAX_PIXELS = 2**30
"""Pixels of a PNG where the image's own size isn't at hand; more would take gigabytes."""

ROUNDING = 0.01
"""Pixels by which coordinates may leave the image without a word: fractions are written with a few digits."""

_FORMS = 'a file name, {"png": base64}, {"size": [h, w], "counts": ...} or {"polygon": [[x, y, x, y, ...], ...]}'
_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_CROSSINGS = 10_000_000  # of a mask's polygons with rows of pixels; takes a second
_BAND = 2**21  # pixels that polygons are filled in at a time
_FARTHEST = 1e9  # of a polygon's coordinates; no drawing tool goes there


def decode_mask(
    value: object,
    frame: Frame,
    load_mask: MaskLoader,
    *,
    place: Place | None = None,
    may_fit: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Decode the ``mask`` of a prompt, and bring it to the upright image.

    Args:
        value: As in the native form (docs/prompts.md); bytes are those of a PNG.
        frame: The image, and whether masks belong to it as it is stored.
        load_mask: Fetches mask files.
        place: Brings the vertices of polygons to pixels of the upright image; default: that is what they are. May
            raise BadInputError.
        may_fit: Masks of another size than the image are turned and scaled, if they fit, instead of refused.
        max_pixels: Limit on the size of masks that are scaled.

    Returns:
        ``(H, W)`` booleans with at least one pixel inside, and what was repaired: ``mask_rotated``, ``mask_scaled``,
        ``mask_clipped``.

    Raises:
        BadInputError: ``prompt_malformed``, ``prompt_not_finite``, ``prompt_size_mismatch``, ``prompt_empty_mask``,
            ``prompt_out_of_frame``, or what `load_mask` and `place` raise.
        TransientError: From `load_mask`.
    """
    fit = frame.usual
    repairs: tuple[str, ...] = ()

    def check(width: int, height: int) -> None:
        nonlocal fit, repairs
        fit, repairs = _fit(width, height, frame, may_fit, max_pixels)

    match value:
        case str():
            inside = from_png(load_mask(value), check)
        case bytes():
            inside = from_png(value, check)
        case {"png": str() | bytes() as png, **rest} if not rest:
            inside = from_png(_base64(png) if isinstance(png, str) else png, check)
        case {"size": size, "counts": str() | bytes() | list() as counts, **rest} if not rest:
            inside = from_run_lengths(size, counts, check)
        case {"polygon": list() as polygons, **rest} if not rest:
            inside, repairs = from_polygons(polygons, frame.width, frame.height, place)
            fit = Fit(1, rotated=False, scaled=False)
        case _:
            raise _malformed(f"the mask must be {_FORMS}, got {reprlib.repr(value)}")
    if not inside.any():
        raise BadInputError(ErrorCode.PROMPT_EMPTY_MASK, "the mask has no pixel inside; nothing to matte")
    if fit.orientation != 1:
        inside = turn_mask(inside, fit.orientation)
    if fit.scaled:
        inside = scale_mask(inside, frame.width, frame.height)
    return inside, repairs


def _fit(width: int, height: int, frame: Frame, may_fit: bool, max_pixels: int) -> tuple[Fit, tuple[str, ...]]:
    """Return how a mask of this size fits, and the repairs that takes."""
    if (width, height) == frame.size:
        return frame.usual, ()
    fit = frame.fit(width, height) if may_fit else None
    if fit is not None and width * height <= max_pixels:
        done = {"mask_rotated": fit.rotated, "mask_scaled": fit.scaled}
        return fit, tuple(repair for repair, holds in done.items() if holds)
    image = "the image as it is stored" if frame.stored else "the upright image"
    if fit is not None:
        hint = f"and more than {max_pixels} pixels (input.max_pixels): make it smaller"
    elif (height, width) != frame.size:
        hint = "they must be equal, or in the same ratio"
    elif frame.orientation >= 5:
        hint = "it was probably drawn on the other one of the stored and the upright image: set prompts.orientation"
    else:
        hint = "they must be equal, and the image has no EXIF orientation that would turn it"
    if not may_fit:
        hint += ", or allow repairs by prompts.audit.mask_size"
    raise BadInputError(
        ErrorCode.PROMPT_SIZE_MISMATCH,
        f"the mask has {width} x {height} pixels, {image} {frame.size[0]} x {frame.size[1]}; {hint}",
    )


def encode_mask(inside: NDArray[np.bool_]) -> bytes:
    """Return ``(H, W)`` booleans as a 1-bit PNG."""
    buffer = BytesIO()
    Image.fromarray(inside).save(buffer, "PNG")
    return buffer.getvalue()


def from_png(data: bytes, check: SizeCheck) -> NDArray[np.bool_]:
    """Decode a PNG: inside where its one channel is at least half (non-zero if there are only 0 and 1).

    Args:
        data: Of the file.
        check: Told width and height before anything is decoded; raises where they won't do.

    Returns:
        ``(height, width)`` booleans.

    Raises:
        BadInputError: ``prompt_malformed``, or what `check` raises.
    """
    width, height = _png_size(data)
    check(width, height)
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


def from_run_lengths(size: object, counts: str | bytes | Sequence[object], check: SizeCheck) -> NDArray[np.bool_]:
    """Decode COCO run lengths: runs of outside and inside pixels in turn, column by column.

    Args:
        size: ``[height, width]``.
        counts: The runs as a list, or in COCO's compressed text.
        check: As in :func:`from_png`.

    Returns:
        ``(height, width)`` booleans.

    Raises:
        BadInputError: ``prompt_malformed``, or what `check` raises.
    """
    match size:
        case [int() as height, int() as width]:
            check(width, height)
        case _:
            raise _malformed(f"the size of run lengths must be [height, width], got {reprlib.repr(size)}")
    runs = _uncompressed(counts) if isinstance(counts, str | bytes) else counts
    total = width * height
    lengths = [run for run in runs if isinstance(run, int) and 0 <= run <= total]
    if len(lengths) != len(runs) or sum(lengths) != total:
        raise _malformed(f"the run lengths don't add up to the mask's {width} x {height} pixels, or are no counts")
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


def from_polygons(
    polygons: Sequence[object], width: int, height: int, place: Place | None = None
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Rasterise polygons: inside are the pixels whose centre is inside of any of them (even-odd rule).

    Args:
        polygons: Lists of x, y, x, y, ..., at least three points each.
        width: Of the upright image, pixels.
        height: Of the upright image, pixels.
        place: Brings vertices to pixels of the upright image; default: that is what they are.

    Returns:
        ``(H, W)`` booleans, and ``("mask_clipped",)`` where a polygon leaves the image.

    Raises:
        BadInputError: ``prompt_malformed``, ``prompt_not_finite``, ``prompt_out_of_frame`` where no polygon touches
            the image, or what `place` raises.
    """
    rings = [_ring(polygon) for polygon in polygons]
    if not rings:
        raise _malformed("the list of polygons is empty")
    vertices = np.concatenate(rings)
    if len(vertices) > MAX_VERTICES:
        raise _malformed(f"{len(vertices)} vertices are more than {MAX_VERTICES}; simplify the polygons or give a PNG")
    if not np.isfinite(vertices).all():
        raise BadInputError(ErrorCode.PROMPT_NOT_FINITE, "a polygon has a coordinate that is not a finite number")
    if np.abs(vertices).max() > _FARTHEST:
        raise _malformed(f"a polygon has a vertex beyond {_FARTHEST:g}; correct or drop it")
    if place is not None:
        vertices = place(vertices)
        rings = np.split(vertices, np.cumsum([len(ring) for ring in rings])[:-1])
    if all((ring.max(0) <= 0).any() or (ring.min(0) >= (width, height)).any() for ring in rings):
        raise BadInputError(
            ErrorCode.PROMPT_OUT_OF_FRAME,
            f"the polygons don't touch the upright image of {width} x {height} pixels; "
            "check the image they belong to, and whether they were drawn before EXIF rotation (prompts.orientation)",
        )
    inside = _filled(rings, width, height)
    leaves = bool((vertices < -ROUNDING).any() or (vertices > (width + ROUNDING, height + ROUNDING)).any())
    return inside, ("mask_clipped",) if leaves else ()


def _ring(polygon: object) -> NDArray[np.float64]:
    numbers = polygon if isinstance(polygon, list | tuple) else ()
    usable = all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
    if not usable or len(numbers) < 6 or len(numbers) % 2:
        raise _malformed(
            f"a polygon must be a list x, y, x, y, ... of at least three points, got {reprlib.repr(polygon)}"
        )
    try:
        return np.array(numbers, np.float64).reshape(-1, 2)
    except OverflowError:
        raise BadInputError(ErrorCode.PROMPT_NOT_FINITE, "a polygon has a coordinate beyond all numbers") from None


def _filled(rings: Sequence[NDArray[np.float64]], width: int, height: int) -> NDArray[np.bool_]:
    """Return the pixels whose centre is inside of any ring, each by the even-odd rule."""
    owner = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    x0, y0 = np.concatenate(rings).T
    x1, y1 = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings]).T
    # An edge crosses the centres of the rows from `first` to before `stop`.
    first, stop = (
        np.clip(np.ceil(y - 0.5), 0, height).astype(np.int64) for y in (np.minimum(y0, y1), np.maximum(y0, y1))
    )
    if (stop - first).sum() > _MOST_CROSSINGS:
        raise _malformed("the polygons run up and down too often; simplify them, or give a PNG")
    inside = np.zeros((height, width), bool)
    band = max(_BAND // (width + 1), 1)
    for top in range(int(first.min()), int(stop.max()), band):
        bottom = min(top + band, height)
        begin = np.maximum(first, top)
        counts = np.maximum(np.minimum(stop, bottom) - begin, 0)
        edge = np.repeat(np.arange(len(owner)), counts)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts - begin, counts)
        x = x0[edge] + (row + 0.5 - y0[edge]) * (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
        column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
        cells = (bottom - top) * (width + 1)
        # Sorted by ring, row and column, every other crossing enters the ring, and the next one leaves it.
        order = np.sort(owner[edge] * cells + (row - top) * (width + 1) + column) % cells
        change = np.bincount(order[::2], minlength=cells) - np.bincount(order[1::2], minlength=cells)
        inside[top:bottom] = np.cumsum(change.reshape(-1, width + 1)[:, :width], axis=1) > 0
    return inside


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _malformed("the mask's png is not valid base64") from None


def _malformed(message: str) -> BadInputError:
    return BadInputError(ErrorCode.PROMPT_MALFORMED, message)
