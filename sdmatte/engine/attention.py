"""Attention over the keys that count.

The prompt adds -10000 to the logits of keys outside of it (:mod:`sdmatte.unet`). After the softmax such a key weighs
exp(-10000), which is 0 in every precision: leaving it out is exact, and the cost falls with the prompt's area.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sdmatte.unet import attention_bias

NEGLIGIBLE = -2000.0
"""Bias below which a key is left out. exp(x) is 0 in float32 below -104: logits would have to differ by 1900."""


@dataclass(frozen=True)
class Keys:
    """The keys of one sample that self-attention looks at, on one grid.

    Attributes:
        index: ``(K,)`` int64, cells in rows; None for all of them.
        bias: ``(K,)`` float32, at most 0; None where it is 0 for all.
    """

    index: Tensor | None
    bias: Tensor | None


def select_keys(inside: Tensor, grid: tuple[int, int], device: torch.device) -> list[Keys]:
    """Choose the keys of each sample; all of them, where none lies inside the prompt.

    Args:
        inside: ``(B, 1, h, w)`` in [0, 1], on the CPU, so that nothing waits for a device.
        grid: Height and width of the attention's grid.
        device: Where the result is needed.
    """
    keys = []
    for bias in attention_bias(inside, grid, torch.float32)[:, 0]:
        kept = torch.nonzero(bias > NEGLIGIBLE)[:, 0]
        index = None if len(kept) == len(bias) else kept.to(device)
        some = bias[kept]
        keys.append(Keys(index, some.to(device) if bool(some.any()) else None))
    return keys


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Return the scaled dot-product attention of tokens.

    Args:
        queries: ``(B, Q, heads * d)``.
        keys: ``(B, K, heads * d)``.
        values: Likewise.
        heads: Number of heads.
        bias: ``(K,)`` float32, added to the logits; the computation is then in float32.

    Returns:
        ``(B, Q, heads * d)``.
    """
    dtype = queries.dtype
    q, k, v = (each.view(*each.shape[:2], heads, -1).transpose(1, 2) for each in (queries, keys, values))
    if bias is None:
        out = F.scaled_dot_product_attention(q, k, v)
    else:  # biases of points span thousands: half precision would round them by whole logits
        out = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=bias[None, None, None])
    return out.transpose(1, 2).flatten(2).to(dtype)


class SelfAttention:
    """Masked self-attention of a batch whose prompts have different sizes.

    Args:
        query: ``(C, C)``: weight of the queries' projection.
        key_value: ``(2 C, C)``: those of keys and values.
        heads: Number of heads.
    """

    def __init__(self, query: Tensor, key_value: Tensor, heads: int) -> None:
        self._query, self._key_value, self._heads = query, key_value, heads

    def __call__(self, tokens: Tensor, keys: Sequence[Keys]) -> Tensor:
        """Attend.

        Args:
            tokens: ``(B, T, C)``.
            keys: Of each sample.

        Returns:
            ``(B, T, C)``.
        """
        queries = F.linear(tokens, self._query)
        if all(each.index is None and each.bias is None for each in keys):
            key, value = F.linear(tokens, self._key_value).chunk(2, dim=-1)
            return attend(queries, key, value, self._heads)
        out = torch.empty_like(queries)
        for at, each in enumerate(keys):
            sample = tokens[at : at + 1] if each.index is None else tokens[at : at + 1].index_select(1, each.index)
            key, value = F.linear(sample, self._key_value).chunk(2, dim=-1)
            out[at : at + 1] = attend(queries[at : at + 1], key, value, self._heads, each.bias)
        return out
