"""What the pipeline's benchmarks label: tar shards of photographs cut and scaled to any size, and stand-in models."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from sdmatte.model import SDMatte

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
"""Colour photographs in scikit-image's wheel that all pictures are cut from."""

JPEG_QUALITY = 90


@dataclass(frozen=True)
class Corpus:
    """Tar shards.

    Attributes:
        shards: The tars, by name.
        images: How many images they hold.
        bytes: Of the encoded images.
    """

    shards: dict[str, bytes]
    images: int
    bytes: int


def corpus(sizes: Sequence[tuple[int, int]], per_shard: int, seed: int = 0) -> Corpus:
    """Make a corpus of JPEG photographs with one box each.

    Args:
        sizes: Width and height of each image, pixels.
        per_shard: Images of each shard.
        seed: Of cuts and boxes.
    """
    dice = np.random.default_rng(seed)
    shards, total = {}, 0
    for first in range(0, len(sizes), per_shard):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for number in range(first, min(first + per_shard, len(sizes))):
                width, height = sizes[number]
                data = photograph(width, height, dice)
                total += len(data)
                x, y = dice.uniform(0.05, 0.35, 2) * (width, height)
                box = [x, y, x + width * dice.uniform(0.4, 0.6), y + height * dice.uniform(0.4, 0.6)]
                _add(tar, f"{number:06d}.jpg", data)
                _add(
                    tar, f"{number:06d}.prompts.jsonl", json.dumps({"box": [round(edge, 1) for edge in box]}).encode()
                )
        shards[f"{first // per_shard:05d}.tar"] = file.getvalue()
    return Corpus(shards, len(sizes), total)


def photograph(width: int, height: int, dice: np.random.Generator) -> bytes:
    """Return a random cut of a photograph as a JPEG of this size."""
    pixels = _originals()[int(dice.integers(len(PHOTOGRAPHS)))]
    rows, columns = pixels.shape[:2]
    share = dice.uniform(0.6, 1.0)
    high = min(int(rows * share), int(columns * share * height / width))
    wide = min(int(columns * share), int(high * width / height))
    y, x = dice.integers(rows - high + 1), dice.integers(columns - wide + 1)
    scaled = cv2.resize(pixels[y : y + high, x : x + wide], (width, height), interpolation=cv2.INTER_AREA)
    if dice.integers(2):
        scaled = scaled[:, ::-1]
    file = io.BytesIO()
    Image.fromarray(scaled).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


@lru_cache(maxsize=1)
def _originals() -> list[NDArray[np.uint8]]:
    folder = resources.files("skimage") / "data"
    return [np.asarray(Image.open(io.BytesIO((folder / name).read_bytes())).convert("RGB")) for name in PHOTOGRAPHS]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def boxes(shard: bytes) -> Iterator[tuple[bytes, list[float]]]:
    """Yield the encoded images of a shard, and their boxes."""
    with tarfile.open(fileobj=io.BytesIO(shard)) as tar:
        members = [tar.extractfile(member).read() for member in tar]  # type: ignore[union-attr]  # all are files
    for image, prompts in zip(members[::2], members[1::2], strict=True):
        yield image, json.loads(prompts)["box"]


def stand_in(seconds: float = 0.0) -> SDMatte:
    """Return a model that computes nothing: every alpha is an ellipse with a soft edge.

    Args:
        seconds: Waited per object without using a CPU, as one does for a model on an accelerator.
    """
    import torch

    from sdmatte.model import EncodedImage, SDMatte

    class StandIn(SDMatte):
        """Has all of the model but a network."""

        def __init__(self) -> None:
            self.name, self.weights_sha256, self.trained = "stand-in", "0" * 64, False
            self.precision, self.device = "float32", torch.device("cpu")
            self.input_size, self.resize = 512, "square"
            self.prompt_kinds, self._warned = ("box", "points", "mask"), set()

        def encode(
            self, pixels: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, int]] | None = None
        ) -> list[EncodedImage]:
            sizes = sizes or [(each.shape[1], each.shape[0]) for each in pixels]
            grid = (self.input_size, self.input_size)
            return [EncodedImage(torch.empty(0), width, height, grid) for width, height in sizes]

        def matte(self, objects: Sequence[tuple[EncodedImage, Any]]) -> list[NDArray[np.float32]]:
            if seconds:
                time.sleep(seconds * len(objects))
            return [ellipse(image.width, image.height) for image, _ in objects]

    return StandIn()


@lru_cache(maxsize=2)
def ellipse(width: int, height: int) -> NDArray[np.float32]:
    """Return an ``(H, W)`` float32 alpha of an ellipse, with an edge about a fortieth of the width wide."""
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return np.clip((0.6 - np.hypot(x, y)) * 20 + 0.5, 0, 1).astype(np.float32)
