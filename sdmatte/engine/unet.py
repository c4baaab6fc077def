"""The prompt-driven U-Net (see :mod:`sdmatte.unet`), with everything about the text computed beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdmatte.embeddings import CoordinateFeatures
from sdmatte.engine.attention import Keys, select_keys
from sdmatte.engine.blocks import CrossAttention, FixedContext, PromptContext, ResnetBlock, Transformer
from sdmatte.engine.convolution import DOWN_PADDING, Convolution
from sdmatte.engine.norm import normalise
from sdmatte.unet import PromptUNet


class UNet:
    """Computes a :class:`PromptUNet`.

    Args:
        unet: Its weights are shared.
        text: ``(1, L, context channels)``: embedding of the caption, of ``dtype``.
        dtype: Of the computation.
    """

    def __init__(self, unet: PromptUNet, text: Tensor, dtype: torch.dtype) -> None:
        self._unet, self._dtype = unet, dtype
        self._text = text
        self._first = Convolution.of(unet.conv_in)
        self._down = [(self._columns(block), _resampler(block, "downsamplers")) for block in unet.down_blocks]
        middle = unet.mid_block
        sees_prompt = "visual_prompt_attention" not in unet.without
        self._before = ResnetBlock(middle.resnets[0])
        self._middle = [
            (self._transformer(attention, sees_prompt=sees_prompt), ResnetBlock(block))
            for attention, block in zip(middle.attentions, middle.resnets[1:], strict=True)
        ]
        self._up = [(self._columns(block), _resampler(block, "upsamplers")) for block in unet.up_blocks]
        self._last = Convolution.of(unet.conv_out)

    def __call__(
        self,
        image_latent: Tensor,
        prompt_latent: Tensor,
        inside: Tensor,
        coordinates: CoordinateFeatures,
        opaque: Tensor,
    ) -> Tensor:
        """Predict the alpha's latent; see :meth:`PromptUNet.forward`.

        Args:
            image_latent: ``(B, C, h, w)``, scaled.
            prompt_latent: ``(B, C, h, w)``, scaled.
            inside: ``(B, 1, h, w)`` float32 in [0, 1], on the CPU.
            coordinates: Features of the prompts' coordinates, batch ``B``.
            opaque: ``(B,)``.
        """
        embedding = F.silu(self._unet.condition(coordinates, opaque, torch.float32)).to(self._dtype)
        if "masked_self_attention" in self._unet.without:
            inside = torch.ones_like(inside)
        keys = _KeysByGrid(inside, image_latent.device)

        hidden = self._first(torch.cat([image_latent, prompt_latent], dim=1)).to(self._dtype)
        skips = [hidden]
        for columns, down in self._down:
            for block, attention in columns:
                hidden = block(hidden, embedding)
                hidden = hidden if attention is None else attention(hidden, keys.of(hidden), prompt_latent)
                skips.append(hidden)
            if down is not None:
                hidden = down(hidden)
                skips.append(hidden)
        hidden = self._before(hidden, embedding)
        for attention, block in self._middle:
            hidden = block(attention(hidden, keys.of(hidden), prompt_latent), embedding)
        for columns, up in self._up:
            for block, attention in columns:
                hidden = block(torch.cat([hidden, skips.pop()], dim=1), embedding)
                hidden = hidden if attention is None else attention(hidden, keys.of(hidden), prompt_latent)
            hidden = hidden if up is None else up(hidden)
        return self._last(normalise(hidden, self._unet.conv_norm_out, activate=True))

    def _columns(self, block: Any) -> list[tuple[ResnetBlock, Transformer | None]]:
        """Return residual blocks, each with the transformer that follows it."""
        attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
        return [
            (ResnetBlock(resnet), None if attention is None else self._transformer(attention, sees_prompt=False))
            for resnet, attention in zip(block.resnets, attentions, strict=True)
        ]

    def _transformer(self, module: Any, *, sees_prompt: bool) -> Transformer:
        contexts: list[CrossAttention] = []
        for block in module.transformer_blocks:
            if sees_prompt:
                contexts.append(PromptContext(block.attn2, self._unet.aux_conv_in))
            else:
                contexts.append(FixedContext(block.attn2, self._text))
        return Transformer(module, contexts)


class _KeysByGrid:
    """The keys of a batch, chosen once per grid."""

    def __init__(self, inside: Tensor, device: torch.device) -> None:
        self._inside, self._device = inside, device
        self._found: dict[tuple[int, int], Sequence[Keys]] = {}

    def of(self, hidden: Tensor) -> Sequence[Keys]:
        grid = (hidden.shape[-2], hidden.shape[-1])
        if grid not in self._found:
            self._found[grid] = select_keys(self._inside, grid, self._device)
        return self._found[grid]


def _resampler(block: Any, name: str) -> Convolution | None:
    modules = getattr(block, name, None)
    if not modules:
        return None
    conv: nn.Conv2d = modules[0].conv
    if name == "downsamplers" and modules[0].padding == 0:
        return Convolution(conv.weight, conv.bias, stride=2, padding=DOWN_PADDING)
    return Convolution.of(conv, upsample=name == "upsamplers")
