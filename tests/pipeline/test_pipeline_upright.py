"""Exported photos, as readers that know nothing of this project see them."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import BadInputError, ErrorCode
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


def record(**columns):
    made = upright(FILES["plain.png"], MAX)
    known = {"image_uri": "s3://bucket/a.png", "image_sha256": made.sha256, "image_width": 64, "image_height": 48}
    return known | columns


def test_what_the_alpha_was_made_of_is_known_by_its_bytes():
    made = upright(FILES["plain.png"], MAX)
    made.check_unchanged(record())
    made.check_unchanged(record(image_sha256=None, image_width=None, image_height=None))
    replaced = upright(FILES["plain.webp"], MAX)  # of the same size
    with pytest.raises(BadInputError, match=r"s3://bucket/a\.png has changed since") as error:
        replaced.check_unchanged(record())
    assert error.value.code == ErrorCode.IMAGE_CORRUPT


def test_another_size_is_told_also_where_no_hash_is_known():
    with pytest.raises(BadInputError, match=r"64 x 48 pixels now, its record 60 x 48") as error:
        upright(FILES["plain.png"], MAX).check_unchanged(record(image_sha256=None, image_width=60))
    assert error.value.code == ErrorCode.PROMPT_FRAME_MISMATCH


def test_the_hash_is_that_of_the_original_also_where_it_is_encoded_again():
    made = upright(FILES["turned.jpg"], MAX)
    assert made.sha256 == hashlib.sha256(FILES["turned.jpg"]).hexdigest() != hashlib.sha256(made.data).hexdigest()
