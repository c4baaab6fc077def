"""The schema of reviews: what people said about records, and what they changed.

A review is a record of its own that points to the one it is about; nothing is overwritten. It has all columns of a
record (:data:`pipeline.schema.RECORDS`), with the alpha that counts from now on, so that a reader who takes the latest
of both needs no other file.
"""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

from pipeline.schema import RECORDS

Verdict = Literal["accept", "fix", "reject"]
"""`accept`: usable as it is, or as it was corrected; `fix`: not yet, somebody has to go on; `reject`: not usable."""

REVIEWS_FOLDER = "reviews"
"""In an output.path: `0001.parquet`, `0002.parquet`, ...; each import adds one by a conditional write."""


def _column(name: str, kind: pa.DataType, description: str) -> pa.Field:
    return pa.field(name, kind, metadata={"description": description})


_COLUMNS = [
    _column("reviewed_run_id", pa.string(), "run_id of the record that this review is about (same record_id)"),
    _column("shown_run_id", pa.string(), "run_id of what the reviewer was shown: that record, or a review of it"),
    _column("verdict", pa.string(), "accept, fix or reject; null where the reviewer gave none"),
    _column("reviewer", pa.string(), "Who, as the tool names them"),
    _column("reviewed_at", pa.timestamp("ms", tz="UTC"), "When the annotation was last changed"),
    _column("review_tool", pa.string(), "label_studio, cvat or coco"),
    _column("review_id", pa.string(), "Id of the annotation in the tool"),
    _column("review_comment", pa.string(), "What the reviewer wrote"),
    _column(
        "edited_pixels",
        pa.int64(),
        "Pixels that the reviewer changed in the alpha that was shown, see shown_run_id; 0: none, and the alpha is "
        "bit for bit that one, or a correction that counted by the time of the import",
    ),
    _column("rematted", pa.bool_(), "The edited region was matted again, with the corrected mask as the prompt"),
]

REVIEW_COLUMNS = tuple(column.name for column in _COLUMNS)
"""What reviews have beyond the columns of records."""

REVIEWS = pa.schema([*RECORDS, *_COLUMNS], metadata=RECORDS.metadata)
"""One row per review; of several of one record_id the one of the highest file number, then latest, counts.

`run_id` is the file's name, ``reviews/0001``: what wrote this row. The other columns of records are those of the
record, but for the alpha: scores and features, too, so they describe the matte as the model made it.
`reviewed_run_id` is the record's run also where an earlier review's alpha was shown; `shown_run_id` is that review's
then. So `edited_pixels` = 0 says that the reviewer left alone what they saw, not that the alpha is the model's: who
wants to know that compares it with the record's.
"""
