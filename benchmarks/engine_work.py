"""The work of one matte, counted: multiplications and additions of the networks' matrix products and convolutions.

Counted by torch's `FlopCounterMode` while the plain baseline runs on the meta device, which computes nothing. That is
the work of direct convolutions and of attention to all keys. An engine that leaves keys out, or convolves with fewer
multiplications (Winograd), does less; its figures are *equivalents* of the direct way, and may exceed what the machine
could multiply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.engine_baseline import PlainNetwork
from benchmarks.engine_peak import Peak
from sdmatte.configs import ModelConfigs
from sdmatte.embeddings import CoordinateFeatures


@dataclass(frozen=True)
class Work:
    """FLOP of convolutions and of matrix products (linear layers, attention)."""

    convolution: int = 0
    matrix: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.convolution + other.convolution, self.matrix + other.matrix)

    def __mul__(self, times: int) -> Work:
        return Work(self.convolution * times, self.matrix * times)

    @property
    def total(self) -> int:
        """FLOP of both kinds."""
        return self.convolution + self.matrix

    def floor(self, peak: Peak) -> float:
        """Return the seconds that a machine at its peak would take."""
        return self.convolution / peak.convolution + self.matrix / peak.matrix


@dataclass(frozen=True)
class Passes:
    """The work of one pass through each part; an encoder pass is one image, or one prompt image."""

    encode: Work
    unet: Work
    decode: Work

    def needed(self, images: int, objects: int) -> Work:
        """Return what mattes of some objects need: images are encoded once, prompt images once each."""
        return self.encode * (images + objects) + (self.unet + self.decode) * objects

    def repeated(self, objects: int) -> Work:
        """Return what the public code does for them: images are encoded for every object (text encoder excluded)."""
        return self.needed(objects, objects)


def count(configs: ModelConfigs, size: int) -> Passes:
    """Count the work of a model at an input of `size` x `size` pixels; needs neither weights nor memory."""
    with torch.device("meta"):
        network = PlainNetwork(configs).eval()
        pixels = torch.empty(1, 3, size, size)
        found: list[Tensor] = []
        encode = _count(lambda: found.append(network.encode(pixels)))
        latent = found[0]
        features = CoordinateFeatures(
            torch.empty(1, int(configs.unet["bbox_embeddings_input_dim"])),
            torch.empty(1, int(configs.unet["point_embeddings_input_dim"])),
            torch.zeros(1, dtype=torch.bool, device="cpu"),  # read while computing
        )
        text = torch.empty(1, 77, int(configs.unet["cross_attention_dim"]))
        inside = torch.empty(1, 1, *latent.shape[-2:])
        unet = _count(lambda: found.append(network.unet(latent, latent, inside, features, torch.ones(1), text)))
        decode = _count(lambda: found.append(network.decode(found[1])))
    return Passes(encode, unet, decode)


@torch.no_grad()
def _count(work: Callable[[], object]) -> Work:
    with FlopCounterMode(display=False) as counter:
        work()
    total = counter.get_flop_counts()["Global"]
    convolution = sum(flop for operation, flop in total.items() if "convolution" in str(operation))
    return Work(int(convolution), int(sum(total.values()) - convolution))
