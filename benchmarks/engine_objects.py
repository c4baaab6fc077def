"""What `make bench-engine` computes on: real photographs with prompts from their mattes, and the models' weights."""

from __future__ import annotations

import json
import math
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
    """A model's configurations, and its float32 weights by their released names.

    Attributes:
        name: For tables.
        configs: Of the model.
        state: The weights.
        source: What :func:`weights` finds them by in another process.
        file: Where name-seeded ones are mapped from.
    """

    name: str
    configs: ModelConfigs
    state: Mapping[str, Tensor]
    source: str = ""
    file: Path | None = None

    def plain(self, size: int, device: str) -> PlainMatter:
        """Return the baseline; on the CPU it shares these weights."""
        return PlainMatter(self.configs, self.state, size, device)

    def engine(self, size: int, device: str, precision: Precision = "auto") -> SDMatte:
        """Return the engine, as `SDMatte.from_pretrained` builds it; it may share these weights, or keep its own."""
        with torch.device("meta"):
            network = Network(self.configs)
        load_into(network, self.state, where=self.name, dtype=torch.float32)
        options = RunOptions(device=device, precision=precision, input_size=size)
        return SDMatte(network, self.configs, options, name=self.name, weights_sha256="0" * 64)


def weights(source: str, file: Path | None = None) -> Weights:
    """Return a model's weights.

    Args:
        source: The bundled model's name, or that of a packaged configuration, which gets weights that follow from the
            tensors' names (tests/support/seeded.py). `sdmatte` is the released one: 1.3 G parameters, 5.2 GB.
        file: Where name-seeded weights are mapped from; drawn into it first, about a minute, if it is not there.
    """
    if source == BUNDLED:
        files = locate(BUNDLED)
        state = {name: tensor.float() for name, tensor in read_state_dict(files.weights).items()}
        return Weights(files.name, files.configs, state, source)
    assert file is not None
    configs = ModelConfigs.released(source)
    with torch.device("meta"):
        network = PlainNetwork(configs)
    shapes = {released_name(name): tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if not file.exists():
        _draw(shapes, file)
    # Copied on write: what one process might do to its weights, no other sees.
    flat = torch.from_numpy(np.memmap(file, np.float32, "c"))
    parts = flat.split([math.prod(shape) for shape in shapes.values()])
    state = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    return Weights(f"{source}, name-seeded", configs, state, source, file)


def _draw(shapes: Mapping[str, tuple[int, ...]], file: Path) -> None:
    """Write the tensors one after the other."""
    from support.seeded import seeded_tensor

    with file.open("wb") as opened:
        for name, shape in shapes.items():
            seeded_tensor(name, shape).tofile(opened)
