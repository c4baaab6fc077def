import pytest
import torch
import torch.nn.functional as F

from sdmatte.engine.attention import SelfAttention, select_keys
from sdmatte.unet import attention_bias

CPU = torch.device("cpu")
GRID = (8, 8)


def inside() -> torch.Tensor:
    """Five prompts: a box, one cell, nothing, everything, and a soft map of points."""
    maps = torch.zeros(5, 1, 16, 16)
    maps[0, :, 2:11, 3:9] = 1
    maps[1, :, 4, 4] = 1
    maps[3] = 1
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    maps[4, 0] = torch.exp(-((x - 7) ** 2 + (y - 5) ** 2) / 80)
    return maps


def test_only_keys_that_weigh_are_kept() -> None:
    box, cell, nothing, everything, points = select_keys(inside(), GRID, CPU)
    assert box.index is not None
    assert len(box.index) == 5 * 3
    assert box.bias is None
    assert cell.index is not None
    assert cell.index.tolist() == [2 * 8 + 2]
    assert nothing.index is everything.index is None  # equal biases for all are none
    assert points.index is not None
    assert points.bias is not None
    assert 4 < len(points.index) < 20
    assert points.bias.max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_of_mixed_prompts_equals_attention_with_biases(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(5, 64, 32).to(dtype)
    query, key, value = (torch.randn(3, 32, 32) / 32**0.5).to(dtype)
    found = SelfAttention(query, torch.cat([key, value]), heads=4)(tokens, select_keys(inside(), GRID, CPU))
    assert found.dtype == dtype
    bias = attention_bias(inside(), GRID, torch.float32)[:, None]
    parts = [
        F.linear(tokens, weight).float().unflatten(-1, (4, 8)).transpose(1, 2)  # type: ignore[no-untyped-call]
        for weight in (query, key, value)
    ]
    expected = F.scaled_dot_product_attention(*parts, attn_mask=bias).transpose(1, 2).flatten(2)
    tolerance = 2e-6 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=0)
