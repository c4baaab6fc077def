"""What tools are given of an object's pixels: the picture to show, and the mask over it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BadInputError, ErrorCode
from pipeline.masks import decode_png
from pipeline.originals import Unavailable
from pipeline.review.items import ReviewItem
from pipeline.review.merge import shown_alpha
from pipeline.upright import Upright, upright
from sdmatte.errors import ImageError
from sdmatte.images import MAX_PIXELS


def picture_of(item: ReviewItem) -> Upright:
    """Return the file that a tool is to show: the original where every program shows it as the model saw it.

    Raises:
        BadInputError: ``image_unavailable``, or with the decoder's code; ``prompt_frame_mismatch``, ``image_corrupt``:
            the original was replaced since its alpha was made.
    """
    if isinstance(item.image, Unavailable):
        raise BadInputError(ErrorCode.IMAGE_UNAVAILABLE, f"its image can't be had: {item.image}")
    width, height = size_of(item.record)
    try:
        picture = upright(item.image, max(MAX_PIXELS, width * height))
    except ImageError as error:
        raise BadInputError(ErrorCode(error.code), f"its image can't be shown: {error}") from None
    picture.check_unchanged(item.record)
    return picture


def shown_mask(record: dict[str, Any]) -> NDArray[np.uint8]:
    """Return a record's alpha as tools that keep soft masks are given it: 8 bits, of 16 the nearest.

    Args:
        record: With `alpha`, `image_width` and `image_height`.

    Returns:
        ``(H, W)`` uint8.

    Raises:
        BadInputError: ``prompt_malformed``, ``prompt_size_mismatch``: it has none, is damaged or of another size.
    """
    size = size_of(record)
    png = (record.get("alpha") or {}).get("bytes")
    if not png:
        raise BadInputError(ErrorCode.PROMPT_MALFORMED, "the record has no alpha; choose ok records")
    alpha = decode_png(png, size[0] * size[1])
    if alpha.shape != size[::-1]:
        raise BadInputError(
            ErrorCode.PROMPT_SIZE_MISMATCH,
            f"the alpha has {alpha.shape[1]} x {alpha.shape[0]} pixels, the image {size[0]} x {size[1]}",
        )
    return shown_alpha(np.where(alpha, np.uint8(255), np.uint8(0)) if alpha.dtype == bool else alpha)


def size_of(record: dict[str, Any]) -> tuple[int, int]:
    """Return width and height of the upright image, pixels.

    Raises:
        BadInputError: ``image_unreadable``: the record doesn't know them.
    """
    if not record["image_width"] or not record["image_height"]:
        raise BadInputError(ErrorCode.IMAGE_UNREADABLE, "the record does not know the size of its image")
    return int(record["image_width"]), int(record["image_height"])
