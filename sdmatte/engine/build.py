"""From a network to its engine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdmatte.embeddings import CoordinateFeatures
from sdmatte.engine.autoencoder import Decoder, Encoder
from sdmatte.engine.memory import keep_pages
from sdmatte.engine.norm import WIDE
from sdmatte.engine.tiny import TinyDecoder, TinyEncoder
from sdmatte.engine.unet import UNet
from sdmatte.network import Network
from sdmatte.vae import KLVAE, TinyVAE


def memory_layout(part: nn.Module, device: torch.device) -> torch.memory_format:
    """Return how the convolutions of a part of the network want their weights and pictures to lie in memory.

    Channels last wherever there are many channels; on CPUs, few of them are faster apart.
    """
    first = next(module for module in part.modules() if isinstance(module, nn.Conv2d))
    if device.type != "cpu" or first.out_channels >= WIDE:
        return torch.channels_last
    return torch.contiguous_format


EXACT = ("conv_in", "conv_out", "quant_conv", "post_quant_conv", "aux_conv_in", "_embedding")
"""Ends of the names of modules that stay in float32: what enters and leaves the network's parts. They cost next to
nothing, and half precision would round alphas near 1 to steps of 1/256 there, and latents likewise."""


def place(network: Network, device: torch.device, dtype: torch.dtype) -> None:
    """Move a network to its device, layout and precision; what is :data:`EXACT` stays in float32."""
    for part in (network.vae, network.unet):
        nn.Module.to(part, device)  # not part.to(): diffusers' own version warns about casts that are meant
        nn.Module.to(part, memory_format=memory_layout(part, device))  # type: ignore[call-overload]  # torch's stubs
        exact = [module for name, module in part.named_modules() if name.endswith(EXACT)]
        if isinstance(part, TinyVAE):
            exact += [layers[at] for layers in (part.encoder.layers, part.decoder.layers) for at in (0, -1)]
        kept = {id(each) for module in exact for each in module.parameters()}
        for each in part.parameters():
            if id(each) not in kept:
                each.data = each.data.to(dtype)


class Engine:
    """A network's function, computed fast for one caption.

    Args:
        network: Placed (:func:`place`); the weights are shared, so it must not change afterwards.
        text: ``(1, L, context channels)``: embedding of the caption.
        dtype: Of the computation; latents and what enters and leaves are float32.
    """

    def __init__(self, network: Network, text: Tensor, dtype: torch.dtype = torch.float32) -> None:
        vae = network.vae
        self._device = text.device
        if self._device.type == "cpu":
            keep_pages()
        self._layout = memory_layout(vae, self._device)
        self._encoder = Encoder(vae, dtype) if isinstance(vae, KLVAE) else TinyEncoder(vae, dtype)
        self._decoder = Decoder(vae, dtype) if isinstance(vae, KLVAE) else TinyDecoder(vae, dtype)
        self._unet = UNet(network.unet, text.to(dtype), dtype)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Encode images, or prompt images of one channel.

        Args:
            pixels: ``(B, 3 or 1, H, W)`` in [-1, 1].

        Returns:
            Scaled latents ``(B, C, h, w)``.
        """
        if self._device.type == "cuda" and pixels.device.type == "cpu":
            pixels = pixels.pin_memory()  # the copy then runs beside what the device computes
        pixels = pixels.to(self._device, torch.float32, non_blocking=self._device.type == "cuda")
        pixels = pixels.expand(-1, 3, -1, -1).contiguous(memory_format=self._layout)
        return self._encoder(pixels)

    def predict_latent(
        self,
        image_latent: Tensor,
        prompt: Tensor,
        coordinates: CoordinateFeatures,
        opaque: Tensor,
        masks_attention: Tensor | None = None,
    ) -> Tensor:
        """Predict the alpha's latent; see :meth:`Network.predict_latent`.

        Args:
            image_latent: ``(B, C, h, w)``, from :meth:`encode_image`.
            prompt: ``(B, 1, H, W)`` float32 in [-1, 1], +1 inside; best on the CPU.
            coordinates: Features of the prompts' coordinates.
            opaque: ``(B,)``: 1 opaque, 0 transparent.
            masks_attention: ``(B,)`` bool: whose self-attention is restricted to the prompt; default all.

        Returns:
            Scaled latent ``(B, C, h, w)``.
        """
        inside = F.interpolate((prompt.float().cpu() + 1) / 2, size=image_latent.shape[-2:], mode="nearest")
        if masks_attention is not None:
            inside = torch.where(masks_attention.cpu()[:, None, None, None], inside, 1.0)
        prompt_latent = self._encode_prompt(prompt)
        return self._unet(image_latent, prompt_latent, inside, coordinates.to(self._device), opaque.to(self._device))

    def _encode_prompt(self, prompt: Tensor) -> Tensor:
        if isinstance(self._encoder, TinyEncoder):
            return self.encode_image(prompt)
        return self._encoder.prompts(prompt.float().cpu(), self._device)

    def decode(self, latent: Tensor) -> Tensor:
        """Decode the alpha's latent to an alpha ``(B, 1, H, W)`` in [0, 1]."""
        return self._decoder(latent)
