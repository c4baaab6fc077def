"""From a labelled set to what a calibration is fitted to: the pipeline's records, joined with their true errors."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BadInputError, PipelineError
from pipeline.evaluation.datasets import Fault
from pipeline.evaluation.job import Labelled, Settings, label_all, prompt_all
from pipeline.evaluation.protocol import Kind, PromptedCase, as_prompt, prompt_id
from pipeline.evaluation.scoring import mapped
from pipeline.evaluation.truth import read_alpha
from pipeline.masks import decode_png
from pipeline.quality.calibration_file import Origin, Second
from pipeline.quality.degrade import degrade
from pipeline.quality.features import features
from pipeline.quality.fit import Samples
from pipeline.quality.image_terms import prepare
from pipeline.quality.inputs import SECOND, SINGLE
from sdmatte.errors import SDMatteError
from sdmatte.images import decode_image
from sdmatte.metrics import mad

_RECORD = ("prompt_id", "image_id", "prompt_kind", "transparent", "status", "error_code", "alpha", *SINGLE, *SECOND)
_ROWS = 16  # records read at a time: alphas are in them


@dataclass(frozen=True)
class Collected:
    """A labelled set, ready to be fitted to.

    Attributes:
        samples: The records with their true errors, and damaged mattes.
        origin: The model that made the mattes.
        second: The second pass of the run.
        data: What the samples are from, for the file.
        faults: Files of the sets that are missing or can't be used.
        errors: Records that count for nothing, by what is wrong with them.
    """

    samples: Samples
    origin: Origin
    second: Second
    data: dict[str, Any]
    faults: tuple[Fault, ...]
    errors: Mapping[str, int]


@dataclass(frozen=True)
class _Task:
    """The records of one image, each with its object and kind of prompt."""

    records: Sequence[tuple[dict[str, Any], PromptedCase, Kind]]


def collect(settings: Settings, damaged: int = 1) -> Collected:
    """Label a set with the pipeline, and measure every matte.

    Args:
        settings: As for an evaluation, with one model.
        damaged: Damaged mattes to be made of each matte (:mod:`pipeline.quality.degrade`).

    Raises:
        ConfigurationError: Something must be changed first: a folder, the model, the run's configuration.
        PipelineError: The run or a measuring process stopped; the same call goes on.
    """
    listings, prompted, faults = prompt_all(settings)
    (labelled,) = label_all(settings, prompted)
    known = {prompt_id(each.case, kind): (each, kind) for each in prompted for kind in each.prompts}
    errors: Counter[str] = Counter()
    tasks = _tasks(labelled, known, errors)
    rows: list[dict[str, Any]] = []
    for found, wrong in mapped(partial(_measured, damaged=damaged, seed=settings.seed), tasks, settings.processes):
        rows += found
        errors.update(wrong)
    if not rows:
        raise PipelineError(f"no record of {labelled.run.path} could be measured: {dict(errors)}")
    rows.sort(key=lambda row: (row["id"], row["damage"]))
    samples = Samples(
        [row["features"] for row in rows],
        np.array([row["mad"] for row in rows], np.float64),
        np.array([row["image"] for row in rows]),
        np.array([row["damage"] for row in rows]),
    )
    ids = sorted({row["id"] for row in rows})
    data = {
        "sets": [
            {"title": each.dataset.title, "objects": len(each.cases[: settings.limit]), "images": each.images}
            for each in listings
        ],
        "prompts": list(settings.kinds),
        "seed": settings.seed,
        "keys_sha256": hashlib.sha256(json.dumps(ids).encode()).hexdigest(),
        "without_matte": dict(errors),
    }
    return Collected(samples, *_made_by(labelled), data, tuple(faults), dict(errors))


def _made_by(labelled: Labelled) -> tuple[Origin, Second]:
    model, config = labelled.run.info["model"], labelled.run.info["config"]
    origin = Origin(
        name=str(model["name"])[:500],
        weights_sha256=model["weights_sha256"],
        input_size=model["input_size"],
        resize=config["model"]["resize"],
    )
    kind = config["quality"]["second"]
    if kind not in ("resolution", "model"):
        return origin, Second(kind=kind)
    return origin, Second(kind=kind, size=model["second_size"], weights_sha256=model["second_weights_sha256"])


def _tasks(
    labelled: Labelled, known: Mapping[str, tuple[PromptedCase, Kind]], errors: Counter[str]
) -> Iterator[_Task]:
    """Yield the records image by image, as they stand in the run; count those that have no matte."""
    missing = dict(known)

    def records() -> Iterator[dict[str, Any]]:
        for batch in labelled.run.dataset().to_batches(columns=list(_RECORD), batch_size=_ROWS):
            yield from batch.to_pylist()

    for _, group in itertools.groupby(records(), key=lambda record: record["image_id"]):
        found = []
        for record in group:
            each, kind = missing.pop(record["prompt_id"], (None, None))
            if each is None or kind is None:
                continue  # a fault of the manifest itself would be no prompt's record
            if record["status"] == "ok":
                found.append((record, each, kind))
            else:
                errors[str(record["error_code"])] += 1
        if found:
            yield _Task(found)
    if missing:
        errors["no_record"] += len(missing)


def _measured(task: _Task, damaged: int, seed: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure the records of an image; returns rows, and what is wrong with the others. Never raises."""
    try:
        return _rows(task, damaged, seed), []
    except (BadInputError, SDMatteError) as error:
        return [], [str(error.code) if isinstance(error, BadInputError) else type(error).__name__] * len(task.records)
    except Exception as error:  # noqa: BLE001 - a decoder's own bug costs this image only
        return [], [type(error).__name__] * len(task.records)


def _rows(task: _Task, damaged: int, seed: int) -> list[dict[str, Any]]:
    terms = prepare(decode_image(task.records[0][1].case.image).pixels)
    mattes = [_levels(record) for record, _, _ in task.records]
    truths: dict[Path, NDArray[np.float32]] = {}
    rows = []
    for (record, each, kind), matte in zip(task.records, mattes, strict=True):
        case = each.case
        if case.alpha not in truths:
            truths[case.alpha] = read_alpha(case.alpha)
        truth, name = truths[case.alpha], prompt_id(case, kind)
        shared = {"id": name, "image": f"{case.dataset}/{case.image.name}"}
        said = {"prompt_kind": record["prompt_kind"], "transparent": record["transparent"]}
        own = {column: record[column] for column in (*SINGLE, *SECOND)}
        rows.append(shared | {"features": own | said, "mad": mad(matte, truth), "damage": ""})
        rng = np.random.default_rng(int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode()).digest()[:8], "little"))
        others = [m for m, (_, e, _) in zip(mattes, task.records, strict=True) if e.case.key != case.key]
        prompt = as_prompt(each.prompts[kind])
        for _ in range(damaged):
            other = others[int(rng.integers(len(others)))] if others else None
            damage, worse = degrade(matte, rng, other)
            found = asdict(features(worse, prompt, terms))
            rows.append(shared | {"features": found | said, "mad": mad(worse, truth), "damage": damage})
    return rows


def _levels(record: Mapping[str, Any]) -> NDArray[np.float32]:
    cv2.setNumThreads(1)  # also where there is one process, this one: the mattes are small
    pixels: NDArray[Any] = decode_png(record["alpha"]["bytes"])
    top = 1 if pixels.dtype == np.bool_ else np.iinfo(pixels.dtype).max
    return np.asarray(pixels, np.float32) / np.float32(top)
