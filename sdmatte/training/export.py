"""From a training run to a model folder that :meth:`sdmatte.model.SDMatte.from_pretrained` loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sdmatte.checkpoint import read_state_dict, released_name, write_safetensors
from sdmatte.configs import PARTS, ModelConfigs
from sdmatte.errors import CheckpointError
from sdmatte.training.loop import WEIGHTS

MODEL = "model"
"""Folder of a run with the configurations of its model."""

Stored = Literal["float16", "float32"]
"""Type that weights are stored in; they are loaded as float32 whatever it is."""


def write_configs(configs: ModelConfigs, run: Path, tokenizer: Path | None = None) -> None:
    """Keep a model's configurations in a run's folder, for the export and for later sessions of the run.

    Args:
        configs: Of the model.
        run: The run's folder.
        tokenizer: Folder of the model's tokenizer, for models that are to be used with captions.
    """
    for part in PARTS:
        path = run / MODEL / part / "config.json"
        text = json.dumps(getattr(configs, part), indent=2) + "\n"
        if not path.exists() or path.read_text() != text:  # other workers may be reading it
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if tokenizer is not None:
        shutil.copytree(tokenizer, run / MODEL / "tokenizer", dirs_exist_ok=True)


def export(run: Path, out: Path, *, stored: Stored = "float16") -> Path:
    """Make a model folder from the averaged weights of a run's last checkpoint.

    Args:
        run: The run's folder.
        out: The model's folder; its name becomes the model's.
        stored: Type of the weights in the file. Loaded weights are float32 again, rounded to the stored type.

    Returns:
        The weights file: ``<out>/<name of out>.safetensors``.

    Raises:
        CheckpointError: The run has saved nothing yet, a weight is too large for float16, or ``out`` can't be written.
    """
    if not (run / WEIGHTS).exists():
        raise CheckpointError(f"{run} holds no {WEIGHTS}: the run has not saved a checkpoint yet")
    ModelConfigs.from_folder(run / MODEL)  # complains here rather than when the model is loaded
    dtype = torch.float16 if stored == "float16" else torch.float32
    state = {
        released_name(name): _cast(name, tensor, dtype) for name, tensor in read_state_dict(run / WEIGHTS).items()
    }
    try:
        for part in (*PARTS, "tokenizer"):
            if (run / MODEL / part).is_dir():
                shutil.copytree(run / MODEL / part, out / part, dirs_exist_ok=True)
        return write_safetensors(state, out / f"{out.resolve().name}.safetensors").path
    except OSError as error:
        raise CheckpointError(f"{out} can't be written: {error}; check the disk's space and permissions") from error


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype)
    if not cast.isfinite().all():
        raise CheckpointError(f"{name} has values that are not finite, or too large for {dtype}; export as float32")
    return cast
