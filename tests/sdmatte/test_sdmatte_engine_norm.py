import torch
import torch.nn.functional as F
from torch import nn

from sdmatte.engine.norm import normalise
from sdmatte.engine.runs import Counts


def norm(channels: int) -> nn.GroupNorm:
    torch.manual_seed(1)
    module = nn.GroupNorm(8, channels).requires_grad_(False)
    module.weight.copy_(torch.rand(channels) + 0.5)
    module.bias.copy_(torch.randn(channels))
    return module


def test_a_large_mean_costs_no_digits() -> None:
    """torch's own kernel for channels-last memory loses them here."""
    x = torch.randn(2, 64, 40, 50) + 300
    expected = norm(64).double()(x.double())
    found = normalise(x.contiguous(memory_format=torch.channels_last), norm(64), activate=False)
    assert (found - expected).abs().max() < 1e-3  # 300 has steps of 3e-5 itself, and a deviation of 1
    assert (found - expected).abs().mean() < 5e-5


def test_both_layouts_and_the_activation() -> None:
    x = torch.randn(2, 64, 9, 11)
    expected = F.silu(norm(64)(x))
    for layout in (torch.contiguous_format, torch.channels_last):
        found = normalise(x.contiguous(memory_format=layout), norm(64), activate=True)
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_counted_rows_and_columns_stand_for_repeated_ones() -> None:
    x = torch.randn(1, 16, 4, 5)
    rows, columns = torch.tensor([1, 7, 1, 2]), torch.tensor([3, 1, 1, 1, 6])
    whole = x.repeat_interleave(rows, 2).repeat_interleave(columns, 3)
    expected = norm(16)(whole)
    found = normalise(x, norm(16), activate=False, counts=Counts(rows.float(), columns.float()))
    found = found.repeat_interleave(rows, 2).repeat_interleave(columns, 3)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
