"""The plain way of computing a matte, as the public code does: what `make bench-engine` holds the engine against.

Read from the public implementation (github.com/vivoCameraResearch/SDMatte: modeling/SDMatte/meta_arch.py, utils/),
which evaluates with batches of one. For every object it

* encodes the prompt image, and the image anew, each in a pass of its own through the VAE's encoder;
* runs the text encoder on the caption (the empty one, as a rule);
* runs the U-Net with diffusers' plain `AttnProcessor`: scores of all keys in memory, bias added, softmax, product. The
  bias of a prompt is added for every key, also where it makes the key count for nothing;
* decodes to three channels and takes their mean afterwards.

All of it in float32, in torch's default layout (NCHW). The VAE's attention and the text encoder's are left as
diffusers and transformers choose: torch's `scaled_dot_product_attention`. Three things of the public code are left
out, all in the baseline's favour: it tokenises the caption, empties CUDA's cache after each object, and resizes the
prompt's bias anew in each attention layer rather than once per block.

Nothing here comes from `sdmatte`'s network: the modules are diffusers' own, so that no change there can leak in.
Shared are what happens before and after the network (resizing, drawing of prompts, sinusoids of coordinates) and the
names of the weights. Beside a checkout of the public code (`--against`) its alphas were the same to the last bit.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.embeddings import TimestepEmbedding
from numpy.typing import NDArray
from torch import Tensor, nn

from sdmatte.checkpoint import load_into
from sdmatte.configs import ModelConfigs
from sdmatte.embeddings import CoordinateFeatures, coordinate_features
from sdmatte.geometry import from_grid, to_grid
from sdmatte.prompt_maps import prompt_map
from sdmatte.prompts import Prompt
from sdmatte.text import build_text_encoder, caption_ids

OUTSIDE = -10000.0
"""Added to the attention logits of keys outside of the prompt."""


class PlainUNet(UNet2DConditionModel):  # type: ignore[misc]  # diffusers' classes are untyped for mypy here
    """SDMatte's U-Net on diffusers' Stable Diffusion U-Net, with materialised attention.

    Args:
        config: Content of a released ``unet/config.json``.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        assert not config.get("without"), "the baseline has all parts of the model"
        known = inspect.signature(UNet2DConditionModel.__init__).parameters
        latent, context, embedding = (
            config["in_channels"], config["cross_attention_dim"], 4 * config["block_out_channels"][0],
        )  # fmt: skip
        super().__init__(**{key: value for key, value in config.items() if key in known} | {"in_channels": 2 * latent})
        self.aux_conv_in = nn.Conv2d(latent, context, 3, padding=1)
        self.bbox_embedding = TimestepEmbedding(config["bbox_embeddings_input_dim"], embedding)
        self.point_embedding = TimestepEmbedding(config["point_embeddings_input_dim"], embedding)
        self.set_attn_processor(AttnProcessor())

    def forward(  # type: ignore[override]
        self,
        image_latent: Tensor,
        prompt_latent: Tensor,
        inside: Tensor | None,
        features: CoordinateFeatures,
        opaque: Tensor,
        text: Tensor,
    ) -> Tensor:
        """Predict the alpha's latent.

        Args:
            image_latent: ``(1, C, h, w)``, scaled.
            prompt_latent: ``(1, C, h, w)``, scaled.
            inside: ``(1, 1, h, w)`` in [0, 1]: the prompt image on the latent's grid; None masks no attention.
            features: Of the prompt's coordinates.
            opaque: ``(1,)``: 1 for an opaque object, 0 for a transparent one.
            text: ``(1, T, context channels)``: embedding of the caption.

        Returns:
            ``(1, C, h, w)``, scaled.
        """
        is_points = bool(features.is_points.any())
        place = self.point_embedding(features.points) if is_points else self.bbox_embedding(features.box)
        embedding = self.time_embedding(self.time_proj(opaque)) + place
        visual = self.aux_conv_in(prompt_latent).flatten(2).transpose(1, 2)
        hidden = self.conv_in(torch.cat([image_latent, prompt_latent], dim=1))
        skips = [hidden]
        for block in self.down_blocks:
            hidden, outputs = block(hidden, embedding, **self._context(block, hidden, inside, text))
            skips.extend(outputs)
        hidden = self.mid_block(hidden, embedding, **self._context(self.mid_block, hidden, inside, visual))
        for block in self.up_blocks:
            count = len(block.resnets)
            residuals, skips = tuple(skips[-count:]), skips[:-count]
            hidden = block(hidden, residuals, embedding, **self._context(block, hidden, inside, text))
        result: Tensor = self.conv_out(self.conv_act(self.conv_norm_out(hidden)))
        return result

    @staticmethod
    def _context(block: nn.Module, hidden: Tensor, inside: Tensor | None, tokens: Tensor) -> dict[str, Tensor | None]:
        """Return what a block with attention takes beyond its features: tokens, and a bias of (1, 1, keys)."""
        if not getattr(block, "has_cross_attention", False):
            return {}
        bias = None
        if inside is not None:
            bias = OUTSIDE * (1 - F.interpolate(inside, size=hidden.shape[-2:], mode="nearest").flatten(2))
        return {"encoder_hidden_states": tokens, "attention_mask": bias}


