"""COCO detection results and ground truth as prompts.

``bbox`` (x, y, width, height) becomes a box, or, without one, ``segmentation`` a mask; the category's name the label,
the annotation's id the prompt's id. Crowd annotations describe no single object and are left out.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from pipeline.config import LabelConfig
from pipeline.errors import ConfigurationError
from pipeline.prompt_formats.base import PromptFile, image_size, load_document, unparsed
from pipeline.prompts import Entry, clean_text
from pipeline.storage import public_uri


class _Image(NamedTuple):
    """An image that the file lists."""

    name: str
    size: dict[str, list[int]]


def read_coco(config: LabelConfig) -> PromptFile:
    """Read COCO results or ground truth.

    Raises:
        ConfigurationError: A file isn't in COCO's format.
        NotFoundError: A file isn't there.
        TransientError: The store failed repeatedly.
    """
    path, listed, retries = config.prompts.path, config.prompts.coco_images, config.workers.retries
    assert path is not None
    content = load_document(path, retries)
    annotations = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(annotations, list):
        raise ConfigurationError(
            f"prompts.path {public_uri(path)} is neither a list of COCO results nor an object with annotations"
        )
    truth = load_document(listed, retries) if listed else content
    truth = truth if isinstance(truth, dict) else {}
    images, categories = _images(truth), _categories(truth)
    if listed and not images:
        raise ConfigurationError(f"prompts.coco_images {public_uri(listed)} has no images with file_name")
    return PromptFile(_entries(annotations, images, categories), "annotation", categories, numeric=not images)


def _listed(truth: dict[str, Any], name: str, text: str) -> Iterator[dict[str, Any]]:
    entries = truth.get(name)
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get(text), str):
            yield entry


def _images(truth: dict[str, Any]) -> dict[str, _Image]:
    return {
        str(entry.get("id")): _Image(
            clean_text(entry["file_name"]), image_size(entry.get("width"), entry.get("height"))
        )
        for entry in _listed(truth, "images", "file_name")
    }


def _categories(truth: dict[str, Any]) -> dict[str, str]:
    return {str(entry.get("id")): clean_text(entry["name"]) for entry in _listed(truth, "categories", "name")}


def _entries(annotations: list[Any], images: dict[str, _Image], categories: dict[str, str]) -> Iterator[Entry]:
    for number, annotation in enumerate(annotations):
        if not isinstance(annotation, dict):
            yield Entry(None, number, unparsed(annotation), "a COCO annotation must be an object")
            continue
        if annotation.get("iscrowd") == 1:
            continue
        content, fault = _native(annotation, categories.get(str(annotation.get("category_id"))))
        image = annotation.get("image_id")
        if isinstance(image, bool) or not isinstance(image, int | str):
            fault = f"its image_id must be a number or a string, got {reprlib.repr(image)}"
            yield Entry(None, number, content | {"image_id": image}, fault)
            continue
        known = images.get(str(image))
        yield Entry(_image_key(image, known, bool(images)), number, content | (known.size if known else {}), fault)


def _image_key(image: int | str, known: _Image | None, named: bool) -> str:
    """Return the key of an image: its file name, or decimal id; of an unknown one a key that no image has."""
    if known:
        return known.name
    if not named and (isinstance(image, int) or image.isdecimal()):
        return str(image).lstrip("0") or "0"
    return f"image_id {clean_text(str(image))}"


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
