import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from sdmatte.errors import SDMatteError
from sdmatte.metrics import conn, conn_sdmatte, evaluate, grad, mad, mse, sad

FIXTURES = Path(__file__).parents[1] / "fixtures" / "metrics"
EXPECTED = json.loads((FIXTURES / "metrics_expected.json").read_text())
SINGLE = {"mse": mse, "mad": mad, "sad": sad, "grad": grad, "conn": conn, "conn_sdmatte": conn_sdmatte}


def pair(index: str | int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    with np.load(FIXTURES / "metrics_pairs.npz") as pairs:
        return pairs[f"pred{index}"], pairs[f"gt{index}"], pairs[f"trimap{index}"]


def rectangle(*, rows: slice, columns: slice, value: float = 1.0) -> NDArray[np.float32]:
    alpha = np.zeros((20, 40), np.float32)
    alpha[rows, columns] = value
    return alpha


# Parity.


@pytest.mark.parametrize("index", EXPECTED)
def test_figures_of_the_reference_are_met(index: str) -> None:
    result = evaluate(*pair(index))
    assert result.unknown is not None
    for measured, figures in ((result.whole, EXPECTED[index]["whole"]), (result.unknown, EXPECTED[index]["unknown"])):
        # The reference's Conn is the one with the fault.
        expected = {"conn_sdmatte" if name == "conn" else name: value for name, value in figures.items()}
        assert len(expected) == 5
        assert {name: getattr(measured, name) for name in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", SINGLE)
def test_single_functions_agree_with_evaluate(name: str) -> None:
    predicted, truth, trimap = pair(0)
    result = evaluate(predicted, truth, trimap)
    # Not to the last bit: OpenCV's filters round by how their buffers lie in memory.
    assert SINGLE[name](predicted, truth) == pytest.approx(getattr(result.whole, name), rel=1e-7)
    assert SINGLE[name](predicted, truth, trimap) == pytest.approx(getattr(result.unknown, name), rel=1e-7)


@pytest.mark.parametrize("scale", [np.float32, np.float64, np.uint16])
def test_types_of_alphas_do_not_matter(scale: type) -> None:
    predicted, truth, trimap = pair(1)
    other = truth.astype(np.uint16) * 257 if scale is np.uint16 else truth.astype(scale) / 255
    expected, mixed = evaluate(predicted, truth, trimap), evaluate(predicted, other, trimap)
    assert expected.unknown is not None
    assert mixed.unknown is not None
    assert asdict(mixed.whole) == pytest.approx(asdict(expected.whole), rel=1e-6)
    assert asdict(mixed.unknown) == pytest.approx(asdict(expected.unknown), rel=1e-6)


def test_bool_alphas_are_opaque_or_absent() -> None:
    truth = rectangle(rows=slice(2, 9), columns=slice(3, 33))
    predicted = rectangle(rows=slice(4, 12), columns=slice(3, 33))
    expected = evaluate(predicted, truth).whole
    assert asdict(evaluate(predicted.astype(bool), truth).whole) == pytest.approx(asdict(expected), rel=1e-7)


def test_inputs_are_left_alone() -> None:
    predicted, truth = (alpha.astype(np.float32) / 255 for alpha in pair(2)[:2])
    before = predicted.copy(), truth.copy()
    evaluate(predicted, truth)
    np.testing.assert_array_equal((predicted, truth), before)


# Answers known by hand.


def test_identical_mattes_have_no_error() -> None:
    truth, trimap = pair(3)[1:]
    result = evaluate(truth, truth, trimap)
    assert result.unknown is not None
    # Not quite 0: OpenCV's filters round by where a buffer lies in memory.
    assert max(*asdict(result.whole).values(), *asdict(result.unknown).values()) < 1e-12


def test_shifted_rectangle() -> None:
    """Three columns of ten pixels are missing on the left, and as many stick out on the right."""
    truth = rectangle(rows=slice(5, 15), columns=slice(5, 25))
    predicted = rectangle(rows=slice(5, 15), columns=slice(8, 28))
    result = evaluate(predicted, truth).whole
    assert result.sad == pytest.approx(60 / 1000)
    assert result.mse == result.mad == pytest.approx(60 / 800)


def test_unknown_region_limits_what_is_summed() -> None:
    truth = rectangle(rows=slice(5, 15), columns=slice(5, 25))
    predicted = rectangle(rows=slice(5, 15), columns=slice(8, 28), value=0.5)
    trimap = np.zeros(truth.shape, np.uint8)
    trimap[:, 20:30] = 128  # 5 columns of the object at half its alpha, 3 columns beside it at half of nothing
    trimap[:, 30:] = 127
    result = evaluate(predicted, truth, trimap).unknown
    assert result is not None
    assert result.sad == pytest.approx(8 * 10 * 0.5 / 1000)
    assert result.mad == pytest.approx(8 * 10 * 0.5 / 200)
    assert result.mse == pytest.approx(8 * 10 * 0.25 / 200)


def test_grad_is_that_of_the_two_dimensional_kernel() -> None:
    """From the definition: convolution with the whole kernel, its squares summing to 1, replicated borders."""
    rng = np.random.default_rng(0)
    alphas = ndimage.gaussian_filter(rng.random((2, 31, 24)), (0, 1.5, 1.5))
    x = np.arange(-4, 5)
    gaussian = np.exp(-(x**2) / (2 * 1.4**2))
    kernel = np.outer(gaussian, -x * gaussian)
    kernel /= np.sqrt((kernel**2).sum())
    predicted, truth = (
        np.hypot(ndimage.convolve(alpha, kernel, mode="nearest"), ndimage.convolve(alpha, kernel.T, mode="nearest"))
        for alpha in alphas
    )
    assert grad(*alphas) == pytest.approx(((predicted - truth) ** 2).sum() / 1000, rel=1e-5)


def test_grad_measures_contrast() -> None:
    """Half the alpha everywhere has half the gradients: no matte is stretched to [0, 1] first."""
    truth = rectangle(rows=slice(5, 15), columns=slice(5, 25))
    assert grad(truth / 2, truth) == pytest.approx(grad(np.zeros_like(truth), truth) / 4, rel=1e-5)


def test_conn_of_a_split_blob() -> None:
    truth = rectangle(rows=slice(5, 9), columns=slice(5, 35))
    predicted = truth.copy()
    predicted[:, 25:] *= 0.9
    # In one piece: the weaker end belongs to the source up to 0.9, and the truth sticks out by less than 0.15 there.
    assert conn(predicted, truth) == 0
    predicted[:, 23:25] = 0
    # Split: the gap (4 x 2 px) lacks 1, and the end that was cut off (4 x 10 px) is at level 0 and lacks 0.1.
    assert conn(predicted, truth) == pytest.approx((8 * 1.0 + 40 * 0.1) / 1000)


def test_conn_does_not_connect_across_corners() -> None:
    truth = np.maximum(
        rectangle(rows=slice(0, 10), columns=slice(0, 10)), rectangle(rows=slice(10, 15), columns=slice(10, 15))
    )
    predicted = truth.copy()
    predicted[10:15, 10:15] = 0.9
    assert conn(predicted, truth) == pytest.approx(25 * 0.1 / 1000)


@pytest.mark.parametrize("eight_bits", [True, False])
def test_conn_thresholds_are_met_exactly(eight_bits: bool) -> None:
    """153 / 255 is 0.6 and reaches the sixth threshold, whatever the binary rounding."""
    truth = rectangle(rows=slice(0, 10), columns=slice(0, 30)) * 255
    predicted = truth.copy()
    predicted[:10, 20:30], truth[:10, 20:30] = 153, 192
    alphas = [alpha.astype(np.uint8) if eight_bits else alpha.astype(np.float64) / 255 for alpha in (predicted, truth)]
    # Level 0.6: the prediction doesn't stick out, the truth does by 0.753 - 0.6, which is just above 0.15.
    assert conn(*alphas) == pytest.approx(100 * (192 - 153) / 255 / 1000, rel=1e-5)


def naive_conn(predicted: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Connectivity pixel by pixel, in the words of the definition."""
    sources = []
    for step in range(1, 11):
        labels, count = ndimage.label(np.minimum(predicted, truth) >= step / 10 - 1e-9)
        areas = [(labels == label).sum() for label in range(1, count + 1)]
        sources.append(labels == 1 + int(np.argmax(areas)) if count else np.zeros(labels.shape, bool))
    total = 0.0
    for at in np.ndindex(predicted.shape):
        level = 0.0
        for step, source in enumerate(sources, 1):
            if not source[at]:
                break
            level = step / 10
        phi = [1 - (a[at] - level if a[at] - level >= 0.15 else 0) for a in (predicted, truth)]
        total += abs(phi[0] - phi[1])
    return total / 1000


@pytest.mark.parametrize("seed", range(3))
def test_conn_of_noise_matches_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.random((3, 26, 33)), (0, 2, 2))
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    predicted, truth = smooth[0], (smooth[0] + 0.5 * (smooth[1] - smooth[2])).clip(0, 1)
    assert conn(predicted, truth) == pytest.approx(naive_conn(predicted, truth), rel=1e-5)
    assert conn(predicted, truth) > 0


def test_conn_sdmatte_takes_the_background_for_the_source() -> None:
    truth = rectangle(rows=slice(5, 9), columns=slice(5, 35))
    predicted = truth * 0.9
    # Small object: every difference counts, though the object is in one piece.
    assert conn_sdmatte(predicted, truth) == pytest.approx(120 * 0.1 / 1000)
    predicted = truth.copy()
    predicted[12:16, 0:4] = 1.0
    # And a blob that isn't there doesn't count, which the definition finds.
    assert conn_sdmatte(predicted, truth) == 0
    assert conn(predicted, truth) == pytest.approx(16 / 1000)
    # An object that fills most of the frame is measured by either in the same way.
    truth = rectangle(rows=slice(0, 20), columns=slice(0, 38))
    predicted = truth.copy()
    predicted[:, 20:22] = 0
    assert conn_sdmatte(predicted, truth) == conn(predicted, truth) == pytest.approx(40 / 1000)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_empty_and_full_mattes_can_be_measured(value: float) -> None:
    constant = np.full((5, 7), value)
    result = evaluate(constant, 1 - constant).whole
    assert (result.mse, result.grad) == (1, pytest.approx(0, abs=1e-12))
    assert result.sad == result.conn == pytest.approx(35 / 1000)


# Faults.


def test_sizes_must_be_equal() -> None:
    with pytest.raises(SDMatteError, match=r"\(4, 5\).*\(5, 4\).*resize the prediction"):
        evaluate(np.zeros((4, 5)), np.zeros((5, 4)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [*SINGLE, "evaluate"])
def test_values_must_be_finite(name: str, bad: float) -> None:
    predicted = np.zeros((4, 5))
    predicted[1, 2] = bad
    with pytest.raises(SDMatteError, match=r"1 of 20 pixels of the predicted alpha are NaN or infinite"):
        {**SINGLE, "evaluate": evaluate}[name](predicted, np.zeros((4, 5)))


@pytest.mark.parametrize(("high", "advice"), [(255.0, "divide it by 255"), (1.01, "clip it first")])
def test_values_must_be_in_range(high: float, advice: str) -> None:
    with pytest.raises(SDMatteError, match=rf"true alpha spans \[0, {high:g}\].*{advice}"):
        mse(np.zeros((4, 5)), np.array([[0.0] * 5] * 3 + [[high] * 5]))


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        (np.zeros((4, 5), np.int64), "predicted alpha is int64; give floats"),
        (np.zeros((4, 5, 3)), r"2-D array .* \(4, 5, 3\)"),
        (np.zeros((0, 5)), r"at least one pixel, got the shape \(0, 5\)"),
    ],
)
def test_alphas_must_be_alphas(alpha: NDArray[np.float64], message: str) -> None:
    with pytest.raises(SDMatteError, match=message):
        evaluate(alpha, alpha)


@pytest.mark.parametrize("name", [*SINGLE, "evaluate"])
def test_the_unknown_region_must_not_be_empty(name: str) -> None:
    alpha = np.zeros((4, 5))
    trimap = np.full((4, 5), 255, np.uint8)
    trimap[0] = 127
    with pytest.raises(SDMatteError, match=r"no unknown pixel \(exactly 128\); its values are \[127, 255\]: write"):
        {**SINGLE, "evaluate": evaluate}[name](alpha, alpha, trimap)


@pytest.mark.parametrize("trimap", [np.full((5, 4), 128, np.uint8), np.full((4, 5), 128, np.int64)])
def test_trimaps_must_fit(trimap: NDArray[np.uint8]) -> None:
    with pytest.raises(SDMatteError, match=r"the trimap must be uint8 \(4, 5\) like the alphas, got"):
        evaluate(np.zeros((4, 5)), np.zeros((4, 5)), trimap)
