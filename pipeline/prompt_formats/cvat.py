"""CVAT's XML export "CVAT for images 1.1", read as a stream.

Boxes and ellipses become boxes, polygons and masks masks, points points. The parser knows no entities and no document
type: a file that declares one is refused, whatever it says.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator
from typing import Any
from xml.parsers import expat

import numpy as np

from pipeline.config import LabelConfig
from pipeline.errors import BadInputError, ConfigurationError
from pipeline.prompt_formats.base import (
    PromptFile,
    bounds,
    ellipse_box,
    image_size,
    malformed,
    path_endings,
    text_number,
    turned,
    unparsed,
)
from pipeline.prompt_formats.run_lengths import run_length_mask
from pipeline.prompts import Entry, clean_text
from pipeline.storage import open_stream, public_uri

_CHUNK = 2**20
_LONGEST = 64 * 2**20  # bytes of an element; one of a mask has some ten thousand
_DEEPEST = 50  # elements in elements; CVAT's own have five
_NO_PROMPTS = frozenset({"tag", "polyline", "cuboid", "skeleton"})
_Attributes = dict[str, str]


def read_cvat(config: LabelConfig) -> PromptFile:
    """Read ``prompts.path``, a piece at a time.

    Raises:
        ConfigurationError: While it is read: it isn't such a file, is damaged, or declares a document type.
    """
    assert config.prompts.path is not None
    return PromptFile(_entries(config.prompts.path, config), "line", aliases=path_endings)


def _entries(path: str, config: LabelConfig) -> Iterator[Entry]:
    reader = _Reader(f"prompts.path {public_uri(path)}", config.input.max_pixels)
    with open_stream(path, retries=config.workers.retries) as stream:
        while chunk := stream.read(_CHUNK):
            yield from reader.feed(chunk)
        yield from reader.feed(b"", last=True)


class _Reader:
    """Turns pieces of a file into prompts."""

    def __init__(self, name: str, max_pixels: int) -> None:
        self._name = name
        self._max_pixels = max_pixels
        self._found: list[Entry] = []
        self._depth = 0
        self._image: _Attributes | None = None
        self._unread = 0  # bytes since the last element began
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._parser.EntityDeclHandler = self._refuse_doctype

    def feed(self, chunk: bytes, *, last: bool = False) -> list[Entry]:
        """Parse a piece; return the prompts that end in it."""
        self._unread += len(chunk)
        if self._unread > _LONGEST:
            raise ConfigurationError(f"{self._name} has no element in {_LONGEST} bytes: it is no CVAT export")
        self._found = []
        try:
            self._parser.Parse(chunk, last)
        except expat.ExpatError as error:
            raise ConfigurationError(
                f"{self._name} is not valid XML, or breaks off ({error}); export it again as CVAT for images 1.1"
            ) from None
        return self._found

    def _refuse_doctype(self, *_: object) -> None:
        raise ConfigurationError(
            f"{self._name} declares a document type or an entity, which CVAT's files never do; it is not read"
        )

    def _start(self, tag: str, attributes: _Attributes) -> None:
        self._unread = 0
        self._depth += 1
        if self._depth == 1 and tag != "annotations":
            raise ConfigurationError(f"{self._name} is no CVAT export: its outermost element is <{tag[:50]}>")
        if self._depth > _DEEPEST:
            raise ConfigurationError(f"{self._name} is nested too deeply for a CVAT export")
        if self._depth == 2 and tag == "track":
            raise ConfigurationError(
                f"{self._name} is CVAT for video, which has tracks; export it as CVAT for images 1.1"
            )
        if self._depth == 2 and tag == "image":
            self._image = attributes
        elif self._depth == 3 and self._image is not None and tag not in _NO_PROMPTS:
            self._found.append(self._entry(tag, attributes, self._image))

    def _end(self, _: str) -> None:
        if self._depth == 2:
            self._image = None
        self._depth -= 1

    def _entry(self, tag: str, shape: _Attributes, image: _Attributes) -> Entry:
        line = self._parser.CurrentLineNumber
        content: dict[str, Any] = image_size(image.get("width"), image.get("height"))
        if label := shape.get("label"):
            content["label"] = label
        name = clean_text(image.get("name", "").replace("\\", "/")).lstrip("/")
        fault = None if name else "its <image> has no name"
        try:
            if "score" in shape:
                content["score"] = text_number(shape["score"], "score")
            content |= self._shape(tag, shape, content.get("image_size"))
        except BadInputError as error:
            fault = str(error)
            content |= unparsed([tag, shape])
        return Entry(name or None, line, content, fault)

    def _shape(self, tag: str, shape: _Attributes, size: list[int] | None) -> dict[str, Any]:
        if tag == "mask":
            return {"mask": _mask(shape, size, self._max_pixels)}
        if tag not in _SHAPES:
            raise malformed(f"elements <{tag[:50]}> are no prompts")
        return _SHAPES[tag](shape)


# --- shapes ----------------------------------------------------------------------------------------------------------


def _numbers(shape: _Attributes, *names: str) -> list[float]:
    return [text_number(shape.get(name), name) for name in names]


def _rotation(shape: _Attributes) -> float:
    return text_number(shape.get("rotation", "0"), "rotation")


def _box(shape: _Attributes) -> dict[str, Any]:
    x0, y0, x1, y1 = box = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
    rotation = _rotation(shape)
    if rotation:
        corners = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
        box = bounds(turned(corners, ((x0 + x1) / 2, (y0 + y1) / 2), rotation))
    return {"box": box}


def _ellipse(shape: _Attributes) -> dict[str, Any]:
    x, y, radius_x, radius_y = _numbers(shape, "cx", "cy", "rx", "ry")
    return {"box": ellipse_box(x, y, radius_x, radius_y, _rotation(shape))}


def _pairs(shape: _Attributes) -> list[list[float]]:
    """Read ``x,y;x,y``."""
    text = shape.get("points", "")
    points = [part.split(",") for part in text.strip().strip(";").split(";")]
    if any(len(point) != 2 for point in points):
        raise malformed(f"points must be x,y;x,y;..., got {reprlib.repr(text)}")
    return [[text_number(x, "points"), text_number(y, "points")] for x, y in points]


def _polygon(shape: _Attributes) -> dict[str, Any]:
    return {"mask": {"polygon": [[part for point in _pairs(shape) for part in point]]}}


def _points(shape: _Attributes) -> dict[str, Any]:
    return {"points": _pairs(shape)}


_SHAPES: dict[str, Callable[[_Attributes], dict[str, Any]]] = {
    "box": _box,
    "ellipse": _ellipse,
    "polygon": _polygon,
    "points": _points,
}


def _mask(shape: _Attributes, size: list[int] | None, max_pixels: int) -> dict[str, Any]:
    """Decode ``rle``: runs of outside and inside pixels in turn, row by row, of the part at ``left``, ``top``."""
    if size is None or size[0] * size[1] > max_pixels:
        raise malformed("a mask needs the width and height of its <image>, of at most input.max_pixels pixels")
    left, top, width, height = (_count(shape.get(name), name) for name in ("left", "top", "width", "height"))
    if not 0 < width * height <= size[0] * size[1]:
        raise malformed(f"the mask of {width} x {height} pixels is not a part of its image")
    runs = [_count(run, "rle") for run in shape.get("rle", "").split(",")]
    if sum(runs) != width * height:
        raise malformed(f"the mask's rle adds up to {sum(runs)} pixels, not to its {width} x {height}")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return run_length_mask(inside, left, top, *size)


def _count(text: str | None, what: str) -> int:
    number = text_number(text, what)
    if not 0 <= number < 2**31 or number != int(number):
        raise malformed(f"the mask's {what} must be a whole number, got {reprlib.repr(text)}")
    return int(number)
