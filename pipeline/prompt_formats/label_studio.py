"""Label Studio's JSON export: tasks with annotations, or predictions where a task has none.

Rectangles and ellipses become boxes, polygons and brush strokes masks, keypoints points. Coordinates are in percent of
the image that was shown, upright; ``image_rotation``, by which it was turned in the editor, doesn't change them.
"""

from __future__ import annotations

import base64
import binascii
import re
import reprlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.config import LabelConfig
from pipeline.errors import BadInputError, ConfigurationError
from pipeline.prompt_formats.base import (
    PromptFile,
    bounds,
    ellipse_box,
    image_size,
    load_document,
    malformed,
    number,
    pairs,
    path_endings,
    turned,
    unparsed,
)
from pipeline.prompt_formats.brush import decode_brush
from pipeline.prompt_formats.run_lengths import run_length_mask
from pipeline.prompts import Entry, clean_text
from pipeline.storage import is_url, public_uri

_UPLOADED = re.compile(r"(?:^|/)upload/(?:.*/)?[0-9a-f]{8}-([^/]+)$")
_NO_SHAPES = frozenset(
    {
        *("choices", "datetime", "labels", "number", "pairwise", "ranker", "rating", "relation", "taxonomy"),
        *("textarea", "hypertextlabels", "paragraphlabels", "timeserieslabels", "videorectangle"),
    }
)  # results that mark no part of an image
_Result = dict[str, Any]


def read_label_studio(config: LabelConfig) -> PromptFile:
    """Read ``prompts.path``.

    Raises:
        ConfigurationError: It isn't an export of that kind.
        NotFoundError: It isn't there.
        TransientError: The store failed repeatedly.
    """
    path = config.prompts.path
    assert path is not None
    content = load_document(path, config.workers.retries)
    tasks = [content] if isinstance(content, dict) else content
    if not isinstance(tasks, list) or not any(_is_task(task) for task in tasks):
        raise ConfigurationError(
            f"prompts.path {public_uri(path)} is no list of Label Studio tasks, which have data, and annotations or "
            'predictions; export the project as "JSON" (not as JSON-MIN)'
        )
    return PromptFile(_entries(tasks, config.input.max_pixels), "task", aliases=image_names)


def _is_task(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("data"), dict)
        and bool({"annotations", "predictions"} & {*value})
    )


# --- tasks -----------------------------------------------------------------------------------------------------------


def _entries(tasks: list[Any], max_pixels: int) -> Iterator[Entry]:
    for place, task in enumerate(tasks, 1):
        if not _is_task(task):
            yield Entry(None, place, unparsed(task), "a Label Studio task must be an object with data and annotations")
            continue
        identifier = task.get("id")
        task_number = identifier if isinstance(identifier, int) and 0 <= identifier < 2**63 else place
        for results, score in _answers(task):
            for group in _groups(results):
                yield _entry(group, results, task, int(task_number), score, max_pixels)


def _answers(task: dict[str, Any]) -> Iterator[tuple[list[Any], Any]]:
    """Yield the results of each annotation that wasn't skipped, else of each prediction, and the latter's score."""
    given = task.get("annotations")
    annotations = [one for one in given if _is_answer(one)] if isinstance(given, list) else []
    if annotations:
        yield from ((annotation["result"], None) for annotation in annotations)
        return
    predicted = task.get("predictions")
    for prediction in predicted if isinstance(predicted, list) else ():
        if _is_answer(prediction):
            yield prediction["result"], prediction.get("score")


def _is_answer(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("result"), list) and not value.get("was_cancelled")


def _groups(results: list[Any]) -> Iterator[list[Any]]:
    """Yield results that are a prompt together: keypoints of the same parent region; else one by one."""
    families: dict[str, list[Any]] = {}
    for result in results:
        kind = _kind(result)
        if kind in _NO_SHAPES:
            continue
        parent = result.get("parentID") if kind == "keypoint" else None
        if not isinstance(parent, str) or not parent:
            yield [result]
        elif parent in families:
            families[parent].append(result)
        else:
            families[parent] = [result]
    yield from families.values()


def _kind(result: object) -> str:
    """Return the kind of a result without ``labels``, which tells only how the editor was set up."""
    kind = result.get("type") if isinstance(result, dict) else None
    if not isinstance(kind, str):
        return ""
    lower = kind.lower()
    return lower if lower in _NO_SHAPES else lower.removesuffix("labels")


def _entry(
    group: list[Any], results: list[Any], task: dict[str, Any], task_number: int, score: Any, max_pixels: int
) -> Entry:
    first = group[0] if isinstance(group[0], dict) else {}
    about: dict[str, Any] = {
        "id": first.get("id"),
        "label": _label(first, results),
        "score": first.get("score", score),
        **image_size(first.get("original_width"), first.get("original_height")),
    }
    about = {name: value for name, value in about.items() if value is not None}
    try:
        key = _image_key(task["data"], first)
    except BadInputError as error:
        return Entry(None, task_number, unparsed(group), str(error))
    try:
        return Entry(key, task_number, about | _shape(group, max_pixels))
    except BadInputError as error:
        return Entry(key, task_number, about | unparsed(group), str(error))


def _label(result: _Result, results: list[Any]) -> str | None:
    """Return the first label of a region: its own, or that of a result about the same region."""
    candidates = [result]
    if result.get("id") is not None:
        candidates += [one for one in results if isinstance(one, dict) and one.get("id") == result["id"]]
    for candidate in candidates:
        value, kind = candidate.get("value"), candidate.get("type")
        if isinstance(value, dict) and isinstance(kind, str) and kind.lower().endswith("labels"):
            labels = value.get(kind)
            if isinstance(labels, list) and labels and isinstance(labels[0], str):
                return clean_text(labels[0])
    return None


