"""Convolutions, each computed in the cheapest of the ways that its place allows."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdmatte.engine.norm import group_affine, is_channels_last, normalise
from sdmatte.engine.runs import Counts
from sdmatte.engine.winograd import TILE, Winograd, phase

FEWEST_CHANNELS = 64
"""Channels from which on Winograd's transforms cost less than they save."""

MOST_WEIGHTS = 1_000_000
"""Pairs of channels up to which it is worth its four times larger weights: above, reading these takes longer."""

LEAST_TILES = 64
"""Tiles of a batch from which on it pays."""

DOWN_PADDING = (0, 1, 0, 1)
"""diffusers' strided convolutions without padding of their own get it on the right and below only."""


def precise(weight: Tensor) -> Tensor:
    """Return a weight in float64 on the CPU, where weights are folded: not all devices have float64."""
    return weight.detach().to("cpu", torch.float64)


class Convolution:
    """A convolution with what stands before it; upsampling by 2 may be in between.

    Args:
        weight: ``(O, C, k, k)``.
        bias: ``(O,)``.
        stride: 1 or 2.
        padding: Zeros on each side (unit: pixel); `(left, right, top, bottom)` where they differ.
        upsample: Whether nearest-neighbour upsampling by 2 comes first.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        stride: int = 1,
        padding: int | tuple[int, int, int, int] = 0,
        upsample: bool = False,
    ) -> None:
        self._bias = bias
        self._stride, self._padding, self._upsample = stride, padding, upsample
        outputs, channels, *kernel = weight.shape
        plain = kernel == [3, 3] and stride == 1 and padding == 1
        self._can_be_small = (
            plain
            and weight.device.type == "cpu"
            and weight.dtype == torch.float32
            and min(outputs, channels) >= FEWEST_CHANNELS
            and outputs * channels <= MOST_WEIGHTS
        )
        self._is_pointwise = kernel == [1, 1] and stride == 1 and padding == 0
        self._source = weight
        self._small: Winograd | None = None
        self._weight = weight
        if upsample and plain:
            parts = [phase(precise(weight), p, q)[:, :, p : p + 2, q : q + 2] for p in (0, 1) for q in (0, 1)]
            self._weight = torch.cat(parts).to(weight)
        if weight.is_contiguous(memory_format=torch.channels_last):
            self._weight = self._weight.contiguous(memory_format=torch.channels_last)

    @classmethod
    def of(cls, conv: nn.Conv2d, *, upsample: bool = False) -> Convolution:
        """Return one with a module's weights."""
        padding = conv.padding[0]
        assert isinstance(padding, int)
        return cls(conv.weight, conv.bias, stride=conv.stride[0], padding=padding, upsample=upsample)

    def __call__(
        self,
        x: Tensor,
        norm: nn.GroupNorm | None = None,
        extra: Tensor | None = None,
        counts: Counts | None = None,
    ) -> Tensor:
        """Return ``conv(silu(norm(x))) + extra``.

        Args:
            x: ``(B, C, H, W)``.
            norm: None for neither normalisation nor activation.
            extra: ``(B, O)``, added to every pixel.
            counts: How often rows and columns count for the normalisation; default once.
        """
        if self._can_be_small and _tiles(x) >= LEAST_TILES and is_channels_last(x):
            self._small = self._small or Winograd(self._source, upsample=self._upsample)
            bias = self._bias if extra is None else extra if self._bias is None else self._bias + extra
            return self._small(x, bias, None if norm is None else group_affine(x, norm, counts))
        if norm is not None:
            x = normalise(x, norm, activate=True, counts=counts)
        x = x.to(self._weight.dtype)
        out = self._upsampled(x) if self._upsample else self._direct(x)
        return out if extra is None else out.add_(extra[:, :, None, None])

    def _direct(self, x: Tensor) -> Tensor:
        padding = self._padding
        if self._is_pointwise and is_channels_last(x):  # oneDNN's own kernel took four times as long
            return F.linear(x.permute(0, 2, 3, 1), self._weight.flatten(1), self._bias).permute(0, 3, 1, 2)
        if isinstance(padding, tuple):
            x, padding = F.pad(x, padding), 0
        return F.conv2d(x, self._weight, self._bias, stride=self._stride, padding=padding)

    def _upsampled(self, x: Tensor) -> Tensor:
        """Convolve the small picture with the kernels of the four parities, of 2 x 2 taps each: 2.25 times cheaper."""
        batch, _, height, width = x.shape
        outputs = self._weight.shape[0] // 4
        bias = None if self._bias is None else self._bias.repeat(4)
        parts = F.conv2d(x, self._weight, bias, padding=1).view(batch, 2, 2, outputs, height + 1, width + 1)
        out = x.new_empty(batch, outputs, 2 * height, 2 * width)
        if is_channels_last(x) or x.device.type != "cpu":
            out = out.contiguous(memory_format=torch.channels_last)
        for p in (0, 1):
            for q in (0, 1):
                out[:, :, p::2, q::2] = parts[:, p, q, :, p : p + height, q : q + width]
        return out


def _tiles(x: Tensor) -> int:
    return x.shape[0] * math.ceil(x.shape[2] / TILE) * math.ceil(x.shape[3] / TILE)
