import numpy as np
import pytest

from pipeline.quality.colours import LEVELS, colour_bins, colour_overlap


def overlap(alpha: np.ndarray, pixels: np.ndarray) -> float | None:
    return colour_overlap(alpha, colour_bins(pixels), 0.9, 0.1)


@pytest.fixture
def alpha() -> np.ndarray:
    alpha = np.zeros((60, 80), np.float32)
    alpha[20:40, 20:60] = 1
    return alpha


def test_bins_are_those_of_the_colours() -> None:
    pixels = np.array([[[0, 0, 0], [255, 255, 255], [32, 64, 96]]], np.uint8)
    assert colour_bins(pixels).tolist() == [[0, LEVELS**3 - 1, (1 * 8 + 2) * 8 + 3]]


def test_far_colours_do_not_overlap_and_equal_ones_do(alpha: np.ndarray) -> None:
    pixels = np.zeros((60, 80, 3), np.uint8)
    assert overlap(alpha, pixels) == pytest.approx(1)
    pixels[alpha > 0] = (255, 0, 0)
    assert overlap(alpha, pixels) == 0


def test_neighbouring_bins_overlap_in_part(alpha: np.ndarray) -> None:
    pixels = np.full((60, 80, 3), 95, np.uint8)
    pixels[alpha > 0] = 96  # another bin in each channel
    assert 0.2 < overlap(alpha, pixels) < 0.5
    pixels[alpha > 0] = (96, 95, 95)  # in one channel
    assert 0.5 < overlap(alpha, pixels) < 0.9


def test_only_surroundings_nearby_count(alpha: np.ndarray) -> None:
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[10:50, 10:70] = 120
    pixels[alpha > 0] = 255
    assert overlap(alpha, pixels) == 0
    pixels[:5] = 255
    assert overlap(alpha, pixels) == 0


def test_what_is_half_transparent_belongs_to_neither(alpha: np.ndarray) -> None:
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[alpha > 0] = 255
    pixels[40:43, 20:60] = 255
    assert overlap(alpha, pixels) > 0
    alpha[40:43, 20:60] = 0.5
    assert overlap(alpha, pixels) == 0


@pytest.mark.parametrize("level", [0, 0.5, 1])
def test_without_an_object_or_surroundings_there_is_none(level: float) -> None:
    assert overlap(np.full((60, 80), level, np.float32), np.zeros((60, 80, 3), np.uint8)) is None
