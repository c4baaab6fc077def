"""Weights that follow from their names: how the reference outputs in ``tests/fixtures`` were made."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray


def seeded_tensor(name: str, shape: Sequence[int]) -> NDArray[np.float32]:
    """Return the float32 weights of the tensor ``name``: Gaussian, seeded by the name, scaled by the fan-in."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    x = np.asarray(random.standard_normal(tuple(shape)), dtype=np.float32)
    if len(shape) >= 2:
        x *= np.float32(0.9 / np.sqrt(np.prod(shape[1:])))
    elif name.endswith("weight"):
        x = np.float32(1) + np.float32(0.1) * x
    else:
        x *= np.float32(0.1)
    return x


def seeded_state_dict(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """Return ``{name: float32 tensor}`` for ``{name: shape}``, as in a ``state_dict_shapes.json``."""
    return {name: torch.from_numpy(seeded_tensor(name, shape)) for name, shape in shapes.items()}


def read_shapes(folder: Path) -> dict[str, list[int]]:
    """Return ``state_dict_shapes.json`` of a fixture folder."""
    shapes: dict[str, list[int]] = json.loads((folder / "state_dict_shapes.json").read_text())
    return shapes
