"""JPEGs decoded at a half, a quarter or an eighth of their size: all that a small model needs of a large photograph.

A JPEG holds blocks of 8 x 8 pixels as frequencies. From the lower ones alone libjpeg makes blocks of 4 x 4, 2 x 2 or 1
x 1, each pixel about the mean of those that it stands for, without making the others first. (With the chroma of
most cameras, of half the size, it need not even be resized.) All of the file is still read: damage is found as in a
whole decode.
"""

from __future__ import annotations

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from sdmatte.image_headers import jpeg_frame

OVERSAMPLING = 2
"""Pixels per side and cell of the model's grid that are kept, at least."""

_DCT_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive; lossless ones have no frequencies to leave out


def enough_for(*input_sizes: int) -> int:
    """Return the shorter side that serves models of these input sizes, pixels; see :func:`decode_image`'s `enough`.

    It holds for grids that keep the aspect ratio, too: these are no larger in relation to their image.
    """
    return OVERSAMPLING * max(input_sizes)


def shrink(img: Image.Image, data: bytes, enough: int) -> int:
    """Make an opened JPEG decode smaller, where that is enough.

    Args:
        img: The opened file; its pixels are not loaded yet. Other formats are left alone.
        data: Its bytes.
        enough: Shorter side that has to be left, pixels.

    Returns:
        What its sides are divided by, rounded up: 1, 2, 4 or 8.
    """
    if not isinstance(img, JpegImageFile) or enough < 1 or jpeg_frame(data) not in _DCT_FRAMES:
        return 1
    divisor = next(by for by in (8, 4, 2, 1) if by == 1 or min(img.size) >= by * enough)
    if divisor > 1:
        img.draft(None, (img.width // divisor, img.height // divisor))
    return divisor
