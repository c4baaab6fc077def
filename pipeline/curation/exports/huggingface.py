"""Parquet shards for Hugging Face `datasets`, with pictures in the columns `image` and `alpha`."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.curation.exports.base import FIELDS, MIB, ExportSettings, Form, Made, Spool, Subject
from pipeline.curation.exports.card import dataset_card
from pipeline.curation.selected import Selection
from pipeline.schema import RECORDS

_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_OWN: dict[str, tuple[pa.DataType, str]] = {
    "image": (_PICTURE, "The photo: upright, 8-bit RGB"),
    "alpha": (_PICTURE, "The matte: grayscale PNG of the photo's size, 0 transparent"),
    "image_notes": (pa.list_(pa.string()), "What was done to the original, e.g. exif_rotated, reencoded_jpeg"),
    "decision": (pa.string(), "accept, review or reject"),
    "reviewed": (pa.bool_(), "The alpha is a reviewer's correction, not the model's"),
}
_ROW_GROUP_BYTES = 16 * MIB  # as in records: viewers hold one in memory
_PICTURES = ("image.bytes", "alpha.bytes")


def _schema() -> pa.Schema:
    own = {name: pa.field(name, kind, metadata={"description": text}) for name, (kind, text) in _OWN.items()}
    fields = [own["image"], own["alpha"], *(RECORDS.field(name) for name in FIELDS)]
    fields += [own[name] for name in ("image_notes", "decision", "reviewed")]
    known = json.loads(RECORDS.metadata[b"huggingface"])["info"]["features"]
    known |= {"image": {"_type": "Image"}, "decision": known["status"], "reviewed": known["transparent"]}
    features = {field.name: known[field.name] for field in fields}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


SCHEMA = _schema()
"""One row per object; the photo of several objects is there several times."""


class HuggingFace(Form):
    """Shards `data/train-NNNNN.parquet`, and a dataset card."""

    def __init__(self, out: str, selection: Selection, settings: ExportSettings) -> None:
        super().__init__(out, selection, settings)
        self._rows: list[dict[str, Any]] = []
        self._held = 0  # bytes of pictures in rows
        self._spool: Spool | None = None
        self._writer: pq.ParquetWriter | None = None
        self._sizes: list[int] = []
        self._count = 0
        self._reviewed = 0
        self._picture_bytes = 0
        leaves = [column.path for column in _leaves()]
        self._columns = [path for path in leaves if path not in _PICTURES]

    def encode(self, subject: Subject) -> dict[str, Any]:
        """Return the object's row."""
        item, upright = subject.item, subject.photo
        row = {name: item.record[name] for name in FIELDS}
        return row | {
            "image": {"bytes": upright.data, "path": f"{subject.image.name}.{upright.suffix}"},
            "alpha": {"bytes": item.alpha, "path": f"{item.name}.png"},
            "image_notes": list(upright.notes),
            "decision": item.decision,
            "reviewed": item.reviewed,
        }

    def add(self, made: list[Made]) -> None:
        """Write full row groups, and begin a new shard before one gets too large."""
        for one in made:
            size = len(one.content["image"]["bytes"]) + len(one.content["alpha"]["bytes"])
            written = self._spool.size if self._spool else 0
            if written + self._held + size > self.settings.shard_mb * MIB:
                self._end_shard()
            self._rows.append(one.content)
            self._held += size
            self._picture_bytes += size
            self._count += 1
            self._reviewed += one.subject.item.reviewed
            if self._held >= _ROW_GROUP_BYTES:
                self._flush()

    def close(self) -> dict[str, Any]:
        """Write the last shard, and the dataset card."""
        self._end_shard()
        card = dataset_card(
            self.selection,
            SCHEMA,
            count=self._count,
            reviewed=self._reviewed,
            picture_bytes=self._picture_bytes,
            file_bytes=sum(self._sizes),
        )
        storage.write_bytes_atomic(storage.join(self.out, "README.md"), card.encode())
        return {"shards": len(self._sizes), "bytes": sum(self._sizes)}

    def abort(self) -> None:
        """Discard the shard that was begun."""
        if self._writer is not None:
            with suppress(Exception):  # or the writer tries again when it is forgotten
                self._writer.close()
        if self._spool is not None:
            self._spool.discard()

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._spool is None:
            self._spool = Spool(storage.join(self.out, f"data/train-{len(self._sizes):05d}.parquet"))
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._spool.file,
                SCHEMA,
                compression=dict.fromkeys(self._columns, "zstd") | dict.fromkeys(_PICTURES, "none"),
                use_dictionary=self._columns,
                write_statistics=self._columns,
            )
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA), row_group_size=len(self._rows))
        self._rows, self._held = [], 0

    def _end_shard(self) -> None:
        self._flush()
        if self._spool is None or self._writer is None:
            return
        self._writer.close()
        self._sizes.append(self._spool.publish())
        self._spool = self._writer = None


def _leaves() -> Any:
    sink = pa.BufferOutputStream()
    pq.write_table(SCHEMA.empty_table(), sink)
    schema = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [schema.column(index) for index in range(len(schema))]
