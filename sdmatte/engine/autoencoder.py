"""Stable Diffusion's autoencoder, to the mean of the posterior and to a one-channel alpha."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sdmatte.engine.attention import attend
from sdmatte.engine.blocks import ResnetBlock, to_picture, to_tokens
from sdmatte.engine.convolution import DOWN_PADDING, Convolution, precise
from sdmatte.engine.norm import normalise
from sdmatte.engine.runs import Axis, Counts, first_axis, worthwhile
from sdmatte.vae import KLVAE


class Encoder:
    """From pictures to scaled latents.

    Only the mean of the posterior is computed: `quant_conv`, a 1 x 1 convolution, and the scaling factor are folded
    into the encoder's last convolution, and its other half is left out.
    """

    def __init__(self, vae: KLVAE, dtype: torch.dtype) -> None:
        self._dtype = dtype
        encoder: Any = vae.encoder
        self._first = Convolution.of(encoder.conv_in)
        self._levels = [
            ([ResnetBlock(block) for block in level.resnets], _down(level.downsamplers))
            for level in encoder.down_blocks
        ]
        self._middle = _Middle(encoder.mid_block)
        self._norm: nn.GroupNorm = encoder.conv_norm_out
        self._last = _mean_of_posterior(encoder.conv_out, vae.quant_conv, float(vae.config.scaling_factor))

    def __call__(self, pixels: Tensor) -> Tensor:
        """Map ``(B, 3, H, W)`` in [-1, 1] to latents ``(B, C, h, w)``."""
        return self._rest(self._first(pixels).to(self._dtype), 0)

    def prompts(self, pixels: Tensor, device: torch.device) -> Tensor:
        """Map prompt images ``(B, 1, H, W)`` in [-1, 1], on the CPU, to latents ``(B, C, h, w)``.

        The levels before the last leave out rows and columns that equal their neighbours (:mod:`sdmatte.engine.runs`).
        """
        last = len(self._levels) - 1
        return self._rest(torch.cat([self._shrunk(sample, last, device) for sample in pixels]), last)

    def _rest(self, hidden: Tensor, level: int) -> Tensor:
        for blocks, down in self._levels[level:]:
            for block in blocks:
                hidden = block(hidden)
            hidden = hidden if down is None else down(hidden)
        return self._last(self._middle(hidden), self._norm)

    def _shrunk(self, pixels: Tensor, last: int, device: torch.device) -> Tensor:
        """Return what enters the last level for one prompt image, ``(1, H, W)``."""
        picture, reach = pixels[0], 1
        axes = None
        hidden = picture.new_empty(0)
        for blocks, down in self._levels[:last]:
            reach += 2 * len(blocks)
            if axes is None:
                axes = worthwhile(first_axis(picture, reach), first_axis(picture.T, reach))
                kept = picture[axes[0].kept][:, axes[1].kept].expand(1, 3, -1, -1)
                kept = kept.to(device).contiguous(memory_format=torch.channels_last)
                hidden = self._first(kept).to(self._dtype)
            else:
                above = axes
                axes = worthwhile(above[0].below(reach), above[1].below(reach))
                hidden = _gathered(hidden, axes, above)
            counts = None
            if any(len(axis.kept) < axis.length for axis in axes):
                counts = Counts(axes[0].counts.to(device), axes[1].counts.to(device))
            for block in blocks:
                hidden = block(hidden, counts=counts)
            assert down is not None
            hidden, reach = down(hidden), 0
        assert axes is not None
        return _gathered(hidden, (axes[0].below(0).whole(), axes[1].below(0).whole()), axes)


class Decoder:
    """From scaled latents to alphas: the mean over three channels is folded into the last convolution."""

    def __init__(self, vae: KLVAE, dtype: torch.dtype) -> None:
        self._dtype = dtype
        decoder: Any = vae.decoder
        into: nn.Conv2d = vae.post_quant_conv
        self._into = Convolution(into.weight / float(vae.config.scaling_factor), into.bias)
        self._first = Convolution.of(decoder.conv_in)
        self._middle = _Middle(decoder.mid_block)
        self._levels = [
            (
                [ResnetBlock(block) for block in level.resnets],
                Convolution.of(level.upsamplers[0].conv, upsample=True) if level.upsamplers else None,
            )
            for level in decoder.up_blocks
        ]
        self._norm: nn.GroupNorm = decoder.conv_norm_out
        last: nn.Conv2d = decoder.conv_out
        assert last.bias is not None
        weight, bias = precise(last.weight), precise(last.bias)
        self._last = Convolution(
            (weight.mean(0, keepdim=True) / 2).to(last.weight),
            ((bias.mean(0, keepdim=True) + 1) / 2).to(last.bias),
            padding=1,
        )

    def __call__(self, latent: Tensor) -> Tensor:
        """Map ``(B, C, h, w)`` to alphas ``(B, 1, H, W)`` in [0, 1]."""
        hidden = self._middle(self._first(self._into(latent)).to(self._dtype))
        for blocks, up in self._levels:
            for block in blocks:
                hidden = block(hidden)
            hidden = hidden if up is None else up(hidden)
        return self._last(hidden, self._norm).clamp_(0, 1)


class _Middle:
    """Two residual blocks with attention between all pixels."""

    def __init__(self, block: Any) -> None:
        self._before, self._after = (ResnetBlock(each) for each in block.resnets)
        attention = block.attentions[0]
        self._norm: nn.GroupNorm | None = None
        if attention is not None:
            self._norm = attention.group_norm
            self._heads = int(attention.heads)
            self._project: tuple[nn.Linear, nn.Linear, nn.Linear] = (attention.to_q, attention.to_k, attention.to_v)
            self._out: nn.Linear = attention.to_out[0]

    def __call__(self, x: Tensor) -> Tensor:
        x = self._before(x)
        if self._norm is not None:
            tokens = to_tokens(normalise(x, self._norm, activate=False))
            queries, keys, values = (project(tokens) for project in self._project)
            x = to_picture(self._out(attend(queries, keys, values, self._heads)), x).add_(x)
        return self._after(x)


def _gathered(hidden: Tensor, axes: tuple[Axis, Axis], above: tuple[Axis, Axis]) -> Tensor:
    """Return the rows and columns that the next level keeps."""
    rows, columns = (axis.gather(before).to(hidden.device) for axis, before in zip(axes, above, strict=True))
    return hidden.permute(0, 2, 3, 1).index_select(1, rows).index_select(2, columns).permute(0, 3, 1, 2)


def _down(downsamplers: Any) -> Convolution | None:
    if not downsamplers:
        return None
    conv: nn.Conv2d = downsamplers[0].conv
    return Convolution(conv.weight, conv.bias, stride=2, padding=DOWN_PADDING)


def _mean_of_posterior(last: nn.Conv2d, quantise: nn.Conv2d, factor: float) -> Convolution:
    half = quantise.weight.shape[0] // 2
    matrix = precise(quantise.weight)[:half, :, 0, 0] * factor
    assert last.bias is not None
    assert quantise.bias is not None
    weight = torch.einsum("oc,cixy->oixy", matrix, precise(last.weight))
    bias = matrix @ precise(last.bias) + precise(quantise.bias)[:half] * factor
    return Convolution(weight.to(last.weight), bias.to(last.weight), padding=1)
