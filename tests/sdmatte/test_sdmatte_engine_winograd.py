import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmatte.engine import winograd
from sdmatte.engine.winograd import Affine, Winograd


def picture(batch: int, channels: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(channels + height)
    x = torch.randn(batch, channels, height, width, generator=generator)
    return x.contiguous(memory_format=torch.channels_last)


def kernel(outputs: int, channels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(outputs)
    return torch.randn(outputs, channels, 3, 3, generator=generator) / (9 * channels) ** 0.5


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 19), st.integers(1, 19), st.integers(0, 1))
def test_any_size_equals_a_direct_convolution(batch: int, height: int, width: int, upsample: int) -> None:
    x, weight, bias = picture(batch, 8, height, width), kernel(12, 8), torch.arange(12.0)
    found = Winograd(weight, upsample=bool(upsample))(x, bias)
    before = F.interpolate(x, scale_factor=2) if upsample else x
    expected = F.conv2d(before.double(), weight.double(), bias.double(), padding=1)
    torch.testing.assert_close(found.double(), expected, atol=5e-5, rtol=0)


def test_rounding_is_a_few_times_that_of_a_direct_convolution() -> None:
    x, weight = picture(1, 256, 32, 32), kernel(256, 256)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    error, direct = (
        (each.double() - exact).square().mean().sqrt()
        for each in (Winograd(weight)(x, None), F.conv2d(x, weight, padding=1))
    )
    assert error < 8 * direct
    assert error < 1e-5


def test_what_stands_before_is_applied_inside_the_border_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "FEWEST_TILES", 2)
    monkeypatch.setattr(winograd, "STRIP_BYTES", 1)  # strips of one row of tiles
    x, weight = picture(2, 8, 13, 6), kernel(8, 8)
    before = Affine(torch.rand(2, 8) + 0.5, torch.randn(2, 8))
    biases = torch.randn(2, 8)
    expected = F.silu(x * before.scale[:, :, None, None] + before.shift[:, :, None, None])
    expected = F.conv2d(expected, weight, padding=1) + biases[:, :, None, None]
    torch.testing.assert_close(Winograd(weight)(x, biases, before), expected, atol=3e-5, rtol=0)
    linear = Affine(before.scale, before.shift, activate=False)
    expected = F.conv2d(x * before.scale[:, :, None, None] + before.shift[:, :, None, None], weight, padding=1)
    torch.testing.assert_close(Winograd(weight)(x, None, linear), expected, atol=3e-5, rtol=0)