class PlainNetwork(nn.Module):
    """The three networks, with the released names of their tensors.

    Args:
        configs: The three configurations of a model folder.
    """

    def __init__(self, configs: ModelConfigs) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(configs.text_encoder)
        kind = AutoencoderTiny if configs.vae["_class_name"] == "AutoencoderTiny" else AutoencoderKL
        self.vae = kind.from_config(dict(configs.vae))
        self.unet = PlainUNet(configs.unet)

    def encode(self, pixels: Tensor) -> Tensor:
        """Map ``(1, 3, H, W)`` in [-1, 1] to a scaled latent ``(1, C, h, w)``: the posterior's mean."""
        scale = float(self.vae.config.scaling_factor)
        if isinstance(self.vae, AutoencoderTiny):
            latent: Tensor = self.vae.encoder((pixels + 1) / 2)  # mapped to [0, 1] twice, as LiteSDMatte was trained
        else:
            latent = torch.chunk(self.vae.quant_conv(self.vae.encoder(pixels)), 2, dim=1)[0]
        return latent * scale

    def decode(self, latent: Tensor) -> Tensor:
        """Map a scaled latent ``(1, C, h, w)`` to an alpha ``(1, 1, H, W)`` in [0, 1]."""
        latent = latent / float(self.vae.config.scaling_factor)
        if not isinstance(self.vae, AutoencoderTiny):
            latent = self.vae.post_quant_conv(latent)
        mean: Tensor = self.vae.decoder(latent).mean(dim=1, keepdim=True)
        return (mean.clip(-1.0, 1.0) + 1.0) / 2.0

    @property
    def stride(self) -> int:
        """Sides of the input are multiples of this many pixels."""
        tiny = isinstance(self.vae, AutoencoderTiny)
        levels = len(self.vae.config.encoder_block_out_channels if tiny else self.vae.config.block_out_channels)
        return int(2 ** (levels - 1) * 2 ** (len(self.unet.config.block_out_channels) - 1))


class PlainMatter:
    """Mattes one object at a time.

    Args:
        configs: The three configurations of a model folder.
        state: Weights by their released names; shared, not copied, on the CPU.
        input_size: Side of the square input, pixels.
        device: Where to compute.
    """

    def __init__(
        self, configs: ModelConfigs, state: Mapping[str, Tensor], input_size: int, device: str = "cpu"
    ) -> None:
        with torch.device("meta"):
            network = PlainNetwork(configs)
        load_into(network, state, where="the benchmark's weights", dtype=torch.float32)
        self.network = network.eval().requires_grad_(False).to(device)
        self.input_size = input_size
        self.device = torch.device(device)
        self._ids = caption_ids("", None, configs.text_encoder).to(device)
        self._box_channels = int(configs.unet["bbox_time_embed_dim"])
        self._points_dim = int(configs.unet["point_embeddings_input_dim"])

    def embed_caption(self) -> Tensor:
        """Run the text encoder on the empty caption: ``(1, T, context channels)``."""
        result: Tensor = self.network.text_encoder(self._ids)[0]
        return result

    @torch.no_grad()
    def matte(self, pixels: NDArray[np.uint8], prompt: Prompt) -> NDArray[np.float32]:
        """Matte one object.

        Args:
            pixels: ``(H, W, 3)`` RGB.
            prompt: The object, in pixels.

        Returns:
            ``(H, W)`` in [0, 1].
        """
        height, width = pixels.shape[:2]
        grid = (self.input_size, self.input_size)
        drawn = prompt_map(prompt, width, height, grid)
        map_ = torch.from_numpy(drawn.pixels)[None, None].to(self.device)
        prompt_latent = self.network.encode(map_.repeat(1, 3, 1, 1))
        features = coordinate_features(
            [torch.from_numpy(drawn.coordinates)],
            [drawn.is_points],
            box_channels=self._box_channels,
            points_dim=self._points_dim,
        ).to(self.device)
        image = torch.from_numpy(np.ascontiguousarray(to_grid(pixels, grid)))[None].to(self.device)
        image_latent = self.network.encode(image)
        inside = F.interpolate((map_ + 1) / 2, size=image_latent.shape[-2:], mode="nearest")
        opaque = torch.tensor([0.0 if prompt.transparent else 1.0], device=self.device)
        latent = self.network.unet(
            image_latent,
            prompt_latent,
            inside if drawn.masks_attention else None,
            features,
            opaque,
            self.embed_caption(),
        )
        alpha = self.network.decode(latent)[0, 0].cpu().numpy()
        return from_grid(np.ascontiguousarray(alpha), width, height)

    def __call__(self, pixels: NDArray[np.uint8], prompts: list[Prompt]) -> list[NDArray[np.float32]]:
        """Matte the objects of one image, one after the other."""
        return [self.matte(pixels, prompt) for prompt in prompts]
