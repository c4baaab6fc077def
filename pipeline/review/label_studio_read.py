"""What people did in Label Studio, as reviews; nothing in an export is trusted."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BadInputError
from pipeline.prompt_formats.base import image_size, malformed
from pipeline.prompt_formats.brush import decode_levels
from pipeline.prompts import clean_text
from pipeline.review.items import Returned, ReturnFault
from pipeline.review.label_studio_config import COMMENT, MODEL_VERSION, VERDICT
from pipeline.review.schema import Verdict
from sdmatte.images import MAX_PIXELS

_BRUSHES = ("brushlabels", "brush")
_ID = re.compile(r"-?\d{1,19}")
_LONGEST = 10_000  # characters of a comment or name

_Mask = NDArray[np.uint8]
_LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


def read(tasks: Iterable[object], *, max_pixels: int = MAX_PIXELS) -> Iterator[Returned | ReturnFault]:
    """Make reviews of tasks; those that nobody submitted an annotation for are passed over.

    * Of several annotations of a task the one that was last changed counts; those that were skipped don't.
    * The mask is the maximum of all brush regions; strokes of the eraser are in them. All 256 levels are kept, so a
      region that nobody touched comes back bit for bit. An annotation without brush: all was erased, where it began
      with the matte; where it began empty, nothing is said about the mask.
    * Boxes and points are those of the prompt, and are not read back.

    Args:
        tasks: From :func:`pipeline.review.label_studio.pull`, or those of a project's export as "JSON".
        max_pixels: Limit on width x height of a mask, checked before anything is decoded.

    Yields:
        Per task a review, or what is wrong with it. No exception leaves for any content.
    """
    for place, task in enumerate(tasks, 1):
        identifier = task.get("id") if isinstance(task, Mapping) else None
        where = f"task {identifier if isinstance(identifier, int) else f'number {place}'}"
        try:
            returned = _read(task, max_pixels)
        except BadInputError as error:
            yield ReturnFault(where, str(error))
        else:
            if returned is not None:
                yield returned


def _read(task: object, max_pixels: int) -> Returned | None:
    if not isinstance(task, Mapping) or not isinstance(data := task.get("data"), Mapping):
        raise malformed('it is no task with data; export the project as "JSON" (not as JSON-MIN)')
    record, run = data.get("record_id"), data.get("run_id")
    if not isinstance(record, str) or not isinstance(run, str) or not _ID.fullmatch(record):
        raise malformed("it names no record and run: it is of another project, or was made by hand")
    if not -(2**63) <= int(record) < 2**63:
        raise malformed(f"record {record} can't exist: ids have 64 bits")
    annotation = _newest(task.get("annotations"))
    if annotation is None:
        return None
    size = image_size(data.get("width"), data.get("height")).get("image_size")
    if size is None or size[0] * size[1] > max_pixels:
        raise malformed(f"its image's size is not known, or more than {max_pixels} pixels: export that object again")
    width, height = size
    results = [result for result in annotation["result"] if isinstance(result, Mapping)]
    mask = _mask(results, width, height)
    shown = _shown(task, annotation, data, width, height)
    if mask is None and annotation.get("parent_prediction") and data.get("has_matte") is not False:
        mask = np.zeros((height, width), np.uint8)
    return Returned(
        record_id=int(record),
        run_id=clean_text(run),
        tool="label_studio",
        verdict=_verdict(results),
        mask=mask,
        shown=shown,
        reviewer=_reviewer(annotation.get("completed_by")),
        reviewed_at=_when(annotation),
        review_id=str(annotation["id"]) if isinstance(annotation.get("id"), int | str) else None,
        comment=_comment(results),
    )


def _newest(annotations: object) -> Mapping[str, Any] | None:
    """Return the annotation that was last changed, of those that were submitted."""
    if annotations is None:
        return None
    if not isinstance(annotations, list):
        raise malformed("its annotations are no list; export the project again")
    submitted = []
    for one in annotations:
        if not isinstance(one, Mapping) or not isinstance(one.get("result"), list):
            raise malformed('an annotation has no list of results; export the project as "JSON"')
        if not one.get("was_cancelled"):
            submitted.append(one)
    numbers = [one["id"] if isinstance(one.get("id"), int) else -1 for one in submitted]
    order = sorted(zip(submitted, numbers, strict=True), key=lambda pair: (_when(pair[0]) or _LONG_AGO, pair[1]))
    return order[-1][0] if order else None


def _when(annotation: Mapping[str, Any]) -> datetime | None:
    for name in ("updated_at", "created_at"):
        try:
            when = datetime.fromisoformat(annotation[name])
        except (KeyError, TypeError, ValueError):
            continue
        try:
            return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC)
        except OverflowError:
            continue
    return None


def _reviewer(by: object) -> str | None:
    if isinstance(by, Mapping):
        by = next((by[name] for name in ("email", "username", "id") if by.get(name)), None)
    if isinstance(by, bool) or not isinstance(by, str | int):
        return None
    return clean_text(str(by))[:_LONGEST]


# --- masks -----------------------------------------------------------------------------------------------------------


def _mask(results: Iterable[Mapping[str, Any]], width: int, height: int) -> _Mask | None:
    """Return the maximum of all brush regions; None without any."""
    union: _Mask | None = None
    for result in results:
        kind = result.get("type")
        if not isinstance(kind, str) or kind.lower() not in _BRUSHES:
            continue
        value = result.get("value")
        if not isinstance(value, Mapping):
            raise malformed("a brush region has no value; export the project again")
        size = image_size(result.get("original_width"), result.get("original_height")).get("image_size")
        if size != [width, height]:
            raise malformed(f"a brush region is for {size} pixels, the record's image has {width} x {height}")
        if value.get("format") not in (None, "rle"):
            raise malformed(f"a brush region has the format {reprlib.repr(value['format'])}; known is rle")
        if value.get("rle") is None and value.get("touches"):
            raise malformed("a brush region holds strokes that were not submitted; open the task, and submit it")
        levels = decode_levels(value.get("rle"), width, height)
        union = levels if union is None else np.maximum(union, levels)
    return union


def _shown(
    task: Mapping[str, Any], annotation: Mapping[str, Any], data: Mapping[str, Any], width: int, height: int
) -> _Mask | None:
    """Return what the annotation began with, where the task keeps it."""
    if data.get("has_matte") is False:
        return np.zeros((height, width), np.uint8)
    given = task.get("predictions")
    candidates = [annotation.get("prediction"), *(given if isinstance(given, list) else ())]
    for prediction in candidates:
        if not isinstance(prediction, Mapping) or prediction.get("model_version") != MODEL_VERSION:
            continue
        results = prediction.get("result")
        if isinstance(results, list) and results:
            return _mask([result for result in results if isinstance(result, Mapping)], width, height)
    return None


# --- verdicts and comments -------------------------------------------------------------------------------------------


def _values(results: Iterable[Mapping[str, Any]], control: str, kind: str) -> list[str]:
    found: list[str] = []
    for result in results:
        value = result.get("value")
        if result.get("from_name") != control or not isinstance(value, Mapping):
            continue
        texts = value.get(kind)
        found += [text for text in (texts if isinstance(texts, list) else [texts]) if isinstance(text, str)]
    return found


def _verdict(results: list[Mapping[str, Any]]) -> Verdict | None:
    given = _values(results, VERDICT, "choices")
    if len(set(given)) > 1 or not {*given} <= {*get_args(Verdict)}:
        raise malformed(f"its verdict is {reprlib.repr(given)}; it must be one of {', '.join(get_args(Verdict))}")
    return cast("Verdict", given[0]) if given else None


def _comment(results: list[Mapping[str, Any]]) -> str | None:
    text = "\n".join(_values(results, COMMENT, "text"))
    return clean_text(text)[:_LONGEST] or None
