"""Training checkpoints: one safetensors file with weights, their average, and the optimiser's moments. No pickle."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sdmatte.errors import CheckpointError

NAME = "checkpoint.safetensors"
"""File name of a run's checkpoint."""

_MODEL, _AVERAGE = "model.", "average."
_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(
    path: Path, step: int, module: nn.Module, average: Mapping[str, Tensor], optimiser: torch.optim.Optimizer
) -> None:
    """Write the state after ``step`` steps; a file cut short never gets the name ``path``.

    Args:
        path: Of the file.
        step: Steps done.
        module: Its parameters and buffers are kept as ``model.*``.
        average: Moving averages of learning parameters, kept as ``average.*``.
        optimiser: AdamW; its moments are kept under the parameters' names.
    """
    tensors = {_MODEL + name: value for name, value in module.state_dict().items()}
    tensors |= {_AVERAGE + name: value for name, value in average.items()}
    for name, parameter in module.named_parameters():
        state = optimiser.state.get(parameter, {})
        tensors |= {f"{moment}.{name}": state[moment] for moment in _MOMENTS if moment in state}
    save_tensors(path, tensors, {"step": json.dumps(step)})


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors of any device and memory layout; a file cut short never gets the name ``path``.

    Raises:
        CheckpointError: The file can't be written; what was there under its name still is.
    """
    part = path.with_suffix(".part")
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(kept, part, metadata=metadata)
        os.replace(part, path)  # noqa: PTH105 - atomic
    except (SafetensorError, OSError) as error:
        part.unlink(missing_ok=True)
        needed = sum(value.nbytes for value in kept.values()) / 1e6
        raise CheckpointError(
            f"{path} can't be written: {error}; it needs {needed:.0f} MB beside the file that it replaces. Make room "
            "or check permissions, and give the same command again: an earlier file of that name is sound"
        ) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights (not their averages) from a checkpoint.

    Raises:
        CheckpointError: The file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(_MODEL)]  # noqa: SIM118 - it is no dict
            return {name.removeprefix(_MODEL): file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} can't be continued from ({error}); choose a new folder") from error


def load_checkpoint(
    path: Path, module: nn.Module, average: Mapping[str, Tensor], optimiser: torch.optim.Optimizer
) -> int:
    """Continue from what :func:`save_checkpoint` wrote.

    Args:
        path: Of the file.
        module: Gets its weights.
        average: Gets the averages, in place.
        optimiser: Gets its moments.

    Returns:
        Steps done.

    Raises:
        CheckpointError: The file is damaged, or of another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            step = int(json.loads((file.metadata() or {})["step"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        kept = {name.removeprefix(_MODEL): value for name, value in tensors.items() if name.startswith(_MODEL)}
        module.load_state_dict(kept)
        averaged = {name.removeprefix(_AVERAGE) for name in tensors if name.startswith(_AVERAGE)}
        if averaged != set(average):
            raise CheckpointError(
                f"{path} is of a run in which other parts learned; restore options.learn, or start a new run from its "
                "exported model (model.start=continue)"
            )
        for name, value in average.items():
            value.copy_(tensors[_AVERAGE + name])
        for name, parameter in module.named_parameters():
            if f"{_MOMENTS[0]}.{name}" in tensors:
                optimiser.state[parameter] = _adam_state(parameter, step, [tensors[f"{m}.{name}"] for m in _MOMENTS])
    except (SafetensorError, KeyError, ValueError, RuntimeError, OSError) as error:
        cause = textwrap.shorten(str(error), 300)  # PyTorch lists every tensor
        raise CheckpointError(
            f"{path} can't be continued from ({type(error).__name__}: {cause}); it is damaged or of another model: "
            "choose a new folder"
        ) from error
    return step


def _adam_state(parameter: nn.Parameter, step: int, moments: list[Tensor]) -> dict[str, Tensor]:
    """Return AdamW's state of a parameter, where its fused kernels want it: on its device and in its memory layout."""
    placed = {name: torch.empty_like(parameter).copy_(value) for name, value in zip(_MOMENTS, moments, strict=True)}
    return {"step": torch.tensor(float(step), device=parameter.device), **placed}
