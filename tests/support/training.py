"""Material for training tests that costs next to nothing: a model of a few thousand weights, and objects to matte."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sdmatte.configs import ModelConfigs
from sdmatte.synthetic.layers import Layer
from sdmatte.text import caption_ids
from sdmatte.training.initial import seeded_network
from sdmatte.training.loop import Learner

STRIDE = 8
"""Input sides of the tiny model are multiples of this many pixels."""

_UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "act_fn": "silu",
    "norm_num_groups": 4,
    "norm_eps": 1e-5,
    "cross_attention_dim": 16,
    "attention_head_dim": [1, 2],
    "use_linear_projection": True,
    "bbox_time_embed_dim": 4,
    "bbox_embeddings_input_dim": 16,
    "point_embeddings_input_dim": 40,
}
_VAE = {
    "_class_name": "AutoencoderTiny",
    "encoder_block_out_channels": [8, 8, 8],
    "decoder_block_out_channels": [8, 8, 8],
    "num_encoder_blocks": [0, 0, 1],
    "num_decoder_blocks": [1, 0, 0],
    "act_fn": "relu",
    "latent_channels": 4,
    "scaling_factor": 1.0,
}
_TEXT = {
    "vocab_size": 8,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "max_position_embeddings": 4,
    "bos_token_id": 6,
    "eos_token_id": 7,
    "pad_token_id": 0,
}


def tiny_configs(**unet: object) -> ModelConfigs:
    """Return the smallest configuration that has all parts of SDMatte; ``unet`` changes some of the U-Net's."""
    return ModelConfigs("tiny", {**_UNET, **unet}, dict(_VAE), dict(_TEXT))


def tiny_learner(seed: int = 0, **unet: object) -> Learner:
    """Return a learner of its own with random weights."""
    configs = tiny_configs(**unet)
    return Learner(seeded_network(configs, seed), caption_ids("", None, configs.text_encoder))


def disc(side: int = 40, *, colour: Sequence[float] = (0.9, 0.1, 0.1), transparent: bool = False) -> Layer:
    """Return a round object of one colour with a soft edge, solid inside (alpha 0.6 where transparent)."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    alpha = (side / 2 - 2 - np.hypot(x, y)).clip(0, 3) / 3 * (0.6 if transparent else 1.0)
    pixels = np.broadcast_to(np.array(colour, np.float32), (side, side, 3))
    return Layer(np.ascontiguousarray(pixels), alpha.astype(np.float32), transparent, "disc")


def flat(level: int = 60, side: int = 48) -> NDArray[np.uint8]:
    """Return a background of one grey."""
    return np.full((side, side, 3), level, np.uint8)
