"""What tools are given of an object's pixels: upright pictures of unchanged originals, and masks of 8 bits."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import BadInputError, ErrorCode
from pipeline.originals import Unavailable
from pipeline.review.pictures import picture_of, shown_mask
from sdmatte.images import decode_image
from support.demo_run import png
from support.review_items import made_item, photo

# --- alphas ----------------------------------------------------------------------------------------------------------


def alpha_record(pixels, size=None):
    width, height = size or pixels.shape[::-1]
    return {
        "alpha": {"bytes": png(Image.fromarray(pixels))},
        "image_width": width,
        "image_height": height,
    }


def test_deep_alphas_are_rounded_to_eight_bits():
    deep = np.array([[0, 128, 129, 257 * 100 + 128, 65535]], np.uint16)
    np.testing.assert_array_equal(shown_mask(alpha_record(deep)), [[0, 0, 1, 100, 255]])


def test_alphas_of_one_bit_become_full():
    inside = np.array([[True, False, True]])
    np.testing.assert_array_equal(shown_mask(alpha_record(inside)), [[255, 0, 255]])


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"alpha": None, "image_width": 48, "image_height": 32}, "has no alpha"),
        ({"alpha": {"bytes": b"x"}, "image_width": 48, "image_height": 32}, "not a PNG"),
        ({"alpha": {"bytes": b"x"}, "image_width": None, "image_height": 32}, "does not know the size"),
        (alpha_record(np.zeros((31, 48), np.uint8), (48, 32)), "48 x 31 pixels, the image 48 x 32"),
        (alpha_record(np.zeros((33, 48), np.uint8), (48, 32)), "more than"),
    ],
)
def test_alphas_that_can_not_be_shown_are_named(record, words):
    with pytest.raises(BadInputError, match=words):
        shown_mask(record)


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_files_that_browsers_show_alike_are_handed_on_as_they_are(kind):
    data = photo(48, 32, kind)
    assert picture_of(made_item(image=data)).data == data


@pytest.mark.parametrize(
    "data",
    [
        photo(48, 32, orientation=6),
        photo(48, 32, mode="CMYK"),
        photo(48, 32, "PNG", mode="RGBA"),
        photo(48, 32, "TIFF"),
        photo(48, 32, "GIF", mode="P"),
        png(Image.fromarray((np.arange(48 * 32).reshape(32, 48) * 42).astype(np.uint16))),
    ],
    ids=["turned", "cmyk", "alpha", "tiff", "gif", "deep"],
)
def test_all_others_become_upright_files_of_the_same_size(data):
    picture = picture_of(made_item(image=data))
    shown = Image.open(io.BytesIO(picture.data))
    assert (shown.format, shown.mode, shown.size) == ({"jpg": "JPEG", "png": "PNG"}[picture.suffix], "RGB", (48, 32))
    assert not shown.getexif()
    difference = np.abs(np.asarray(shown).astype(int) - decode_image(data).pixels)
    assert difference.mean() < 4


@pytest.mark.parametrize(
    ("image", "code", "words"),
    [
        (Unavailable("the bucket is gone"), "image_unavailable", "can't be had: the bucket is gone"),
        (photo(32, 48), "prompt_frame_mismatch", "32 x 48 pixels now, its record 48 x 32: it has changed since"),
        (photo(48, 32)[:200], "image_truncated", "can't be shown"),
        (b"<svg onload=alert(1)>", "image_unsupported", "can't be shown"),
    ],
)
def test_pictures_that_can_not_be_shown_are_named(image, code, words):
    with pytest.raises(BadInputError, match=words) as caught:
        picture_of(made_item(image=image))
    assert caught.value.code == code


def test_another_picture_of_the_same_size_is_not_shown_under_the_old_matte():
    item = made_item(image=photo(48, 32))
    digest = hashlib.sha256(item.image).hexdigest()
    assert picture_of(made_item(image=item.image, image_sha256=digest)).data == item.image
    with pytest.raises(BadInputError, match="has changed since its alpha was made") as caught:
        picture_of(made_item(image=photo(48, 32, "PNG"), image_sha256=digest))
    assert caught.value.code == ErrorCode.IMAGE_CORRUPT
