"""Where a model comes from: a folder, a file, a hub repository or a URL, turned into local files.

A *model folder* holds one or more weights files at its top, and beside them the configuration folders ``unet/``,
``vae/`` and ``text_encoder/`` and, for captions, ``tokenizer/``. Hub repositories and remote folders have the same
form. Where all configuration folders are absent, the packaged configurations are used.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sdmatte.configs import BUNDLED, BUNDLED_WEIGHTS, PARTS, ModelConfigs, packaged_folder
from sdmatte.errors import CheckpointError
from sdmatte.prompts import PromptKind

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt")
"""Endings of weights files, in the order of preference."""

LITE_MARK = "vae.encoder.layers."
"""How tensor names start that only LiteSDMatte's autoencoder has."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The local files of one model.

    Attributes:
        name: The model's name: the weights file's stem, or the folder's name where the stem is only ``model``.
        configs: Its configurations.
        weights: Its weights file.
        tokenizer: Its ``tokenizer/`` folder, if it came with one.
        folder: The folder that ``configs`` came from; None for packaged configurations.
        prompt_kinds: Kinds of prompt that the weights were trained for.
    """

    name: str
    configs: ModelConfigs
    weights: Path
    tokenizer: Path | None
    folder: Path | None
    prompt_kinds: tuple[PromptKind, ...]


def locate(source: str | Path, *, weights: str | None = None, revision: str | None = None) -> ModelFiles:
    """Find a model's files, and download them if need be.

    Args:
        source: One of: ``"sdmatte-nano"``, the bundled model (``"./sdmatte-nano"`` is a folder of that name); a model
            folder; a weights file, whose configurations are taken from beside it; a hub repository such as
            ``"LongfeiHuang/SDMatte"``, of which only the configurations and the one weights file are downloaded, into
            huggingface's cache; a model folder or weights file at any fsspec URL, such as ``"s3://bucket/SDMatte"``,
            copied once into ``$SDMATTE_CACHE`` (``~/.cache/sdmatte``). A folder that exists wins over a hub
            repository of the same name.
        weights: Which weights file at the top of the folder or repository, with or without its ending. By default the
            only one, or the one called like the folder or ``model``; safetensors before ``.pth`` of the same stem.
        revision: Branch, tag or commit of a hub repository.

    Raises:
        CheckpointError: There is no such model, or it can't be reached, or the choice is not clear.
    """
    text = str(source)
    if "://" in text:
        from sdmatte.download import fetch_url, local_path

        _no_revision(revision, "a URL")
        here = local_path(text)
        if here is None:
            return _model_files(*fetch_url(text, weights))
        text = str(here)
    if source == BUNDLED:  # before local paths: a default must not depend on what lies in the current folder
        _no_revision(revision, "the bundled model")
        return _bundled(weights)
    path = Path(text).expanduser()
    if path.exists():
        _no_revision(revision, "a local path")
        return _local(path, weights)
    if isinstance(source, Path) or not _HUB_ID.fullmatch(text):
        raise CheckpointError(
            f"there is no file or folder {path}; expected a local model folder or weights file, {BUNDLED}, "
            "a hub repository as owner/name, or a URL such as s3://bucket/folder"
        )
    from sdmatte.download import fetch_hub

    return _model_files(*fetch_hub(text, weights, revision))


def choose_weights(names: Sequence[str], *, weights: str | None, title: str, where: str, complete: bool = True) -> str:
    """Choose one weights file of a folder.

    Args:
        names: Names of the files at the folder's top.
        weights: The one that was asked for, with or without its ending.
        title: The folder's or repository's own name: weights of that name are the default.
        where: The folder, for messages.
        complete: ``names`` are all that the folder has, not only what happens to be cached of it.

    Returns:
        One of ``names``.

    Raises:
        CheckpointError: None fits, or the choice is not clear.
    """
    found = sorted((n for n in names if n.endswith(WEIGHTS_SUFFIXES)), key=_preference)
    listed = ", ".join(found) or "none"
    if weights is not None:
        if PurePosixPath(weights).name != weights or "\\" in weights or weights == "..":
            raise CheckpointError(
                f"weights={weights!r} must be the name of a file at the top of {where}; weights files there: {listed}"
            )
        named = [name for name in (*names, *found) if weights == name] or [n for n in found if weights == _stem(n)]
        if not named:
            raise CheckpointError(f"{where} has no weights file {weights!r}; weights files there: {listed}")
        return named[0]
    if not found:
        raise CheckpointError(
            f"{where} has no weights file at its top (a name that ends in {', '.join(WEIGHTS_SUFFIXES)}); "
            "give the model folder itself, or the weights file"
        )
    stems = list(dict.fromkeys(_stem(name) for name in found))
    usual = [stem for wanted in (title, "model") for stem in stems if stem.casefold() == wanted.casefold()]
    if not usual and len(stems) == 1 and complete:
        usual = stems
    if not usual:
        advice = f"choose one with weights=, such as weights={found[0]!r}"
        if complete:
            raise CheckpointError(f"{where} has several weights files: {listed}; {advice}")
        raise CheckpointError(f"{where} has weights files of another name only: {listed}; {advice}")
    return next(name for name in found if _stem(name) == usual[0])


def config_names(names: Sequence[str]) -> list[str]:
    """Return those of a repository's file names that belong to its configuration and tokenizer folders."""
    configs = {f"{part}/config.json" for part in PARTS}
    return [name for name in names if name in configs or re.fullmatch(r"tokenizer/[^/]+\.(json|txt)", name)]


