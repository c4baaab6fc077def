"""Matting again: the new matte counts where people edited, fades out around it, and touches nothing beyond."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import BadInputError, ErrorCode
from pipeline.review.items import Returned
from pipeline.review.merge import Merged, decode_alpha, merge, shown_alpha
from pipeline.review.rematte import MARGIN, Rematter
from pipeline.stages.records import encode_png
from sdmatte.errors import SDMatteError
from sdmatte.prompts import Mask
from support.review_run import SIZE, picture, soft_alpha


class Flat:
    """A model that finds the same alpha everywhere, and keeps what it was asked."""

    def __init__(self, alpha: float, error: Exception | None = None) -> None:
        self.alpha = alpha
        self.error = error
        self.asked: Mask | None = None

    def __call__(self, image: NDArray[np.uint8], prompt: Mask, *, dtype: str) -> NDArray[np.float32]:
        prompt.validate(image.shape[1], image.shape[0])
        self.asked = prompt
        if self.error is not None:
            raise self.error
        return np.full(image.shape[:2], self.alpha, np.float32)


def edited(alpha: NDArray[Any], where: tuple[slice, slice], value: int = 255) -> Merged:
    mask = shown_alpha(alpha).copy()
    mask[where] = value
    return merge(encode_png(alpha), Returned(1, "run", "cvat", None, mask))


def again(model: Flat, alpha: NDArray[Any], corrected: Merged, image: bytes, transparent: bool = False) -> Merged:
    return Rematter(model).rematte(encode_png(alpha), corrected, image, transparent, 10**6)  # type: ignore[arg-type]


@pytest.fixture
def image(tmp_path: Path) -> bytes:
    return picture(tmp_path / "a.jpg", 1)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_the_new_matte_fades_out_around_the_edit(image: bytes, kind: type) -> None:
    old = soft_alpha(3, kind)
    corrected = edited(old, (slice(0, 3), slice(0, 4)))
    done = again(Flat(0.25), old, corrected, image)
    full = np.iinfo(kind).max
    assert done.pixels.dtype == old.dtype
    assert np.array_equal(decode_alpha(done.png), done.pixels)
    assert (done.pixels[corrected.edited] == np.rint(full * 0.25)).all()
    y, x = np.indices(old.shape)
    distance = np.hypot(np.maximum(x - 3, 0), np.maximum(y - 2, 0))
    beyond = distance >= MARGIN
    assert np.array_equal(done.pixels[beyond], old[beyond])
    row = done.pixels[1, 4:19].astype(float) / full  # old is 0 there: a straight fall
    assert old[1, 4:19].max() <= full * 0.2
    assert (np.diff(row - old[1, 4:19] / full * (np.arange(1, 16) / 16)) < 0.01).all()
    assert np.array_equal(done.edited, done.pixels != old)


def test_the_prompt_is_the_corrected_core(image: bytes) -> None:
    for kind in (np.uint8, np.uint16):
        old = soft_alpha(3, kind)
        corrected = edited(old, (slice(0, 3), slice(0, 4)))
        model = Flat(0.5)
        again(model, old, corrected, image, transparent=True)
        assert model.asked is not None
        assert model.asked.transparent
        assert np.array_equal(model.asked.binary(), shown_alpha(corrected.pixels, binary=True) > 0)


def test_where_the_model_says_what_was_there_nothing_is_edited(image: bytes) -> None:
    old = np.full(SIZE[::-1], 255, np.uint8)
    done = again(Flat(1), old, edited(old, (slice(0, 3), slice(0, 4)), 0), image)
    assert done.edited_pixels == 0
    assert done.png == encode_png(old)


def test_faults_say_that_it_was_not_matted_again(tmp_path: Path, image: bytes) -> None:
    old = soft_alpha(3)
    some = edited(old, (slice(0, 3), slice(0, 4)))
    everything = edited(old, (slice(None), slice(None)), 0)
    turned = picture(tmp_path / "b.jpg", 1, turned=True)
    assert again(Flat(1), old, some, turned).edited_pixels  # it is upright once it is decoded
    cases = [
        (Flat(1), everything, image, ErrorCode.PROMPT_EMPTY_MASK),
        (Flat(1), some, b"no", ErrorCode.IMAGE_UNSUPPORTED),
        (Flat(1, SDMatteError("computed NaN")), some, image, ErrorCode.MODEL_FAILED),
    ]
    for model, corrected, data, code in cases:
        with pytest.raises(BadInputError, match="not matted again") as caught:
            again(model, old, corrected, data)
        assert caught.value.code == code


def test_whatever_the_model_raises_is_a_fault_of_this_object_alone(image: bytes) -> None:
    import torch

    old = soft_alpha(3)
    corrected = edited(old, (slice(0, 3), slice(0, 4)))
    cases = [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore"), "no memory left for it"),
        (MemoryError(), "no memory left for it"),
        (RuntimeError("CUDA error: an illegal memory access"), "the model failed .CUDA error"),
        (ValueError(), "the model failed .ValueError"),
    ]
    for error, words in cases:
        with pytest.raises(BadInputError, match=f"not matted again: {words}") as caught:
            again(Flat(1, error), old, corrected, image)
        assert caught.value.code == ErrorCode.MODEL_FAILED
        assert "\n" not in str(caught.value)
