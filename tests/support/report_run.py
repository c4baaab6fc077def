"""Runs for the report: many objects with real pixels, made from the few of another run by cutting photographs anew."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc
from PIL import Image

from pipeline.config import LabelConfig
from pipeline.ids import image_id, record_id
from pipeline.originals import read_originals
from pipeline.provenance import ModelIdentity
from pipeline.runs import RunDirectory
from support.demo_run import add_records, error_record, png
from support.run_rows import begin

MODEL = ModelIdentity("sdmatte-nano", "cd" * 32, "float32", 192)
PER_SHARD = 100
CODES = ("image_corrupt", "prompt_out_of_frame", "model_out_of_memory")


def large_run(
    path: str,
    source: RunDirectory,
    photos: Path,
    count: int,
    *,
    limit: int = 5000,
    scores: bool = True,
    errors: int = 30,
) -> tuple[RunDirectory, list[str]]:
    """Builds a run whose objects are parts of another run's ok objects, each with a photograph of its own.

    Args:
        path: Of the new run.
        source: The run that photographs and alphas are from.
        photos: Folder for the new photographs.
        count: Objects.
        limit: `output.report_objects`.
        scores: Whether the records have a (drawn) `predicted_mad` and `quality`.
        errors: Every so many-th object is an error.

    Returns:
        The run, not finished, and the names of its shards.
    """
    dice = np.random.default_rng(0)
    photos.mkdir(parents=True, exist_ok=True)
    config = LabelConfig.model_validate(
        {
            "input": {"kind": "folder", "path": str(photos)},
            "model": {"source": "sdmatte-nano"},
            "output": {"path": path, "contact_sheet": 0, "report_objects": limit},
        }
    )
    run = begin(config, MODEL)
    rows = source.dataset().to_table(filter=pc.field("status") == "ok").to_pylist()
    originals = {
        uri: Image.open(io.BytesIO(data)).convert("RGB")
        for uri, data in read_originals([row["image_uri"] for row in rows], 10**8)
    }
    shards = [f"photos-{number:04d}" for number in range(-(-count // PER_SHARD))]
    for number, shard in enumerate(shards):
        last = min(count, (number + 1) * PER_SHARD)
        made = []
        for at in range(number * PER_SHARD, last):
            row = rows[int(dice.integers(len(rows)))]
            made.append(_part(row, originals[row["image_uri"]], photos, shard, at, dice, scores=scores))
            if errors and at % errors == errors - 1:
                code = CODES[at // errors % len(CODES)]
                kept = {name: made[-1][name] for name in ("image_uri", "image_width", "image_height", "label")}
                message = "the prompt lies outside the image: check its units and its image"
                made[-1] = error_record(shard, made[-1]["image_key"], code, message, **kept, prompt_kind="box")
        add_records(run, f"part-{number:06d}", shard, made)
    return run, shards


def _part(
    row: dict[str, Any],
    photo: Image.Image,
    photos: Path,
    shard: str,
    at: int,
    dice: np.random.Generator,
    *,
    scores: bool,
) -> dict[str, Any]:
    """Cut a part that holds the object out of its photograph, mirror it now and then, and lighten or darken it."""
    alpha = np.asarray(Image.open(io.BytesIO(row["alpha"]["bytes"])).convert("L"))
    seen = np.argwhere(alpha > 60)
    low, high = seen.min(axis=0), seen.max(axis=0) + 1
    top, left = dice.integers(0, low + 1)
    bottom, right = dice.integers(high, np.array(alpha.shape) + 1)
    flip = slice(None, None, int(dice.choice([-1, 1])))
    light = float(dice.uniform(0.75, 1.15))
    pixels = np.clip(np.asarray(photo)[top:bottom, left:right][:, flip] * light, 0, 255).astype(np.uint8)
    part = np.ascontiguousarray(alpha[top:bottom, left:right][:, flip])
    key = f"{at:06d}.jpg"
    Image.fromarray(pixels).save(photos / key, quality=88)
    height, width = part.shape
    inside = part > 127
    x, y, across, down = cv2.boundingRect(inside.astype(np.uint8)) if inside.any() else (0, 0, width, height)
    image = image_id(shard, key)
    kind = ("box", "mask", "points")[at % 3]
    mask = png(Image.fromarray(cv2.dilate(inside.astype(np.uint8) * 255, np.ones((9, 9), np.uint8))))
    points = [[x + across / 2, y + down / 2], [x + across / 3, y + down / 3]]
    values = part / 255
    mad = float(dice.lognormal(-4.6, 0.8))
    found = {
        "record_id": record_id(image, {"at": at}),
        "image_id": image,
        "shard": shard,
        "image_key": key,
        "image_uri": str(photos / key),
        "image_width": width,
        "image_height": height,
        "prompt_kind": kind,
        "label": row["label"],
        "transparent": False,
        "prompt_box": [float(x), float(y), float(x + across), float(y + down)] if kind == "box" else None,
        "prompt_points": points if kind == "points" else None,
        "prompt_mask": mask if kind == "mask" else None,
        "status": "ok",
        "alpha": {"bytes": png(Image.fromarray(part)), "path": None},
        "coverage": float(values.mean()),
        "definiteness": float((values > 0.9).sum() / max(1, (values > 0.1).sum())),
        "semi_transparent": float(((values > 0.1) & (values < 0.9)).mean()),
        "labelled_at": run_time(at),
    }
    if scores:
        found |= {
            "predicted_mad": mad,
            "quality": 2 ** (-mad / 0.02),
            "calibration": "nano-2026-11",
            "calibration_matches": True,
        }
    return found


def run_time(at: int) -> datetime:
    """When the object of that number was made, in a run that makes five per second from now on."""
    return datetime.now(UTC) + timedelta(seconds=2 + at / 5)
