"""Initial weights of a model that trains from scratch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdmatte.configs import ModelConfigs
from sdmatte.network import Network
from sdmatte.vae import TinyVAE

_TINY = 1e-3
_WEAK = 0.3
_TRUNK = ("conv_in", "conv_shortcut", "samplers.0.conv", "conv_out")
_BRANCH_ENDS = ("conv2", "proj_out")


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
        open_paths(network)
        if images is not None and isinstance(network.vae, TinyVAE):
            standardise(network.vae, images)
    return network


@torch.no_grad()
def open_paths(network: Network) -> None:
    """Let the signal through the U-Net at full strength, and start its residual branches weak.

    With PyTorch's usual weights every convolution of the U-Net's trunk (shortcuts and changes of resolution) shrinks
    what goes through: of what the middle block says, about a hundredth arrives at the output, and its gradient is as
    weak. A pre-trained U-Net is past that; one that starts from nothing would learn for thousands of steps from its
    highest resolution alone. Orthogonal weights keep the strength (Saxe et al., ICLR 2014), and weak branches keep it
    from growing (as in Fixup: Zhang et al., ICLR 2019).
    """
    for name, module in network.unet.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and name.endswith(_TRUNK):
            nn.init.orthogonal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d | nn.Linear) and name.endswith(_BRANCH_ENDS):
            module.weight.mul_(_WEAK)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def standardise(vae: TinyVAE, images: Tensor) -> None:
    """Give every convolution an output of mean 0 and standard deviation 1 over some pictures, and white latents.

    The tiny autoencoder has no normalisation layers, and sees pixels in [0.5, 1]: with usual initial weights its
    features are all but constant, and its latents copies of one another, so that a U-Net behind it takes thousands of
    steps to notice the picture. The method is that of Mishkin and Matas, "All you need is a good init" (ICLR 2016),
    with biases; the latents are decorrelated as well (principal components).

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
