"""Grafting on a folder laid out as diffusers lays out Stable Diffusion, with a tiny model in it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sdmatte.checkpoint import load_into, read_state_dict
from sdmatte.errors import CheckpointError
from sdmatte.network import Network
from sdmatte.training.graft import graft
from support.training import tiny_configs

CONFIGS = tiny_configs()
OWN = ("aux_conv_in.", "bbox_embedding.", "point_embedding.")
FILES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def stable_diffusion(folder: Path, *, channels: int = 4, level: str = "") -> dict[str, dict[str, Tensor]]:
    """Write random weights of the tiny model without SDMatte's layers; return them by part."""
    torch.manual_seed(1)
    network = Network(CONFIGS)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in FILES}
    for name, tensor in network.state_dict().items():
        part, _, rest = name.partition(".")
        if not rest.startswith(OWN):
            parts[part][level + rest if part == "text_encoder" else rest] = tensor.clone()
    parts["unet"]["conv_in.weight"] = torch.randn(8, channels, 3, 3)
    for part, tensors in parts.items():
        (folder / part).mkdir(parents=True)
        save_file(tensors, folder / part / f"{FILES[part]}.safetensors")
    return parts


def network_of(state: dict[str, Tensor]) -> Network:
    network = Network(CONFIGS)
    load_into(network, state, where="there", dtype=torch.float32)
    return network


def test_everything_but_the_input_is_taken_over(tmp_path: Path) -> None:
    parts = stable_diffusion(tmp_path)
    found = network_of(graft(tmp_path, CONFIGS)).state_dict()
    for part, tensors in parts.items():
        for name, tensor in tensors.items():
            if name != "conv_in.weight":
                torch.testing.assert_close(found[f"{part}.{name}"], tensor, rtol=0, atol=0)


def test_the_input_convolution_answers_two_equal_latents_as_before(tmp_path: Path) -> None:
    old = stable_diffusion(tmp_path)["unet"]["conv_in.weight"]
    new = network_of(graft(tmp_path, CONFIGS)).unet.conv_in.weight
    assert new.shape == (8, 8, 3, 3)
    torch.testing.assert_close(new[:, :4], old / 2)
    latent = torch.randn(1, 4, 6, 6)
    twice = torch.nn.functional.conv2d(torch.cat([latent, latent], 1), new)
    torch.testing.assert_close(twice, torch.nn.functional.conv2d(latent, old))


def test_the_prompts_convolution_starts_from_the_inputs(tmp_path: Path) -> None:
    old = stable_diffusion(tmp_path)["unet"]
    aux = network_of(graft(tmp_path, CONFIGS)).unet.aux_conv_in
    torch.testing.assert_close(aux.weight[:8], old["conv_in.weight"])
    torch.testing.assert_close(aux.bias[:8], old["conv_in.bias"])
    assert aux.weight.shape[0] == 16
    assert not aux.weight[8:].any()
    assert not aux.bias[8:].any()


def test_coordinate_embeddings_start_at_zero_and_still_learn(tmp_path: Path) -> None:
    stable_diffusion(tmp_path)
    unet = network_of(graft(tmp_path, CONFIGS)).unet
    for embedding, width in ((unet.bbox_embedding, 16), (unet.point_embedding, 40)):
        output = embedding(torch.randn(2, width))
        assert not output.any()
        output.sum().backward()
        assert embedding.linear_2.weight.grad.abs().sum() > 0


def test_only_the_seed_changes_what_is_random(tmp_path: Path) -> None:
    stable_diffusion(tmp_path)
    one, same, other = (graft(tmp_path, CONFIGS, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    changed = {name for name in one if not torch.equal(one[name], other[name])}
    assert changed == {
        f"unet.{kind}_embedding.linear_1.{end}" for kind in ("bbox", "point") for end in ("weight", "bias")
    }


def test_text_encoders_of_transformers_4_fit(tmp_path: Path) -> None:
    stable_diffusion(tmp_path, level="text_model.")
    network_of(graft(tmp_path, CONFIGS))


def test_another_autoencoder(tmp_path: Path) -> None:
    stable_diffusion(tmp_path / "sd")
    vae = {name: torch.full_like(value, 0.5) for name, value in Network(CONFIGS).vae.state_dict().items()}
    (tmp_path / "taesd").mkdir()
    save_file(vae, tmp_path / "taesd" / "model.safetensors")
    state = graft(tmp_path / "sd", CONFIGS, vae=tmp_path / "taesd")
    assert all((value == 0.5).all() for name, value in state.items() if name.startswith("vae."))


def test_faults_name_the_tensors_and_the_folder(tmp_path: Path) -> None:
    stable_diffusion(tmp_path)
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = read_state_dict(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    tensors["spare.weight"] = tensors.pop("conv_out.bias")
    save_file(tensors, path)
    with pytest.raises(
        CheckpointError, match=r"(?s)1 missing: unet\.conv_out\.bias.*1 unexpected: unet\.spare\.weight"
    ):
        network_of(graft(tmp_path, CONFIGS))


def test_an_inpainting_model_is_refused(tmp_path: Path) -> None:
    stable_diffusion(tmp_path, channels=9)
    with pytest.raises(CheckpointError, match=r"conv_in of shape \(8, 9, 3, 3\), expected one with 4"):
        graft(tmp_path, CONFIGS)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"unet holds no weights"):
        graft(tmp_path, CONFIGS)
