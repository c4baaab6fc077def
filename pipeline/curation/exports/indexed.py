"""Forms of one picture file per object, and `index.jsonl`, which says what each of them is."""

from __future__ import annotations

import io
import json
from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import storage
from pipeline.curation.exports.base import ExportSettings, Form, Made, Spool, Subject
from pipeline.curation.selected import Selection

INDEX = "index.jsonl"


class Indexed(Form):
    """PNGs in one folder, and one line per PNG in the index."""

    folder = "pictures"
    """Where the PNGs go."""

    def __init__(self, out: str, selection: Selection, settings: ExportSettings) -> None:
        super().__init__(out, selection, settings)
        self._index = Spool(storage.join(out, INDEX))

    @abstractmethod
    def draw(self, subject: Subject) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Return the picture, ``(H, W)`` or ``(H, W, 4)`` uint8, and what the index is to say besides."""

    def encode(self, subject: Subject) -> dict[str, Any]:
        """Write the picture; returns its line."""
        picture, more = self.draw(subject)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        file = f"{self.folder}/{subject.item.name}.png"
        storage.write_bytes_atomic(storage.join(self.out, file), buffer.getvalue())
        return {"file": file, **more, **subject.describe()}

    def add(self, made: list[Made]) -> None:
        """Write the lines."""
        for one in made:
            self._index.file.write(json.dumps(one.content, ensure_ascii=False).encode() + b"\n")

    def close(self) -> dict[str, Any]:
        """Put the index at its place."""
        self._index.publish()
        return {"index": INDEX}

    def abort(self) -> None:
        """Discard the index."""
        self._index.discard()
