"""The caption's side of the model: CLIP's text encoder and the token ids that go into it.

The released weights were trained with an empty caption, whose token ids are known without a tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdmatte.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import CLIPTextModel


def build_text_encoder(config: Mapping[str, Any]) -> CLIPTextModel:
    """Build CLIP's text encoder with uninitialised or random weights, on the current default device.

    Args:
        config: ``text_encoder/config.json`` as plain values.

    Returns:
        The encoder in evaluation mode. Its tensor names depend on the installed transformers: version 5 dropped the
        ``text_model.`` level; :func:`sdmatte.checkpoint.load_into` loads either from the released names.

    Raises:
        CheckpointError: transformers does not accept the configuration.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    try:
        encoder = CLIPTextModel(CLIPTextConfig.from_dict(dict(config)))
    except Exception as error:  # transformers validates with exceptions of its own, which change between versions
        raise CheckpointError(
            f"text_encoder/config.json does not describe a CLIP text encoder: {error}; download it again"
        ) from error
    # The positions are a constant that no checkpoint stores: loading could not bring them back from the meta device.
    for module in encoder.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if name == "position_ids" and buffer.is_meta:
                positions = torch.arange(buffer.shape[-1], device="cpu").unsqueeze(0)
                module.register_buffer(name, positions, persistent=False)
    return encoder.eval()


def caption_ids(caption: str, tokenizer_folder: Path | None, config: Mapping[str, Any]) -> torch.Tensor:
    """Return the token ids of a caption, padded to the encoder's length.

    Args:
        caption: Text; empty for the constant that the released weights were trained with.
        tokenizer_folder: The model folder's ``tokenizer/``; not needed for the empty caption.
        config: ``text_encoder/config.json`` as plain values.

    Returns:
        ``(1, max_position_embeddings)`` int64 on the CPU. The empty caption is start, end, then 0: with Stable
        Diffusion 2's vocabulary 49406, 49407, 0, 0, ...

    Raises:
        CheckpointError: A caption was given, but there is no usable tokenizer.
    """
    length = int(config.get("max_position_embeddings", 77))  # the defaults are CLIP's own, as in transformers
    vocabulary = int(config.get("vocab_size", 49408))
    if not caption:
        ids = torch.zeros(1, length, dtype=torch.int64, device="cpu")
        ids[0, :2] = torch.tensor([vocabulary - 2, vocabulary - 1])
        return ids
    tokenized = _tokenize(caption, tokenizer_folder, length)
    if int(tokenized.max()) >= vocabulary:
        raise CheckpointError(
            f"the tokenizer in {tokenizer_folder} gives id {int(tokenized.max())}, but the text encoder knows only "
            f"{vocabulary} tokens; use the tokenizer/ folder that belongs to this model"
        )
    return tokenized


def _tokenize(caption: str, folder: Path | None, length: int) -> torch.Tensor:
    if folder is None:
        raise CheckpointError(
            f"the caption {caption!r} needs a tokenizer, and this model comes without one; put the tokenizer/ folder "
            "of the released model beside its weights, or leave the caption empty"
        )
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # missing and damaged vocabularies raise whatever the parser below met
        raise CheckpointError(f"the tokenizer in {folder} can't be loaded: {error}; download it again") from error
    encoded = tokenizer([caption], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    ids: torch.Tensor = encoded["input_ids"]
    return ids.to(device="cpu", dtype=torch.int64)
