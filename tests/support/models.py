"""Small models and a photograph-like image for tests; models are built once per session, so leave them as they are."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file

from sdmatte.model import SDMatte
from support.parity import FIXTURES
from support.seeded import read_shapes, seeded_state_dict

SIZE = 128
"""Input size of the tests' models, pixels."""


@cache
def mini() -> SDMatte:
    """The packaged small configuration with random weights, float32 on the CPU."""
    return SDMatte.untrained(device="cpu", input_size=SIZE)


@cache
def mini_aspect() -> SDMatte:
    """The same weights as :func:`mini`, with grids of the image's own shape."""
    return SDMatte.untrained(device="cpu", input_size=SIZE, resize="aspect")


def seeded_folder(name: str, root: Path, weights: str = "model.safetensors", drop: str = "") -> Path:
    """Write a fixture's configurations and its name-seeded weights as a model folder below ``root``.

    ``drop`` is cut out of the tensors' names: ``"text_model."`` gives those of transformers 5.
    """
    folder = root / name
    shutil.copytree(FIXTURES / name, folder, ignore=shutil.ignore_patterns("expected.safetensors", "state_dict_*"))
    state = seeded_state_dict(read_shapes(FIXTURES / name))
    save_file({key.replace(drop, ""): tensor for key, tensor in state.items()}, folder / weights)
    return folder


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """An ``(H, W, 3)`` image of smooth colours and some texture."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(2 * np.pi * (random.uniform(0.5, 3) * x + random.uniform(0.5, 3) * y)) for _ in range(3)]
    noisy = 128 + 90 * np.stack(waves, axis=-1) + random.normal(0, 12, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)
