import numpy as np
import pytest

from pipeline.quality.features import box_slices, features
from sdmatte import Box, Mask, Points


@pytest.fixture
def square() -> np.ndarray:
    """A crisp 4 x 4 square at (2, 2) of a 10 x 8 image."""
    alpha = np.zeros((8, 10), np.float32)
    alpha[2:6, 2:6] = 1
    return alpha


def test_a_crisp_matte_in_its_box(square: np.ndarray) -> None:
    found = features(square, Box(2, 2, 6, 6))
    assert found.coverage == pytest.approx(16 / 80)
    assert found.definiteness == 1
    assert found.prompt_outside == 0
    assert found.prompt_iou == 1
    assert found.prompt_point_alpha is None


def test_half_of_the_mass_outside(square: np.ndarray) -> None:
    found = features(square, Box(2, 2, 4, 6))
    assert found.prompt_outside == pytest.approx(0.5)
    assert found.prompt_iou == pytest.approx(8 / 16)


def test_a_mask_is_compared_pixel_by_pixel(square: np.ndarray) -> None:
    mask = np.zeros((8, 10), bool)
    mask[2:6, 4:8] = True
    found = features(square, Mask(mask))
    assert found.prompt_outside == pytest.approx(0.5)
    assert found.prompt_iou == pytest.approx(8 / 24)


def test_points_read_alpha_where_they_click(square: np.ndarray) -> None:
    found = features(square, Points([(2.9, 2.1), (9, 7)]))
    assert found.prompt_point_alpha == pytest.approx(0.5)
    assert found.prompt_outside is None
    assert found.prompt_iou is None


def test_fog_is_not_definite(square: np.ndarray) -> None:
    assert features(square * 0.5, Box(2, 2, 6, 6)).definiteness == 0
    square[2:4] *= 0.5
    assert features(square, Box(2, 2, 6, 6)).definiteness == pytest.approx(0.5)


def test_an_empty_matte_has_no_share_outside_and_no_definiteness(square: np.ndarray) -> None:
    found = features(square * 0, Box(2, 2, 6, 6))
    assert (found.coverage, found.definiteness, found.prompt_outside, found.prompt_iou) == (0, None, None, 0)


def test_boxes_are_clipped_to_the_image() -> None:
    assert box_slices(Box(-5, -5, 3.4, 100), 10, 8) == (slice(0, 8), slice(0, 3))
