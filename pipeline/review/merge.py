"""Corrections into alphas: what a reviewer edited is taken, and everything else stays bit for bit as it was.

A tool knows 8 bits at most, and binary tools one. So what came back is never taken for the alpha; it is compared with
what was shown, and only pixels that differ count as edited.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BadInputError, ErrorCode
from pipeline.masks import MAX_PIXELS, decode_png
from pipeline.review.items import Returned


@dataclass(frozen=True, eq=False)
class Merged:
    """An alpha with corrections.

    Attributes:
        png: The alpha that counts now; the very bytes of the old one where nothing was edited.
        pixels: ``(H, W)`` uint8 or uint16, its pixels.
        edited: ``(H, W)`` booleans: where it differs from the old one.
    """

    png: bytes
    pixels: NDArray[Any]
    edited: NDArray[np.bool_]

    @property
    def edited_pixels(self) -> int:
        """How many pixels differ from the old alpha."""
        return int(np.count_nonzero(self.edited))


def merge(alpha: bytes, returned: Returned) -> Merged:
    """Take what a reviewer edited into an alpha.

    A pixel is edited where the tool holds another value than it was shown. From tools that keep soft masks it gets the
    tool's value (x 257 in 16-bit alphas), from binary ones 0 or the full range; all others keep theirs, as they were.

    Args:
        alpha: Grayscale PNG of 8 or 16 bits: that of the record that was shown.
        returned: What came back. Without a mask nothing was edited.

    Raises:
        BadInputError: ``prompt_size_mismatch``: the mask is of another size than the alpha; ``prompt_malformed``: the
            alpha is no PNG.
    """
    old = decode_alpha(alpha)
    unchanged = Merged(alpha, old, np.zeros(old.shape, bool))
    if returned.mask is None:
        return unchanged
    shown = returned.shown if returned.shown is not None else shown_alpha(old, binary=returned.binary)
    for what, pixels in (("the mask that came back", returned.mask), ("the mask that was shown", shown)):
        if pixels.shape != old.shape:
            raise BadInputError(
                ErrorCode.PROMPT_SIZE_MISMATCH,
                f"{what} has {pixels.shape[1]} x {pixels.shape[0]} pixels, the alpha {old.shape[1]} x {old.shape[0]}; "
                "was the image replaced or scaled in the tool?",
            )
    differs = (returned.mask >= 128) != (shown >= 128) if returned.binary else returned.mask != shown
    if not differs.any():
        return unchanged
    value = np.where(returned.mask >= 128, np.uint8(255), np.uint8(0)) if returned.binary else returned.mask
    return merged(alpha, old, np.where(differs, value.astype(old.dtype) * _step(old), old))


def merged(alpha: bytes, old: NDArray[Any], new: NDArray[Any]) -> Merged:
    """Return pixels as what came of an alpha, with its very bytes where they are equal.

    Args:
        alpha: PNG of the old pixels.
        old: ``(H, W)`` uint8 or uint16.
        new: Likewise.
    """
    from pipeline.stages.records import encode_png

    edited = np.asarray(new != old)
    return Merged(encode_png(new) if edited.any() else alpha, new, edited)


def decode_alpha(png: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """Decode an alpha to ``(H, W)`` uint8 or uint16.

    Raises:
        BadInputError: ``prompt_malformed``: it is no PNG, damaged, or too large.
    """
    pixels = decode_png(png, max_pixels)
    return pixels * np.uint8(255) if pixels.dtype == np.bool_ else pixels


def shown_alpha(alpha: NDArray[Any], *, binary: bool = False) -> NDArray[np.uint8]:
    """Return what tools are given of an alpha.

    Args:
        alpha: ``(H, W)`` uint8 or uint16.
        binary: The tool keeps binary masks: 255 where alpha >= 128 (of 255), else 0.

    Returns:
        ``(H, W)`` uint8; 16 bits are rounded to 8.
    """
    if alpha.dtype == np.uint16:
        alpha = ((alpha.astype(np.uint32) + 128) // 257).astype(np.uint8)
    pixels: NDArray[np.uint8] = np.asarray(alpha, np.uint8)
    return np.where(pixels >= 128, np.uint8(255), np.uint8(0)) if binary else pixels


def _step(alpha: NDArray[Any]) -> int:
    """Return what one of 255 levels is in an alpha's own levels."""
    return 257 if alpha.dtype == np.uint16 else 1
