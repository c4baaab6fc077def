"""Residual and transformer blocks, with the weights of diffusers' modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdmatte.engine.attention import Keys, SelfAttention, attend
from sdmatte.engine.convolution import Convolution, precise
from sdmatte.engine.norm import normalise
from sdmatte.engine.runs import Counts, first_axis, worthwhile


class ResnetBlock:
    """``x + conv2(silu(norm2(conv1(silu(norm1(x))) + embedding)))`` with a 1 x 1 convolution of ``x`` where needed.

    The sum is divided by the block's `output_scale_factor`.

    Args:
        block: A `ResnetBlock2D` that does not resample.
    """

    def __init__(self, block: Any) -> None:
        self._norms: tuple[nn.GroupNorm, nn.GroupNorm] = (block.norm1, block.norm2)
        self._first, self._second = Convolution.of(block.conv1), Convolution.of(block.conv2)
        self._embed: nn.Linear | None = block.time_emb_proj
        self._shortcut = None if block.conv_shortcut is None else Convolution.of(block.conv_shortcut)
        self._factor = float(block.output_scale_factor)

    def __call__(self, x: Tensor, embedding: Tensor | None = None, counts: Counts | None = None) -> Tensor:
        """Return a picture of ``x``'s size.

        Args:
            x: ``(B, C, H, W)``.
            embedding: ``(B, E)``, activated already.
            counts: How often rows and columns count for the normalisation; default once.
        """
        extra = None if embedding is None or self._embed is None else self._embed(embedding)
        hidden = self._first(x, self._norms[0], extra, counts)
        out = self._second(hidden, self._norms[1], counts=counts)
        out.add_(x if self._shortcut is None else self._shortcut(x))
        return out if self._factor == 1 else out.div_(self._factor)


class CrossAttention(Protocol):
    """Attention to something else than the picture."""

    def __call__(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """Attend, without the output's projection.

        Args:
            tokens: ``(B, T, C)``.
            prompts: ``(B, L, h, w)``: latents of the prompt images.

        Returns:
            ``(B, T, C)``.
        """


class FixedContext:
    """Cross-attention to a text: its keys and values are computed once.

    Args:
        attention: diffusers' module.
        text: ``(1, L, context channels)``.
    """

    def __init__(self, attention: Any, text: Tensor) -> None:
        self._query, self._heads = attention.to_q, int(attention.heads)
        self._keys, self._values = attention.to_k(text), attention.to_v(text)

    def __call__(self, tokens: Tensor, prompts: Tensor) -> Tensor:  # noqa: ARG002  # the text is all it looks at
        """See :class:`CrossAttention`."""
        batch = len(tokens)
        keys, values = self._keys.expand(batch, -1, -1), self._values.expand(batch, -1, -1)
        return attend(self._query(tokens), keys, values, self._heads)


class PromptContext:
    """Cross-attention to the latent of the prompt image (the paper's visual prompt), through `aux_conv_in`.

    Keys and values are linear in what that convolution makes of the latent's four channels: both steps are one
    convolution, of 4 instead of 1024 channels.

    Args:
        attention: diffusers' module.
        convolution: ``aux_conv_in``.
    """

    def __init__(self, attention: Any, convolution: nn.Conv2d) -> None:
        self._query, self._heads = attention.to_q, int(attention.heads)
        both = precise(torch.cat([attention.to_k.weight, attention.to_v.weight]))
        weight = torch.einsum("oc,cixy->oixy", both, precise(convolution.weight))
        assert convolution.bias is not None
        bias = both @ precise(convolution.bias)
        like = attention.to_k.weight
        weight = weight.to(like).contiguous(memory_format=torch.channels_last)  # so that tokens are a view
        self._project = Convolution(weight, bias.to(like), padding=1)

    def _see(self, latents: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """Return what to attend to, for each latent: see :meth:`_distinct`.

        Equal keys are one key that counts as often: its logit grows by the logarithm of their number, which is exact.
        The tiny autoencoder makes thousands of them, wherever the prompt image is constant.
        """
        if latents.device.type != "cpu":  # looking for them would wait for the device
            return [(to_tokens(each), None) for each in torch.split(self._project(latents), 1)]
        return [self._distinct(latent) for latent in torch.split(latents, 1)]

    def _distinct(self, latent: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the tokens ``(1, K, 2 C)`` of one latent, and the logarithm of how often each counts, ``(K,)``."""
        rows, columns = worthwhile(*(first_axis(latent[0].movedim(dim, 0).flatten(1), 1) for dim in (1, 2)))
        if len(rows.kept) == rows.length and len(columns.kept) == columns.length:
            return to_tokens(self._project(latent)), None
        kept = latent[:, :, rows.kept][:, :, :, columns.kept]
        return to_tokens(self._project(kept)), torch.outer(rows.counts, columns.counts).log().flatten()

    def __call__(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """See :class:`CrossAttention`."""
        queries = self._query(tokens)
        out = []
        for query, (both, bias) in zip(torch.split(queries, 1), self._see(prompts), strict=True):
            keys, values = both.chunk(2, dim=-1)
            out.append(attend(query, keys, values, self._heads, bias))
        return torch.cat(out)


class _TransformerLayer:
    """Masked self-attention, cross-attention and a gated feed-forward layer, each with a residual."""

    def __init__(self, block: Any, cross: CrossAttention) -> None:
        self._norms: Sequence[nn.LayerNorm] = (block.norm1, block.norm2, block.norm3)
        own = block.attn1
        both = torch.cat([own.to_k.weight, own.to_v.weight])
        self._self = SelfAttention(own.to_q.weight, both, int(own.heads))
        self._cross = cross
        self._out: Sequence[nn.Linear] = (own.to_out[0], block.attn2.to_out[0])
        self._wide: nn.Linear = block.ff.net[0].proj
        self._narrow: nn.Linear = block.ff.net[2]

    def __call__(self, tokens: Tensor, keys: Sequence[Keys], prompts: Tensor) -> Tensor:
        tokens = self._out[0](self._self(self._norms[0](tokens), keys)).add_(tokens)
        tokens = self._out[1](self._cross(self._norms[1](tokens), prompts)).add_(tokens)
        value, gate = self._wide(self._norms[2](tokens)).chunk(2, dim=-1)
        out: Tensor = self._narrow(F.gelu(gate).mul_(value)).add_(tokens)
        return out


class Transformer:
    """A `Transformer2DModel`: tokens of a picture through transformer layers, added to it.

    Args:
        module: diffusers' module.
        cross: The cross-attention of each of its layers.
    """

    def __init__(self, module: Any, cross: Sequence[CrossAttention]) -> None:
        self._norm: nn.GroupNorm = module.norm
        self._into, self._out_of = _linear(module.proj_in), _linear(module.proj_out)
        pairs = zip(module.transformer_blocks, cross, strict=True)
        self._layers = [_TransformerLayer(block, context) for block, context in pairs]

    def __call__(self, x: Tensor, keys: Sequence[Keys], prompts: Tensor) -> Tensor:
        """Return a picture of ``x``'s size.

        Args:
            x: ``(B, C, H, W)``.
            keys: Of each sample, on this grid.
            prompts: ``(B, L, h, w)``: latents of the prompt images.
        """
        tokens = to_tokens(normalise(x, self._norm, activate=False))
        tokens = F.linear(tokens, *self._into)
        for layer in self._layers:
            tokens = layer(tokens, keys, prompts)
        return to_picture(F.linear(tokens, *self._out_of), x).add_(x)


def to_tokens(x: Tensor) -> Tensor:
    """Return the pixels of ``(B, C, H, W)`` as ``(B, H W, C)``; a view, where channels come last in memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_picture(tokens: Tensor, like: Tensor) -> Tensor:
    """Return ``(B, H W, C)`` as ``(B, C, H, W)``, with the height and width of another picture."""
    batch, _, height, width = like.shape
    return tokens.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _linear(module: Any) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a linear layer, or of a 1 x 1 convolution."""
    return module.weight.flatten(1), module.bias
