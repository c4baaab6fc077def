import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from sdmatte.errors import ImageError
from sdmatte.image_headers import jpeg_frame
from sdmatte.images import decode_image, probe_image
from sdmatte.scaled import OVERSAMPLING, enough_for
from support.image_bytes import encode, exif

H, W = 203, 301
"""Of the test image: neither is a multiple of 8, so that the last row and column of a scaled decode are cut."""


def scene(height: int = H, width: int = W) -> NDArray[np.uint8]:
    """A smooth image without symmetry: its scaled decodes are nearly its block means."""
    y, x = np.mgrid[:height, :width]
    down = 255 - (x + y) * 255 // (width + height)
    return np.stack([x * 255 // width, y * 255 // height, down], -1).astype(np.uint8)


def means(pixels: NDArray[np.uint8], by: int) -> NDArray[np.float64]:
    """Means of blocks of ``by`` x ``by`` pixels; the last row and column repeated where they are short of pixels."""
    tall, wide = -pixels.shape[0] % by, -pixels.shape[1] % by
    padded = np.pad(pixels.astype(np.float64), ((0, tall), (0, wide), (0, 0)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // by, by, padded.shape[1] // by, by, 3)
    return np.asarray(blocks.mean(axis=(1, 3)))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}], ids=str)
@pytest.mark.parametrize(
    ("enough", "by"), [(None, 1), (203, 1), (102, 1), (101, 2), (51, 2), (50, 4), (25, 8), (3, 8)]
)
def test_jpegs_are_decoded_as_small_as_serves(options: dict[str, Any], enough: int | None, by: int) -> None:
    data = encode(scene(), "JPEG", quality=95, **options)
    decoded = decode_image(data, enough=enough)
    assert decoded.pixels.shape == (-(-H // by), -(-W // by), 3)
    assert (decoded.width, decoded.height) == (W, H)
    assert decoded.notes == (() if by == 1 else ("scaled_decode",))
    assert decoded.pixels.flags.c_contiguous
    # libjpeg's own reductions are no exact means, but none is shifted: that would be 0.8 per pixel.
    assert np.abs(decoded.pixels - means(scene(), by))[:-1, :-1].mean() < 1.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_undone_and_the_size_is_that_of_the_upright_image(orientation: int) -> None:
    data = encode(scene(200, 304), "JPEG", quality=95, exif=exif(orientation))
    whole, half = decode_image(data), decode_image(data, enough=100)
    assert (half.width, half.height) == whole.pixels.shape[1::-1] == (whole.width, whole.height)
    assert half.pixels.shape == (whole.height // 2, whole.width // 2, 3)
    assert half.notes == (*whole.notes, "scaled_decode")
    assert half.notes[:-1] == probe_image(data).notes
    assert np.abs(half.pixels - means(whole.pixels, 2)).mean() < 1.5


def test_gray_cmyk_and_profiled_jpegs_come_out_as_they_do_at_full_size() -> None:
    picture = Image.fromarray(scene(200, 304))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode, options in (("L", {}), ("CMYK", {}), ("RGB", {"icc_profile": profile})):
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, "JPEG", quality=95, **options)
        whole, half = decode_image(buffer.getvalue()), decode_image(buffer.getvalue(), enough=100)
        assert half.notes == (*whole.notes, "scaled_decode")
        assert np.abs(half.pixels - means(whole.pixels, 2)).mean() < 1.5


def test_other_formats_arrays_and_pillow_images_keep_their_size() -> None:
    pixels = scene()
    lossless = [encode(pixels, name) for name in ("PNG", "BMP", "TIFF", "PPM")]
    for source in (*lossless, encode(pixels, "WEBP", lossless=True), pixels, Image.fromarray(pixels)):
        decoded = decode_image(source, enough=10)
        np.testing.assert_array_equal(decoded.pixels, pixels)
        assert (decoded.width, decoded.height, decoded.notes) == (W, H, ())


def test_damage_is_found_as_at_full_size() -> None:
    data = encode(scene(), "JPEG", quality=95)
    for damaged in (data[: len(data) // 2], data[:-2], data[:400], b"", data[:-600] + bytes(600)):
        with pytest.raises(ImageError) as whole:
            decode_image(damaged)
        with pytest.raises(ImageError) as small:
            decode_image(damaged, enough=20)
        assert small.value.code == whole.value.code


def test_the_limit_on_pixels_is_about_the_full_size() -> None:
    data = encode(scene(), "JPEG")
    with pytest.raises(ImageError, match=f"{W} x {H} pixels; at most"):
        decode_image(data, max_pixels=W * H - 1, enough=10)


def test_frames_that_hold_no_frequencies_are_not_scaled() -> None:
    data = bytearray(encode(scene(), "JPEG"))
    data[data.index(b"\xff\xc0") + 1] = 0xC3  # "lossless": the decoder has to say what it makes of it, at full size
    with pytest.raises(ImageError):
        decode_image(bytes(data), enough=10)
    assert jpeg_frame(bytes(data)) == 0xC3
    assert jpeg_frame(encode(scene(), "JPEG", progressive=True)) == 0xC2
    assert jpeg_frame(b"\xff\xd8\xff") is None


def test_enough_is_a_multiple_of_the_largest_input() -> None:
    assert enough_for(192, 0) == OVERSAMPLING * 192
    assert enough_for(512, 1024) == OVERSAMPLING * 1024
