"""WebDataset: tars of samples, one per object."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from pipeline import storage
from pipeline.curation.exports.base import MIB, ExportSettings, Form, Made, Spool, Subject
from pipeline.curation.selected import Selection

_BLOCK = 512  # of tars: each file has a header of one, and is filled up to full ones


class WebDataset(Form):
    """Shards `NNNNNN.tar`; the photo of several objects is there several times, as the format has it."""

    libraries = ("webdataset",)

    def __init__(self, out: str, selection: Selection, settings: ExportSettings) -> None:
        super().__init__(out, selection, settings)
        self._spool: Spool | None = None
        self._tar: Any = None
        self._sizes: list[int] = []

    def encode(self, subject: Subject) -> dict[str, Any]:
        """Return the object's sample.

        `prompts.jsonl` makes the shards an input of this pipeline: the alpha as mask prompt of its image.
        """
        item, upright = subject.item, subject.photo
        prompt = {"mask": "alpha.png", "id": item.name, "label": item.record["label"]}
        prompt |= {"transparent": bool(item.record["transparent"])}
        return {
            "__key__": item.name,
            upright.suffix: upright.data,
            "alpha.png": item.alpha,
            "json": json.dumps(subject.describe(), ensure_ascii=False).encode(),
            "prompts.jsonl": json.dumps(prompt).encode(),
        }

    def add(self, made: list[Made]) -> None:
        """Write samples, and begin a new shard before one gets too large."""
        import webdataset

        for one in made:
            size = sum(_BLOCK + -(-len(data) // _BLOCK) * _BLOCK for key, data in one.content.items() if key[0] != "_")
            if self._spool is not None and self._spool.size + size > self.settings.shard_mb * MIB:
                self._end_shard()
            if self._spool is None:
                self._spool = Spool(storage.join(self.out, f"{len(self._sizes):06d}.tar"))
                self._tar = webdataset.TarWriter(self._spool.file, encoder=False, mtime=0)
            self._tar.write(one.content)

    def close(self) -> dict[str, Any]:
        """Write the last shard."""
        self._end_shard()
        return {"shards": len(self._sizes), "bytes": sum(self._sizes)}

    def abort(self) -> None:
        """Discard the shard that was begun."""
        if self._spool is not None:
            with suppress(Exception):  # or the tar tries again when it is forgotten
                self._tar.close()
            self._spool.discard()

    def _end_shard(self) -> None:
        if self._spool is None:
            return
        self._tar.close()
        self._sizes.append(self._spool.publish())
        self._spool = self._tar = None
