"""True alphas and trimaps, read from the files of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BadInputError, ErrorCode
from pipeline.evaluation.datasets import Case
from pipeline.masks import decode_png
from sdmatte.errors import ImageError
from sdmatte.images import decode_image
from sdmatte.metrics import UNKNOWN

BAND = 25
"""Diameter of the ellipse that a derived trimap's known regions are eroded with (unit: pixel)."""

_PNG = b"\x89PNG"


def read_alpha(path: Path) -> NDArray[np.float32]:
    """Read a true alpha.

    Of a PNG with several channels its alpha counts, or, if that is opaque throughout, its brightest colour.

    Returns:
        `(H, W)` in [0, 1].

    Raises:
        BadInputError: The file is missing, damaged, or no image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInputError(ErrorCode.IMAGE_MISSING, f"can't be read ({error.strerror})") from None
    if not data.startswith(_PNG):
        try:
            return np.asarray(decode_image(data).pixels.max(axis=2), np.float32) / np.float32(255)
        except ImageError as error:
            raise BadInputError(ErrorCode(error.code), str(error)) from None
    try:
        pixels: NDArray[Any] = decode_png(data)
    except BadInputError as error:
        raise BadInputError(ErrorCode.IMAGE_CORRUPT, str(error).replace("the mask's PNG", "this PNG")) from None
    if pixels.dtype == np.bool_:
        return pixels.astype(np.float32)
    return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)


def read_trimap(path: Path) -> NDArray[np.uint8]:
    """Read a trimap.

    Returns:
        `(H, W)`: 0 background, 255 foreground, 128 whatever lies between.

    Raises:
        BadInputError: The file is missing, damaged, or no image.
    """
    levels = read_alpha(path)
    return np.where(levels <= 0, 0, np.where(levels >= 1, 255, UNKNOWN)).astype(np.uint8)


def derive_trimap(alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Make a trimap from a true alpha: unknown is what is not fully one or the other, and :data:`BAND` around it.

    Args:
        alpha: `(H, W)` in [0, 1].

    Returns:
        `(H, W)`: 0 background, 255 foreground, 128 unknown.
    """
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (BAND, BAND))
    trimap = np.full(alpha.shape, UNKNOWN, np.uint8)
    for level, known in ((0, alpha <= 0), (255, alpha >= 1)):
        trimap[cv2.erode(known.astype(np.uint8), disc) > 0] = level
    return trimap


def trimap_of(case: Case, alpha: NDArray[np.float32]) -> tuple[NDArray[np.uint8] | None, str]:
    """Return the trimap of a case and where it is from.

    Args:
        case: The case.
        alpha: Its true alpha.

    Returns:
        The trimap, None where nothing is unknown; and `file`, `derived` or (for None) `none`.
    """
    trimap, source = None, "derived"
    if case.trimap is not None:
        try:
            trimap, source = read_trimap(case.trimap), "file"
        except BadInputError:
            trimap = None  # named among the faults when the prompts were derived
    if trimap is None or trimap.shape != alpha.shape:
        trimap, source = derive_trimap(alpha), "derived"
    return (trimap, source) if (trimap == UNKNOWN).any() else (None, "none")
