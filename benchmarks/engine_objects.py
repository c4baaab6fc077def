"""What `make bench-engine` computes on: real photographs with prompts from their mattes, and the models' weights."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.engine_baseline import PlainMatter, PlainNetwork
from sdmatte.checkpoint import load_into, read_state_dict, released_name
from sdmatte.configs import BUNDLED, ModelConfigs
from sdmatte.devices import Precision
from sdmatte.locate import locate
from sdmatte.model import RunOptions, SDMatte
from sdmatte.network import Network
from sdmatte.prompt_maps import prompt_map
from sdmatte.prompt_sampling import derive_box, derive_mask, derive_points
from sdmatte.prompts import Prompt

PHOTOGRAPHS = Path(__file__).parent / "photographs"
sys.path.append(str(Path(__file__).parent.parent / "tests"))  # for `support`; last, or tests/sdmatte hides the package

Wanted = tuple[str, str]
"""Name of a reference matte, and kind of the prompt to derive from it."""

ONE_PROMPT: tuple[tuple[Wanted, ...], ...] = (
    (("cat", "box"),),
    (("astronaut-person", "box"),),
    (("motorcycle", "box"),),
)
"""Objects of the rounds with one prompt per image."""

FOUR_PROMPTS: tuple[tuple[Wanted, ...], ...] = (
    (
        ("astronaut-person", "box"), ("astronaut-helmet", "box"), ("astronaut-shuttle", "box"),
        ("astronaut-person", "mask"),
    ),
    (("coffee-set", "box"), ("coffee-cup", "box"), ("coffee-spoon", "box"), ("coffee-set", "points")),
)  # fmt: skip
"""Objects of the rounds with four prompts per image."""

BATCH: tuple[Wanted, ...] = (
    ("astronaut-person", "box"), ("camera-man", "box"), ("cat", "box"), ("coffee-cup", "box"), ("coin", "box"),
    ("motorcycle", "box"), ("rocket", "box"), ("astronaut-helmet", "box"),
)  # fmt: skip
"""One batch of the bundled model: eight boxes over seven photographs, from 3 % to 89 % of the picture."""


@dataclass(frozen=True, eq=False)
class Asked:
    """One photograph with the prompts asked of it.

    Attributes:
        image: `(H, W, 3)` uint8 RGB.
        prompts: In its pixels.
    """

    image: NDArray[np.uint8]
    prompts: list[Prompt]


def mattes() -> dict[str, str]:
    """Return the photograph's file of every reference matte."""
    described = json.loads((PHOTOGRAPHS / "trimaps.json").read_text(encoding="utf-8"))
    return {name: item["file"] for name, item in described.items()}


def photograph(file: str) -> NDArray[np.uint8]:
    """Return a picture of scikit-image's wheel as `(H, W, 3)` RGB."""
    with (resources.files("skimage") / "data" / file).open("rb") as opened, Image.open(opened) as image:
        return np.asarray(image.convert("RGB"))


def prompt(name: str, kind: str) -> Prompt:
    """Derive a prompt from a reference matte; what is random about it follows from its name."""
    with Image.open(PHOTOGRAPHS / f"{name}.png") as opened:
        alpha = np.asarray(opened)[..., 0].astype(np.float32) / np.float32(255)
    random = np.random.default_rng(zlib.crc32(f"{name} {kind}".encode()))
    match kind:
        case "box":
            return derive_box(alpha)
        case "mask":
            return derive_mask(alpha, random)
        case _:
            return derive_points(alpha, random)


def asked(wanted: tuple[Wanted, ...]) -> list[Asked]:
    """Return the photographs of some objects, each once, with their prompts; in order of first appearance."""
    files, grouped = mattes(), dict[str, Asked]()
    for name, kind in wanted:
        mine = grouped.setdefault(files[name], Asked(photograph(files[name]), []))
        mine.prompts.append(prompt(name, kind))
    return list(grouped.values())


def covered(each: Asked, at: int) -> float:
    """Return the share of its photograph that a prompt covers: what is left of the attention's keys."""
    height, width = each.image.shape[:2]
    return float((prompt_map(each.prompts[at], width, height, (64, 64)).pixels > 0).mean())


@dataclass(frozen=True)
class Weights:
    """A model's configurations, and its float32 weights by their released names."""

    name: str
    configs: ModelConfigs
    state: Mapping[str, Tensor]

    def plain(self, size: int, device: str) -> PlainMatter:
        """Return the baseline; it shares these weights on the CPU."""
        return PlainMatter(self.configs, self.state, size, device)

    def engine(self, size: int, device: str, precision: Precision = "auto") -> SDMatte:
        """Return the engine, as `SDMatte.from_pretrained` builds it; it may share these weights, or keep its own."""
        with torch.device("meta"):
            network = Network(self.configs)
        load_into(network, self.state, where=self.name, dtype=torch.float32)
        options = RunOptions(device=device, precision=precision, input_size=size)
        return SDMatte(network, self.configs, options, name=self.name, weights_sha256="0" * 64)


def bundled() -> Weights:
    """Return the bundled model."""
    files = locate(BUNDLED)
    state = {name: tensor.float() for name, tensor in read_state_dict(files.weights).items()}
    return Weights(files.name, files.configs, state)


def seeded(config: str = "sdmatte") -> Weights:
    """Return a packaged configuration with weights that follow from the tensors' names (see tests/support/seeded.py).

    Args:
        config: `sdmatte` is the released one: 1.3 G parameters, 5.2 GB, about a minute.
    """
    from support.seeded import seeded_tensor

    configs = ModelConfigs.released(config)
    with torch.device("meta"):
        network = PlainNetwork(configs)
    shapes = {released_name(name): tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    state = {name: torch.from_numpy(seeded_tensor(name, shape)) for name, shape in shapes.items()}
    return Weights(f"{config}, name-seeded", configs, state)
