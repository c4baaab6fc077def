"""Exported photos, as readers that know nothing of this project see them."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.upright import upright
from sdmatte.errors import ImageError
from sdmatte.images import decode_image
from support.image_bytes import encode
from support.selections import KEPT, originals, photo

MAX = 10_000
FILES = originals()


@pytest.mark.parametrize("name", FILES)
def test_every_reader_sees_the_pixels_that_the_alpha_belongs_to(name):
    made = upright(FILES[name], MAX, pixels=True)
    truth = decode_image(FILES[name]).pixels
    np.testing.assert_array_equal(made.pixels, truth)
    with Image.open(io.BytesIO(made.data)) as image:
        assert image.mode == "RGB"
        assert image.getexif().get(0x0112, 1) == 1  # so exif_transpose, which some readers apply, changes nothing
        assert getattr(image, "n_frames", 1) == 1
        assert image.format.lower() == made.suffix.replace("jpg", "jpeg")
        seen = np.asarray(image)
    assert (made.height, made.width) == seen.shape[:2] == photo().shape[:2]
    if made.suffix == "jpg":
        assert np.abs(seen.astype(int) - truth).mean() < 2
    else:
        np.testing.assert_array_equal(seen, truth)


@pytest.mark.parametrize("name", FILES)
def test_ordinary_files_keep_their_bytes_and_others_say_what_was_done(name):
    made = upright(FILES[name], MAX)
    assert (made.data == FILES[name]) == (name in KEPT)
    encoded = {"jpg": "reencoded_jpeg"}.get(name[-3:], "reencoded_png")
    assert (encoded in made.notes) == (name not in KEPT)
    assert made.pixels is None


def test_gray_photos_become_rgb_without_loss():
    gray = encode(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20, "PNG")
    made = upright(gray, MAX)
    assert made.notes == ("reencoded_png",)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(made.data))), decode_image(gray).pixels)


def test_without_need_of_a_file_nothing_is_encoded():
    made = upright(FILES["turned.jpg"], MAX, pixels=True, file=False)
    assert made.data == FILES["turned.jpg"]
    assert made.notes == ("exif_rotated",)
    assert made.pixels is not None


def test_damaged_and_huge_ones_are_refused():
    with pytest.raises(ImageError):
        upright(FILES["plain.png"][:-40], MAX)
    with pytest.raises(ImageError, match="pixels"):
        upright(FILES["plain.png"], 100)
