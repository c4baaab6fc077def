"""The schema of decisions: one row per object that counts, over all runs that were looked at."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

Decision = Literal["accept", "review", "reject"]

DECISIONS_FILE = "decisions.parquet"
"""In the folder that jobs/curate.py writes."""

CURATION_FILE = "curation.json"
"""Beside the decisions, written last: settings, runs and counts, and the decisions' SHA-256."""


def _column(name: str, kind: pa.DataType, description: str) -> pa.Field:
    return pa.field(name, kind, metadata={"description": description})


DECISIONS = pa.schema(
    [
        _column("record_id", pa.int64(), "Id of the object"),
        _column("image_id", pa.int64(), "Id of the image"),
        _column("output", pa.string(), "The output.path that holds the record: first run and its follow-ups"),
        _column("run_id", pa.string(), "The run that wrote the record"),
        _column("image_uri", pa.string(), "Where the image's bytes are"),
        _column("image_key", pa.string(), "The source's own key of the image"),
        _column("label", pa.string(), "Category"),
        _column("prompt_kind", pa.string(), "box, points or mask"),
        _column("status", pa.string(), "ok or error"),
        _column("error_code", pa.string(), "Of an error record"),
        _column("predicted_mad", pa.float32(), "Calibrated prediction of the mean absolute error, 0 to 1"),
        _column("quality", pa.float32(), "0 to 1, from predicted_mad"),
        _column("decision", pa.string(), "accept, review or reject"),
        _column(
            "reason", pa.string(), "Why, as code and figure: quality 0.31 < 0.5; duplicate of 9f3c…; verdict: reject"
        ),
        _column("rank", pa.int32(), "Place in the order of review, 0 is the worst; null where nobody is to look"),
        _column("stratum", pa.string(), "What the object was balanced by, such as label=cat, size=small; null: not"),
        _column("duplicate_group", pa.int32(), "Images that nearly equal each other share a number; null: no other"),
        _column("representative", pa.bool_(), "The image is the one of its group that is kept; true without a group"),
        _column("reviewed_by", pa.string(), "Who gave a verdict, if somebody did"),
        _column("reviewed_at", pa.timestamp("ms", tz="UTC"), "When"),
    ]
)
"""Sorted by decision and rank; in a Parquet file written last, beside curation.json with settings and counts."""
