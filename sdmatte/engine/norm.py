"""Group normalisation, as one scale and one shift per channel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdmatte.engine.runs import Counts
from sdmatte.engine.winograd import Affine

_STRIP = 1 << 19
"""Numbers that are reduced at a time, so that a second pass over them finds them in the cache."""

WIDE = 64
"""Channels from which on reductions over channels-last memory are fast."""


def is_channels_last(x: Tensor) -> bool:
    """Tell whether the channels of ``(B, C, H, W)`` lie together in memory, and are enough to compute on so."""
    return x.shape[1] >= WIDE and x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)


def group_affine(x: Tensor, norm: nn.GroupNorm, counts: Counts | None = None) -> Affine:
    """Return what a group normalisation does to each channel.

    torch's own kernel for channels-last memory on CPUs subtracts two large sums (1e-3 of alpha on the reference
    outputs). Here variances are sums of squares around the mean of a strip, merged exactly (Chan et al. 1983).

    Args:
        x: ``(B, C, H, W)``, channels last in memory.
        norm: With scale and shift.
        counts: How often rows and columns count; default once.
    """
    batch, channels = x.shape[:2]
    pixels = x.permute(0, 2, 3, 1)
    if counts is None:
        moments = [_moments(sample) for sample in pixels.reshape(batch, -1, channels)]
    else:
        moments = [_weighted_moments(sample, counts) for sample in pixels]
    mean, variance = (torch.stack(each).view(batch, norm.num_groups, -1) for each in zip(*moments, strict=True))
    centre = mean.mean(2, keepdim=True)
    spread = (variance + (mean - centre) ** 2).mean(2, keepdim=True)
    scale = norm.weight.to(spread.dtype).view(1, norm.num_groups, -1) / torch.sqrt(spread + norm.eps)
    shift = norm.bias.to(spread.dtype).view(1, norm.num_groups, -1) - centre * scale
    return Affine(scale.float().view(batch, channels), shift.float().view(batch, channels))


def normalise(x: Tensor, norm: nn.GroupNorm, *, activate: bool, counts: Counts | None = None) -> Tensor:
    """Return ``silu(norm(x))``, or ``norm(x)``, in the memory layout of ``x``.

    Args:
        x: ``(B, C, H, W)``.
        norm: With scale and shift.
        activate: Whether SiLU follows.
        counts: How often rows and columns count; default once.
    """
    if counts is None and not is_channels_last(x):
        # On CPUs torch's kernel for channels-last memory loses digits, see group_affine.
        out = norm(x.contiguous() if x.device.type == "cpu" else x)
        return F.silu(out, inplace=True) if activate else out
    affine = group_affine(x, norm, counts)
    pixels = x.permute(0, 2, 3, 1)
    scale, shift = affine.scale[:, None, None], affine.shift[:, None, None]
    if x.dtype == torch.float32:
        result = torch.addcmul(shift, pixels, scale)
        return (F.silu(result, inplace=True) if activate else result).permute(0, 3, 1, 2)
    result = torch.empty_like(pixels)
    rows = max(1, _STRIP // (pixels.shape[2] * pixels.shape[3]))
    for sample in range(len(pixels)):
        for top in range(0, pixels.shape[1], rows):  # in float32, strip by strip
            strip = torch.addcmul(shift[sample], pixels[sample, top : top + rows].float(), scale[sample])
            result[sample, top : top + rows] = F.silu(strip, inplace=True) if activate else strip
    return result.permute(0, 3, 1, 2)


def _weighted_moments(pixels: Tensor, counts: Counts) -> tuple[Tensor, Tensor]:
    """Return the mean and the variance of each channel of ``(H, W, C)``, with rows and columns counted."""
    rows, columns = (each / each.sum() for each in (counts.rows, counts.columns))

    def mean(values: Tensor) -> Tensor:
        return torch.matmul(rows, torch.matmul(columns, values))

    values = pixels.float()
    centre = mean(values)
    around = values - centre
    variance = mean(around.mul_(around))
    # The few numbers that follow are computed in float64, where the device has it.
    return (centre.double(), variance.double()) if pixels.device.type in ("cpu", "cuda") else (centre, variance)


def _moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the variance of each channel of ``(pixels, C)``, float64."""
    strips = torch.split(pixels, max(1, _STRIP // pixels.shape[1]))
    means, squares = [], []
    for strip in (each.float() for each in strips):
        mean = strip.mean(0)
        around = strip - mean
        means.append(mean)
        squares.append(around.mul_(around).sum(0))
    counts = torch.tensor([len(strip) for strip in strips], dtype=torch.float64, device="cpu")[:, None]
    mean = torch.stack(means).double()
    total = (mean * counts).sum(0) / len(pixels)
    variance = (torch.stack(squares).double() + counts * (mean - total) ** 2).sum(0) / len(pixels)
    return total, variance
