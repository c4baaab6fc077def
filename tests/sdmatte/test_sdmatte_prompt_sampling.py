"""Prompts derived from alphas, by the paper's rules."""

import cv2
import numpy as np
import pytest

from sdmatte.errors import PromptError
from sdmatte.prompt_sampling import derive_box, derive_mask, derive_points
from sdmatte.prompts import TRAINED_POINTS, Box

EMPTY = np.zeros((20, 30), np.float32)


def alpha_of(*patches: tuple[int, int, int, int, float], shape: tuple[int, int] = (40, 60)) -> np.ndarray:
    """Rectangles ``x0, y0, x1, y1, alpha`` on nothing."""
    alpha = np.zeros(shape, np.float32)
    for x0, y0, x1, y1, value in patches:
        alpha[y0:y1, x0:x1] = value
    return alpha


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- boxes


def test_the_box_holds_every_pixel_above_zero() -> None:
    alpha = alpha_of((10, 5, 30, 20, 1.0), (30, 12, 33, 13, 0.004))
    assert derive_box(alpha, transparent=True) == Box(10, 5, 33, 20, transparent=True)


def test_less_than_half_a_level_is_nothing() -> None:
    alpha = alpha_of((10, 5, 30, 20, 1.0), (30, 5, 40, 20, 0.0019))
    assert derive_box(alpha) == Box(10, 5, 30, 20)


@pytest.mark.parametrize(("stray", "expected"), [(30, Box(2, 2, 32, 12)), (31, Box(2, 2, 60, 40))])
def test_a_component_ten_times_as_large_as_the_next_counts_alone(stray: int, expected: Box) -> None:
    """300 pixels against 30, and against 31."""
    alpha = alpha_of((2, 2, 32, 12, 1.0), (50, 37, 60, 40, 1.0))
    if stray == 31:
        alpha[36, 59] = 1.0
    assert derive_box(alpha) == expected


def test_pixels_that_touch_at_a_corner_are_one_component() -> None:
    alpha = alpha_of((0, 0, 20, 20, 1.0), (20, 20, 21, 21, 1.0))
    assert derive_box(alpha) == Box(0, 0, 21, 21)


# --- masks


def test_masks_follow_from_the_generator() -> None:
    alpha = alpha_of((10, 5, 50, 35, 1.0), (20, 10, 30, 20, 0.3))
    masks = [derive_mask(alpha, rng(seed)).binary() for seed in range(12)]
    for seed, mask in enumerate(masks):
        np.testing.assert_array_equal(derive_mask(alpha, rng(seed)).binary(), mask)
    assert len({mask.tobytes() for mask in masks}) > 3


def test_masks_are_rough_by_what_the_paper_says() -> None:
    """Between the erosion and the dilation by a disc of 29 px at 1024 px; all four changes come up."""
    alpha = alpha_of((300, 300, 700, 700, 1.0), shape=(1024, 1024))
    inside, most = alpha > 0, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (29, 29))
    smallest = cv2.erode(inside.astype(np.uint8), most)
    largest = cv2.dilate(inside.astype(np.uint8), most)
    areas = []
    for seed in range(24):
        mask = derive_mask(alpha, rng(seed), transparent=True)
        assert mask.transparent
        rough = mask.binary()
        assert not (rough & (largest == 0)).any()
        assert not (~rough & (smallest > 0)).any()
        areas.append(int(rough.sum()) - int(inside.sum()))
    least = 4 * 400 * 7  # a disc of 15 px moves each edge by 7 pixels
    assert sum(area <= -least + 4 * 49 for area in areas) > 2
    assert sum(area >= least for area in areas) > 2
    assert sum(-least < area <= 0 for area in areas) > 2  # opened and closed squares


def test_roughness_scales_with_the_side() -> None:
    alpha = alpha_of((10, 5, 50, 35, 1.0))
    for seed in range(8):  # 15 to 29 px at 1024 px are less than 2 px at 60 px: an edge moves by one pixel at most
        assert (derive_mask(alpha, rng(seed)).binary() != (alpha > 0)).sum() <= 2 * (40 + 30)
    as_large = [derive_mask(alpha, rng(seed), side=1024).binary() != (alpha > 0) for seed in range(8)]
    assert max(int(changed.sum()) for changed in as_large) >= 40 * 30 - 26 * 16  # eroded by 7 pixels or more


@pytest.mark.parametrize(
    "alpha",
    [alpha_of((30, 20, 31, 21, 1.0)), alpha_of((5, 5, 50, 35, 0.003)), alpha_of((0, 20, 60, 21, 0.4))],
    ids=["one pixel", "faint", "thin"],
)
def test_masks_are_never_empty(alpha: np.ndarray) -> None:
    for seed in range(60):
        assert derive_mask(alpha, rng(seed), side=1024).binary().any()


# --- points


def test_points_are_centres_of_different_solid_pixels() -> None:
    alpha = alpha_of((10, 5, 14, 9, 1.0), (14, 5, 30, 30, 0.8))
    chosen = derive_points(alpha, rng(), transparent=True)
    assert chosen.transparent
    assert len(set(chosen.xy)) == TRAINED_POINTS == 10
    for x, y in chosen.xy:
        assert (x % 1, y % 1) == (0.5, 0.5)
        assert alpha[int(y), int(x)] == 1
    assert derive_points(alpha, rng(), transparent=True) == chosen
    assert derive_points(alpha, rng(1)).xy != chosen.xy


def test_few_solid_pixels_give_few_points() -> None:
    assert sorted(derive_points(alpha_of((3, 4, 5, 5, 1.0)), rng()).xy) == [(3.5, 4.5), (4.5, 4.5)]
    assert len(derive_points(alpha_of((3, 4, 30, 20, 1.0)), rng(), count=3).xy) == 3


def test_smoke_gets_points_where_it_is_thickest() -> None:
    alpha = alpha_of((0, 0, 60, 40, 0.2), (10, 10, 20, 20, 0.5), (40, 10, 42, 12, 0.39))
    for x, y in derive_points(alpha, rng(), count=50).xy:
        assert alpha[int(y), int(x)] == 0.5


# --- nothing to point at


def test_an_empty_alpha_has_no_prompt() -> None:
    for alpha in (EMPTY, EMPTY + np.float32(0.001)):
        for derive in (derive_box, lambda a: derive_mask(a, rng()), lambda a: derive_points(a, rng())):
            with pytest.raises(PromptError, match="the alpha is 0 everywhere") as caught:
                derive(alpha)
            assert caught.value.code == "prompt_empty_mask"
