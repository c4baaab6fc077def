import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import LabelConfig
from pipeline.errors import ConfigurationError
from pipeline.stages.records import Object, Work
from pipeline.stages.second import SecondPass, jittered, mirrored, second_size
from sdmatte import Box, Mask, Points, SDMatte
from sdmatte.prompts import Prompt
from support.models import mini, photo
from support.run_rows import label_config

pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH = 60, 80

coordinates = st.tuples(
    st.floats(0, WIDTH, exclude_max=True), st.floats(0, HEIGHT, exclude_max=True), st.floats(1, 200), st.floats(1, 200)
)


def config(**quality: Any) -> LabelConfig:
    return label_config("out", quality=quality)


def objects(prompts: Sequence[Prompt], pixels: NDArray[np.uint8], model: SDMatte) -> list[Object]:
    """Objects of one image as the stage has them when the first pass is done."""
    work = Work({"image_id": 1, "shard": "s", "image_key": "a", "prompts": []}, pixels=pixels)
    work.encoded = model.encode([pixels])[0]
    return [Object(work, {}, prompt=prompt) for prompt in prompts]


def test_flip_is_the_matte_of_the_mirrored_image_seen_upright() -> None:
    pixels, box = photo(HEIGHT, WIDTH), Box(10, 5, 50, 40)
    (found,) = SecondPass(config(second="flip"), mini()).matte(objects([box], pixels, mini()))
    mirror = np.ascontiguousarray(pixels[:, ::-1])
    expected = mini()(mirror, Box(WIDTH - 50, 5, WIDTH - 10, 40))[:, ::-1]
    assert found is not None
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_jitter_uses_the_image_as_it_is_encoded_and_other_prompts() -> None:
    pixels, box = photo(HEIGHT, WIDTH), Box(10, 5, 50, 40)
    (each,) = objects([box], pixels, mini())
    (found,) = SecondPass(config(second="jitter"), mini()).matte([each])
    assert each.work.encoded_again is each.work.encoded
    assert found is not None
    np.testing.assert_allclose(found, mini()(pixels, jittered(box, WIDTH, HEIGHT)), atol=1e-5)


def test_resolution_mattes_with_a_smaller_input_and_leaves_the_model_as_it_was() -> None:
    size = mini().input_size
    pixels, box = photo(HEIGHT, WIDTH), Box(10, 5, 50, 40)
    second = SecondPass(config(second="resolution", second_size=64), mini())
    (found,) = second.matte(objects([box], pixels, mini()))
    assert (second.input_size, mini().input_size) == (64, size)
    assert found is not None
    np.testing.assert_allclose(found, SDMatte.untrained(device="cpu", input_size=64)(pixels, box), atol=1e-5)


@pytest.mark.parametrize(("size", "expected"), [(1024, 704), (192, 128), (64, 64), (512, 320)])
def test_the_second_size_is_about_two_thirds(size: int, expected: int) -> None:
    assert second_size(config(second="resolution"), size) == expected


def test_another_model_gives_the_second_matte_and_its_weights_are_known() -> None:
    pixels, box = photo(HEIGHT, WIDTH), Box(10, 5, 50, 40)
    second = SecondPass(config(second="model", second_model="sdmatte-nano"), mini())
    (found,) = second.matte(objects([box], pixels, mini()))
    nano = SDMatte.from_pretrained("sdmatte-nano", device="cpu")
    assert second.weights_sha256 == nano.weights_sha256
    assert found is not None
    np.testing.assert_allclose(found, nano(pixels, box), atol=1e-5)


def test_prompts_of_a_kind_that_the_second_model_does_not_take_have_no_second_matte() -> None:
    pixels = photo(HEIGHT, WIDTH)
    second = SecondPass(config(second="jitter"), mini())
    second._model = mini().resized(64)
    second._model.prompt_kinds = ("box",)
    found = second.matte(objects([Points([(20, 20)]), Box(10, 5, 50, 40)], pixels, mini()))
    assert found[0] is None
    assert found[1] is not None


def test_objects_of_an_image_share_its_second_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = SDMatte.encode
    monkeypatch.setattr(SDMatte, "encode", lambda self, *of: encoded.append(len(of[0])) or encode(self, *of))
    pixels = photo(HEIGHT, WIDTH)
    some = objects([Box(10, 5, 50, 40), Points([(20, 20)]), Box(0, 0, 80, 60)], pixels, mini())
    second = SecondPass(config(second="flip"), mini())
    encoded.clear()
    second.matte(some[:2])
    second.matte(some[2:])
    assert encoded == [1]


def test_second_and_its_options_belong_together(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    for quality in ({"second": "model"}, {"second_model": "x"}, {"second": "flip", "second_size": 64}):
        with pytest.raises((ValueError, ConfigurationError), match="second"):
            config(**quality)


@given(coordinates)
def test_mirrored_twice_is_the_same_box_and_jittered_boxes_hold_the_old_one(found: tuple[float, ...]) -> None:
    x, y, width, height = found
    box = Box(x, y, x + width, y + height)
    there = mirrored(box, WIDTH)
    there.validate(WIDTH, HEIGHT)
    again = mirrored(there, WIDTH)
    assert isinstance(again, Box)
    np.testing.assert_allclose((again.x0, again.x1), (box.x0, box.x1), atol=1e-9)
    larger = jittered(box, WIDTH, HEIGHT)
    larger.validate(WIDTH, HEIGHT)
    assert isinstance(larger, Box)
    assert larger.x0 <= box.x0
    assert larger.x1 >= box.x1
    assert larger.y1 >= box.y1


@given(st.lists(st.tuples(st.floats(0, WIDTH, exclude_max=True), st.floats(0, HEIGHT, exclude_max=True)), min_size=1))
def test_points_stay_in_the_image_and_keep_their_order(xy: list[tuple[float, float]]) -> None:
    for prompt in (mirrored(Points(xy), WIDTH), jittered(Points(xy), WIDTH, HEIGHT)):
        prompt.validate(WIDTH, HEIGHT)
        assert isinstance(prompt, Points)
        assert len(prompt.xy) == len(xy)
    assert jittered(Points(xy), WIDTH, HEIGHT) != Points(xy)


def test_jittered_masks_grow_by_a_share_of_their_extent() -> None:
    pixels = np.zeros((200, 300), bool)
    pixels[50:150, 100:200] = True
    grown = jittered(Mask(pixels, transparent=True), 300, 200)
    assert isinstance(grown, Mask)
    assert grown.transparent
    assert grown.binary()[47:153, 97:203].all()
    assert np.count_nonzero(grown.binary()) == 106 * 106