def _bundled(weights: str | None) -> ModelFiles:
    folder = packaged_folder(BUNDLED)
    if weights not in (None, BUNDLED, BUNDLED_WEIGHTS):
        raise CheckpointError(
            f"weights={weights!r} is no file of {BUNDLED}, the bundled model, which has one; name the model that it "
            "belongs to, such as LongfeiHuang/SDMatte"
        )
    if not (folder / BUNDLED_WEIGHTS).exists():
        raise CheckpointError(f"{folder / BUNDLED_WEIGHTS} is missing: the package is incomplete; reinstall sdmatte")
    return _local(folder, BUNDLED_WEIGHTS)


def _local(path: Path, weights: str | None) -> ModelFiles:
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
        title = path.resolve().name
        return _model_files(title, path, path / choose_weights(names, weights=weights, title=title, where=str(path)))
    if weights not in (None, path.name):
        raise CheckpointError(f"{path} is a weights file already; leave out weights={weights!r}, or give its folder")
    return _model_files(path.stem, path.parent, path)


def _model_files(title: str, folder: Path, weights: Path) -> ModelFiles:
    name = title if weights.stem == "model" else weights.stem
    own = any((folder / part / "config.json").exists() for part in PARTS)
    configs = ModelConfigs.from_folder(folder) if own else ModelConfigs.released(_packaged_for(weights))
    tokenizer = folder / "tokenizer"
    return ModelFiles(
        name=name,
        configs=dataclasses.replace(configs, name=name) if own else configs,
        weights=weights,
        tokenizer=tokenizer if tokenizer.is_dir() else None,
        folder=folder if own else None,
        # SDMatte* was trained with boxes alone; points are said to give black mattes.
        prompt_kinds=("box",) if "plus" in weights.stem.lower() else ("box", "points", "mask"),
    )


def _packaged_for(weights: Path) -> str:
    """Tell from the tensor names which packaged configuration weights without any need."""
    from sdmatte.checkpoint import read_state_dict

    lite = any(name.startswith(LITE_MARK) for name in read_state_dict(weights))
    return "litesdmatte" if lite else "sdmatte"


def _no_revision(revision: str | None, what: str) -> None:
    if revision is not None:
        raise CheckpointError(f"revision={revision!r} is for hub repositories, and the source is {what}; leave it out")


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _preference(name: str) -> tuple[int, str]:
    return WEIGHTS_SUFFIXES.index(PurePosixPath(name).suffix), name
