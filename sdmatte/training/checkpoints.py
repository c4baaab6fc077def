"""Training checkpoints: one safetensors file with weights, their average, and the optimiser's moments. No pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sdmatte.errors import CheckpointError

NAME = "checkpoint.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(
    path: Path, step: int, module: nn.Module, average: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> None:
    """Write the state after ``step`` steps; a file cut short never gets the name ``path``.

    Args:
        path: Of the file.
        step: Steps done.
        module: Its parameters and buffers are kept as ``model.*``.
        average: Moving averages of learning parameters, kept as ``average.*``.
        optimiser: AdamW; its moments are kept under the parameters' names.
    """
    tensors = {f"model.{name}": value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    tensors |= {f"average.{name}": value.detach().cpu().contiguous() for name, value in average.items()}
    for name, parameter in module.named_parameters():
        state = optimiser.state.get(parameter, {})
        tensors |= {f"{moment}.{name}": state[moment].detach().cpu().contiguous() for moment in _MOMENTS if moment in state}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={"step": json.dumps(step)})
    os.replace(part, path)  # noqa: PTH105 - atomic


def load_checkpoint(
    path: Path, module: nn.Module, average: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> int:
    """Continue from what :func:`save_checkpoint` wrote.

    Returns:
        Steps done.

    Raises:
        CheckpointError: The file is damaged, or of another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            step = int(json.loads(file.metadata()["step"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        module.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
        for name in average:
            average[name].copy_(tensors[f"average.{name}"])
        for name, parameter in module.named_parameters():
            if f"exp_avg.{name}" in tensors:
                moments = {m: tensors[f"{m}.{name}"].to(parameter.device).clone() for m in _MOMENTS}
                if parameter.dim() == 4:  # as the parameter lies in memory, or fused kernels disagree
                    moments = {m: torch.empty_like(parameter).copy_(value) for m, value in moments.items()}
                optimiser.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    except (KeyError, ValueError, RuntimeError, OSError, Exception) as error:  # noqa: BLE001
        raise CheckpointError(
            f"{path} can't be continued from ({error}); it is damaged or of another model: choose a new folder"
        ) from error
    return step
