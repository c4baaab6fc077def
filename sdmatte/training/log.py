"""The log of a run: a JSON line per step, and the same numbers and pictures for TensorBoard where it is installed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sdmatte.training.loader import Batch

_SHOWN = 8


class Log:
    """Writes ``log.jsonl``, ``samples/*.jpg`` and TensorBoard events to a folder.

    Args:
        folder: Of the run.
        step: Steps done so far: what an interrupted run logged beyond them is removed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        self._path = folder / "log.jsonl"
        if self._path.exists():
            kept = [line for line in self._path.read_text().splitlines() if _step(line) <= step]
            part = self._path.with_suffix(".part")
            part.write_text("".join(f"{line}\n" for line in kept))
            os.replace(part, self._path)  # noqa: PTH105 - atomic
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # the `train` extra is not installed
            return
        self._board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log one step's numbers."""
        line = json.dumps({"step": step, **{name: float(f"{value:.6g}") for name, value in values.items()}})
        with self._path.open("a") as file:
            file.write(line + "\n")
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Hand everything to the file system: TensorBoard's writer keeps events back for minutes."""
        if self._board:
            self._board.flush()

    def show(self, step: int, batch: Batch, alpha: Tensor) -> None:
        """Save a picture: a column per sample, from top to bottom image, prompt, predicted and true alpha."""
        rows = [(batch.image + 1) / 2, (batch.prompt + 1) / 2, alpha, batch.alpha]
        grid = torch.cat([torch.cat(list(row[:_SHOWN].expand(-1, 3, -1, -1).float().cpu()), dim=2) for row in rows], 1)
        pixels: NDArray[np.uint8] = (grid.clip(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(self._folder / "samples" / f"{step:06d}.jpg", quality=90)
        if self._board:
            self._board.add_image("samples", pixels, step, dataformats="HWC")


def _step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):  # a line cut short by a crash
        return 1 << 62
