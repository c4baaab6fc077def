"""What the exports for binary tools, CVAT and COCO, share: pictures, cores, and what is left out.

Such tools keep a mask of two values. They are given the core, alpha >= 128 of 255, and what comes back is compared
with that core, so soft edges that nobody touched stay (:mod:`pipeline.review.merge`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import BadInputError
from pipeline.folders import require_empty
from pipeline.ids import show
from pipeline.prompt_formats.base import malformed
from pipeline.prompts import clean_text
from pipeline.review.items import Returned, ReturnFault, ReviewItem
from pipeline.review.merge import shown_alpha
from pipeline.review.pictures import picture_of, shown_mask, size_of
from pipeline.review.schema import Verdict
from sdmatte.urls import redact

IMAGES_FOLDER = "images"
"""Of an export: the pictures, upright, worst first by name."""

_LONGEST = 10_000  # characters of a comment
_LABEL = 64  # characters of a label; CVAT takes no more

_Encoded = TypeVar("_Encoded")
Attributes = dict[str, str]

Shown = tuple[int, str]
"""record_id and run_id of what a tool was given."""


@dataclass(frozen=True)
class CoreObject(Generic[_Encoded]):
    """One object of an image.

    Attributes:
        label: The category's name.
        attributes: `record_id` and `run_id`, which bring it back, and what a reviewer sees or fills in: `verdict`,
            `comment`, `predicted_mad`, `rank`.
        core: The mask, as the tool's format has it.
    """

    label: str
    attributes: Attributes
    core: _Encoded


@dataclass
class CoreImage(Generic[_Encoded]):
    """An image with its objects.

    Attributes:
        name: Of the picture file in ``images/``.
        width: Pixels.
        height: Pixels.
        objects: The first is the worst.
    """

    name: str
    width: int
    height: int
    objects: list[CoreObject[_Encoded]] = field(default_factory=list)


@dataclass(frozen=True)
class CoreExport(Generic[_Encoded]):
    """What is to be written.

    Attributes:
        images: In the order of their worst objects.
        left_out: Objects that can't be shown, and why.
    """

    images: list[CoreImage[_Encoded]]
    left_out: list[ReturnFault]

    @property
    def objects(self) -> int:
        """How many are shown."""
        return sum(len(image.objects) for image in self.images)

    @property
    def labels(self) -> list[str]:
        """Names of the categories, sorted."""
        return sorted({each.label for image in self.images for each in image.objects})


def gather(
    items: Iterable[ReviewItem], folder: str, encode: Callable[[NDArray[np.bool_]], _Encoded]
) -> CoreExport[_Encoded]:
    """Write the pictures, and gather the objects by image; of the pixels only their encoded cores stay in memory.

    Args:
        items: The objects, in the order of their ranks.
        folder: Of the export: new or empty.
        encode: Makes of a ``(H, W)`` core what the tool's format has.

    Raises:
        ConfigurationError: The folder is not empty, or can't be written to.
        TransientError: The store failed repeatedly.
    """
    require_empty(folder, "the export")
    images: dict[tuple[Any, ...], CoreImage[_Encoded]] = {}
    left_out: list[ReturnFault] = []
    seen: set[int] = set()
    for item in items:
        record = item.record
        try:
            if record["record_id"] in seen:
                raise malformed("the object is there twice; once is enough")
            core = shown_alpha(shown_mask(record), binary=True) > 0
            each = CoreObject(_label(record), _attributes(item), encode(core))
            image = _image(item, images, folder)  # last: its picture is not written for an object that is left out
        except BadInputError as error:
            where = f"record {record['record_id']} of {redact(item.output)}"
            left_out.append(ReturnFault(where, f"left out ({error.code}): {error}"))
            continue
        seen.add(record["record_id"])
        image.objects.append(each)
    return CoreExport([image for image in images.values() if image.objects], left_out)


def _image(item: ReviewItem, images: dict[tuple[Any, ...], CoreImage[_Encoded]], folder: str) -> CoreImage[_Encoded]:
    """Return the image of an object; its picture is written with the first of them."""
    record, size = item.record, size_of(item.record)
    key = (record["image_id"], record["image_uri"], record["image_sha256"], size)
    if key not in images:
        picture = picture_of(item)
        # Tools sort by name: the number keeps the worst first. Keys of the input never become paths.
        name = f"{len(images):06d}-{show(record['image_id'] or 0)}.{picture.suffix}"
        storage.write_bytes_atomic(storage.join(folder, IMAGES_FOLDER, name), picture.data)
        images[key] = CoreImage(name, *size)
    return images[key]


def _label(record: dict[str, Any]) -> str:
    return printable(record["label"] or "")[:_LABEL].strip() or "object"


def _attributes(item: ReviewItem) -> Attributes:
    record = item.record
    error = record["predicted_mad"]
    return {
        "record_id": str(record["record_id"]),  # as text: many readers round numbers of 64 bits
        "run_id": str(record["run_id"]),
        "verdict": "none",
        "comment": "",
        "predicted_mad": "" if error is None else f"{error:.4f}",
        "rank": str(item.rank),
    }


def printable(text: str) -> str:
    """Return text on one line, without characters that XML can't hold."""
    return "".join(letter if letter.isprintable() else " " for letter in clean_text(text))


