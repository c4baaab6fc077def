"""The reference implementation's outputs on name-seeded weights, and how far ours are from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from sdmatte.configs import ModelConfigs
from sdmatte.devices import exact_float32
from sdmatte.embeddings import coordinate_features
from sdmatte.engine.build import Engine, place
from sdmatte.network import Network
from support.seeded import seeded_tensor

ALPHA_TARGET = 1e-4
"""Largest absolute deviation of an alpha in [0, 1] that counts as the same."""

UNET_TARGET = 1e-3
"""Largest deviation of the U-Net's output that does, relative to the reference's largest value."""

FIXTURES = Path(__file__).parent.parent / "fixtures"
KINDS = {"bbox_mask": "bbox_coords", "point_mask": "point_coords", "mask": "mask_coords"}


@dataclass(frozen=True)
class Deviation:
    """Largest deviations of one case: alpha absolute, U-Net output relative to the reference's largest value."""

    case: str
    alpha: float
    unet: float


def seeded_network(folder: Path) -> tuple[Network, Tensor]:
    """Return the network of ``folder`` with name-seeded float32 weights, and the fixtures' text embedding by it."""
    name = folder.name
    configs = ModelConfigs.released("sdmatte") if name == "sdmatte_full" else ModelConfigs.from_folder(folder)
    shapes = json.loads((folder / "state_dict_shapes.json").read_text())
    with torch.device("meta"):
        network = Network(configs)
    own = network.state_dict()
    for key, shape in shapes.items():
        ours = key if key in own else key.replace("text_encoder.text_model.", "text_encoder.")
        assert list(own.pop(ours).shape) == shape, key
        module, _, leaf = ours.rpartition(".")
        parameter = torch.nn.Parameter(torch.from_numpy(seeded_tensor(key, shape)), requires_grad=False)
        setattr(network.get_submodule(module), leaf, parameter)
    assert not own, f"tensors that the reference does not have: {list(own)[:5]}"
    ids = torch.zeros(1, 77, dtype=torch.long)
    ids[0, :2] = torch.tensor([998, 999])
    text = network.eval().embed_text(ids)
    network.text_encoder = None
    return network, text


def deviations(folder: Path, device: str = "cpu") -> Iterator[Deviation]:
    """Compare every prompt kind, as one batch and sample by sample, with ``expected.safetensors`` of ``folder``."""
    network, text = seeded_network(folder)
    expected = load_file(folder / "expected.safetensors")
    difference = (text - expected["text_embed"]).abs().max().item()
    assert difference < 1e-4, f"text embedding deviates by {difference}"
    network, text = network.to(device), text.to(device)
    with exact_float32(torch.device(device), torch.float32):
        yield from compare(network, text, folder)
        place(network, text.device, torch.float32)
        yield from compare(network, text, folder, engine=Engine(network, text))


@torch.inference_mode()
def compare(
    network: Network, text: Tensor, folder: Path, *, singly: bool = True, engine: Engine | None = None
) -> Iterator[Deviation]:
    """Do the work of :func:`deviations` for a network at hand, or its engine; without ``singly`` only the batches."""
    expected = load_file(folder / "expected.safetensors", device=str(text.device))
    batch = len(expected["image"])
    selections = {"batch": list(range(batch))} if batch > 1 or not singly else {}
    if singly:
        selections |= {f"sample {index}": [index] for index in range(batch)}
    for kind, coordinates in KINDS.items():
        for label, rows in selections.items():
            image = (engine or network).encode_image(expected["image"][rows])
            arguments = (
                image,
                expected[kind][rows],
                coordinate_features(
                    list(expected[coordinates][rows].cpu()),
                    [kind == "point_mask"] * len(rows),
                    box_channels=network.unet.box_channels,
                    points_dim=network.unet.points_dim,
                ).to(text.device),
                1 - expected["is_trans"][rows],
            )
            latent = engine.predict_latent(*arguments) if engine else network.predict_latent(*arguments, text)
            if kind == "bbox_mask":
                torch.testing.assert_close(image, expected["unet_input_bbox_mask"][rows, :4], atol=1e-4, rtol=1e-4)
            alpha = (engine or network).decode(latent)
            reference = expected[f"unet_output_{kind}"][rows]
            yield Deviation(
                f"{folder.name}, {'engine, ' if engine else ''}{kind}, {label}",
                (alpha - expected[f"alpha_{kind}"][rows]).abs().max().item(),
                ((latent - reference).abs().max() / reference.abs().max()).item(),
            )
