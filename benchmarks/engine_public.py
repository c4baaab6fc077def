"""A checkout of the public implementation, run beside the engine: `benchmarks/engine.py --against FOLDER`.

FOLDER is a clone of github.com/vivoCameraResearch/SDMatte that the user made; nothing of it is part of this project.
It runs in a process of its own, on this project's Python: modules that it only trains or logs with (detectron2 and
what comes with it) get empty stand-ins where they are not installed, and its fixed `cuda` becomes the CPU where that
is the device. Its model computes unchanged, with the same name-seeded weights. It reads configurations and a tokenizer
from a folder: the one given by `--against-configs` (LongfeiHuang/SDMatte without the weights), or one made from
the configurations that ship with this project and a tokenizer that knows the empty caption alone.

Only the released configuration runs there: its code fixes the U-Net's context at 1024 channels. It chooses the kind of
prompt when the model is built, so that is set for every object.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))  # for `benchmarks`, when run as a script

CONFIG = "sdmatte"
_TRAINING = ("detectron2", "fvcore", "omegaconf", "easydict", "cached_property", "fairscale", "timm", "tensorboard")
_MODELING = Path("modeling") / "SDMatte" / "meta_arch.py"
_INPUTS = {
    "box": ("bbox_mask", "bbox_coords"),
    "points": ("point_mask", "point_coords"),
    "mask": ("mask", "mask_coords"),
}


class PublicCodeError(Exception):
    """The checkout can't be run; the message says what it needs."""


class PublicCode:
    """The public implementation in a process of its own; a context manager.

    Args:
        folder: The checkout.
        size: Side of the square input, pixels.
        device: `cpu` or `cuda`.
        threads: Of torch.
        configs: Folder with `unet/ vae/ text_encoder/ scheduler/ tokenizer/`; default made from the packaged ones.

    Raises:
        PublicCodeError: It is no checkout of the public implementation, or that does not start.
    """

    def __init__(self, folder: Path, size: int, device: str, threads: int, configs: Path | None = None) -> None:
        if not (folder / _MODELING).is_file():
            raise PublicCodeError(
                f"{folder} has no {_MODELING}: name a clone of https://github.com/vivoCameraResearch/SDMatte"
            )
        self._work = tempfile.TemporaryDirectory(prefix="engine-public-")
        self._size = size
        root = Path(self._work.name)
        command = [sys.executable, __file__, str(folder.resolve()), str(configs or write_configs(root / "configs"))]
        command += [device, str(threads), str(root)]
        self._child = subprocess.Popen(  # noqa: S603  # this file, and the folder that the user asked to run
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            self._read()  # it is ready
        except PublicCodeError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._child.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.close()
        self._child.wait()
        self._work.cleanup()

    def __call__(self, asked: Sequence[Any]) -> Any:
        """Matte objects one by one, as a side of a comparison; the seconds are those of its model alone."""
        from benchmarks.engine_timing import Answer
        from sdmatte.geometry import from_grid

        alphas, seconds = [], 0.0
        for each in asked:
            height, width = each.image.shape[:2]
            for prompt in each.prompts:
                np.savez(Path(self._work.name) / "asked.npz", **inputs(each.image, prompt, self._size))
                seconds += self._ask({"kind": prompt.kind})
                alpha = np.load(Path(self._work.name) / "alpha.npy", allow_pickle=False)
                alphas.append(from_grid(alpha, width, height))
        return Answer(alphas, seconds)

    def _ask(self, question: Mapping[str, Any]) -> float:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(question) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # _read says so
        return float(self._read()["seconds"])

    def _read(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise PublicCodeError(
                f"the public implementation stopped with exit code {self._child.wait()}; its messages stand above"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


def inputs(image: np.ndarray[Any, Any], prompt: Any, size: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return what the public model takes for an object, batch 1: image, prompt image and coordinates."""
    from sdmatte.geometry import to_grid
    from sdmatte.prompt_maps import prompt_map

    height, width = image.shape[:2]
    drawn = prompt_map(prompt, width, height, (size, size))
    return {
        "image": to_grid(image, (size, size))[None],
        "map": drawn.pixels[None, None],
        "coordinates": drawn.coordinates[None],
        "is_trans": np.array([1.0 if prompt.transparent else 0.0], np.float32),
    }


def write_configs(folder: Path) -> Path:
    """Write a model folder that the public code can read: packaged configurations, and a tokenizer of three tokens.

    Its vocabulary gives the ids that Stable Diffusion 2's tokenizer gives for the empty caption: start, end, then 0.
    """
    from sdmatte.configs import packaged_folder

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


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules that are not installed and only matter to training: any name in them is an empty class."""

    def find_spec(self, fullname: str, *_where: object) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in _TRAINING:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = _anything  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to execute."""


def _anything(name: str) -> type:
    if name.startswith("__"):  # the import system asks for these
        raise AttributeError(name)
    return type(name, (), {})


def serve(folder: Path, configs: Path, device: str, threads: int, work: Path, replies: IO[str]) -> None:
    """Be the process: build the public model, load name-seeded weights, and answer questions on stdin.

    Args:
        folder: The checkout.
        configs: Its model folder.
        device: `cpu` or `cuda`.
        threads: Of torch.
        work: Folder that inputs come in and alphas go out.
        replies: Where the answers go, one JSON object per line.
    """
    import torch

    from benchmarks.engine_objects import seeded
    from sdmatte.checkpoint import load_into

    torch.set_num_threads(threads)
    sys.meta_path.append(_StandIns())
    sys.path.insert(0, str(folder))
    from modeling.SDMatte.meta_arch import SDMatte as PublicSDMatte  # type: ignore[import-not-found]

    with _on(device), torch.no_grad():
        model = PublicSDMatte(
            str(configs), conv_scale=3, aux_input=None, use_aux_input=True, add_noise=False, load_weight=False,
            use_encoder_hidden_states_list=[False, True, False],
        )  # fmt: skip
        load_into(model, seeded(CONFIG).state, where="the public model", dtype=torch.float32)
        model = model.to(device).eval()
        print(json.dumps({"ready": True}), file=replies, flush=True)
        for line in sys.stdin:
            kind, coordinates = _INPUTS[json.loads(line)["kind"]]
            with np.load(work / "asked.npz", allow_pickle=False) as found:
                arrays = {name: torch.from_numpy(found[name]) for name in found.files}
            model.aux_input = kind
            data = {"image": arrays["image"], kind: arrays["map"], coordinates: arrays["coordinates"]}
            start = time.perf_counter()
            alpha = model(data | {"is_trans": arrays["is_trans"]})[0, 0].cpu().numpy()
            seconds = time.perf_counter() - start
            np.save(work / "alpha.npy", alpha)
            print(json.dumps({"seconds": seconds}), file=replies, flush=True)


@contextlib.contextmanager
def _on(device: str) -> Any:
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

    with OnCPU() if device == "cpu" else contextlib.nullcontext():
        yield


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="the child process of benchmarks/engine.py --against")
    for name in ("folder", "configs", "device", "threads", "work"):
        parser.add_argument(name)
    given = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout = sys.stderr  # what the public code prints is no answer
    serve(
        Path(given.folder), Path(given.configs), given.device, int(given.threads), Path(given.work), answers
    )  # fmt: skip
