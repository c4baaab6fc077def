"""Training and measuring the variants of `make ablation`, each in a process of its own."""

from __future__ import annotations

import json
import threading
import time
import zlib
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigurationError, PipelineError
from pipeline.training.config import Ablated, TrainConfig
from pipeline.training.run import STOP, train

if TYPE_CHECKING:
    from sdmatte.training.loop import Learner
    from sdmatte.training.samples import Composer
    from sdmatte.training.sources import Bank

Kind = Literal["box", "mask", "points"]

FULL = "full"
PARTS: tuple[str, ...] = get_args(Ablated)
VARIANTS = (FULL, *PARTS)
KINDS: tuple[Kind, ...] = ("box", "mask", "points")
SEED = 9_100_000
"""Of all that is measured on; seeds from 9,000,000 on are reserved for evaluation."""

SETTINGS = "settings.json"
"""File in a variant's folder: what it was trained with."""

_OBJECT_SIDE, _BACKGROUND_SIDE, _BACKGROUNDS, _BATCH = 128, 160, 100, 32
_STOPPED = threading.Event()  # this process was asked to stop: it is not to begin another variant


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Errors of one variant.

    Attributes:
        mads: `(3, N)` float64: MAD over the whole picture, per kind of prompt (in the order of `KINDS`) and picture.
        transparent: `(N,)` bool: whether the prompted object is transparent.
        pictures: Hash of the pictures; equal for all variants, and for all kinds of prompts.
        empty: MAD of an empty matte: who is no better has learnt nothing.
    """

    mads: NDArray[np.float64]
    transparent: NDArray[np.bool_]
    pictures: str
    empty: float

    def figures(self) -> dict[str, float | None]:
        """Return the mean MADs of the table; None where there is no such picture."""
        means: dict[str, float | None] = {kind: float(row.mean()) for kind, row in zip(KINDS, self.mads, strict=True)}
        seen_through = self.mads[KINDS.index("box"), self.transparent]
        return {
            **means,
            "all": float(self.mads.mean()),
            "transparent": float(seen_through.mean()) if seen_through.size else None,
        }


def variant_config(config: TrainConfig, name: str) -> TrainConfig:
    """Return the configuration of a variant: `full`, or the name of the part to do without."""
    model = config.model.model_copy(update={"without": () if name == FULL else (name,)})
    output = config.output.model_copy(update={"path": config.output.path / name})
    return config.model_copy(update={"model": model, "output": output})


def settings_of(config: TrainConfig) -> str:
    """Return what a variant's weights depend on; of weights to start from, the SHA-256 of their file as well.

    Raises:
        ConfigurationError: The model to start from lacks parts already.
        SDMatteError: There is no such model.
    """
    from sdmatte.checkpoint import sha256_file
    from sdmatte.configs import PACKAGED, ModelConfigs
    from sdmatte.locate import locate

    model, start = config.model, None
    if model.start == "continue":
        files = locate(str(model.source), weights=model.weights)
        configs, start = files.configs, sha256_file(files.weights)
    else:
        name = str(model.config)
        configs = ModelConfigs.released(name) if name in PACKAGED else ModelConfigs.from_folder(Path(name))
    if gone := configs.unet.get("without"):
        raise ConfigurationError(
            f"the model to start from is without {', '.join(gone)}; start from one with all parts"
        )
    quick = {"save_every": True, "show_every": True, "workers": True}
    settings = config.model_dump(mode="json", exclude={"output": True, "workers": True, "options": quick})
    parts = {part: getattr(configs, part) for part in ("unet", "vae", "text_encoder")}
    return json.dumps({**settings, "start": start, **parts}, indent=1) + "\n"


def train_variant(config: TrainConfig, settings: str) -> bool:
    """Train a variant to the end, from where it stopped, unless that has happened already.

    Args:
        config: Of :func:`variant_config`.
        settings: Of :func:`settings_of`.

    Returns:
        Whether it is finished; False if it was asked to stop.

    Raises:
        ConfigurationError: Its folder holds a run with other settings.
    """
    run, name = config.output.path, config.output.name
    kept = run / SETTINGS
    if kept.exists() and kept.read_text(encoding="utf-8") != settings:
        raise ConfigurationError(
            f"{run} was trained with other settings (see {kept}): variants of different settings don't compare; "
            "restore them, remove the folder, or choose another output.path"
        )
    if kept.exists() and (run / "export" / name / f"{name}.safetensors").exists():  # written last
        return True
    run.mkdir(parents=True, exist_ok=True)
    kept.write_text(settings, encoding="utf-8")
    return train(config, local=True).complete


def held_out_objects(folder: Path, count: int) -> Bank:
    """Return objects of the families that nothing trains on, drawn once into a file, by one process at a time."""
    import sdmatte
    from pipeline.cluster import usable_cpus
    from sdmatte.synthetic.families import HELD_OUT
    from sdmatte.training.sources import Bank, Synthetic

    folder.mkdir(parents=True, exist_ok=True)
    source = Synthetic(count, side=_OBJECT_SIDE, seed=SEED, families=sorted(HELD_OUT))
    key = f"{sdmatte.__version__} held out {SEED}"
    return Bank(source, folder / "held-out.npy", side=_OBJECT_SIDE, key=key, processes=usable_cpus())


def composers(config: TrainConfig, objects: Bank) -> list[Composer]:
    """Return what composes the pictures to measure on, one for each kind of prompt.

    Pictures vary as in training. The kind is the last thing that is drawn: picture `i` is the same for all kinds.
    """
    from sdmatte.training.samples import Augmentation, Composer
    from sdmatte.training.sources import SyntheticPictures

    base = Augmentation.paper() if config.augmentation.recipe == "paper" else Augmentation()
    how = replace(base, **config.augmentation.changes())
    drawn = SyntheticPictures(_BACKGROUNDS, side=_BACKGROUND_SIDE, seed=SEED)
    backgrounds = [drawn[index] for index in range(len(drawn))]
    return [
        Composer([(objects, 1.0)], [(backgrounds, 1.0)], seed=SEED, augmentation=replace(how, prompts={kind: 1.0}))
        for kind in KINDS
    ]


def averaged_learner(config: TrainConfig) -> Learner:
    """Load the averaged weights of a variant's last checkpoint."""
    import torch

    from sdmatte.checkpoint import load_into, read_state_dict
    from sdmatte.configs import ModelConfigs
    from sdmatte.network import Network
    from sdmatte.text import caption_ids
    from sdmatte.training.export import MODEL
    from sdmatte.training.loop import WEIGHTS, Learner

    run = config.output.path
    configs = ModelConfigs.from_folder(run / MODEL)
    with torch.device("meta"):
        network = Network(configs)
    load_into(network, read_state_dict(run / WEIGHTS), where=str(run / WEIGHTS), dtype=torch.float32)
    return Learner(network, caption_ids("", None, configs.text_encoder)).eval()


