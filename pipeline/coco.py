"""COCO detection results and ground truth as prompts.

``bbox`` (x, y, width, height) becomes a box, or, without one, ``segmentation`` a mask; the category's name the label,
the annotation's id the prompt's id. Crowd annotations describe no single object and are left out.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.config import PromptsConfig
from pipeline.errors import ConfigurationError
from pipeline.prompts import Entry, clean_text
from pipeline.storage import public_uri, read_bytes


@dataclass(frozen=True)
class Coco:
    """A COCO file.

    Attributes:
        entries: Its annotations as prompts, numbered from 0.
        numeric: Keys are image ids in decimal digits, not file names.
    """

    entries: Iterator[Entry]
    numeric: bool


def read_coco(config: PromptsConfig, *, retries: int) -> Coco:
    """Read COCO results or ground truth, filtered by score and category as configured.

    Raises:
        ConfigurationError: A file isn't in COCO's format, or a category isn't known.
        NotFoundError: A file isn't there.
        TransientError: The store failed repeatedly.
    """
    assert config.path is not None
    content = _load(config.path, retries)
    annotations = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(annotations, list):
        raise ConfigurationError(
            f"prompts.path {public_uri(config.path)} is neither a list of COCO results nor an object with annotations"
        )
    truth = _load(config.coco_images, retries) if config.coco_images else content
    truth = truth if isinstance(truth, dict) else {}
    images, categories = _names(truth, "images", "file_name"), _names(truth, "categories", "name")
    if config.coco_images and not images:
        raise ConfigurationError(f"prompts.coco_images {public_uri(config.coco_images)} has no images with file_name")
    wanted = _wanted(config, categories)
    return Coco(_entries(annotations, images, categories, wanted, config.min_score), numeric=not images)


def _load(path: str, retries: int) -> Any:
    try:
        return json.loads(read_bytes(path, retries=retries))
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{public_uri(path)} is not valid JSON: {error}") from None


def _names(truth: dict[str, Any], listed: str, name: str) -> dict[str, str]:
    entries = truth.get(listed)
    return {
        str(entry.get("id")): clean_text(entry[name])
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, dict) and isinstance(entry.get(name), str)
    }


def _wanted(config: PromptsConfig, categories: dict[str, str]) -> set[str] | None:
    """Return the ids of the categories to keep; None for all."""
    if config.categories is None:
        return None
    ids = {name: identifier for identifier, name in categories.items()}
    unknown = [name for name in config.categories if name not in ids and name not in categories]
    if categories and unknown:
        raise ConfigurationError(f"prompts.categories: unknown {unknown}; the file has {sorted(ids)[:100]}")
    if not categories and not all(name.isdecimal() for name in config.categories):
        raise ConfigurationError(
            "prompts.categories has names, but the file only ids: set prompts.coco_images, or ids"
        )
    return {ids.get(name, name) for name in config.categories}


def _entries(
    annotations: list[Any],
    images: dict[str, str],
    categories: dict[str, str],
    wanted: set[str] | None,
    min_score: float,
) -> Iterator[Entry]:
    for number, annotation in enumerate(annotations):
        if not isinstance(annotation, dict):
            yield Entry(None, number, {"unparsed": repr(annotation)}, "a COCO annotation must be an object")
            continue
        score, category = annotation.get("score"), str(annotation.get("category_id"))
        low = isinstance(score, int | float) and score < min_score
        if low or annotation.get("iscrowd") == 1 or (wanted is not None and category not in wanted):
            continue
        content, fault = _native(annotation, categories.get(category))
        image = annotation.get("image_id")
        if isinstance(image, bool) or not isinstance(image, int | str):
            fault = f"its image_id must be a number or a string, got {reprlib.repr(image)}"
            yield Entry(None, number, content | {"image_id": image}, fault)
        else:
            yield Entry(_image_key(image, images), number, content, fault)


def _image_key(image: int | str, images: dict[str, str]) -> str:
    """Return the key of an image: its file name, or decimal id; of an unknown one a key that no image has."""
    if images:
        return images.get(str(image), f"image_id {image}")
    if isinstance(image, int) or image.isdecimal():
        return str(image).lstrip("0") or "0"
    return f"image_id {clean_text(image)}"


def _native(annotation: dict[str, Any], label: str | None) -> tuple[dict[str, Any], str | None]:
    """Return an annotation in the native form, and what is wrong with it, if anything."""
    content = {
        "id": annotation.get("id"),
        "label": annotation.get("category_id") if label is None else label,
        "score": annotation.get("score"),
    }
    content = {name: value for name, value in content.items() if value is not None}
    bbox, segmentation = annotation.get("bbox"), annotation.get("segmentation")
    if bbox is not None and not (bbox == [] and segmentation):  # tools that export masks alone leave an empty bbox
        try:
            x, y, width, height = bbox
            return content | {"box": [x, y, x + width, y + height]}, None
        except (TypeError, ValueError, OverflowError):
            fault = f"bbox must be four numbers [x, y, width, height], got {reprlib.repr(bbox)}"
            return content | {"bbox": bbox}, fault
    match segmentation:
        case list() as polygons:
            return content | {"mask": {"polygon": polygons}}, None
        case dict() as run_lengths:
            return content | {"mask": run_lengths}, None
    return content, "has neither bbox nor segmentation"
