"""Exactly the pixels that a reviewer edited change, in soft and in binary tools, in alphas of 8 and of 16 bits."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import BadInputError
from pipeline.review.items import Returned
from pipeline.review.merge import decode_alpha, merge, shown_alpha
from pipeline.stages.records import encode_png

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def alphas() -> st.SearchStrategy[NDArray[Any]]:
    """Alphas of both depths, of any values."""
    return SHAPES.flatmap(
        lambda shape: st.sampled_from([np.uint8, np.uint16]).flatmap(lambda kind: arrays(kind, shape))
    )


def returned(mask: NDArray[np.uint8] | None, **fields: Any) -> Returned:
    return Returned(1, "run", "cvat", None, mask, **fields)


@given(alphas(), st.booleans())
def test_where_nothing_was_edited_the_very_bytes_stay(alpha: NDArray[Any], binary: bool) -> None:
    png = encode_png(alpha)
    done = merge(png, returned(shown_alpha(alpha, binary=binary), binary=binary))
    assert done.png is png
    assert done.edited_pixels == 0
    assert merge(png, returned(None, binary=binary)).png is png


@given(alphas(), st.data())
def test_a_soft_edit_changes_exactly_its_pixels(alpha: NDArray[Any], data: st.DataObject) -> None:
    strokes = data.draw(arrays(bool, alpha.shape))
    value = data.draw(arrays(np.uint8, alpha.shape))
    shown = shown_alpha(alpha)
    done = merge(encode_png(alpha), returned(np.where(strokes, value, shown)))
    edited = strokes & (value != shown)
    expected = np.where(edited, value.astype(int) * (257 if alpha.dtype == np.uint16 else 1), alpha)
    assert np.array_equal(decode_alpha(done.png), expected)
    assert decode_alpha(done.png).dtype == alpha.dtype
    assert np.array_equal(done.edited, edited)
    assert done.edited_pixels == edited.sum()


@given(alphas(), st.data())
def test_a_binary_edit_changes_exactly_the_flipped_pixels(alpha: NDArray[Any], data: st.DataObject) -> None:
    flips = data.draw(arrays(bool, alpha.shape))
    core = shown_alpha(alpha, binary=True)
    done = merge(encode_png(alpha), returned(np.where(flips, 255 - core, core), binary=True))
    full = np.iinfo(alpha.dtype).max
    expected = np.where(flips, np.where(core == 255, 0, full), alpha)
    assert np.array_equal(decode_alpha(done.png), expected)
    assert np.array_equal(done.edited, flips)


@given(alphas(), st.data())
def test_what_a_tool_says_it_was_given_is_compared_with(alpha: NDArray[Any], data: st.DataObject) -> None:
    shown = data.draw(arrays(np.uint8, alpha.shape))
    png = encode_png(alpha)
    assert merge(png, returned(shown, shown=shown)).png is png
    mask = data.draw(arrays(np.uint8, alpha.shape))
    pixels = decode_alpha(merge(png, returned(mask, shown=shown)).png)
    assert np.array_equal(pixels[mask == shown], alpha[mask == shown])
    assert np.array_equal(shown_alpha(pixels)[mask != shown], mask[mask != shown])


def test_the_core_of_16_bits_is_that_of_the_8_bits_shown() -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    shown = shown_alpha(every)
    assert np.array_equal(shown, np.rint(every / 257).astype(np.uint8))
    assert np.array_equal(shown_alpha(every, binary=True) == 255, shown >= 128)
    assert np.array_equal(shown_alpha(every, binary=True) == 255, every >= 32768)


@pytest.mark.parametrize("other", ["mask", "shown"])
def test_another_size_is_refused(other: str) -> None:
    alpha = np.zeros((4, 6), np.uint8)
    pixels = {"mask": alpha, "shown": alpha, other: alpha.T}
    with pytest.raises(BadInputError, match="has 4 x 6 pixels, the alpha 6 x 4"):
        merge(encode_png(alpha), returned(**pixels))


def test_an_alpha_of_one_bit_becomes_one_of_eight_when_edited() -> None:
    file = io.BytesIO()
    Image.fromarray(np.eye(4, dtype=bool)).save(file, "PNG")
    mask = np.eye(4, dtype=np.uint8) * 255
    assert merge(file.getvalue(), returned(mask)).edited_pixels == 0
    mask[0, 3] = 77
    done = merge(file.getvalue(), returned(mask))
    assert np.array_equal(decode_alpha(done.png), mask)
    assert done.edited_pixels == 1


def test_an_alpha_that_is_no_png_is_refused() -> None:
    with pytest.raises(BadInputError, match="not a PNG"):
        merge(b"no", returned(np.zeros((4, 4), np.uint8)))
