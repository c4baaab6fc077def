"""The prompt-driven U-Net of SDMatte (arXiv 2508.00443, section 3), built from diffusers' Stable Diffusion v2 blocks.

It differs from Stable Diffusion's in four ways, and its tensors are named as in the released checkpoints:

* *Visual prompt cross-attention*: the mid block attends to the latent of the prompt image (through ``aux_conv_in``);
  down and up blocks attend to the text embedding as ever.
* *Coordinate embedding*: sinusoids of the prompt's coordinates through ``bbox_embedding`` or ``point_embedding``.
* *Opacity embedding*: ``time_embedding`` sees whether the object is opaque; there is no timestep.
* *Masked self-attention*: every self-attention adds ``-10000 * (1 - M)`` per key, ``M`` being the prompt image in
  [0, 1] on the attention's own grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2DCrossAttn, get_down_block, get_up_block
from torch import Tensor, nn

from sdmatte.embeddings import BOX_COORDINATES, CoordinateFeatures
from sdmatte.errors import CheckpointError

LATENT_CHANNELS_FACTOR = 2
"""The U-Net reads the latents of the image and of the prompt image side by side."""

OUTSIDE_BIAS = -10000.0
"""Attention logit added to keys outside of the prompt."""

PARTS = ("visual_prompt_attention", "coordinate_embedding", "opacity_embedding", "masked_self_attention")
"""What SDMatte adds to Stable Diffusion's U-Net. A configuration's ``without`` lists those that a model was trained
without (the paper's ablation)."""

_REFUSED = {
    "center_input_sample": False,
    "class_embed_type": None,
    "addition_embed_type": None,
    "dual_cross_attention": False,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "upcast_attention": False,
    "act_fn": "silu",
}
"""Settings of diffusers' U-Net that no SDMatte model uses, with the only value accepted."""


_BLOCKS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
"""The blocks of diffusers that SDMatte models are made of."""


class PromptUNet(nn.Module):
    """U-Net from ``(image latent, prompt latent)`` to the alpha's latent, in one step.

    Args:
        config: Content of a diffusers ``unet/config.json`` (``in_channels`` is that of one latent), with
            ``bbox_time_embed_dim``, ``bbox_embeddings_input_dim`` and ``point_embeddings_input_dim``.

    Raises:
        CheckpointError: The configuration asks for something that SDMatte's U-Net does not have.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        for key, only in _REFUSED.items():
            if config.get(key, only) != only:
                raise CheckpointError(f"unet/config.json: {key}={config[key]!r} is not supported, expected {only!r}")
        self.without = frozenset(config.get("without", ()))
        if unknown := self.without.difference(PARTS):
            raise CheckpointError(
                f"unet/config.json: without={sorted(unknown)} is unknown; there are {', '.join(PARTS)}"
            )
        for key, known in _BLOCKS.items():
            if strange := set(config[key]).difference(known):
                raise CheckpointError(f"unet/config.json: {key} has {sorted(strange)}, expected {' or '.join(known)}")
        channels = list(config["block_out_channels"])
        levels = len(channels)
        heads = _per_level(config.get("num_attention_heads") or config["attention_head_dim"], levels)
        layers = _per_level(config["layers_per_block"], levels)
        embedding = channels[0] * 4
        latent = config["in_channels"]
        self.downsampling = 2 ** (levels - 1)
        self.context_channels: int = config["cross_attention_dim"]
        self.box_channels: int = config["bbox_time_embed_dim"]
        self.box_dim: int = config["bbox_embeddings_input_dim"]
        self.points_dim: int = config["point_embeddings_input_dim"]
        if self.box_dim != BOX_COORDINATES * self.box_channels:
            raise CheckpointError(
                f"unet/config.json: bbox_embeddings_input_dim={self.box_dim} must be {BOX_COORDINATES} times "
                f"bbox_time_embed_dim={self.box_channels}"
            )

        self.conv_in = nn.Conv2d(LATENT_CHANNELS_FACTOR * latent, channels[0], 3, padding=1)
        self.aux_conv_in = nn.Conv2d(latent, self.context_channels, 3, padding=1)
        self.time_proj = Timesteps(channels[0], config["flip_sin_to_cos"], config["freq_shift"])
        self.time_embedding = TimestepEmbedding(channels[0], embedding)
        self.bbox_embedding = TimestepEmbedding(self.box_dim, embedding)
        self.point_embedding = TimestepEmbedding(self.points_dim, embedding)

        shared = {
            "temb_channels": embedding,
            "resnet_eps": config["norm_eps"],
            "resnet_act_fn": config["act_fn"],
            "resnet_groups": config["norm_num_groups"],
            "cross_attention_dim": self.context_channels,
            "use_linear_projection": config.get("use_linear_projection", False),
        }
        self.down_blocks = nn.ModuleList()
        for level, kind in enumerate(config["down_block_types"]):
            block = get_down_block(
                kind,
                num_layers=layers[level],
                in_channels=channels[max(level - 1, 0)],
                out_channels=channels[level],
                add_downsample=level < levels - 1,
                num_attention_heads=heads[level],
                attention_head_dim=heads[level],
                downsample_padding=config["downsample_padding"],
                **shared,
            )
            self.down_blocks.append(block)
        self.mid_block = UNetMidBlock2DCrossAttn(
            in_channels=channels[-1],
            output_scale_factor=config["mid_block_scale_factor"],
            num_attention_heads=heads[-1],
            **shared,
        )
        self.up_blocks = nn.ModuleList()
        reverse = channels[::-1]
        for level, kind in enumerate(config["up_block_types"]):
            block = get_up_block(
                kind,
                num_layers=layers[::-1][level] + 1,
                in_channels=reverse[min(level + 1, levels - 1)],
                out_channels=reverse[level],
                prev_output_channel=reverse[max(level - 1, 0)],
                add_upsample=level < levels - 1,
                num_attention_heads=heads[::-1][level],
                attention_head_dim=heads[::-1][level],
                resolution_idx=level,
                **shared,
            )
            self.up_blocks.append(block)
        self.conv_norm_out = nn.GroupNorm(config["norm_num_groups"], channels[0], eps=config["norm_eps"])
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(channels[0], config["out_channels"], 3, padding=1)

    def forward(
        self,
        image_latent: Tensor,
        prompt_latent: Tensor,
        inside: Tensor,
        coordinates: CoordinateFeatures,
        opaque: Tensor,
        text: Tensor,
    ) -> Tensor:
        """Predict the alpha's latent.

        Args:
            image_latent: ``(B, C, h, w)``, scaled; ``h`` and ``w`` are multiples of :attr:`downsampling`.
            prompt_latent: ``(B, C, h, w)``, scaled.
            inside: ``(B, 1, h, w)`` float32 in [0, 1]: the prompt image on the latent's grid, 1 inside.
            coordinates: Features of the prompts' coordinates, batch ``B``.
            opaque: ``(B,)``: 1 for opaque objects, 0 for transparent ones.
            text: ``(1 or B, T, context_channels)``: embedding of the caption.

        Returns:
            ``(B, C, h, w)``, scaled, of ``image_latent``'s dtype.
        """
        dtype = image_latent.dtype
        batch = image_latent.shape[0]
        embedding = self.condition(coordinates, opaque, dtype)
        text = text.to(dtype).expand(batch, -1, -1)
        visual = text
        if "visual_prompt_attention" not in self.without:
            visual = self.aux_conv_in(prompt_latent).flatten(2).transpose(1, 2)
        if "masked_self_attention" in self.without:
            inside = torch.ones_like(inside)
        biases: dict[tuple[int, int], Tensor] = {}

        def bias(features: Tensor) -> Tensor:
            grid = (features.shape[-2], features.shape[-1])
            if grid not in biases:
                biases[grid] = attention_bias(inside, grid, dtype)
            return biases[grid]

        hidden = self.conv_in(torch.cat([image_latent, prompt_latent], dim=1))
        skips = [hidden]
        for block in self.down_blocks:
            if getattr(block, "has_cross_attention", False):
                hidden, outputs = block(
                    hidden, temb=embedding, encoder_hidden_states=text, attention_mask=bias(hidden)
                )
            else:
                hidden, outputs = block(hidden, temb=embedding)
            skips.extend(outputs)
        hidden = self.mid_block(hidden, embedding, encoder_hidden_states=visual, attention_mask=bias(hidden))
        for block in self.up_blocks:
            count = len(cast("nn.ModuleList", block.resnets))
            residuals = tuple(skips[-count:])
            del skips[-count:]
            if getattr(block, "has_cross_attention", False):
                hidden = block(
                    hidden_states=hidden,
                    res_hidden_states_tuple=residuals,
                    temb=embedding,
                    encoder_hidden_states=text,
                    attention_mask=bias(hidden),
                )
            else:
                hidden = block(hidden_states=hidden, res_hidden_states_tuple=residuals, temb=embedding)
        result: Tensor = self.conv_out(self.conv_act(self.conv_norm_out(hidden)))
        return result

    def condition(self, coordinates: CoordinateFeatures, opaque: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the sum of opacity and coordinate embedding, ``(B, 4 * channels[0])``."""
        opacity: Tensor = self.time_embedding(self.time_proj(opaque.float()).to(dtype))
        box = self.bbox_embedding(coordinates.box.to(dtype))
        points = self.point_embedding(coordinates.points.to(dtype))
        place = torch.where(coordinates.is_points[:, None], points, box)
        if "coordinate_embedding" in self.without:
            place = torch.zeros_like(place)
        if "opacity_embedding" in self.without:
            opacity = torch.zeros_like(opacity)
        return opacity + place


def attention_bias(inside: Tensor, grid: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return the bias that keys outside of the prompt get in self-attention.

    Softmax ignores a constant, so each sample's largest bias is moved to 0 *before* the cast: in bfloat16 the biases
    of a Gaussian point map (thousands of logits) then stay exact to 1/256 around the keys that keep weight. A sample
    without any key inside gets a bias of 0 everywhere, which is the same attention that equal biases give.

    Args:
        inside: ``(B, 1, h, w)`` in [0, 1]: the prompt image on the latent's grid, 1 inside.
        grid: Height and width of the attention's grid.
        dtype: Type of the queries.

    Returns:
        ``(B, 1, grid height * grid width)``, at most 0.
    """
    keys = F.interpolate(inside.float(), size=grid, mode="nearest").flatten(2)
    bias = OUTSIDE_BIAS * (1 - keys)
    return (bias - bias.amax(dim=-1, keepdim=True)).to(dtype)


def _per_level(value: int | list[int], levels: int) -> list[int]:
    return [value] * levels if isinstance(value, int) else list(value)