# --- shapes ----------------------------------------------------------------------------------------------------------


def _shape(group: list[Any], max_pixels: int) -> dict[str, Any]:
    first = group[0]
    if not isinstance(first, dict):
        raise malformed(f"a result must be an object, got {reprlib.repr(first)}")
    kind = _kind(first)
    value = first.get("value")
    if not isinstance(value, dict):
        raise malformed(f"the value of a result must be an object, got {reprlib.repr(value)}")
    if kind == "brush":
        return {"mask": _brush(first, value, max_pixels)}
    if kind == "keypoint":
        return {"units": "normalised", "points": [_fractions(_values(one), ("x", "y")) for one in group]}
    if kind not in _SHAPES:
        raise malformed(f"results of the type {reprlib.repr(first.get('type'))} are no prompts")
    return {"units": "normalised", **_SHAPES[kind](first, value)}


def _values(result: _Result) -> dict[str, Any]:
    value = result.get("value")
    return value if isinstance(value, dict) else {}


def _fractions(value: dict[str, Any], names: tuple[str, ...]) -> list[float]:
    return [number(value.get(name), f"the value's {name}") / 100 for name in names]


def _rectangle(result: _Result, value: dict[str, Any]) -> dict[str, Any]:
    x, y, width, height = _fractions(value, ("x", "y", "width", "height"))
    rotation = _rotation(value)
    if not rotation:
        return {"box": [x, y, x + width, y + height]}
    across, down = _sides(result)
    corners = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]
    pixels = [[cx * across, cy * down] for cx, cy in corners]
    x0, y0, x1, y1 = bounds(turned(pixels, (x * across, y * down), rotation))
    return {"box": [x0 / across, y0 / down, x1 / across, y1 / down]}


def _ellipse(result: _Result, value: dict[str, Any]) -> dict[str, Any]:
    x, y, radius_x, radius_y = _fractions(value, ("x", "y", "radiusX", "radiusY"))
    rotation = _rotation(value)
    across, down = _sides(result) if rotation else (1, 1)
    x0, y0, x1, y1 = ellipse_box(x * across, y * down, radius_x * across, radius_y * down, rotation)
    return {"box": [x0 / across, y0 / down, x1 / across, y1 / down]}


def _polygon(_: _Result, value: dict[str, Any]) -> dict[str, Any]:
    points = pairs(value.get("points"), "the value's points")
    return {"mask": {"polygon": [[part / 100 for point in points for part in point]]}}


_SHAPES: dict[str, Callable[[_Result, dict[str, Any]], dict[str, Any]]] = {
    "rectangle": _rectangle,
    "ellipse": _ellipse,
    "polygon": _polygon,
}


def _brush(result: _Result, value: dict[str, Any], max_pixels: int) -> dict[str, Any]:
    width, height = _sides(result)
    if width * height > max_pixels:
        raise malformed(f"the brush's image of {width} x {height} pixels is larger than input.max_pixels")
    if value.get("format") not in (None, "rle"):
        raise malformed(f"the brush's format {reprlib.repr(value['format'])} is not known; known is rle")
    return run_length_mask(decode_brush(value.get("rle"), width, height), 0, 0, width, height)


def _rotation(value: dict[str, Any]) -> float:
    rotation = value.get("rotation")
    return 0.0 if rotation is None else number(rotation, "the value's rotation")


def _sides(result: _Result) -> tuple[int, int]:
    size = image_size(result.get("original_width"), result.get("original_height")).get("image_size")
    if size is None:
        raise malformed("needs original_width and original_height")
    return size[0], size[1]


# --- images ----------------------------------------------------------------------------------------------------------


def _image_key(data: dict[str, Any], result: _Result) -> str:
    """Return the key of the image that a result is about.

    Raises:
        BadInputError: ``prompt_malformed``: the task's data name none.
    """
    from pipeline.sources.names import image_kind  # here, as the sources import the formats

    named = [result.get("to_name"), "image", "img", *data]
    for name in named:
        value = data.get(name) if isinstance(name, str) else None
        if isinstance(value, list):
            index = result.get("item_index", 0)
            value = value[index] if isinstance(index, int) and 0 <= index < len(value) else None
        if not isinstance(value, str) or value.startswith("data:"):
            continue
        key = image_key(value)
        if name in ("image", "img", result.get("to_name")) or image_kind(key):
            return key
    raise malformed(f"the task's data name no image, only {', '.join(map(reprlib.repr, list(data)[:5])) or 'nothing'}")


def image_key(reference: str) -> str:
    """Return the key for what a task's data call their image.

    ``/data/local-files/?d=PATH`` is PATH; other local paths, such as ``/data/upload/1/NAME``, are themselves, without
    ``/data`` and a slash in front; links that Label Studio resolves hold a URL in base64; URLs lose user and query.
    """
    try:
        parts = urlsplit(reference)
        query = parse_qs(parts.query)
    except ValueError:
        return clean_text(reference)
    if local := query.get("d"):
        return clean_text(local[0].replace("\\", "/")).lstrip("/")
    if hidden := query.get("fileuri"):
        try:
            return image_key(base64.urlsafe_b64decode(hidden[0] + "==").decode())
        except (binascii.Error, ValueError, RecursionError):
            pass
    if is_url(reference):
        return clean_text(public_uri(reference))
    return (
        clean_text(unquote(parts.path if parts.query else reference).replace("\\", "/"))
        .lstrip("/")
        .removeprefix("data/")
    )


def image_names(key: str) -> Iterator[str]:
    """Yield what else an image of such a key may be called: endings of its path, and its name before the upload."""
    plain = unquote(key) if key.startswith(("http://", "https://")) else key
    yield from path_endings(plain)
    if uploaded := _UPLOADED.search(plain):
        yield uploaded[1]
