"""The four losses of the paper: L1 and Laplacian pyramid, each over the known and the unknown region of a trimap.

Laplacian pyramid loss: Hou and Liu, "Context-aware image matting" (ICCV 2019), after Burt and Adelson (1983).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sdmatte.errors import SDMatteError

PYRAMID_LEVELS = 5
"""Bands of the Laplacian pyramid at 512 px, the paper's size."""

_COARSEST = 32  # pixels: side of the coarsest band at the paper's size, 512 / 2**4


def matting_losses(predicted: Tensor, truth: Tensor, unknown: Tensor) -> dict[str, Tensor]:
    """Compute the four losses, to be summed with equal weights.

    Args:
        predicted: ``(B, 1, H, W)`` alphas. They may leave [0, 1] where :func:`soft_clip` made them.
        truth: ``(B, 1, H, W)`` in [0, 1].
        unknown: ``(B, 1, H, W)`` 1 in the trimap's unknown region, 0 elsewhere.

    Returns:
        ``l1_known``, ``l1_unknown``, ``laplacian_known``, ``laplacian_unknown``: scalars. Bands of the pyramid weigh
        1, 2, 4, ... from the finest on, divided by their number. Each is a mean over its
        region, so that a thin unknown band weighs as much as the rest of the picture; 0 where the region is empty.
    """
    difference = (predicted - truth).abs()
    losses = {
        "l1_known": region_mean(difference, 1 - unknown),
        "l1_unknown": region_mean(difference, unknown),
        "laplacian_known": predicted.new_zeros(()),
        "laplacian_unknown": predicted.new_zeros(()),
    }
    # The pyramid is linear: one pyramid of the difference is the difference of two pyramids.
    bands = laplacian_pyramid(predicted - truth, pyramid_levels(min(predicted.shape[-2:])))
    for level, band in enumerate(bands):
        region = F.interpolate(unknown, size=band.shape[-2:], mode="area")
        weight = 2.0**level / len(bands)
        losses["laplacian_known"] = losses["laplacian_known"] + weight * region_mean(band.abs(), 1 - region)
        losses["laplacian_unknown"] = losses["laplacian_unknown"] + weight * region_mean(band.abs(), region)
    return losses


def pyramid_levels(side: int) -> int:
    """Return how many bands are compared at a size: 5 at 512 px and more, one fewer per halving, at least 1.

    So the coarsest band always divides the picture into 32 cells or more. At 64 px five bands would go down to 4 x 4
    cells, and these, weighted most, would hide what happens at edges.
    """
    return min(PYRAMID_LEVELS, max(1, int(math.log2(max(side, _COARSEST) / _COARSEST)) + 1))


def region_mean(values: Tensor, region: Tensor) -> Tensor:
    """Return the mean of ``values`` over ``region`` (weights in [0, 1], same shape); 0 over an empty region."""
    return (values * region).sum() / region.sum().clamp(min=1.0)


def laplacian_pyramid(image: Tensor, levels: int) -> list[Tensor]:
    """Split pictures into frequency bands.

    Args:
        image: ``(B, 1, H, W)``.
        levels: Number of bands; there are fewer where a side would fall below 2 pixels.

    Returns:
        Bands ``(B, 1, h, w)``, finest first, each of half the size of the one before. What is left below them, the
        smallest picture, is not among them.
    """
    bands = []
    for _ in range(levels):
        if min(image.shape[-2:]) < 4:
            break
        smaller = F.avg_pool2d(_smoothed(image), 2)
        bands.append(image - F.interpolate(smaller, size=image.shape[-2:], mode="bilinear", align_corners=False))
        image = smaller
    return bands


def _smoothed(image: Tensor) -> Tensor:
    weights = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=image.dtype, device=image.device) / 16
    padded = F.pad(image, (2, 2, 2, 2), mode="reflect")
    return F.conv2d(F.conv2d(padded, weights.view(1, 1, 1, 5)), weights.view(1, 1, 5, 1))


def feature_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Sum the mean squared differences of feature maps: LiteSDMatte's distillation (weighted 0.01 by the recipe).

    Args:
        student: Feature maps ``(B, C, h, w)`` after the down, mid and up blocks.
        teacher: Those of the teacher; no gradient flows into them.

    Returns:
        A scalar.

    Raises:
        SDMatteError: The two networks' blocks differ in number or shape.
    """
    ours, theirs = ([tuple(maps.shape) for maps in both] for both in (student, teacher))
    if ours != theirs:
        raise SDMatteError(
            f"the teacher's blocks have outputs of shapes {theirs}, the student's {ours}; distil from a model whose "
            "U-Net has the same blocks and channels"
        )
    pairs = zip(student, teacher, strict=True)
    return torch.stack([F.mse_loss(a.float(), b.detach().float()) for a, b in pairs]).sum()


class _SoftClip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values.clip(0.0, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (values,), (gradient,) = ctx.saved_tensors, gradients
        outwards = ((values > 1) & (gradient < 0)) | ((values < 0) & (gradient > 0))
        return torch.where(outwards, torch.zeros_like(gradient), gradient)


def soft_clip(values: Tensor) -> Tensor:
    """Clip to [0, 1] with a gradient that still leads back.

    A plain clip has no gradient outside of the range, so that a pixel that overshot on the wrong side would never
    learn. Here only gradients that push further out are dropped.
    """
    clipped: Tensor = _SoftClip.apply(values)  # type: ignore[no-untyped-call]
    return clipped
