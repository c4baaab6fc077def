import sys

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion

from pipeline.errors import BadInputError, ErrorCode, PipelineError
from pipeline.evaluation.baselines import BASELINES, closed_form, grabcut, prompt_matte
from sdmatte.errors import PromptError
from sdmatte.prompts import Auto, Box, Mask, Points, Prompt

SIDE = 96
BOX = Box(14, 14, 82, 82)


def scene(softness: float) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A red disc of radius 30 on a bluish gradient; its edge fades over 2 x `softness` pixels."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    alpha = ((30 - np.hypot(rows - 48, columns - 48)) / softness / 2 + 0.5).clip(0, 1)
    behind = np.stack([columns, rows, np.full_like(rows, 255)], axis=-1) / 2.0
    noise = np.random.default_rng(0).normal(0, 3, behind.shape)
    image = alpha[..., None] * (200.0, 40.0, 30.0) + (1 - alpha[..., None]) * behind + noise
    return image.clip(0, 255).astype(np.uint8), alpha


def rough(alpha: NDArray[np.float64], pixels: int) -> Mask:
    """The object's mask, grown (or, below 0, shrunk) by that many pixels."""
    if pixels < 0:
        return Mask(binary_erosion(alpha > 0.5, iterations=-pixels))
    return Mask(binary_dilation(alpha > 0.5, iterations=pixels) if pixels else alpha > 0.5)


def mad(alpha: NDArray[np.float32] | None, truth: NDArray[np.float64]) -> float:
    assert alpha is not None
    assert (alpha.shape, alpha.dtype) == (truth.shape, np.float32)
    assert 0 <= alpha.min() <= alpha.max() <= 1
    return float(np.abs(alpha - truth).mean())


def test_a_box_as_a_matte_is_filled() -> None:
    image, _ = scene(1)
    expected = np.zeros((SIDE, SIDE))
    expected[14:82, 14:82] = 1
    assert mad(prompt_matte(image, BOX), expected) == 0
    expected[:] = 1  # what lies outside of the picture is cut off
    assert mad(prompt_matte(image, Box(-5, -5, SIDE + 9, SIDE + 9)), expected) == 0


def test_a_mask_as_a_matte_stays_as_it_is() -> None:
    image, alpha = scene(1)
    mask = rough(alpha, 3)
    assert mad(prompt_matte(image, mask), mask.pixels.astype(np.float64)) == 0


def test_points_as_a_matte_are_blobs() -> None:
    image, _ = scene(1)
    matte = prompt_matte(image, Points([(40, 50), (60, 20)]))
    assert matte[50, 40] == matte[20, 60] == matte.max() == 1
    assert matte.min() >= 0
    assert 0.5 < matte[50, 45] < 1


def test_grabcut_finds_the_object_in_its_box() -> None:
    image, alpha = scene(0.5)
    found = grabcut(image, BOX)
    assert mad(found, alpha) < 0.01 < mad(prompt_matte(image, BOX), alpha)
    assert set(np.unique(found)) == {0, 1}


@pytest.mark.parametrize("pixels", [-2, 2])
def test_grabcut_corrects_a_rough_mask(pixels: int) -> None:
    image, alpha = scene(0.5)
    mask = rough(alpha, pixels)
    assert mad(grabcut(image, mask), alpha) < mad(prompt_matte(image, mask), alpha) / 4


def test_grabcut_keeps_what_a_mask_says_for_certain() -> None:
    """Far from the mask's outline colours don't count, even where they say otherwise."""
    image, alpha = scene(0.5)
    image[44:52, 44:52] = image[2, 2]
    image[2:8, 2:8] = (200, 40, 30)
    found = grabcut(image, rough(alpha, 0))
    assert found is not None
    assert found[44:52, 44:52].all()
    assert not found[2:8, 2:8].any()


def test_grabcut_without_background_returns_the_prompt() -> None:
    image, _ = scene(1)
    everything = grabcut(image, Box(0, 0, SIDE, SIDE))
    assert everything is not None
    assert everything.all()


def test_grabcut_does_not_depend_on_what_ran_before() -> None:
    image = np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)
    found = []
    for seed in (1, 2):
        cv2.setRNGSeed(seed)
        found.append(grabcut(image, Box(5, 5, 30, 30)))
    np.testing.assert_array_equal(*found)


def test_grabcut_of_large_pictures_works_on_a_copy() -> None:
    image, alpha = scene(0.5)
    wide = np.concatenate([image, image[:, :40]], axis=1)
    wide_alpha = np.concatenate([alpha, np.zeros((SIDE, 40))], axis=1)
    assert mad(grabcut(wide, BOX, limit_side=68), wide_alpha) < 0.02


