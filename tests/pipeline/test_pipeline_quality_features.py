import math
from dataclasses import asdict, fields, replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.quality.features import Features, features
from pipeline.quality.image_terms import prepare
from pipeline.schema import RECORDS
from sdmatte import Auto, Box, Mask, Points
from sdmatte.prompts import Prompt, Trimap
from support.composites import composite


@pytest.fixture
def square() -> np.ndarray:
    """A crisp 4 x 4 square at (2, 2) of a 10 x 8 image."""
    alpha = np.zeros((8, 10), np.float32)
    alpha[2:6, 2:6] = 1
    return alpha


GRAY = np.full((8, 10, 3), 127, np.uint8)


@pytest.fixture(scope="module")
def good() -> tuple[np.ndarray, np.ndarray]:
    """A picture and its exact matte."""
    return composite()


def of(matte: np.ndarray, pixels: np.ndarray, second: np.ndarray | None = None) -> Features:
    height, width = matte.shape
    around = Box(width / 2 - height / 3, height / 6, width / 2 + height / 3, height * 5 / 6)
    return features(matte, around, pixels, second)


def blurred(matte: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(matte, (0, 0), 6)


def shifted(matte: np.ndarray) -> np.ndarray:
    return np.roll(matte, 9, axis=1)


def with_blob(matte: np.ndarray) -> np.ndarray:
    worse = matte.copy()
    worse[5:25, 5:35] = 1
    return worse


def with_hole(matte: np.ndarray) -> np.ndarray:
    worse = matte.copy()
    worse[90:105, 120:140] = 0
    return worse


def test_every_feature_is_a_column() -> None:
    assert {field.name for field in fields(Features)} <= set(RECORDS.names)


def test_a_good_matte_has_every_feature(good: tuple[np.ndarray, np.ndarray]) -> None:
    pixels, alpha = good
    found = asdict(of(alpha, pixels, alpha))
    assert [name for name, value in found.items() if value is None] == ["prompt_point_alpha"]
    assert found["fragments"] == 1
    assert found["holes"] == 0
    assert found["fragment_share"] == found["hole_share"] == found["frame_contact"] == 0


def test_a_crisp_matte_in_its_box(square: np.ndarray) -> None:
    found = features(square, Box(2, 2, 6, 6), GRAY)
    assert found.coverage == pytest.approx(16 / 80)
    assert found.definiteness == 1
    assert found.semi_transparent == found.softness == 0
    assert found.prompt_outside == 0
    assert found.prompt_iou == 1


def test_fog_is_soft_and_not_definite(square: np.ndarray) -> None:
    found = features(square * 0.5, Box(2, 2, 6, 6), GRAY)
    assert (found.definiteness, found.semi_transparent, found.softness) == (0, 0.2, pytest.approx(0.2))
    square[2:4] *= 0.5
    assert features(square, Box(2, 2, 6, 6), GRAY).definiteness == pytest.approx(0.5)


def test_an_empty_matte_has_no_shares(square: np.ndarray) -> None:
    found = features(square * 0, Box(2, 2, 6, 6), GRAY)
    assert (found.coverage, found.fragments, found.holes, found.prompt_iou) == (0, 0, 0, 0)
    assert found.definiteness is found.prompt_outside is found.fragment_share is found.hole_share is None
    assert found.edge_alignment is found.laplacian_energy is found.colour_overlap is None


def test_without_a_second_pass_there_is_nothing_to_say_of_it(square: np.ndarray) -> None:
    found = features(square, Box(2, 2, 6, 6), GRAY)
    assert found.second_difference is found.second_agreement is None


@pytest.mark.parametrize(
    ("worsen", "name", "direction"),
    [
        (blurred, "definiteness", -1),
        (blurred, "semi_transparent", 1),
        (blurred, "softness", 1),
        (blurred, "edge_alignment", -1),
        (shifted, "edge_alignment", -1),
        (shifted, "laplacian_energy", 1),
        (shifted, "colour_overlap", 1),
        (shifted, "prompt_outside", 1),
        (shifted, "prompt_iou", -1),
        (with_blob, "fragments", 1),
        (with_blob, "fragment_share", 1),
        (with_blob, "colour_overlap", 1),
        (with_blob, "edge_alignment", -1),
        (with_blob, "prompt_outside", 1),
        (with_hole, "holes", 1),
        (with_hole, "hole_share", 1),
        (with_hole, "edge_alignment", -1),
        (with_hole, "laplacian_energy", 1),
        (lambda matte: cv2.erode(matte, np.ones((17, 17))), "prompt_iou", -1),
        (lambda matte: cv2.erode(matte, np.ones((17, 17))), "edge_alignment", -1),
        (lambda matte: cv2.erode(matte, np.ones((17, 17))), "laplacian_energy", 1),
        (lambda matte: np.roll(matte, 64, axis=1), "frame_contact", 1),
    ],
)
def test_a_worse_matte_shows(good, worsen, name: str, direction: int) -> None:
    pixels, alpha = good
    before, after = (getattr(of(matte, pixels), name) for matte in (alpha, worsen(alpha)))
    assert (after - before) * direction > 1e-3


@pytest.mark.parametrize("worsen", [blurred, shifted, with_blob, with_hole])
def test_a_second_matte_that_differs_shows(good, worsen) -> None:
    pixels, alpha = good
    same, other = of(alpha, pixels, alpha), of(alpha, pixels, worsen(alpha))
    assert (same.second_difference, same.second_agreement) == (0, 1)
    assert other.second_difference == pytest.approx(float(np.abs(alpha - worsen(alpha)).mean()), rel=1e-3)
    assert other.second_agreement < 0.8


def test_an_image_may_be_prepared_once_for_all_of_its_objects(good) -> None:
    pixels, alpha = good
    terms = prepare(pixels)
    for matte in (alpha, with_hole(alpha)):
        assert of(matte, terms) == of(matte, pixels)


def test_features_hardly_depend_on_the_size_of_the_image() -> None:
    small, large = (of(alpha, pixels) for pixels, alpha in (composite(), composite(1152, 1536, edge=24)))
    for name, value in asdict(small).items():
        if value is not None:
            other = getattr(large, name)
            assert other == pytest.approx(value, abs=0.3 if name == "laplacian_energy" else 0.03), name


def prompts_for(height: int, width: int) -> st.SearchStrategy[Prompt]:
    def box(values: tuple[float, float, float, float]) -> Box:
        (x0, x1), (y0, y1) = sorted(values[:2]), sorted(values[2:])
        return Box(x0 * width - 1, y0 * height - 1, x1 * width + 1, y1 * height + 1)

    share = st.floats(0, 1)
    inside = st.floats(0, 1, exclude_max=True)
    return st.one_of(
        st.tuples(share, share, share, share).map(box),
        st.just(Box(0, 0, width, height)),
        st.lists(st.tuples(inside, inside), min_size=1, max_size=4).map(
            lambda pairs: Points([(x * width, y * height) for x, y in pairs])
        ),
        st.just(Mask(np.ones((height, width), bool))),
        st.just(Mask(np.eye(height, width, dtype=bool))),
        st.just(Auto()),
        st.just(Trimap(np.full((height, width), 128, np.uint8))),
    )


@st.composite
def inputs(draw: st.DrawFn) -> tuple[np.ndarray, Prompt, np.ndarray, np.ndarray | None]:
    extreme = st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (1, 700), (2, 5000), (5000, 2)])
    height, width = draw(st.one_of(extreme, st.tuples(st.integers(1, 40), st.integers(1, 40))))
    rng = np.random.default_rng(draw(st.integers(0, 99)))

    def alpha(kind: str) -> np.ndarray:
        noise = rng.random((height, width), np.float32)
        plain = {"empty": 0, "full": 1, "half": 0.5, "almost empty": 1e-6}
        return np.full_like(noise, plain[kind]) if kind in plain else noise.round() if kind == "binary" else noise

    kinds = st.sampled_from(["empty", "full", "half", "almost empty", "binary", "noise"])
    constant = draw(st.booleans())
    pixels = np.full((height, width, 3), 200, np.uint8) if constant else rng.integers(0, 256, (height, width, 3))
    second = alpha(draw(kinds)) if draw(st.booleans()) else None
    return alpha(draw(kinds)), draw(prompts_for(height, width)), pixels.astype(np.uint8), second