# --- back ------------------------------------------------------------------------------------------------------------


@dataclass
class Shapes:
    """What a tool holds of one object.

    Attributes:
        where: For people.
        attributes: Of its first shape.
        masks: Each gives ``(H, W)`` booleans when it is called, or raises BadInputError.
        contradiction: What its shapes disagree about: then none of them counts.
    """

    where: str
    attributes: Attributes
    masks: list[Callable[[], NDArray[np.bool_]]] = field(default_factory=list)
    contradiction: str | None = None

    def returned(self, tool: str) -> Returned | ReturnFault:
        """Decode the masks, whose union is the object's, and what the reviewer said."""
        if self.contradiction is not None:
            return ReturnFault(self.where, self.contradiction)
        try:
            union = self.masks[0]().copy()
            for mask in self.masks[1:]:
                more = mask()
                if more.shape != union.shape:
                    raise malformed(
                        f"its shapes lie on images of {union.shape[1]} x {union.shape[0]} and {more.shape[1]} x "
                        f"{more.shape[0]} pixels; a record has one image"
                    )
                union |= more
            return Returned(
                record_id=record_number(self.attributes),
                run_id=_run_id(self.attributes),
                tool=tool,
                verdict=_verdict(self.attributes.get("verdict")),
                mask=np.where(union, np.uint8(255), np.uint8(0)),
                binary=True,
                comment=clean_text(self.attributes.get("comment", "")).strip()[:_LONGEST] or None,
            )
        except BadInputError as error:
            return ReturnFault(self.where, str(error))


def add_shape(
    found: dict[Shown, Shapes], where: str, attributes: Attributes, mask: Callable[[], NDArray[np.bool_]]
) -> ReturnFault | None:
    """Add a shape to those of its object, by `record_id` and `run_id`; return what is wrong with it, if anything."""
    try:
        shown = (record_number(attributes), _run_id(attributes))
        _verdict(attributes.get("verdict"))
    except BadInputError as error:
        return ReturnFault(where, str(error))
    shapes = found.setdefault(shown, Shapes(where, attributes))
    verdicts = [_verdict(each.get("verdict")) for each in (shapes.attributes, attributes)]
    if None not in verdicts and verdicts[0] != verdicts[1]:
        # Which of them was meant would be a guess, so the record as a whole is the fault.
        shapes.contradiction = f"its shapes have the verdicts {verdicts[0]} and {verdicts[1]}; make them agree"
    if verdicts[0] is None and verdicts[1] is not None:
        shapes.attributes = shapes.attributes | {"verdict": str(verdicts[1])}
    shapes.masks.append(mask)
    return None


def record_number(attributes: Attributes) -> int:
    """Return the record_id among a shape's attributes.

    Raises:
        BadInputError: ``prompt_malformed``.
    """
    text = attributes.get("record_id", "").strip()
    if not text.removeprefix("-").isdecimal() or len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise malformed(
            "it has no record_id: it was drawn anew, or the tool dropped its attributes. Copy record_id and run_id "
            "from the shape it stands for"
        )
    return int(text)


def _run_id(attributes: Attributes) -> str:
    return attributes.get("run_id", "").strip()


def _verdict(text: str | None) -> Verdict | None:
    if text in (None, "", "none"):
        return None
    for verdict in get_args(Verdict):
        if text == verdict:
            return verdict  # type: ignore[no-any-return]
    raise malformed(f"its verdict is {text[:50]!r}; it must be none, {', '.join(get_args(Verdict))}")
