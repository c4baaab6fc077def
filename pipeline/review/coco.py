"""COCO: cores go as instances with run lengths, and come back from any tool that keeps their attributes.

``annotations/instances_default.json`` and ``images/``. The object is known by the attributes `record_id` and `run_id`
of its annotation, which are text: many readers round numbers of 64 bits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import ConfigurationError
from pipeline.masks import from_polygons, from_run_lengths
from pipeline.prompt_formats.base import image_size, malformed
from pipeline.review.binary import CoreExport, Shapes, Shown, add_shape, gather, printable
from pipeline.review.items import Returned, ReturnFault, ReviewExport, ReviewItem
from sdmatte.images import MAX_PIXELS
from sdmatte.urls import redact

ANNOTATIONS_FILE = "annotations/instances_default.json"


# --- export ----------------------------------------------------------------------------------------------------------


def export(items: Iterable[ReviewItem], folder: str, *, title: str) -> ReviewExport:
    """Write pictures, and annotations last.

    Args:
        items: The objects, in the order of their ranks.
        folder: New or empty, local or any URL.
        title: Written into the file's `info`.

    Raises:
        ConfigurationError: The folder is not empty, or can't be written to; or pycocotools is not installed.
        TransientError: The store failed repeatedly.
    """
    folder = storage.absolute(folder)
    gathered = gather(items, folder, _encoder())
    text = json.dumps(_document(gathered, title), allow_nan=False)
    storage.write_bytes_atomic(storage.join(folder, ANNOTATIONS_FILE), text.encode())
    return ReviewExport(folder, gathered.objects, (ANNOTATIONS_FILE,), tuple(gathered.left_out))


def _encoder() -> Any:
    try:
        from pycocotools import mask as coco_masks
    except ImportError:
        raise ConfigurationError("COCO's run lengths need pycocotools: pip install 'sdmatte[curate]'") from None

    def encode(core: NDArray[np.bool_]) -> dict[str, Any]:
        run_lengths = coco_masks.encode(np.asfortranarray(core, np.uint8))
        box, area = coco_masks.toBbox(run_lengths), coco_masks.area(run_lengths)
        segmentation = {"size": list(core.shape), "counts": run_lengths["counts"].decode()}
        return {"segmentation": segmentation, "bbox": box.tolist(), "area": int(area), "iscrowd": 0}

    return encode


def _document(gathered: CoreExport[dict[str, Any]], title: str) -> dict[str, Any]:
    categories = {label: number for number, label in enumerate(gathered.labels, 1)}
    images = [
        {"id": number, "file_name": image.name, "width": image.width, "height": image.height}
        for number, image in enumerate(gathered.images, 1)
    ]
    annotations = [
        {"image_id": number, "category_id": categories[each.label], **each.core, "attributes": each.attributes}
        for number, image in enumerate(gathered.images, 1)
        for each in image.objects
    ]
    return {
        "info": {"description": printable(title)},
        "licenses": [],
        "images": images,
        "categories": [{"id": number, "name": label} for label, number in categories.items()],
        "annotations": [{"id": number, **each} for number, each in enumerate(annotations, 1)],
    }


# --- import ----------------------------------------------------------------------------------------------------------


def read(uri: str, *, max_pixels: int = MAX_PIXELS) -> Iterator[Returned | ReturnFault]:
    """Read instances in COCO's format: run lengths, compressed or not, and polygons.

    Several annotations of one record are one: their union. An object that is not there any more says nothing; to drop
    one, the verdict is reject.

    Args:
        uri: The JSON file.
        max_pixels: Limit on width x height of an image, checked before anything is decoded.

    Yields:
        Per object what came back, or what is wrong with it.

    Raises:
        ConfigurationError: It is no such file.
        NotFoundError: It isn't there.
        TransientError: The store failed repeatedly.
    """
    try:
        content = json.loads(storage.read_bytes(uri))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise ConfigurationError(
            f"{redact(uri)} is no COCO file: it must be a JSON object with images and annotations"
        )
    sizes = _sizes(content.get("images"))
    found: dict[Shown, Shapes] = {}
    for place, annotation in enumerate(content["annotations"], 1):
        where = f"annotation number {place}"
        if not isinstance(annotation, dict):
            yield ReturnFault(where, "it is no JSON object")
            continue
        mask = partial(_mask, annotation, sizes.get(str(annotation.get("image_id"))), max_pixels)
        fault = add_shape(found, where, _attributes(annotation.get("attributes")), mask)
        if fault is not None:
            yield fault
    for shapes in found.values():
        yield shapes.returned("coco")


def _sizes(images: object) -> dict[str, list[int] | None]:
    listed = [image for image in images if isinstance(image, dict)] if isinstance(images, list) else []
    return {
        str(image.get("id")): image_size(image.get("width"), image.get("height")).get("image_size") for image in listed
    }


def _attributes(attributes: object) -> dict[str, str]:
    """Return attributes as text; datumaro and others make numbers of text that looks like one."""
    listed = attributes.items() if isinstance(attributes, dict) else ()
    usable = (str, int, float)
    return {name: str(value) for name, value in listed if isinstance(value, usable) and not isinstance(value, bool)}


def _mask(annotation: dict[str, Any], size: list[int] | None, max_pixels: int) -> NDArray[np.bool_]:
    """Decode a segmentation at the size of its image, ``(H, W)``."""
    if size is None or size[0] * size[1] > max_pixels:
        raise malformed(f"its image must be listed with width and height, of at most {max_pixels} pixels")
    width, height = size

    def check(*given: int) -> None:
        if given != (width, height):
            raise malformed(f"its run lengths are of {given[0]} x {given[1]} pixels, its image of {width} x {height}")

    match annotation.get("segmentation"):
        case [] | [[]]:  # what tools leave of a mask that was erased
            return np.zeros((height, width), bool)
        case list() as polygons:
            return from_polygons(polygons, width, height)[0]
        case {"size": list() as shape, "counts": str() | list() as counts}:
            return from_run_lengths(shape, counts, check)
    raise malformed("it has no segmentation: neither run lengths nor polygons")
