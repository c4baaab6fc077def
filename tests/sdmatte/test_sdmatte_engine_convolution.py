import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sdmatte.engine.convolution import Convolution
from sdmatte.engine.winograd import Winograd

LAST = torch.channels_last


def layer(channels: int, outputs: int, size: int, **options: int) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, outputs, size, **options).requires_grad_(False)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("channels", [8, 64])
@pytest.mark.parametrize("upsample", [False, True])
def test_every_way_is_the_same_function(
    channels: int, layout: torch.memory_format, upsample: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    original = Winograd.__call__
    monkeypatch.setattr(Winograd, "__call__", lambda self, *args: calls.append(1) or original(self, *args))
    conv = layer(channels, channels, 3, padding=1)
    norm = nn.GroupNorm(4, channels).requires_grad_(False)
    x, extra = torch.randn(1, channels, 32, 36).contiguous(memory_format=layout), torch.randn(1, channels)
    expected = F.silu(norm(x.contiguous()))
    expected = conv(F.interpolate(expected, scale_factor=2) if upsample else expected) + extra[:, :, None, None]
    conv.to(memory_format=layout)  # type: ignore[call-overload]
    found = Convolution.of(conv, upsample=upsample)(x, norm, extra)
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=0)
    assert bool(calls) == (channels == 64 and layout == LAST)


def test_strided_with_a_border_on_two_sides() -> None:
    conv, x = layer(8, 8, 3, stride=2), torch.randn(2, 8, 10, 12)
    found = Convolution(conv.weight, conv.bias, stride=2, padding=(0, 1, 0, 1))(x)
    torch.testing.assert_close(found, conv(F.pad(x, (0, 1, 0, 1))))


def test_pointwise() -> None:
    conv, x = layer(64, 8, 1), torch.randn(2, 64, 5, 7).contiguous(memory_format=LAST)
    torch.testing.assert_close(Convolution.of(conv)(x), conv(x), atol=1e-5, rtol=0)


def test_half_precision_takes_no_short_cut_in_float32() -> None:
    conv = layer(64, 64, 3, padding=1).to(torch.bfloat16, memory_format=LAST)  # type: ignore[call-overload]
    x = torch.randn(1, 64, 32, 32, dtype=torch.bfloat16).contiguous(memory_format=LAST)
    norm = nn.GroupNorm(4, 64).requires_grad_(False).to(torch.bfloat16)
    found = Convolution.of(conv)(x, norm)
    assert found.dtype == torch.bfloat16
    expected = conv.float()(F.silu(norm.float()(x.float().contiguous())))
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)
