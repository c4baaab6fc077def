"""Procedural surfaces: repeatable, in range, varied."""

import numpy as np
import pytest

from sdmatte.synthetic import textures
from sdmatte.synthetic.textures import clouds, grain, in_channels, paint, palette, texture


@pytest.mark.parametrize("field", textures._FIELDS)
@pytest.mark.parametrize("size", [(64, 64), (7, 130), (1, 1)])
def test_every_field_stays_in_range_at_any_size(field, size: tuple[int, int]) -> None:
    for seed in range(4):
        drawn = field(np.random.default_rng(seed), *size)
        assert drawn.shape == size
        assert drawn.dtype == np.float32
        assert drawn.min() >= 0
        assert drawn.max() <= 1


def test_textures_are_colours_in_range_and_follow_from_the_seed() -> None:
    for seed in range(40):
        one, two = (texture(np.random.default_rng(seed), 48, 40) for _ in range(2))
        assert one.shape == (48, 40, 3)
        assert one.dtype == np.float32
        assert one.min() >= 0
        assert one.max() <= 1
        np.testing.assert_array_equal(one, two)


def test_textures_differ_and_some_are_plain_and_some_are_not() -> None:
    drawn = [texture(np.random.default_rng(seed), 48, 48) for seed in range(60)]
    spreads = [float(picture.std(axis=(0, 1)).mean()) for picture in drawn]
    assert min(spreads) < 0.02
    assert max(spreads) > 0.15
    means = np.array([picture.mean(axis=(0, 1)) for picture in drawn])
    assert means.std(axis=0).min() > 0.1


def test_paint_blends_between_the_colours_of_a_palette() -> None:
    colours = np.array([[[0.0, 0.2, 1.0], [1.0, 0.2, 0.0]]], np.float32)
    painted = paint(np.array([[0.0, 0.5, 1.0]], np.float32), colours)
    np.testing.assert_allclose(painted[0], [[0, 0.2, 1], [0.5, 0.2, 0.5], [1, 0.2, 0]], atol=2e-3)


def test_a_palette_holds_as_many_colours_as_asked() -> None:
    for count in (1, 5):
        colours = palette(np.random.default_rng(0), count)
        assert colours.shape == (1, count, 3)
        assert colours.min() >= 0
        assert colours.max() <= 1


def test_clouds_are_as_coarse_and_as_elongated_as_asked() -> None:
    def steps(**settings: float) -> tuple[float, float]:
        field = clouds(np.random.default_rng(0), 128, 128, octaves=1, **settings)
        return float(np.abs(np.diff(field, axis=0)).mean()), float(np.abs(np.diff(field, axis=1)).mean())

    assert steps(cells=32)[0] > 3 * steps(cells=4)[0]
    down, across = steps(cells=32, stretch=8.0)
    assert down > 4 * across


def test_grain_is_centred_and_bounded() -> None:
    noise = grain(np.random.default_rng(0), 64, 64, strength=0.1)
    assert np.abs(noise).max() <= 0.1
    assert abs(float(noise.mean())) < 0.005


def test_in_channels_repeats_a_field() -> None:
    field = np.random.default_rng(0).random((4, 5), np.float32)
    np.testing.assert_array_equal(in_channels(field), np.repeat(field[..., None], 3, axis=2))