def measure(config: TrainConfig, samples: int) -> Measured:
    """Measure a finished variant at the (largest) size of its last stage, on pictures that depend on no weights."""
    import torch

    from sdmatte.devices import choose_device
    from sdmatte.training.loader import collate

    device = choose_device(None if config.workers.device == "auto" else config.workers.device)
    learner = averaged_learner(config).to(device)
    unet, size = learner.network.unet, max(config.options.stages[-1].sizes)
    mads, areas = np.empty((len(KINDS), samples)), np.empty(samples)
    transparent, seen = np.empty(samples, bool), [0] * len(KINDS)
    for row, composer in enumerate(composers(config, held_out_objects(config.output.path.parent, samples))):
        for first in range(0, samples, _BATCH):
            chosen = [composer.sample(index, size) for index in range(first, min(first + _BATCH, samples))]
            batch = collate(chosen, box_channels=unet.box_channels, points_dim=unet.points_dim).to(device)
            with torch.no_grad():
                alpha, _ = learner(batch)
            last = first + len(chosen)
            mads[row, first:last] = (alpha - batch.alpha).abs().double().mean(dim=(1, 2, 3)).cpu().numpy()
            areas[first:last] = [sample.alpha.mean() for sample in chosen]
            transparent[first:last] = [sample.transparent for sample in chosen]
            for sample in chosen:
                seen[row] = zlib.crc32(np.rint(sample.alpha * 255).astype(np.uint8).tobytes(), seen[row])
                seen[row] = zlib.crc32(np.rint(sample.image * 255).astype(np.uint8).tobytes(), seen[row])
    if len(set(seen)) > 1:
        raise PipelineError("the kinds of prompts were measured on different pictures; they can't be averaged")
    return Measured(mads, transparent, f"{seen[0]:08x}", float(areas.mean()))


def work(config: TrainConfig, settings: str, samples: int) -> Measured | None:
    """Train and measure a variant; returns None if it was asked to stop, or if this process had an error before."""
    try:
        if _STOPPED.is_set() or not train_variant(config, settings):
            _STOPPED.set()
            return None
        return measure(config, samples)
    except BaseException:  # the next variant may be waiting in this process already, past being cancelled
        _STOPPED.set()
        raise


def one_thread() -> None:
    """Keep this process to one core: small layers gain less from a second one than another variant does."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def run(config: TrainConfig, samples: int, parallel: int) -> dict[str, Measured]:
    """Train and measure all variants, each in a process of its own.

    The bank of the objects to train on is drawn by the first variant, while the others wait for its lock.

    Args:
        config: Of the full model.
        samples: Pictures to measure on.
        parallel: Variants at a time.

    Returns:
        What was measured, by `VARIANTS` and in their order.

    Raises:
        ConfigurationError: Something must be changed first; see :func:`settings_of` and :func:`train_variant`.
        PipelineError: The training of a variant stopped.
        KeyboardInterrupt: A variant was asked to stop; it saved a checkpoint.
    """
    if config.model.without:
        raise ConfigurationError("model.without is what this benchmark varies; leave it out")
    start = time.perf_counter()
    settings = {name: settings_of(variant_config(config, name)) for name in VARIANTS}
    held_out_objects(config.output.path, samples)
    found: dict[str, Measured] = {}
    pool = ProcessPoolExecutor(parallel, mp_context=get_context("spawn"), initializer=one_thread)
    try:
        names = {pool.submit(work, variant_config(config, name), settings[name], samples): name for name in VARIANTS}
        for future in as_completed(names):
            measured = future.result()
            if measured is None:
                raise KeyboardInterrupt
            found[names[future]] = measured
            after = time.perf_counter() - start
            print(f"{names[future]}: mean MAD {measured.mads.mean():.4f}, after {after:.0f} s", flush=True)
    finally:
        if len(found) < len(VARIANTS):  # those that still train save a checkpoint, too
            for folder in filter(Path.is_dir, (config.output.path / name for name in VARIANTS)):
                (folder / STOP).touch()
        pool.shutdown(cancel_futures=True)
    return {name: found[name] for name in VARIANTS}
