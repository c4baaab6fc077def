"""CVAT: cores go there as "CVAT for images 1.1", and come back from its export of that name.

``annotations.xml``, ``images/``, and ``labels.json``, the labels for the task's constructor ("Raw"). The object is
known by the attributes `record_id` and `run_id` of its mask, which CVAT keeps when a mask is edited.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import ConfigurationError
from pipeline.prompt_formats.base import image_size, malformed, text_number
from pipeline.review.binary import Attributes, CoreExport, CoreImage, Shapes, Shown, add_shape, gather, printable
from pipeline.review.items import Returned, ReturnFault, ReviewExport, ReviewItem
from sdmatte.images import MAX_PIXELS
from sdmatte.urls import redact

ANNOTATIONS_FILE = "annotations.xml"
LABELS_FILE = "labels.json"

_CHUNK = 2**20
_LONGEST = 64 * 2**20  # bytes of an element
_DEEPEST = 50
_TEXT = 20_000  # characters of an attribute
_SELECT = {"verdict": ["none", "accept", "fix", "reject"]}


# --- export ----------------------------------------------------------------------------------------------------------


def export(items: Iterable[ReviewItem], folder: str, *, title: str) -> ReviewExport:
    """Write a task: pictures, labels, and annotations last.

    Args:
        items: The objects, in the order of their ranks.
        folder: New or empty, local or any URL.
        title: Of the task.

    Raises:
        ConfigurationError: The folder is not empty, or can't be written to.
        TransientError: The store failed repeatedly.
    """
    folder = storage.absolute(folder)
    gathered = gather(items, folder, encode_core)
    labels = json.dumps(_label_spec(gathered.labels), indent=1, ensure_ascii=False)
    storage.write_bytes_atomic(storage.join(folder, LABELS_FILE), labels.encode())
    text = "\n".join(_document(gathered, title))
    storage.write_bytes_atomic(storage.join(folder, ANNOTATIONS_FILE), text.encode())
    return ReviewExport(folder, gathered.objects, (ANNOTATIONS_FILE, LABELS_FILE), tuple(gathered.left_out))


def encode_core(core: NDArray[np.bool_]) -> Attributes:
    """Encode a mask as the attributes of CVAT's element <mask>; as ``cvat_sdk.masks.encode_mask`` does.

    Args:
        core: ``(H, W)``.

    Returns:
        `rle`: runs of outside and inside pixels in turn, row by row of the bounding box at `left`, `top`, of `width` x
        `height` pixels. An empty mask is one pixel outside.
    """
    rows, columns = np.flatnonzero(core.any(axis=1)), np.flatnonzero(core.any(axis=0))
    top, bottom, left, right = (rows[0], rows[-1], columns[0], columns[-1]) if len(rows) else (0, 0, 0, 0)
    flat = core[top : bottom + 1, left : right + 1].ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    runs = np.diff(edges, prepend=0, append=len(flat))
    box = {"left": left, "top": top, "width": right - left + 1, "height": bottom - top + 1}
    return {"rle": ", ".join(map(str, runs.tolist())), **{name: str(value) for name, value in box.items()}}


def _label_spec(labels: Iterable[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": label,
            "type": "mask",
            "attributes": [
                {
                    "name": name,
                    "input_type": "select" if name in _SELECT else "text",
                    "mutable": False,
                    "values": _SELECT.get(name, [""]),
                    "default_value": _SELECT.get(name, [""])[0],
                }
                for name in ("verdict", "comment", "record_id", "run_id", "predicted_mad", "rank")
            ],
        }
        for label in labels
    ]


def _document(gathered: CoreExport[Attributes], title: str) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="utf-8"?>'
    yield "<annotations>\n  <version>1.1</version>\n  <meta>\n    <task>"
    yield f"      <name>{escape(printable(title))}</name>\n      <size>{len(gathered.images)}</size>"
    yield "      <mode>annotation</mode>\n      <overlap>0</overlap>\n      <labels>"
    for label in _label_spec(gathered.labels):
        yield f"        <label>\n          <name>{escape(label['name'])}</name>\n          <type>mask</type>"
        yield "          <attributes>"
        for attribute in label["attributes"]:
            values = escape("\n".join(attribute["values"]))
            yield (
                f"            <attribute><name>{attribute['name']}</name><mutable>False</mutable>"
                f"<input_type>{attribute['input_type']}</input_type>"
                f"<default_value>{attribute['default_value']}</default_value><values>{values}</values></attribute>"
            )
        yield "          </attributes>\n        </label>"
    yield "      </labels>\n    </task>\n  </meta>"
    for number, image in enumerate(gathered.images):
        yield from _image_element(number, image)
    yield "</annotations>\n"


def _image_element(number: int, image: CoreImage[Attributes]) -> Iterator[str]:
    yield f'  <image id="{number}" name={quoteattr(image.name)} width="{image.width}" height="{image.height}">'
    for each in image.objects:
        shape = " ".join(f"{name}={quoteattr(value)}" for name, value in each.core.items())
        yield f'    <mask label={quoteattr(each.label)} source="auto" occluded="0" {shape} z_order="0">'
        for name, value in each.attributes.items():
            yield f'      <attribute name="{name}">{escape(printable(value))}</attribute>'
        yield "    </mask>"
    yield "  </image>"


# --- import ----------------------------------------------------------------------------------------------------------


def read(uri: str, *, max_pixels: int = MAX_PIXELS) -> Iterator[Returned | ReturnFault]:
    """Read CVAT's export "CVAT for images 1.1", one image at a time.

    Several masks of one record are one: their union. An object that is not there any more says nothing; to drop one,
    the verdict is reject.

    Args:
        uri: The XML file.
        max_pixels: Limit on width x height of an image, checked before anything is decoded.

    Yields:
        Per object what came back, or what is wrong with it.

    Raises:
        ConfigurationError: It is no such file, is damaged, or declares a document type.
        NotFoundError: It isn't there.
        TransientError: The store failed repeatedly.
    """
    reader = _Reader(redact(uri), max_pixels)
    with storage.open_stream(uri) as stream:
        while chunk := stream.read(_CHUNK):
            yield from reader.feed(chunk)
        yield from reader.feed(b"", last=True)


class _Reader:
    """Turns pieces of a file into what came back; masks are decoded as they are asked for.

    The parser knows no entities and no document type: a file that declares one is refused, whatever it says.
    """

    def __init__(self, name: str, max_pixels: int) -> None:
        self._name = name
        self._max_pixels = max_pixels
        self._path: list[str] = []
        self._image: Attributes = {}
        self._shape: Attributes = {}
        self._line = 0
        self._attributes: Attributes = {}
        self._attribute: str | None = None
        self._text: list[str] = []
        self._unread = 0
        self._shapes: dict[Shown, Shapes] = {}
        self._seen: dict[Shown, str] = {}
        self._done: list[Shapes | ReturnFault] = []
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._parser.EntityDeclHandler = self._refuse_doctype

    def feed(self, chunk: bytes, *, last: bool = False) -> Iterator[Returned | ReturnFault]:
        self._unread += len(chunk)
        if self._unread > _LONGEST:
            raise ConfigurationError(f"{self._name} has no element in {_LONGEST} bytes: it is no CVAT export")
        try:
            self._parser.Parse(chunk, last)
        except expat.ExpatError as error:
            raise ConfigurationError(
                f"{self._name} is not valid XML, or breaks off ({error}); export it again as CVAT for images 1.1"
            ) from None
        done, self._done = self._done, []
        for each in done:
            yield each if isinstance(each, ReturnFault) else each.returned("cvat")

    def _refuse_doctype(self, *_: object) -> None:
        raise ConfigurationError(
            f"{self._name} declares a document type or an entity, which CVAT's files never do; it is not read"
        )

    def _start(self, tag: str, attributes: Attributes) -> None:
        self._unread = 0
        self._path.append(tag)
        depth = len(self._path)
        if depth == 1 and tag != "annotations":
            raise ConfigurationError(f"{self._name} is no CVAT export: its outermost element is <{tag[:50]}>")
        if depth > _DEEPEST:
            raise ConfigurationError(f"{self._name} is nested too deeply for a CVAT export")
        if depth == 2 and tag == "track":
            raise ConfigurationError(f"{self._name} is CVAT for video; export it as CVAT for images 1.1")
        if self._path[:2] != ["annotations", "image"]:
            return
        if depth == 2:
            self._image, self._shapes = attributes, {}
        elif depth == 3:
            self._shape, self._attributes, self._line = attributes, {}, self._parser.CurrentLineNumber
        elif depth == 4 and tag == "attribute":
            self._attribute, self._text = attributes.get("name", ""), []

    def _characters(self, text: str) -> None:
        if self._attribute is not None and sum(map(len, self._text)) < _TEXT:
            self._text.append(text[:_TEXT])

    def _end(self, tag: str) -> None:
        inside = self._path[:2] == ["annotations", "image"]
        depth = len(self._path)
        self._path.pop()
        if not inside:
            return
        if depth == 4 and self._attribute is not None:
            self._attributes[self._attribute] = "".join(self._text)
            self._attribute = None
        elif depth == 3 and tag != "tag":
            self._add(tag)
        elif depth == 2:
            self._done += [self._once(shown, shapes) for shown, shapes in self._shapes.items()]

    def _once(self, shown: Shown, shapes: Shapes) -> Shapes | ReturnFault:
        """Refuse what came already with another image: which of the two counts would be a guess."""
        if (first := self._seen.setdefault(shown, shapes.where)) != shapes.where:
            return ReturnFault(shapes.where, f"the same record came already ({first}), and counts as it is there")
        return shapes

    def _add(self, tag: str) -> None:
        where = f"image {self._image.get('name', '')[:200]}, line {self._line}"
        if tag != "mask":
            fault: ReturnFault | None = ReturnFault(where, f"<{tag[:50]}> is no mask, and only masks are read")
        else:
            mask: Callable[[], NDArray[np.bool_]] = partial(decode_core, self._shape, self._image, self._max_pixels)
            fault = add_shape(self._shapes, where, self._attributes, mask)
        if fault is not None:
            self._done.append(fault)


def decode_core(shape: Attributes, image: Attributes, max_pixels: int = MAX_PIXELS) -> NDArray[np.bool_]:
    """Decode a <mask> at the size of its <image>.

    Args:
        shape: Attributes of the mask, see :func:`encode_core`.
        image: Attributes of the image, of which `width` and `height` are used.
        max_pixels: Limit on their product.

    Returns:
        ``(height, width)``.

    Raises:
        BadInputError: ``prompt_malformed``.
    """
    size = image_size(image.get("width"), image.get("height")).get("image_size")
    if size is None or size[0] * size[1] > max_pixels:
        raise malformed(f"its <image> needs width and height, of at most {max_pixels} pixels")
    left, top, width, height = (_count(shape.get(name), name) for name in ("left", "top", "width", "height"))
    if not (width and height and left + width <= size[0] and top + height <= size[1]):
        raise malformed(f"the mask of {width} x {height} pixels at {left}, {top} is not a part of its image")
    runs = [_count(run, "rle") for run in shape.get("rle", "").split(",")]
    if sum(runs) != width * height:
        raise malformed(f"the mask's rle adds up to {sum(runs)} pixels, not to its {width} x {height}")
    inside = np.zeros((size[1], size[0]), bool)
    part = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    inside[top : top + height, left : left + width] = part
    return inside


def _count(text: str | None, what: str) -> int:
    number = text_number(text, what)
    if not 0 <= number < 2**31 or number != int(number):
        raise malformed(f"the mask's {what} must be a whole number, got {(text or '')[:50]!r}")
    return int(number)
