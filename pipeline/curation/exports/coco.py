"""COCO instances: binary masks as run lengths, with the soft alphas beside them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.curation.exports.base import ExportSettings, Form, Made, Spool, Subject, append, spooled
from pipeline.curation.selected import Selection
from pipeline.errors import BadInputError, ErrorCode
from sdmatte.geometry import quantise

THRESHOLD = 128
"""Of 255: a pixel with that much alpha or more is inside the binary mask."""

UNLABELLED = "object"
"""Category of objects without a label, or with an empty one."""

_FILE = "annotations/instances_default.json"  # where importers look for it


class Coco(Form):
    """`annotations/instances_default.json`, `images/`, `alphas/`."""

    libraries = ("pycocotools",)

    def __init__(self, out: str, selection: Selection, settings: ExportSettings) -> None:
        super().__init__(out, selection, settings)
        labels = sorted({label or UNLABELLED for label in selection.labels})
        self._categories = {label: number for number, label in enumerate(labels, 1)}
        # Of a million annotations the text takes gigabytes: it grows on disk, one list in each file.
        self._images = Spool(storage.join(out, "annotations/.images.part"))
        self._annotations = Spool(storage.join(out, "annotations/.annotations.part"))
        self._counts = {"images": 0, "annotations": 0}

    def picture(self, subject: Subject) -> None:
        """Write the photo."""
        storage.write_bytes_atomic(storage.join(self.out, "images", _file_name(subject)), subject.photo.data)

    def encode(self, subject: Subject) -> dict[str, Any]:
        """Write the object's alpha; returns its annotation without ids."""
        from pycocotools import mask

        item = subject.item
        inside = quantise(subject.alpha(), "uint8") >= THRESHOLD
        if not inside.any():
            raise BadInputError(
                ErrorCode.PROMPT_EMPTY_MASK,
                f"no pixel has an alpha of {THRESHOLD} of 255 or more: a binary mask can't show this object",
            )
        lengths = mask.encode(np.asfortranarray(inside, np.uint8))
        storage.write_bytes_atomic(storage.join(self.out, "alphas", f"{item.name}.png"), item.alpha)
        label = item.record["label"]
        about = subject.describe()
        return {
            "category_id": self._categories[label or UNLABELLED],
            "segmentation": {"size": lengths["size"], "counts": lengths["counts"].decode("ascii")},
            "area": int(mask.area(lengths)),
            "bbox": [float(value) for value in mask.toBbox(lengths)],
            "iscrowd": 0,
            **({"score": about["quality"]} if about["quality"] is not None else {}),
            "alpha": f"{item.name}.png",
            **{name: about[name] for name in ("record_id", "predicted_mad", "decision", "reviewed")},
        }

    def add(self, made: list[Made]) -> None:
        """Number the image and its annotations."""
        about = made[0].subject.describe()
        number = self._write(
            self._images,
            "images",
            {
                "file_name": _file_name(made[0].subject),
                **{name: about[name] for name in ("width", "height", "image_key", "image_uri", "image_notes")},
            },
        )
        for one in made:
            self._write(self._annotations, "annotations", {"image_id": number, **one.content})

    def close(self) -> dict[str, Any]:
        """Put the lists together."""
        categories = [{"id": number, "name": label} for label, number in self._categories.items()]
        with spooled(storage.join(self.out, _FILE)) as whole:
            whole.file.write(b'{"categories": ' + json.dumps(categories).encode())
            for name, part in (("images", self._images), ("annotations", self._annotations)):
                whole.file.write(f',\n"{name}": [\n'.encode())
                append(whole.file, part)
                whole.file.write(b"]")
            whole.file.write(b"}\n")
        self.abort()
        return {"annotations": _FILE, "categories": len(categories)}

    def abort(self) -> None:
        """Discard the lists."""
        self._images.discard()
        self._annotations.discard()

    def _write(self, part: Spool, name: str, entry: dict[str, Any]) -> int:
        self._counts[name] += 1
        comma = b",\n" if self._counts[name] > 1 else b""
        part.file.write(comma + json.dumps({"id": self._counts[name]} | entry).encode())
        return self._counts[name]


def _file_name(subject: Subject) -> str:
    return f"{subject.image.name}.{subject.photo.suffix}"
