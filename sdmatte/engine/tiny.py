"""The tiny autoencoder of LiteSDMatte, a plain sequence of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import Tensor, nn

from sdmatte.engine.convolution import Convolution, precise
from sdmatte.vae import TinyVAE

Layer = Callable[[Tensor], Tensor]


class TinyEncoder:
    """From pictures to scaled latents; see :meth:`TinyVAE.encode_latent`."""

    def __init__(self, vae: TinyVAE, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._first, *self._layers = _layers(vae.encoder.layers)
        self._factor = float(vae.config.scaling_factor)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Map ``(B, 3, H, W)`` in [-1, 1] to latents ``(B, C, h, w)``."""
        # [-1, 1] is taken for [0, 1] once more, as the weights were trained.
        hidden = self._first((pixels + 3) / 4).to(self._dtype)
        for layer in self._layers:
            hidden = layer(hidden)
        return hidden * self._factor


class TinyDecoder:
    """From scaled latents to alphas: the mean over three channels is folded into the last convolution."""

    def __init__(self, vae: TinyVAE, dtype: torch.dtype) -> None:
        self._dtype = dtype
        layers: Any = vae.decoder.layers
        last: nn.Conv2d = layers[-1]
        assert last.bias is not None
        weight, bias = (precise(each).mean(0, keepdim=True).to(each) for each in (last.weight, last.bias))
        self._first, *self._layers = [*_layers(layers[:-1]), Convolution(weight, bias, padding=1)]
        self._factor = float(vae.config.scaling_factor)

    def __call__(self, latent: Tensor) -> Tensor:
        """Map ``(B, C, h, w)`` to alphas ``(B, 1, H, W)`` in [0, 1]."""
        hidden = self._first(torch.tanh(latent / (3 * self._factor)) * 3).to(self._dtype)
        for layer in self._layers:
            hidden = layer(hidden)
        return hidden.clamp_(0, 1)


class _Block:
    """``relu(convolutions(x) + skip(x))``: an `AutoencoderTinyBlock`."""

    def __init__(self, block: Any) -> None:
        self._layers = _layers(block.conv)
        self._skip: Layer = block.skip
        self._fuse: Layer = block.fuse

    def __call__(self, x: Tensor) -> Tensor:
        hidden = x
        for layer in self._layers:
            hidden = layer(hidden)
        return self._fuse(hidden.add_(self._skip(x)))


def _layers(modules: Any) -> list[Layer]:
    """Return a sequence's layers; upsampling is joined with the convolution behind it."""
    layers: list[Layer] = []
    doubles = False
    for module in modules:
        if isinstance(module, nn.Upsample) and module.scale_factor == 2.0 and module.mode == "nearest":
            doubles = True
        elif isinstance(module, nn.Conv2d):
            layers.append(Convolution.of(module, upsample=doubles))
            doubles = False
        else:
            layers.append(_Block(module) if isinstance(module, AutoencoderTinyBlock) else module)
    return layers
