"""Sinusoidal features of prompt coordinates (SDMatte, arXiv 2508.00443, section 3: coordinate embedding)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

BOX_COORDINATES = 4
"""``x0, y0, x1, y1``, each divided by the width or height."""


@dataclass(frozen=True)
class CoordinateFeatures:
    """Sinusoidal features of the coordinates of a batch of prompts, boxes and points mixed.

    Attributes:
        box: ``(B, box_dim)`` float32; zeros where the prompt is made of points.
        points: ``(B, points_dim)`` float32; zeros where the prompt is a box (also: the bounding box of a mask).
        is_points: ``(B,)`` bool.
    """

    box: Tensor
    points: Tensor
    is_points: Tensor


def box_features(coordinates: Tensor, channels: int) -> Tensor:
    """Embed box coordinates.

    Args:
        coordinates: ``(4,)`` in [0, 1].
        channels: Sinusoid channels per coordinate (320 in the released models).

    Returns:
        ``(4 * channels,)`` float32.
    """
    return _sinusoid(coordinates, channels)


def point_features(coordinates: Tensor, features: int) -> Tensor:
    """Embed point coordinates.

    The numbers are zero-padded to the smallest divisor ``n`` of ``features`` that holds them all, and each gets
    ``features / n`` channels (20 numbers: 84 channels each in the released models).

    Args:
        coordinates: ``(N,)`` in [0, 1]: x and y in turn.
        features: Length of the result (1680 in the released models); at least ``N``.

    Returns:
        ``(features,)`` float32.
    """
    count = next(n for n in range(coordinates.shape[0], features + 1) if features % n == 0)
    padded = torch.zeros(count)
    padded[: coordinates.shape[0]] = coordinates
    return _sinusoid(padded, features // count)


def _sinusoid(values: Tensor, channels: int) -> Tensor:
    features: Tensor = get_timestep_embedding(values.float(), channels, flip_sin_to_cos=True, downscale_freq_shift=0)
    return features.flatten()
