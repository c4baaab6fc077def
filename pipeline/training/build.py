"""From a training run's configuration to the trainer, in whichever process it will run."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

import sdmatte
from pipeline.cluster import usable_cpus
from pipeline.errors import ConfigurationError
from pipeline.training.config import (
    BackgroundsSection,
    CutoutsSection,
    ForegroundsSection,
    ModelSection,
    PairsSection,
    PicturesSection,
    TrainConfig,
)
from sdmatte.checkpoint import load_into, read_state_dict
from sdmatte.configs import PACKAGED, ModelConfigs
from sdmatte.locate import ModelFiles, locate
from sdmatte.network import Network
from sdmatte.synthetic.families import FAMILIES, HELD_OUT, TRAINING
from sdmatte.text import caption_ids
from sdmatte.training.checkpoints import NAME, read_weights
from sdmatte.training.export import MODEL, write_configs
from sdmatte.training.graft import graft
from sdmatte.training.initial import seeded_network
from sdmatte.training.loop import Learner, Trainer, Wrap
from sdmatte.training.samples import Augmentation, Composer
from sdmatte.training.sources import (
    Backgrounds,
    Bank,
    Cutouts,
    Foregrounds,
    Pairs,
    Pictures,
    Synthetic,
    SyntheticPictures,
)
from sdmatte.vae import TinyVAE

_LATENT_SAMPLES = 16
"""Samples that the initial latents of a random start are standardised with."""


def build_trainer(
    config: TrainConfig,
    *,
    rank: int = 0,
    world: int = 1,
    device: torch.device | None = None,
    wrap: Wrap | None = None,
) -> Trainer:
    """Build one worker's trainer, which continues from the run folder's checkpoint if there is one.

    Args:
        config: Of the run.
        rank: Of this worker.
        world: Number of workers.
        device: Where to compute; default the CPU.
        wrap: Makes the learner exchange gradients; called last, when nothing of the above can fail any more.

    Raises:
        ConfigurationError: The run folder holds another model, or the teacher does not fit.
        SDMatteError: Weights or data can't be used.
    """
    device = device or torch.device("cpu")
    run = config.output.path
    composer = _composer(config)
    learner, configs, tokenizer = _learner(config, composer, device)
    teacher = _teacher(config, configs, device) if config.teacher else None
    if rank == 0:
        write_configs(configs, run, tokenizer)
    options = config.options.training_options()
    return Trainer(learner, composer, options, run, device=device, teacher=teacher, rank=rank, world=world, wrap=wrap)


def _learner(
    config: TrainConfig, composer: Composer, device: torch.device
) -> tuple[Learner, ModelConfigs, Path | None]:
    """Return what learns, its configurations and its tokenizer's folder; from the run's checkpoint if there is one."""
    files = None
    if config.model.start == "continue":
        files = locate(str(config.model.source), weights=config.model.weights)
    configs = _with_ablation(files.configs if files else _named_configs(str(config.model.config)), config.model)
    checkpoint, kept = config.output.path / NAME, config.output.path / MODEL
    if checkpoint.exists():
        if kept.exists() and not ModelConfigs.from_folder(kept).same_model(configs):
            raise ConfigurationError(
                f"the run in {config.output.path} trains another model (see {kept}); restore model.config, "
                "model.source and model.without, or choose a new output.path"
            )
        network = _loaded(configs, read_weights(checkpoint), str(checkpoint))
    else:
        network = _started(config, configs, files, composer)
    _lay_out(network, device)
    return Learner(network, caption_ids("", None, configs.text_encoder)), configs, files.tokenizer if files else None


def _started(config: TrainConfig, configs: ModelConfigs, files: ModelFiles | None, composer: Composer) -> Network:
    """Return the network with the weights that the run begins with."""
    model, seed = config.model, config.options.seed
    if files is not None:
        return _loaded(configs, read_state_dict(files.weights), str(files.weights))
    if model.start == "random":
        size = min(config.options.stages[0].sizes)
        pictures = np.stack([composer.sample(index, size).image for index in range(_LATENT_SAMPLES)])
        return seeded_network(configs, seed, torch.from_numpy(pictures).permute(0, 3, 1, 2) * 2 - 1)
    source = Path(str(model.source)).expanduser()
    where = f"{source} and {model.vae}" if model.vae else str(source)
    return _loaded(configs, graft(source, configs, vae=model.vae, seed=seed), where)


def _loaded(configs: ModelConfigs, state: dict[str, Tensor], where: str) -> Network:
    with torch.device("meta"):  # no memory before the weights arrive
        network = Network(configs)
    load_into(network, state, where=where, dtype=torch.float32)
    return network


def _lay_out(network: Network, device: torch.device) -> None:
    """Choose the faster memory layout: on CPUs GroupNorm, which the tiny autoencoder has not, is slow in the other."""
    if device.type == "cuda" or isinstance(network.vae, TinyVAE):
        network.vae.to(memory_format=torch.channels_last)
    if device.type == "cuda":
        network.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it


def _named_configs(name: str) -> ModelConfigs:
    return ModelConfigs.released(name) if name in PACKAGED else ModelConfigs.from_folder(Path(name).expanduser())


def _with_ablation(configs: ModelConfigs, model: ModelSection) -> ModelConfigs:
    without = sorted({*configs.unet.get("without", ()), *model.without})
    return dataclasses.replace(configs, unet=configs.unet | {"without": without}) if without else configs


def _teacher(config: TrainConfig, student: ModelConfigs, device: torch.device) -> Learner:
    assert config.teacher is not None
    files = locate(config.teacher.source, weights=config.teacher.weights)
    for key in ("block_out_channels", "bbox_time_embed_dim", "point_embeddings_input_dim"):
        if files.configs.unet[key] != student.unet[key]:
            raise ConfigurationError(
                f"the teacher's unet {key} is {files.configs.unet[key]}, the student's {student.unet[key]}; their "
                "feature maps can only be compared if these are equal: choose another teacher or model.config"
            )
    network = _loaded(files.configs, read_state_dict(files.weights), str(files.weights))
    _lay_out(network, device)
    learner = Learner(network, caption_ids("", None, files.configs.text_encoder))
    network.text_encoder = None  # its one embedding is computed
    return learner


def _composer(config: TrainConfig) -> Composer:
    data, section = config.data, config.augmentation
    augmentation = Augmentation.paper() if section.recipe == "paper" else Augmentation()
    return Composer(
        [(_foregrounds(part), part.weight) for part in data.foregrounds],
        [(_backgrounds(part), part.weight) for part in data.backgrounds],
        seed=config.options.seed,
        augmentation=dataclasses.replace(augmentation, **section.changes()),
    )


def _foregrounds(section: ForegroundsSection) -> Foregrounds:
    source: Foregrounds
    if isinstance(section, CutoutsSection):
        source, side = Cutouts(section.path, limit=section.limit), section.limit
    elif isinstance(section, PairsSection):
        names = _lines(section.transparent) if section.transparent else ()
        source, side = Pairs(section.path, section.alphas, transparent=names, limit=section.limit), section.limit
    else:
        if unknown := set(section.families or ()) - set(FAMILIES):
            raise ConfigurationError(
                f"data.foregrounds: no families {sorted(unknown)}; there are {', '.join(FAMILIES)}"
            )
        if kept := HELD_OUT.intersection(section.families or ()):
            raise ConfigurationError(
                f"data.foregrounds: the families {sorted(kept)} are kept for evaluation; nothing may train on them"
            )
        photos: Any = Pictures(section.photos) if section.photos else ()  # as good as a sequence
        families = section.families or TRAINING
        side = section.side
        source = Synthetic(section.count, side=side, seed=section.seed, families=families, photos=photos)
    if section.bank is None:
        return source
    section.bank.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{section.bank}.lock"):  # several workers may want to write it
        key = f"{sdmatte.__version__} {section.model_dump_json(exclude={'bank', 'weight'})}"
        return Bank(source, section.bank, side=side, key=key, processes=usable_cpus())


def _backgrounds(section: BackgroundsSection) -> Backgrounds:
    source: Backgrounds
    if isinstance(section, PicturesSection):
        source = Pictures(section.path)
    else:
        source = SyntheticPictures(section.count, side=section.side, seed=section.seed)
    return [source[index] for index in range(len(source))] if section.keep else source


def _lines(path: Path) -> Sequence[str]:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    raise ConfigurationError(f"{path} can't be read; `transparent` names a text file, one name per line")
