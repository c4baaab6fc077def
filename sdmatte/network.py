"""The whole network: autoencoder, prompt-driven U-Net and text encoder, named as in the released checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdmatte.configs import ModelConfigs
from sdmatte.embeddings import CoordinateFeatures
from sdmatte.errors import CheckpointError
from sdmatte.text import build_text_encoder
from sdmatte.unet import PromptUNet
from sdmatte.vae import build_vae


class Network(nn.Module):
    """SDMatte or LiteSDMatte as tensors in, tensors out.

    The text encoder only ever sees one caption: :meth:`embed_text` computes its embedding, after which
    :attr:`text_encoder` may be dropped.

    Args:
        configs: The three configurations of a model folder.

    Raises:
        CheckpointError: A configuration does not describe its part of an SDMatte model.
    """

    def __init__(self, configs: ModelConfigs) -> None:
        super().__init__()
        self.text_encoder: nn.Module | None = build_text_encoder(configs.text_encoder)
        with _naming("vae/config.json"):
            self.vae = build_vae(configs.vae)
        with _naming("unet/config.json"):
            self.unet = PromptUNet(configs.unet)

    @property
    def stride(self) -> int:
        """The input's height and width must be multiples of this many pixels."""
        stride: int = self.vae.downsampling * self.unet.downsampling
        return stride

    @torch.no_grad()
    def embed_text(self, token_ids: Tensor) -> Tensor:
        """Embed a caption.

        Args:
            token_ids: ``(1, T)`` int64.

        Returns:
            ``(1, T, context channels)``.
        """
        assert self.text_encoder is not None, "the text encoder has been released"
        result: Tensor = self.text_encoder(token_ids)[0]
        return result

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Encode images, or prompt images.

        Args:
            pixels: ``(B, 3, H, W)`` in [-1, 1] (one channel is repeated); H and W multiples of :attr:`stride`.

        Returns:
            Scaled latent ``(B, C, h, w)``.
        """
        latent: Tensor = self.vae.encode_latent(pixels.expand(-1, 3, -1, -1))
        return latent

    def predict_latent(
        self,
        image_latent: Tensor,
        prompt: Tensor,
        coordinates: CoordinateFeatures,
        opaque: Tensor,
        text: Tensor,
        masks_attention: Tensor | None = None,
    ) -> Tensor:
        """Predict the alpha's latent from the image's latent and the prompt image.

        Args:
            image_latent: ``(B, C, h, w)``.
            prompt: ``(B, 1, H, W)`` in [-1, 1], +1 inside.
            coordinates: Features of the prompts' coordinates.
            opaque: ``(B,)``: 1 opaque, 0 transparent.
            text: ``(1 or B, T, context channels)``.
            masks_attention: ``(B,)`` bool: whose self-attention is restricted to the prompt; default all.

        Returns:
            Scaled latent ``(B, C, h, w)``.
        """
        prompt_latent = self.encode_image(prompt.to(image_latent.dtype))
        inside = F.interpolate((prompt.float() + 1) / 2, size=image_latent.shape[-2:], mode="nearest")
        if masks_attention is not None:
            inside = torch.where(masks_attention[:, None, None, None], inside, 1.0)
        latent: Tensor = self.unet(image_latent, prompt_latent, inside, coordinates, opaque, text)
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """Decode the alpha's latent to an alpha ``(B, 1, H, W)`` in [0, 1]."""
        alpha: Tensor = self.vae.decode_alpha(latent)
        return alpha

    def forward(
        self, image: Tensor, prompt: Tensor, coordinates: CoordinateFeatures, opaque: Tensor, text: Tensor
    ) -> Tensor:
        """Matte ``image`` ``(B, 3, H, W)`` in [-1, 1]; the other arguments are those of :meth:`predict_latent`.

        Returns:
            ``(B, 1, H, W)`` in [0, 1].
        """
        latent = self.predict_latent(self.encode_image(image), prompt, coordinates, opaque, text)
        return self.decode(latent)


@contextlib.contextmanager
def _naming(file: str) -> Iterator[None]:
    """Name the configuration that diffusers' blocks could not be built from, whatever they raised over it."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{file} does not describe a part of an SDMatte model ({type(error).__name__}: {error}); download it again"
        ) from error
