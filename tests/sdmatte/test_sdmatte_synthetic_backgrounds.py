"""Backgrounds: repeatable, in range, from photographs where there are some."""

import numpy as np
import pytest

from sdmatte.synthetic import backgrounds
from sdmatte.synthetic.backgrounds import background, photo_crop, soften

PHOTO = np.random.default_rng(9).integers(0, 256, (60, 90, 3), np.uint8)


def check(picture: np.ndarray, height: int, width: int) -> None:
    assert picture.shape == (height, width, 3)
    assert picture.dtype == np.float32
    assert picture.min() >= 0
    assert picture.max() <= 1


@pytest.mark.parametrize("scene", backgrounds._SCENES)
def test_every_drawn_scene_is_in_range_and_follows_from_the_seed(scene) -> None:
    for seed in range(4):
        one, two = (scene(np.random.default_rng(seed), 40, 56) for _ in range(2))
        check(one, 40, 56)
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("photos", [(), (PHOTO,)])
@pytest.mark.parametrize("size", [(48, 48), (9, 70)])
def test_backgrounds_are_in_range_and_follow_from_the_seed(photos, size: tuple[int, int]) -> None:
    for seed in range(12):
        one, two = (background(np.random.default_rng(seed), *size, photos) for _ in range(2))
        check(one, *size)
        np.testing.assert_array_equal(one, two)


def test_most_backgrounds_are_photographs_where_there_are_some() -> None:
    red = np.zeros((80, 80, 3), np.uint8)
    red[..., 0] = 200
    pure = [background(np.random.default_rng(seed), 16, 16, (red,))[..., 1:].max() < 0.01 for seed in range(60)]
    assert 20 < sum(pure) < 58  # grading turns a few of the crops grey


def test_a_crop_of_a_photograph_of_the_same_size_and_scale_is_a_part_of_it() -> None:
    ramp = np.zeros((64, 64, 3), np.uint8)
    ramp[..., 0] = np.arange(64) * 4
    ramp[..., 1] = np.arange(64)[:, None] * 4
    for seed in range(10):
        crop = photo_crop(np.random.default_rng(seed), 32, 32, (ramp,), closest=0.5) * 255
        check(crop / 255, 32, 32)
        assert (np.diff(crop[..., 1], axis=0) > 1).all()  # upright
        across = np.diff(crop[..., 0], axis=1)
        assert (across > 1).all() or (across < -1).all()  # mirrored or not
        assert crop.max() <= 252


def test_photographs_smaller_than_the_frame_are_enlarged() -> None:
    check(photo_crop(np.random.default_rng(0), 50, 200, (PHOTO[:3, :2],)), 50, 200)


@pytest.mark.parametrize("radius", [0.3, 2.0, 9.0])
def test_softening_keeps_the_light_and_lowers_the_contrast(radius: float) -> None:
    noise = np.random.default_rng(0).random((64, 64, 3), np.float32)
    soft = soften(noise, radius)
    check(soft, 64, 64)
    assert soft.mean() == pytest.approx(noise.mean(), abs=0.01)
    assert (soft.std() < 0.4 * noise.std()) == (radius > 1)
