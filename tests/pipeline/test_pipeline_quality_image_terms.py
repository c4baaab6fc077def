import numpy as np
import pytest

from pipeline.quality.image_terms import SAMPLED_SIDE, WORKING_SIDE, band, prepare, reduced, sampled


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((30, 40), (30, 40)), ((320, 100), (320, 100)), ((600, 800), (240, 320)), ((20_000, 2), (320, 1))],
)
def test_pictures_are_reduced_to_the_working_size(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    pixels = np.zeros((*shape, 3), np.uint8)
    assert reduced(sampled(pixels)).shape == (*expected, 3)
    assert reduced(sampled(pixels[..., 0])).shape == expected
    assert prepare(pixels).colours.shape == expected
    assert prepare(pixels).shape == shape


@pytest.mark.parametrize("size", [(1283, 963), (4001, 3001), (8660, 5773), (1000, 40)])
@pytest.mark.parametrize("by", [1, 2, 4, 8])
def test_of_smaller_pixels_the_terms_fit_alphas_of_the_full_size(size: tuple[int, int], by: int) -> None:
    width, height = size
    pixels = np.zeros((-(-height // by), -(-width // by), 3), np.uint8)
    terms = prepare(pixels, size)
    assert terms.shape == (height, width)
    assert terms.colours.shape == reduced(sampled(np.zeros((height, width), np.uint8))).shape


def test_reduced_pixels_are_means() -> None:
    fine = np.random.default_rng(0).random((2 * 120, 2 * WORKING_SIDE), np.float32)
    assert np.allclose(reduced(fine), fine.reshape(120, 2, WORKING_SIDE, 2).mean(axis=(1, 3)), atol=1e-6)


def test_of_large_images_every_nth_pixel_is_looked_at() -> None:
    columns = np.tile(np.arange(2 * SAMPLED_SIDE, dtype=np.float32), (10, 1))
    assert np.array_equal(sampled(columns), columns[::2, ::2])


def test_the_band_is_where_alpha_ends_or_is_between() -> None:
    alpha = np.zeros((7, 9), np.float32)
    alpha[:, 5:] = 1
    expected = np.zeros((7, 9), bool)
    expected[:, 4:6] = True
    assert np.array_equal(band(alpha), expected)
    assert band(np.full((4, 4), 0.5, np.float32)).all()
    assert not band(np.full((4, 4), 0.05, np.float32)).any()
    assert not band(np.full((4, 4), 0.95, np.float32)).any()
