"""The two autoencoders behind one interface: Stable Diffusion's (SDMatte) and the tiny one (LiteSDMatte).

Both are deterministic maps between pictures and *scaled* latents (times ``scaling_factor``), which the U-Net works on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor

from sdmatte.errors import CheckpointError


class KLVAE(AutoencoderKL):  # type: ignore[misc]  # diffusers' classes are untyped for mypy here
    """Stable Diffusion's autoencoder: the mean of the posterior, never a sample."""

    @property
    def downsampling(self) -> int:
        """Pixels per latent cell, along each side."""
        return int(2 ** (len(self.config.block_out_channels) - 1))

    def encode_latent(self, pixels: Tensor) -> Tensor:
        """Map ``(B, 3, H, W)`` in [-1, 1] to a scaled latent ``(B, C, H / downsampling, W / downsampling)``."""
        mean: Tensor = self.quant_conv(self.encoder(pixels)).chunk(2, dim=1)[0]
        return mean * float(self.config.scaling_factor)

    def decode_unclipped(self, latent: Tensor) -> Tensor:
        """Map a scaled latent ``(B, C, h, w)`` to an alpha ``(B, 1, H, W)`` that may leave [0, 1]: for training."""
        return _mean(self.decoder(self.post_quant_conv(latent / self.config.scaling_factor)))

    def decode_alpha(self, latent: Tensor) -> Tensor:
        """Map a scaled latent ``(B, C, h, w)`` to an alpha ``(B, 1, H, W)`` in [0, 1]."""
        return self.decode_unclipped(latent).clip(0.0, 1.0)


class TinyVAE(AutoencoderTiny):  # type: ignore[misc]  # diffusers' classes are untyped for mypy here
    """The tiny autoencoder of LiteSDMatte."""

    @property
    def downsampling(self) -> int:
        """Pixels per latent cell, along each side."""
        return int(2 ** (len(self.config.encoder_block_out_channels) - 1))

    def encode_latent(self, pixels: Tensor) -> Tensor:
        """See :meth:`KLVAE.encode_latent`.

        Pixels are mapped to [0, 1] here, and once more by the encoder itself: the released weights were trained so.
        """
        latent: Tensor = self.encoder((pixels + 1) / 2)
        return latent * float(self.config.scaling_factor)

    def decode_unclipped(self, latent: Tensor) -> Tensor:
        """See :meth:`KLVAE.decode_unclipped`."""
        return _mean(self.decoder(latent / self.config.scaling_factor))

    def decode_alpha(self, latent: Tensor) -> Tensor:
        """See :meth:`KLVAE.decode_alpha`."""
        return self.decode_unclipped(latent).clip(0.0, 1.0)


_BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
"""The blocks that Stable Diffusion's autoencoder is made of."""


def build_vae(config: Mapping[str, Any]) -> KLVAE | TinyVAE:
    """Build the autoencoder of a diffusers ``vae/config.json``.

    Raises:
        CheckpointError: The class is neither ``AutoencoderKL`` nor ``AutoencoderTiny``.
    """
    classes: dict[str, Any] = {"AutoencoderKL": KLVAE, "AutoencoderTiny": TinyVAE}
    name = config.get("_class_name")
    if name not in classes:
        raise CheckpointError(f"vae/config.json: _class_name is {name!r}, expected one of {', '.join(classes)}")
    for key, only in _BLOCKS.items():
        if name == "AutoencoderKL" and (unknown := set(config.get(key, ())).difference({only})):
            raise CheckpointError(f"vae/config.json: {key} has {sorted(unknown)}, expected only {only}")
    # The released KL configuration leaves `force_upcast` at its default, which only matters to diffusers' pipelines.
    vae: KLVAE | TinyVAE = classes[name].from_config(dict(config))
    return vae


def _mean(pixels: Tensor) -> Tensor:
    return (pixels.mean(dim=1, keepdim=True) + 1.0) / 2.0
