"""Where training starts from: Stable Diffusion 2 weights with SDMatte's layers grafted on (arXiv 2508.00443)."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models.embeddings import TimestepEmbedding
from torch import Tensor

from sdmatte.checkpoint import read_state_dict, released_name
from sdmatte.configs import PARTS, ModelConfigs
from sdmatte.errors import CheckpointError
from sdmatte.unet import LATENT_CHANNELS_FACTOR

_NAMES = ("diffusion_pytorch_model", "model", "pytorch_model")
_SUFFIXES = (".safetensors", ".bin")


def graft(folder: Path, configs: ModelConfigs, *, vae: Path | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Make an SDMatte state from a diffusers-style Stable Diffusion folder.

    ``unet.conv_in`` is repeated over the added channels and divided by the number of repetitions, so that its
    response to two equal latents is the old one. ``unet.aux_conv_in`` starts from ``conv_in`` in its first channels
    and is zero elsewhere. The coordinate embeddings start at zero: the last layer of each is zero, while the layer
    before it is random, or no gradient would ever reach either. Everything else is taken over as it is.

    Args:
        folder: With the weights ``unet/``, ``vae/`` and ``text_encoder/``.
        configs: Of the SDMatte model.
        vae: Folder of another autoencoder's weights, such as LiteSDMatte's tiny one; default ``folder``'s.
        seed: Of the coordinate embeddings' first layers.

    Returns:
        Float32 tensors (mapped from the files where these are float32) under their released names. Whether they fit
        the model is for :func:`sdmatte.checkpoint.load_into` to say.

    Raises:
        CheckpointError: Weights are missing or can't be read, or ``conv_in`` is not that of a text-to-image model.
    """
    places = {part: folder / part for part in PARTS} | ({"vae": vae} if vae else {})
    state = {
        released_name(f"{part}.{name}"): tensor.float() if tensor.is_floating_point() else tensor
        for part, place in places.items()
        for name, tensor in read_state_dict(_weights_in(place)).items()
    }
    latent = int(configs.unet["in_channels"])
    weight, bias = (state.get(f"unet.conv_in.{name}") for name in ("weight", "bias"))
    if weight is None or bias is None or weight.ndim != 4 or weight.shape[1] != latent:
        found = "no conv_in" if weight is None or bias is None else f"a conv_in of shape {tuple(weight.shape)}"
        raise CheckpointError(
            f"the U-Net in {folder} has {found}, expected one with {latent} input channels; graft from a "
            "text-to-image model (inpainting and depth models have more channels); SDMatte weights are continued from "
            "instead"
        )
    repeated = weight.repeat(1, LATENT_CHANNELS_FACTOR, 1, 1) / LATENT_CHANNELS_FACTOR
    return state | {"unet.conv_in.weight": repeated} | _added(configs, weight, bias, seed)


def _added(configs: ModelConfigs, weight: Tensor, bias: Tensor, seed: int) -> dict[str, Tensor]:
    """Return the tensors that Stable Diffusion's U-Net does not have."""
    context = int(configs.unet["cross_attention_dim"])
    taken = min(context, weight.shape[0])
    aux = {"weight": torch.zeros(context, *weight.shape[1:]), "bias": torch.zeros(context)}
    aux["weight"][:taken], aux["bias"][:taken] = weight[:taken], bias[:taken]
    added = {f"unet.aux_conv_in.{name}": tensor for name, tensor in aux.items()}
    embedding = int(configs.unet["block_out_channels"][0]) * 4
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for name in ("bbox", "point"):
            width = configs.unet["bbox_embeddings_input_dim" if name == "bbox" else "point_embeddings_input_dim"]
            fresh = TimestepEmbedding(width, embedding).state_dict()
            for key, tensor in fresh.items():
                added[f"unet.{name}_embedding.{key}"] = torch.zeros_like(tensor) if "linear_2" in key else tensor
    return added


def _weights_in(folder: Path) -> Path:
    """Return the weights file of a part's folder: the usual names, full precision, safetensors first."""
    for suffix in _SUFFIXES:
        for name in _NAMES:
            if (path := folder / f"{name}{suffix}").is_file():
                return path
    raise CheckpointError(
        f"{folder} holds no weights ({_NAMES[0]}.safetensors or {_NAMES[1]}.safetensors); give the folder of a "
        "Stable Diffusion 2 model as diffusers lays it out: unet/, vae/ and text_encoder/"
    )
