"""Where the model computes, and in which floating-point type."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

from sdmatte.errors import SDMatteError

Precision = Literal["auto", "float32", "bfloat16", "float16"]

SMALL = 50_000_000
"""Parameters below which `auto` computes in float32 on GPUs, too: half precision would save them little time."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str | None) -> torch.device:
    """Return the device to compute on.

    Args:
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or another device that torch knows; None for the GPU if there is
            one, else the CPU.

    Raises:
        SDMatteError: torch does not know the device, or can't use it here.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)  # finds out now, rather than after the weights were read
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise SDMatteError(
            f"device {device!r} can't be used: {reason}. torch {torch.__version__} sees {torch.cuda.device_count()} "
            "GPU(s) here; use device='cpu', or install a build of torch for your GPU and check its driver (nvidia-smi)"
        ) from None
    return chosen


def choose_dtype(precision: Precision, device: torch.device, parameters: int | None = None) -> tuple[str, torch.dtype]:
    """Return the name and the type that the network computes in.

    Args:
        precision: ``"auto"`` is bfloat16 on GPUs that have it (compute capability 8.0), float16 on older ones, and
            float32 on everything else, and for models of less than :data:`SMALL` parameters.
        device: Where it computes.
        parameters: Of the model, where it is known.

    Raises:
        SDMatteError: The precision is unknown, or of no use on the device.
    """
    name: str = precision
    small = parameters is not None and parameters < SMALL
    if precision == "auto" and device.type == "cuda" and not small:
        # Not torch.cuda.is_bf16_supported: it also counts GPUs that only emulate bfloat16, at a crawl.
        name = "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    elif precision == "auto":
        name = "float32"
    if name not in _DTYPES:
        raise SDMatteError(f"unknown precision {precision!r}; expected auto, {', '.join(_DTYPES)}")
    if name == "float16" and device.type == "cpu":
        raise SDMatteError("float16 is slower and less exact than float32 on CPUs; use bfloat16 or float32")
    return name, _DTYPES[name]


@contextlib.contextmanager
def exact_float32(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Keep the convolutions of a float32 model on a GPU in float32: cuDNN would round their inputs to TF32."""
    if device.type != "cuda" or dtype != torch.float32:
        yield
        return
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=True, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False):
        yield
