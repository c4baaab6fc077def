"""Records as tasks of Label Studio: what a reviewer is told, the picture, and the matte as it is shown."""

from __future__ import annotations

import hashlib
import math
import reprlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BadInputError, ErrorCode
from pipeline.prompt_formats.brush import encode_levels
from pipeline.prompts import clean_text
from pipeline.review.items import ReviewItem
from pipeline.review.label_studio_config import (
    BOX,
    IMAGE,
    LABELS,
    MASK,
    MODEL_VERSION,
    POINTS,
    check_prediction,
)
from pipeline.review.pictures import picture_of, shown_mask, size_of
from sdmatte.urls import redact

Images = Literal["embed", "uri", "files"]
"""How pictures reach the browser; see :func:`pipeline.review.label_studio.export`."""

FOLDER = "images"
"""Of the picture files in an export."""

_SERVED = ("http://", "https://", "s3://", "gs://", "azure-blob://")  # what a server can hand out or be connected to
_LONGEST = 200  # characters of a text from the input


@dataclass(frozen=True)
class Picture:
    """The bytes that the browser shows.

    Attributes:
        data: Of the file, upright, in a format that every browser decodes alike.
        suffix: jpg, png or webp.
    """

    data: bytes
    suffix: str

    @property
    def name(self) -> str:
        """Path in the export, by the content: objects of one image share it."""
        return f"{FOLDER}/{hashlib.sha256(self.data).hexdigest()[:32]}.{self.suffix}"

    @property
    def data_uri(self) -> str:
        """The picture as a URL that holds it."""
        kind = "jpeg" if self.suffix == "jpg" else self.suffix
        return f"data:image/{kind};base64,{b64encode(self.data).decode()}"


def task_of(item: ReviewItem, images: Images) -> tuple[dict[str, Any], Picture | None]:
    """Make the task of an object, and check its prediction.

    Args:
        item: The object.
        images: How its picture reaches the browser.

    Returns:
        The task, and the picture that its file refers to (for `files`).

    Raises:
        BadInputError: It can't be shown: no picture, one that was replaced since, a damaged alpha.
        ConfigurationError: The prediction that was made does not fit (a bug).
    """
    record = item.record
    size = size_of(record)
    mask = shown_mask(record)
    picture = None if images == "uri" else _picture(item)
    image = _served(record) if picture is None else picture.data_uri if images == "embed" else picture.name
    prediction = {
        "model_version": MODEL_VERSION,
        "score": _finite(record.get("quality")),
        "result": list(_results(record, mask, size)),
    }
    check_prediction(prediction, mask, size)
    ids = {"record_id": str(record["record_id"]), "run_id": str(record["run_id"])}  # JavaScript would round numbers
    data = {
        "image": image,
        "title": _title(record),
        "about": _about(record),
        "rank": item.rank,
        **ids,
        "output": _text(redact(item.output)),
        "image_key": _text(record.get("image_key")),
        "label": _text(record.get("label")),
        "predicted_mad": _finite(record.get("predicted_mad")),
        "width": size[0],
        "height": size[1],
        "has_matte": bool(mask.any()),
    }
    task = {"data": data, "meta": ids, "predictions": [prediction]}
    return task, picture if images == "files" else None


def _picture(item: ReviewItem) -> Picture:
    picture = picture_of(item)
    return Picture(picture.data, picture.suffix)


def _served(record: dict[str, Any]) -> str:
    uri = record.get("image_uri")
    why = ""
    if not (isinstance(uri, str) and uri.lower().startswith(_SERVED) and "#" not in uri and " row " not in uri):
        why = f"it must be one object at {', '.join(_SERVED)}"
    elif redact(uri) != uri:
        why = "its address holds credentials, which go into no task, and doesn't work without them"
    if why:
        raise BadInputError(
            ErrorCode.IMAGE_UNREADABLE,
            f"a browser can't fetch {reprlib.repr(redact(uri))} ({why}); export with images=files or embed",
        )
    return str(uri)


def _results(record: dict[str, Any], mask: NDArray[np.uint8], size: tuple[int, int]) -> Sequence[dict[str, Any]]:
    results = []
    if mask.any():  # the editor drops empty brushes
        results.append(_result(MASK, "mask", size, {"format": "rle", "rle": encode_levels(mask)}))
    width, height = size
    if (box := record.get("prompt_box")) and all(map(math.isfinite, box)):
        x0, x1 = np.clip(np.array(box[::2]) / width * 100, 0, 100).tolist()
        y0, y1 = np.clip(np.array(box[1::2]) / height * 100, 0, 100).tolist()
        value = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "rotation": 0}
        results.append(_result(BOX, "box", size, value) | {"readonly": True})
    for number, (x, y) in enumerate(record.get("prompt_points") or ()):
        if 0 <= x <= width and 0 <= y <= height:
            value = {"x": x / width * 100, "y": y / height * 100, "width": 0.5}
            results.append(_result(POINTS, f"point{number}", size, value) | {"readonly": True})
    return results


def _result(name: str, identifier: str, size: tuple[int, int], value: dict[str, Any]) -> dict[str, Any]:
    kind, label = LABELS[name]
    return {
        "id": identifier,
        "from_name": name,
        "to_name": IMAGE,
        "type": kind,
        "origin": "prediction",
        "original_width": size[0],
        "original_height": size[1],
        "image_rotation": 0,
        "value": value | {kind: [label]},
    }


# --- texts -----------------------------------------------------------------------------------------------------------


def _title(record: dict[str, Any]) -> str:
    label = _text(record.get("label")) or "object without label"
    kind = " (transparent)" if record.get("transparent") else ""
    return f"{label}{kind}: {_text(record.get('image_key'))}"


def _about(record: dict[str, Any]) -> str:
    parts = []
    if (error := _finite(record.get("predicted_mad"))) is not None:
        doubt = "" if record.get("calibration_matches") else ", not calibrated for this model"
        parts.append(f"predicted error {error:.4f}{doubt}")
    if (quality := _finite(record.get("quality"))) is not None:
        parts.append(f"quality {quality:.2f}")
    if reason := _text(record.get("reason")):  # of a curation, where the record comes from one
        parts.append(reason)
    return "; ".join(parts) or "no score"


def _text(value: object) -> str:
    """Return a text of the input as one bounded line of characters that can be shown; the editor escapes it."""
    if value is None:
        return ""
    text = "".join(letter if letter.isprintable() else " " for letter in clean_text(str(value)))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
