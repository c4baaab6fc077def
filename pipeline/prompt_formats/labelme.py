"""LabelMe's JSON: a file per image, with its shapes.

Rectangles and circles become boxes, polygons and masks masks, points points. Shapes of the same group and label are
parts of one object: polygons become one mask, points one prompt.
"""

from __future__ import annotations

import base64
import binascii
import math
import reprlib
from collections.abc import Iterator
from typing import Any

from pipeline.errors import BadInputError
from pipeline.masks import decode_png
from pipeline.prompt_formats.base import (
    LabelContext,
    LabelFormat,
    bounds,
    image_size,
    malformed,
    pairs,
    parse_document,
    unparsed,
)
from pipeline.prompt_formats.run_lengths import run_length_mask
from pipeline.prompts import Entry
from sdmatte.errors import PromptError
from sdmatte.prompts import Mask

_NO_PROMPTS = frozenset({"line", "linestrip"})
_POINTS, _OUTLINES = ("point", "points"), ("polygon", "rotation", "oriented_rectangle")


def _read(data: bytes, context: LabelContext) -> Iterator[Entry]:
    try:
        content = parse_document(data)
    except (ValueError, RecursionError) as error:
        raise malformed(f"not valid JSON: {error}") from None
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        raise malformed('no LabelMe file: it must be an object with a list "shapes"')
    size = image_size(content.get("imageWidth"), content.get("imageHeight"))
    for numbered in _groups(shapes):
        place, shape = numbered[0]
        about = _about(shape) | size
        try:
            native = _native([one for _, one in numbered], size.get("image_size"), context.max_pixels)
            yield Entry("", place, about | native)
        except BadInputError as error:
            yield Entry("", place, about | unparsed([one for _, one in numbered]), str(error))


LABELME = LabelFormat(".json", "shape", _read)


def _kind(shape: Any) -> Any:
    return (shape.get("shape_type") or "polygon") if isinstance(shape, dict) else None  # old files have no type


def _groups(shapes: list[Any]) -> Iterator[list[tuple[int, Any]]]:
    """Yield shapes, with their numbers from 1, that are a prompt together."""
    groups: dict[tuple[str, ...], list[tuple[int, Any]]] = {}
    for place, shape in enumerate(shapes, 1):
        kind = _kind(shape)
        if isinstance(kind, str) and kind in _NO_PROMPTS:
            continue
        kind = "points" if kind in _POINTS else "outlines" if kind in _OUTLINES else None
        group = shape.get("group_id") if kind else None
        if isinstance(group, int | str) and not isinstance(group, bool):
            groups.setdefault((str(kind), str(group), repr(shape.get("label"))), []).append((place, shape))
        else:
            groups["", str(place)] = [(place, shape)]
    yield from groups.values()


def _about(shape: Any) -> dict[str, Any]:
    if not isinstance(shape, dict):
        return {}
    return {name: shape[name] for name in ("label", "score") if isinstance(shape.get(name), str | int | float)}


def _native(shapes: list[Any], size: list[int] | None, max_pixels: int) -> dict[str, Any]:
    first = shapes[0]
    if not isinstance(first, dict):
        raise malformed(f"a shape must be an object, got {reprlib.repr(first)}")
    kind = _kind(first)
    points = pairs(first.get("points"), "points")
    if kind in _POINTS:
        return {"points": [pair for shape in shapes for pair in pairs(shape.get("points"), "points")]}
    if kind in _OUTLINES:
        outlines = [pairs(shape.get("points"), "points") for shape in shapes]
        return {"mask": {"polygon": [[part for point in outline for part in point] for outline in outlines]}}
    if kind == "rectangle" and len(points) >= 2:
        return {"box": bounds(points)}
    if kind == "circle" and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        return {"box": bounds([[x - radius, y - radius], [x + radius, y + radius]])}
    if kind == "mask":
        return {"mask": _mask(first.get("mask"), points, size, max_pixels)}
    raise malformed(f"shapes of the type {reprlib.repr(kind)} with {len(points)} points are no prompts")


def _mask(data: object, points: list[list[float]], size: list[int] | None, max_pixels: int) -> dict[str, Any]:
    """Return a mask, of which the file has the part at the first point, as a PNG in base64."""
    if size is None or size[0] * size[1] > max_pixels:
        raise malformed("a mask needs imageWidth and imageHeight, of at most input.max_pixels pixels")
    if not isinstance(data, str):
        raise malformed(f"mask must be a PNG in base64, got {reprlib.repr(data)}")
    left, top = bounds(points)[:2]
    if not (0 <= left < size[0] and 0 <= top < size[1]):
        raise malformed(f"the mask at {left}, {top} leaves its image of {size[0]} x {size[1]} pixels")
    try:
        png = base64.b64decode("".join(data.split()), validate=True)
        inside = Mask(decode_png(png, size[0] * size[1])).binary()
    except (binascii.Error, ValueError):
        raise malformed("mask is not valid base64") from None
    except PromptError as error:
        raise malformed(str(error)) from None
    return run_length_mask(inside, int(left), int(top), *size)
