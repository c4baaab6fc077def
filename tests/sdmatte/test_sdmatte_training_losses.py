"""Losses: values by hand, and gradients."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from sdmatte.errors import SDMatteError
from sdmatte.training.losses import (
    PYRAMID_LEVELS,
    feature_loss,
    laplacian_pyramid,
    matting_losses,
    pyramid_levels,
    region_mean,
    soft_clip,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- regions


def test_region_means_count_the_region_only() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 40.0])
    assert region_mean(values, torch.tensor([1.0, 1.0, 0.0, 0.0])) == 1.5
    assert region_mean(values, torch.tensor([1.0, 0.5, 0.5, 0.0])) == pytest.approx((1 + 1 + 1.5) / 2)
    assert region_mean(values, torch.zeros(4)) == 0


def test_l1_by_hand() -> None:
    truth = torch.zeros(1, 1, 4, 4)
    truth[..., :2] = 1
    predicted = truth.clone()
    predicted[..., 0, 0] = 0.2  # known
    predicted[..., :, 2] = 0.5  # unknown
    unknown = torch.zeros(1, 1, 4, 4)
    unknown[..., 1:3] = 1
    losses = matting_losses(predicted, truth, unknown)
    assert losses["l1_known"] == pytest.approx(0.8 / 8)
    assert losses["l1_unknown"] == pytest.approx(4 * 0.5 / 8)


def test_a_perfect_matte_costs_nothing() -> None:
    truth, unknown = noise(2, 1, 32, 32), (noise(2, 1, 32, 32, seed=1) > 0.5).double()
    losses = matting_losses(truth, truth, unknown)
    assert list(losses) == ["l1_known", "l1_unknown", "laplacian_known", "laplacian_unknown"]
    assert all(value == 0 for value in losses.values())


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_an_empty_region_costs_nothing(level: float) -> None:
    losses = matting_losses(
        noise(1, 1, 16, 16), noise(1, 1, 16, 16, seed=1), torch.full((1, 1, 16, 16), level).double()
    )
    empty, full = ("unknown", "known") if level == 0 else ("known", "unknown")
    assert losses[f"l1_{empty}"] == losses[f"laplacian_{empty}"] == 0
    assert losses[f"l1_{full}"] > 0.1
    assert losses[f"laplacian_{full}"] > 0.1


# --- the pyramid


def test_the_pyramid_of_a_constant_is_zero() -> None:
    bands = laplacian_pyramid(torch.full((2, 1, 64, 48), 0.7), PYRAMID_LEVELS)
    assert [tuple(band.shape[-2:]) for band in bands] == [(64, 48), (32, 24), (16, 12), (8, 6)]  # not down to 3 pixels
    for band in bands:
        assert band.abs().max() < 1e-6


def test_a_constant_error_costs_l1_only() -> None:
    truth, unknown = noise(1, 1, 32, 32) / 2, (noise(1, 1, 32, 32, seed=1) > 0.5).double()
    losses = matting_losses(truth + 0.25, truth, unknown)
    assert losses["l1_known"] == pytest.approx(0.25)
    assert losses["l1_unknown"] == pytest.approx(0.25)
    assert losses["laplacian_known"] + losses["laplacian_unknown"] < 1e-12


def test_bands_are_those_of_burt_and_adelson() -> None:
    """Against SciPy: blur by the binomial kernel, halve, and subtract what the halved picture can show."""
    image = noise(1, 1, 16, 24)
    weights = np.array([1, 4, 6, 4, 1]) / 16
    left = image[0, 0].numpy()
    for band in laplacian_pyramid(image, 2):
        blurred = ndimage.convolve1d(ndimage.convolve1d(left, weights, 0, mode="mirror"), weights, 1, mode="mirror")
        rows, columns = left.shape
        halved = blurred.reshape(rows // 2, 2, columns // 2, 2).mean(axis=(1, 3))
        # Bilinear with the pixels' areas aligned: sample at (i + 0.5) / 2 - 0.5, the border repeated.
        at = np.meshgrid((np.arange(rows) - 0.5) / 2, (np.arange(columns) - 0.5) / 2, indexing="ij")
        shown = ndimage.map_coordinates(halved, at, order=1, mode="nearest")
        np.testing.assert_allclose(band[0, 0].numpy(), left - shown, atol=1e-12)
        left = halved


def test_the_laplacian_loss_is_the_bands_mean_with_doubling_weights() -> None:
    predicted, truth = noise(2, 1, 64, 64), noise(2, 1, 64, 64, seed=1)
    ours, theirs = laplacian_pyramid(predicted, 2), laplacian_pyramid(truth, 2)
    expected = sum(2**level * (a - b).abs().mean() / 2 for level, (a, b) in enumerate(zip(ours, theirs, strict=True)))
    losses = matting_losses(predicted, truth, torch.ones_like(truth))
    torch.testing.assert_close(losses["laplacian_unknown"], torch.as_tensor(expected))
    half = torch.ones_like(truth)
    half[1] = 0  # a sample of known pixels, one of unknown ones
    losses = matting_losses(predicted, truth, half)
    both = (losses["laplacian_known"] + losses["laplacian_unknown"]) / 2
    torch.testing.assert_close(both, torch.as_tensor(expected))


def test_the_coarsest_band_keeps_its_share_of_the_picture() -> None:
    levels = {side: pyramid_levels(side) for side in (16, 32, 64, 96, 128, 256, 512, 1024)}
    assert levels == {16: 1, 32: 1, 64: 2, 96: 2, 128: 3, 256: 4, 512: PYRAMID_LEVELS, 1024: PYRAMID_LEVELS}


def test_gradients_of_the_losses() -> None:
    truth, unknown = noise(1, 1, 8, 8), (noise(1, 1, 8, 8, seed=1) > 0.5).double()
    predicted = noise(1, 1, 8, 8, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sum(matting_losses(x, truth, unknown).values()), predicted)


# --- the clip


def test_the_clip_drops_gradients_that_lead_out() -> None:
    values = torch.tensor([-0.5, -0.5, 0.5, 0.5, 1.5, 1.5], requires_grad=True)
    clipped = soft_clip(values)
    assert clipped.tolist() == [0, 0, 0.5, 0.5, 1, 1]
    # Descent goes against the gradient: +1 lowers the value, -1 raises it.
    clipped.backward(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]))
    assert values.grad is not None
    assert values.grad.tolist() == [0, -1, 1, -1, 1, 0]


def test_inside_of_the_range_the_clip_is_the_identity() -> None:
    assert torch.autograd.gradcheck(soft_clip, (noise(20) * 0.9 + 0.05).requires_grad_())


def test_a_pixel_that_overshot_comes_back() -> None:
    value = torch.tensor([3.0], requires_grad=True)
    for _ in range(40):
        loss = (soft_clip(value) - 0.25).abs().sum()
        value.data -= 0.1 * torch.autograd.grad(loss, value)[0]
    assert value.item() == pytest.approx(0.25, abs=0.11)


# --- distillation


def test_the_feature_loss_by_hand() -> None:
    student = [torch.tensor([[1.0, 2.0]], requires_grad=True), torch.zeros(1, 3, requires_grad=True)]
    teacher = [torch.tensor([[1.0, 4.0]], requires_grad=True), torch.full((1, 3), 3.0).bfloat16()]
    loss = feature_loss(student, teacher)
    assert loss.item() == 4 / 2 + 9
    loss.backward()
    assert student[0].grad is not None
    assert student[0].grad.tolist() == [[0, -2]]
    assert teacher[0].grad is None


def test_blocks_that_differ_cannot_be_distilled() -> None:
    maps = [torch.zeros(1, 4, 2, 2)]
    for other in (maps * 2, [torch.zeros(1, 1, 2, 2)]):
        with pytest.raises(SDMatteError, match="the same blocks and channels"):
            feature_loss(maps, other)
