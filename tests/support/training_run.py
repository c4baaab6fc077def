"""A training run that costs next to nothing: the tiny model, procedural material, and its configuration as YAML."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import yaml

from sdmatte.training.checkpoints import save_tensors
from sdmatte.training.export import MODEL, export, write_configs
from sdmatte.training.loop import WEIGHTS
from support.training import disc, tiny_configs, tiny_learner


def write_material(folder: Path) -> None:
    """Write ``folder/cutouts`` (round RGBA objects), ``folder/backgrounds`` and the tiny ``folder/config``."""
    random = np.random.default_rng(0)
    for name in ("cutouts", "backgrounds"):
        (folder / name).mkdir(parents=True)
    for index in range(3):
        layer = disc(48, colour=random.uniform(0, 1, 3))
        pixels = np.dstack([layer.colour[..., ::-1], layer.alpha]) * 255
        cv2.imwrite(str(folder / "cutouts" / f"{index}.png"), pixels.astype(np.uint8))
        cv2.imwrite(str(folder / "backgrounds" / f"{index}.png"), random.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    write_configs(tiny_configs(), folder)
    (folder / MODEL).rename(folder / "config")


def write_teacher(folder: Path, **unet: object) -> Path:
    """Write a tiny model folder with random weights; ``unet`` changes its configuration."""
    write_configs(tiny_configs(**unet), folder)
    save_tensors(folder / WEIGHTS, tiny_learner(seed=5, **unet).network.state_dict())
    export(folder, folder / "teacher", stored="float32")
    return folder / "teacher"


def write_train_config(folder: Path, **sections: object) -> Path:
    """Write material and ``train.yaml`` of three steps at 32 px; ``sections`` replace its sections."""
    write_material(folder)
    tree: dict[str, object] = {
        "model": {"start": "random", "config": str(folder / "config")},
        "data": {
            "foregrounds": [{"kind": "cutouts", "path": str(folder / "cutouts")}],
            "backgrounds": [{"kind": "pictures", "path": str(folder / "backgrounds")}],
        },
        "options": {
            "stages": [{"steps": 3, "sizes": [32], "batch": 4}],
            "learning_rate": 1e-3,
            "warmup": 1,
            "workers": 0,
            "save_every": 2,
        },
        "workers": {"device": "cpu", "cpus_per_worker": 0.5},
        "output": {"path": str(folder / "run"), "name": "tiny", "stored": "float32"},
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(tree | sections))
    return folder / "train.yaml"
