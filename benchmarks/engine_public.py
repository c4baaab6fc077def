"""A checkout of the public implementation, run beside the engine: `benchmarks/engine.py --against FOLDER`.

FOLDER is a clone of github.com/vivoCameraResearch/SDMatte that the user made; nothing of it is part of this project.
It runs in a process of its own, on this project's Python: modules that it only trains or logs with (detectron2 and
what comes with it) get empty stand-ins where they are not installed, and its fixed `cuda` becomes the CPU where that
is the device. Its model computes unchanged, with the same name-seeded weights. It reads configurations and a tokenizer
from a folder: the one given by `--against-configs` (LongfeiHuang/SDMatte without the weights), or one made from the
configurations that ship with this project and a tokenizer that knows the empty caption alone.

Only the released configuration runs there: its code fixes the U-Net's context at 1024 channels. It chooses the kind of
prompt when the model is built, so that is set for every object.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import json
import shutil
import sys
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine_objects import Weights
from benchmarks.engine_process import Matter, Process, ProcessError
from benchmarks.engine_timing import Alpha
from sdmatte.configs import packaged_folder
from sdmatte.geometry import from_grid, to_grid
from sdmatte.prompt_maps import prompt_map
from sdmatte.prompts import Prompt

CONFIG = "sdmatte"
_TRAINING = ("detectron2", "fvcore", "omegaconf", "easydict", "cached_property", "fairscale", "timm", "tensorboard")
_MODELING = Path("modeling") / "SDMatte" / "meta_arch.py"
_INPUTS = {
    "box": ("bbox_mask", "bbox_coords"), "points": ("point_mask", "point_coords"), "mask": ("mask", "mask_coords"),
}  # fmt: skip


def require_checkout(folder: Path) -> None:
    """Refuse a folder that is no checkout of the public implementation.

    Raises:
        ProcessError: It is none.
    """
    if not (folder / _MODELING).is_file():
        raise ProcessError(
            f"{folder} has no {_MODELING}: name a clone of https://github.com/vivoCameraResearch/SDMatte"
        )


def public_process(folder: Path, weights: Weights, configs: Path, device: str, threads: int) -> Process:
    """Start the public implementation; its seconds are those of its model alone.

    Args:
        folder: The checkout.
        weights: Name-seeded, of the released configuration.
        configs: Folder with `unet/ vae/ text_encoder/ scheduler/ tokenizer/`; see :func:`write_configs`.
        device: `cpu` or `cuda`.
        threads: Of torch.

    Raises:
        ProcessError: It does not start.
    """
    arguments = (folder.resolve(), weights.source, weights.file, configs, device)
    return Process(f"the public implementation in {folder}", _public, arguments, threads)


def write_configs(folder: Path) -> Path:
    """Write a model folder that the public code can read: packaged configurations, and a tokenizer of three tokens.

    Its vocabulary gives the ids that Stable Diffusion 2's tokenizer gives for the empty caption: start, end, then 0.
    """
    shutil.copytree(packaged_folder(CONFIG), folder)
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(exist_ok=True)
    vocabulary = {"!": 0, "<|startoftext|>": 49406, "<|endoftext|>": 49407}
    (tokenizer / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tokenizer / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "!",
        "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
    }  # fmt: skip
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def inputs(image: np.ndarray[Any, Any], prompt: Prompt, size: int) -> Mapping[str, np.ndarray[Any, Any]]:
    """Return what the public model takes for an object, batch 1, by the names that it gives them."""
    height, width = image.shape[:2]
    drawn = prompt_map(prompt, width, height, (size, size))
    map_name, coordinates_name = _INPUTS[prompt.kind]
    return {
        "image": to_grid(image, (size, size))[None],
        map_name: drawn.pixels[None, None],
        coordinates_name: drawn.coordinates[None],
        "is_trans": np.array([1.0 if prompt.transparent else 0.0], np.float32),
    }


def _public(folder: Path, source: str, file: Path | None, configs: Path, device: str) -> Matter:
    """Build the public model in the process that this is."""
    import torch

    from benchmarks.engine_objects import weights
    from sdmatte.checkpoint import load_into

    sys.meta_path.append(StandIns())
    sys.path.insert(0, str(folder))
    from modeling.SDMatte.meta_arch import SDMatte as PublicSDMatte  # type: ignore[import-not-found]

    with computing_on(device):
        model = PublicSDMatte(
            str(configs), conv_scale=3, aux_input=None, use_aux_input=True, add_noise=False, load_weight=False,
            use_encoder_hidden_states_list=[False, True, False],
        )  # fmt: skip
    load_into(model, weights(source, file).state, where="the public model", dtype=torch.float32)
    model = model.to(device).eval()

    def matte(image: Any, prompt: Prompt, size: int) -> tuple[Alpha, float]:
        data = {name: torch.from_numpy(array) for name, array in inputs(image, prompt, size).items()}
        model.aux_input = _INPUTS[prompt.kind][0]
        with computing_on(device), torch.no_grad():
            start = time.perf_counter()
            alpha = model(data)[0, 0].cpu().numpy()
            seconds = time.perf_counter() - start
        return from_grid(alpha, image.shape[1], image.shape[0]), seconds

    return matte


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules that are not installed and only matter to training: any name in them is an empty class."""

    def find_spec(self, fullname: str, *_where: object) -> importlib.machinery.ModuleSpec | None:
        """Return where a module comes from, if it is one of those."""
        if fullname.partition(".")[0] not in _TRAINING:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """Return the stand-in."""
        module = types.ModuleType(spec.name)
        module.__getattr__ = _anything  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to execute."""


def _anything(name: str) -> type:
    if name.startswith("__"):  # the import system asks for these
        raise AttributeError(name)
    return type(name, (), {})


@contextlib.contextmanager
def computing_on(device: str) -> Iterator[None]:
    """Send what the public code puts on `cuda` to the CPU, where it is to run there."""
    import torch
    from torch.overrides import TorchFunctionMode

    class OnCPU(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if func is torch.Tensor.cuda:
                return args[0]
            if str(kwargs.get("device", "")).startswith("cuda"):
                kwargs["device"] = "cpu"
            if func is torch.Tensor.to:
                args = tuple("cpu" if isinstance(each, str) and each.startswith("cuda") else each for each in args)
            return func(*args, **kwargs)

    with OnCPU() if torch.device(device).type == "cpu" else contextlib.nullcontext():
        yield
