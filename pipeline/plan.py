"""What a run would do, told before it starts: `jobs/label.py --dry-run`."""

from __future__ import annotations

from pathlib import Path

import yaml

from pipeline.assignments import find_target
from pipeline.config import LabelConfig, ModelConfig
from pipeline.errors import ConfigurationError
from pipeline.prompt_files import load_prompt_index
from pipeline.quality.calibration import read_calibration
from pipeline.runs import RunDirectory
from pipeline.scopes import ALL_OF_IT, Selection
from pipeline.sources import make_source
from sdmatte.configs import BUNDLED, ModelConfigs
from sdmatte.errors import SDMatteError
from sdmatte.urls import redact

_UNTRAINED = "untrained:"


def plan(config: LabelConfig, selection: Selection = ALL_OF_IT) -> str:
    """Return what a run would do, for people; reads listings and the prompt file, starts and writes nothing.

    Args:
        config: Of the job.
        selection: What it is asked to label.

    Raises:
        ConfigurationError: The input, the prompts, the output, or a model on this machine can't be used as configured.
        TransientError: The store failed repeatedly.
    """
    check_paths(config)
    shards = make_source(config).shards()
    index = load_prompt_index(config)
    listed = [shard.name for shard in shards]
    lines = [
        yaml.safe_dump(redact(config.model_dump(mode="json")), sort_keys=False, allow_unicode=True).rstrip(),
        "",
        f"shards    {len(listed)}: {', '.join(listed[:3])}{', ...' if len(listed) > 3 else ''}",
        f"prompts   {'beside the images' if index is None else f'{len(index)} keys in {redact(config.prompts.path)}'}",
        f"model     {_model_state(config.model)}",
        f"output    {redact(config.output.path)}: {_output_state(config, selection)}",
    ]
    return "\n".join(lines)


def check_paths(config: LabelConfig) -> None:
    """Refuse a calibration that can't be read, and an output inside of the input: its report would be new images.

    Raises:
        ConfigurationError: The run directory lies in an input folder, or `quality.calibration` names no calibration.
        TransientError: The store of the calibration failed repeatedly.
    """
    if config.quality.calibration not in ("auto", "none"):
        read_calibration(config.quality.calibration)
    if config.input.kind != "folder":
        return
    paths = [config.input.path] if isinstance(config.input.path, str) else config.input.path
    output = _comparable(config.output.path)
    for path in paths:
        if output.startswith(_comparable(path)):
            raise ConfigurationError(
                f"output.path {redact(config.output.path)} lies in the input folder {redact(path)}: later runs would "
                "take its pictures for images; choose a folder outside of it"
            )


def _comparable(path: str) -> str:
    return (path if "://" in path else str(Path(path).expanduser().resolve())).rstrip("/") + "/"


def _model_state(model: ModelConfig) -> str:
    source = model.source
    if source.startswith(_UNTRAINED):
        try:
            ModelConfigs.released(source.removeprefix(_UNTRAINED))
        except SDMatteError as error:
            raise ConfigurationError(f"the model can't be used: {error}") from None
        return f"{source}: random weights, its alphas mean nothing"
    if source != BUNDLED and not Path(source).expanduser().exists():
        return f"{redact(source)}: not checked, it is fetched when the job starts"
    from sdmatte.locate import locate

    try:
        files = locate(source, weights=model.weights, revision=model.revision)
    except SDMatteError as error:
        raise ConfigurationError(f"the model can't be used: {error}") from None
    return f"{files.name} in {files.weights}"


def _output_state(config: LabelConfig, selection: Selection) -> str:
    target = find_target(config, selection)
    run = RunDirectory.find(config, path=target.path)
    if run is None:
        if target.path == target.chain.path:
            return "a new run"
        about = "what is new" if selection.kind == "incremental" else f"records where {selection.where}, again"
        return f"a follow-up run in {redact(target.path)}: {about}"
    if run.succeeded:
        return f"run {run.run_id} is complete, nothing to do; --incremental labels what is new"
    return f"run {run.run_id} in {redact(run.path)} goes on; {len(run.finished_shards())} shards are finished"