@pytest.mark.parametrize("prompt", ["box", "mask"])
def test_closed_form_recovers_a_soft_edge(prompt: str) -> None:
    image, alpha = scene(1.5)
    chosen = BOX if prompt == "box" else rough(alpha, 1)
    solved = closed_form(image, chosen)
    assert mad(solved, alpha) < 0.002
    assert min(mad(grabcut(image, chosen), alpha), mad(prompt_matte(image, chosen), alpha)) > 0.01


def test_closed_form_of_large_pictures_works_on_a_copy() -> None:
    image, alpha = scene(3)
    assert mad(closed_form(image, rough(alpha, 2), limit_side=48), alpha) < 0.03


def test_closed_form_of_thin_objects_knows_some_foreground() -> None:
    image, _ = scene(1)
    image[:, 40:43] = (0, 255, 0)
    line = np.zeros((SIDE, SIDE), bool)
    line[:, 40:43] = True
    matte = closed_form(image, Mask(line))
    assert matte is not None
    assert matte[:, 41].min() > 0.9
    assert matte[~line].max() < 0.2


def test_closed_form_falls_back_to_the_box_where_grabcut_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = scene(1)
    nothing = np.zeros((SIDE, SIDE), np.float32)
    monkeypatch.setattr("pipeline.evaluation.baselines.grabcut", lambda image, prompt: nothing)
    matte = closed_form(image, BOX)
    assert matte is not None
    assert matte[48, 48] == 1
    assert matte[2, 2] == 0


def test_closed_form_without_background_returns_the_prompt() -> None:
    image, _ = scene(1)
    everything = closed_form(image, Mask(np.ones((SIDE, SIDE), bool)))
    assert everything is not None
    assert everything.all()


def test_closed_form_without_solution_is_a_fault_of_this_input(monkeypatch: pytest.MonkeyPatch) -> None:
    import pymatting

    def fail(*_: object) -> None:
        raise ValueError("no convergence")

    monkeypatch.setattr(pymatting, "estimate_alpha_cf", fail)
    image, alpha = scene(1)
    with pytest.raises(BadInputError, match=r"found no solution \(no convergence\)") as caught:
        closed_form(image, rough(alpha, 0))
    assert caught.value.code is ErrorCode.MODEL_FAILED


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_deterministic(name: str) -> None:
    image, alpha = scene(1)
    first, second = (BASELINES[name](image, rough(alpha, 1)) for _ in range(2))
    assert first is not None
    np.testing.assert_array_equal(first, second)


def test_points_are_for_the_prompt_baseline_alone() -> None:
    image, _ = scene(1)
    points = Points([(48, 48)])
    given = {name: baseline(image, points) is not None for name, baseline in BASELINES.items()}
    assert given == {"prompt": True, "grabcut": False, "closed_form": False}


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        (Auto(), "prompt_unsupported"),
        (Box(200, 200, 300, 300), "prompt_out_of_frame"),
        (Mask(np.zeros((SIDE, SIDE), bool)), "prompt_empty_mask"),
        (Mask(np.ones((SIDE, SIDE + 1), bool)), "prompt_size_mismatch"),
    ],
)
def test_unfit_prompts_are_refused(name: str, prompt: Prompt, code: str) -> None:
    with pytest.raises(PromptError) as caught:
        BASELINES[name](scene(1)[0], prompt)
    assert caught.value.code == code
    assert ErrorCode(code)


@pytest.mark.parametrize("image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8)])
@pytest.mark.parametrize("name", BASELINES)
def test_unfit_images_are_refused(name: str, image: NDArray[np.uint8]) -> None:
    with pytest.raises(PipelineError, match=r"expected \(H, W, 3\) uint8 RGB"):
        BASELINES[name](image, Box(0, 0, 5, 5))


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (2, 2), (3, 40)])
@pytest.mark.parametrize("name", BASELINES)
def test_tiny_pictures_are_survived(name: str, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    alpha = BASELINES[name](image, Box(0, 0, max(1, size[1] // 2), size[0]))
    assert alpha is not None
    assert alpha.shape == size
    assert np.isfinite(alpha).all()


def test_pymatting_is_not_imported_before_it_is_needed() -> None:
    import subprocess

    script = "import sys, pipeline.evaluation.baselines; assert not {'torch', 'numba', 'pymatting'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