UNIT = {field.name for field in fields(Features)} - {"fragments", "holes", "laplacian_energy"}


@given(inputs())
@settings(max_examples=150, deadline=None)
def test_every_value_is_none_or_in_its_range(given: tuple[np.ndarray, Prompt, np.ndarray, np.ndarray | None]) -> None:
    for name, value in asdict(features(*given)).items():
        assert value is None or type(value) in {int, float}, name
        assert value is None or math.isfinite(value), name
        assert value is None or name not in UNIT or 0 <= value <= 1, name


def test_a_very_long_image_is_no_trouble() -> None:
    alpha = np.zeros((20_000, 2), np.float32)
    alpha[5000:10_000] = 1
    pixels = np.zeros((20_000, 2, 3), np.uint8)
    found = features(alpha, Box(0, 5000, 2, 10_000), pixels)
    assert found.coverage == pytest.approx(0.25)
    assert found.prompt_iou == pytest.approx(1, abs=0.01)
    assert found.prompt_area == pytest.approx(0.25)


def test_nothing_that_is_given_is_changed(good) -> None:
    pixels, alpha = (array.copy() for array in good)
    of(alpha, pixels, alpha)
    assert np.array_equal(pixels, good[0])
    assert np.array_equal(alpha, good[1])
    assert replace(of(alpha, pixels)) == of(alpha, pixels)
