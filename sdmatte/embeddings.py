"""Sinusoidal features of prompt coordinates (SDMatte, arXiv 2508.00443, section 3: coordinate embedding)."""

from __future__ import annotations

from collections.abc import Sequence
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

    def to(self, device: torch.device) -> CoordinateFeatures:
        """Return the same on another device."""
        return CoordinateFeatures(self.box.to(device), self.points.to(device), self.is_points.to(device))


def coordinate_features(
    coordinates: Sequence[Tensor], is_points: Sequence[bool], *, box_channels: int, points_dim: int
) -> CoordinateFeatures:
    """Embed the coordinates of a batch of prompts.

    Args:
        coordinates: ``(4,)`` for boxes, ``(N,)`` for points, in [0, 1], of each prompt.
        is_points: Which of the two it is.
        box_channels: Sinusoid channels per coordinate of a box (320 in the released models).
        points_dim: Features of all points together (1680 in the released models).

    Returns:
        Features of batch ``B = len(coordinates)``, on the CPU.
    """
    box = torch.zeros(len(coordinates), BOX_COORDINATES * box_channels, device="cpu")
    points = torch.zeros(len(coordinates), points_dim, device="cpu")
    for index, (values, of_points) in enumerate(zip(coordinates, is_points, strict=True)):
        if of_points:
            points[index] = point_features(values, points_dim)
        else:
            box[index] = box_features(values, box_channels)
    return CoordinateFeatures(box, points, torch.tensor(is_points, dtype=torch.bool, device="cpu"))


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
    padded = torch.zeros(count, device=coordinates.device)
    padded[: coordinates.shape[0]] = coordinates
    return _sinusoid(padded, features // count)


def _sinusoid(values: Tensor, channels: int) -> Tensor:
    features: Tensor = get_timestep_embedding(values.float(), channels, flip_sin_to_cos=True, downscale_freq_shift=0)
    return features.flatten()
