"""Initial weights of a model that trains from scratch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdmatte.configs import ModelConfigs
from sdmatte.network import Network
from sdmatte.vae import TinyVAE


def seeded_network(configs: ModelConfigs, seed: int, images: Tensor | None = None) -> Network:
    """Build a network with random weights.

    Args:
        configs: Of the model.
        seed: Of the weights.
        images: ``(B, 3, H, W)`` in [-1, 1]: pictures to standardise the latents with, see :func:`standardise_latents`.

    Returns:
        The network, on the CPU. The tiny autoencoder gets He's initial weights (He et al., "Delving deep into
        rectifiers", ICCV 2015): it has no normalisation layers, and PyTorch's default would let the picture fade away
        on its way through the layers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(configs)
        if isinstance(network.vae, TinyVAE):
            for module in network.vae.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
    if images is not None:
        standardise_latents(network, images)
    return network


@torch.no_grad()
def standardise_latents(network: Network, images: Tensor) -> None:
    """Give every latent channel mean 0 and standard deviation 1 over some pictures, by changing the last convolution.

    Stable Diffusion's scaled latents have that size; here nothing else would see to it.

    Args:
        network: With the tiny autoencoder (the other one is left alone: it normalises inside).
        images: ``(B, 3, H, W)`` in [-1, 1].
    """
    vae = network.vae
    if not isinstance(vae, TinyVAE):
        return
    latent = vae.encode_latent(images)
    mean, deviation = latent.mean(dim=(0, 2, 3)), latent.std(dim=(0, 2, 3)).clamp(min=1e-6)
    last = vae.encoder.layers[-1]
    scale = float(vae.config.scaling_factor)
    last.bias.sub_(mean / scale).div_(deviation)
    last.weight.div_(deviation[:, None, None, None])
