import numpy as np
import pytest

from pipeline.quality.agreement import (
    TEMPERATURE,
    PromptAgreement,
    box_slices,
    prompt_agreement,
    second_agreement,
    second_difference,
)
from pipeline.quality.image_terms import sampled
from sdmatte import Auto, Box, Mask, Points
from sdmatte.prompts import Prompt


def square(scale: int = 1) -> np.ndarray:
    """A crisp 4 x 4 square at (2, 2) of a 10 x 8 image."""
    alpha = np.zeros((8, 10), np.float32)
    alpha[2:6, 2:6] = 1
    return np.kron(alpha, np.ones((scale, scale), np.float32))


def compared(alpha: np.ndarray, prompt: Prompt) -> PromptAgreement:
    return prompt_agreement(alpha, sampled(alpha), prompt)


@pytest.mark.parametrize("scale", [1, 400])
def test_half_of_the_mass_outside_a_box(scale: int) -> None:
    found = compared(square(scale), Box(2 * scale, 2 * scale, 4 * scale, 6 * scale))
    assert found.prompt_outside == pytest.approx(0.5, abs=0.003)
    assert found.prompt_iou == pytest.approx(8 / 16, abs=0.003)
    assert found.prompt_area == pytest.approx(8 / 80, abs=0.003)
    assert found.prompt_point_alpha is None


@pytest.mark.parametrize("scale", [1, 400])
def test_a_mask_is_compared_pixel_by_pixel(scale: int) -> None:
    mask = np.zeros((8, 10), bool)
    mask[2:6, 4:8] = True
    found = compared(square(scale), Mask(np.kron(mask, np.ones((scale, scale), bool))))
    assert found.prompt_outside == pytest.approx(0.5, abs=0.003)
    assert found.prompt_iou == pytest.approx(8 / 24, abs=0.003)
    assert found.prompt_area == pytest.approx(16 / 80, abs=0.003)


def test_points_read_alpha_where_they_click() -> None:
    found = compared(square(), Points([(2.9, 2.1), (9, 7)]))
    assert found == PromptAgreement(prompt_point_alpha=pytest.approx(0.5))


def test_the_area_of_a_box_is_what_the_image_shows_of_it() -> None:
    assert compared(square(), Box(-5, 4, 5, 90)).prompt_area == pytest.approx(5 * 4 / 80)


def test_no_prompt_no_agreement() -> None:
    assert compared(square(), Auto()) == PromptAgreement()


def test_an_empty_matte_misses_its_prompt() -> None:
    found = compared(square() * 0, Mask(square() > 0))
    assert (found.prompt_outside, found.prompt_iou) == (None, 0)


def test_boxes_are_clipped_to_the_image() -> None:
    assert box_slices(Box(-5, -5, 3.4, 100), 10, 8) == (slice(0, 8), slice(0, 3))


def test_the_difference_is_over_all_pixels() -> None:
    assert second_difference(square(), square() * np.float32(0.5)) == pytest.approx(8 / 80)


def test_mattes_that_contradict_do_not_agree_though_both_are_crisp() -> None:
    assert second_agreement(square(), 1 - square()) == pytest.approx(0, abs=1e-6)


def test_the_agreement_is_that_of_the_band_alone() -> None:
    small, large = np.zeros((40, 40), np.float32), np.zeros((200, 200), np.float32)
    small[10:30, 10:30] = large[10:30, 10:30] = 1
    fewer = [matte.copy() for matte in (small, large)]
    for matte in fewer:
        matte[10:13, 10:30] = 0
    assert second_agreement(small, fewer[0]) == pytest.approx(second_agreement(large, fewer[1]))
    assert second_difference(small, fewer[0]) > second_difference(large, fewer[1])


def test_the_agreement_is_a_soft_minimum() -> None:
    first = np.full((10, 10), 0.5, np.float32)
    second = first.copy()
    second[0, :5] = 0.1
    expected = -TEMPERATURE * np.log(0.05 * np.exp(-0.6 / TEMPERATURE) + 0.95 * np.exp(-1 / TEMPERATURE))
    assert second_agreement(first, second) == pytest.approx(expected, rel=1e-5)
    assert 0.6 < second_agreement(first, second) < 0.98


@pytest.mark.parametrize("level", [0, 1])
def test_two_mattes_without_a_band_agree(level: float) -> None:
    plain = np.full((5, 5), level, np.float32)
    assert second_agreement(plain, plain) == 1
