"""Initial weights of a model that trains from scratch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdmatte.configs import ModelConfigs
from sdmatte.network import Network
from sdmatte.vae import TinyVAE

_TINY = 1e-3


def seeded_network(configs: ModelConfigs, seed: int, images: Tensor | None = None) -> Network:
    """Build a network with random weights.

    Args:
        configs: Of the model.
        seed: Of the weights.
        images: ``(B, 3, H, W)`` in [-1, 1]: pictures that the tiny autoencoder is standardised with, see
            :func:`standardise`. The other autoencoder needs none: it normalises inside.

    Returns:
        The network, on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(configs)
        if images is not None and isinstance(network.vae, TinyVAE):
            standardise(network.vae, images)
    return network


@torch.no_grad()
def standardise(vae: TinyVAE, images: Tensor) -> None:
    """Give every convolution an output of mean 0 and standard deviation 1 over some pictures, and white latents.

    The tiny autoencoder has no normalisation layers, and sees pixels in [0.5, 1]: with usual initial weights its
    features are all but constant, and its latents nearly copies of one another. The method is that of Mishkin and
    Matas, "All you need is a good init" (ICLR 2016), with biases; the latents are decorrelated as well (principal
    components).

    Args:
        vae: Whose weights to change.
        images: ``(B, 3, H, W)`` in [-1, 1].
    """
    _standardise(vae.encoder, (images + 1) / 2)
    _whiten(vae, images)
    _standardise(vae.decoder, vae.encoder((images + 1) / 2))


def _standardise(part: nn.Module, inputs: Tensor) -> None:
    convolutions = [module for module in part.modules() if isinstance(module, nn.Conv2d)]
    for convolution in convolutions:
        nn.init.orthogonal_(convolution.weight)
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
    for convolution in convolutions:  # in the order of computation
        _scale_output(part, convolution, inputs)


def _scale_output(part: nn.Module, convolution: nn.Conv2d, inputs: Tensor) -> None:
    kept: list[Tensor] = []
    handle = convolution.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    part(inputs)
    handle.remove()
    mean, deviation = kept[0].mean(dim=(0, 2, 3)), kept[0].std(dim=(0, 2, 3)).clamp(min=_TINY)
    convolution.weight.div_(deviation[:, None, None, None])
    if convolution.bias is not None:
        convolution.bias.sub_(mean).div_(deviation)


def _whiten(vae: TinyVAE, images: Tensor) -> None:
    """Decorrelate the latent channels through the encoder's last convolution."""
    latents = vae.encoder((images + 1) / 2).transpose(0, 1).flatten(1).double()
    values, vectors = torch.linalg.eigh(torch.cov(latents))
    # Directions without any variance would be blown up to noise.
    rotation = (vectors / values.clamp(min=float(values[-1]) * _TINY).sqrt()).T / vae.config.scaling_factor
    last = vae.encoder.layers[-1]
    last.weight.copy_(torch.einsum("ij,jkhw->ikhw", rotation, last.weight.double()))
    last.bias.copy_(rotation @ (last.bias.double() - latents.mean(dim=1)))
