"""Runs whose records carry scores, and what jobs/curate.py decides about them."""

import io
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.curation.config import decide_settings
from pipeline.curation.job import curate
from pipeline.curation.summary import Curated
from pipeline.review.schema import REVIEWS
from pipeline.review.store import write_reviews
from pipeline.runs import RunDirectory
from support.run_rows import ROWS, begin, complete, label_config, ledger_row


def scored(number: int, mad: float | None = 0.01, **columns: Any) -> dict[str, Any]:
    """An ok record; each is an object of an image of its own unless told otherwise."""
    return {
        "record_id": number,
        "image_id": number,
        "shard": "a.tar",
        "image_key": f"{number}.jpg",
        "image_uri": f"s3://corpus/a.tar#{number}.jpg",
        "image_width": 100,
        "image_height": 100,
        "label": "cat",
        "prompt_kind": "box",
        "status": "ok",
        "coverage": 0.5,
        "prompt_area": 0.5,
        "predicted_mad": mad,
        "quality": None if mad is None else 2 ** (-mad / 0.02),
        "calibration_matches": True,
        "labelled_at": datetime(2026, 1, 2, tzinfo=UTC),
        **columns,
    }


def failed(number: int, code: str = "image_corrupt", **columns: Any) -> dict[str, Any]:
    """An error record."""
    nothing = dict.fromkeys(("coverage", "prompt_area", "quality", "calibration_matches"))
    return scored(number, None, status="error", error_code=code, **(nothing | columns))


def scored_run(path: Path, records: Iterable[dict[str, Any]], *, followup: str = "", **sections: Any) -> RunDirectory:
    """A complete run of these records; their run_id is the run's."""
    run = begin(label_config(path, **sections), followup=followup)
    tables = []
    by_shard: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_shard.setdefault(record["shard"], []).append(record | {"run_id": run.run_id})
    for shard, rows in by_shard.items():
        tables += [pa.Table.from_pylist(rows, schema=ROWS), ledger_row(shard, [row["record_id"] for row in rows])]
    return complete(run, *tables)


def review(run: RunDirectory, output: Path, number: int, verdict: str | None, **columns: Any) -> None:
    """What somebody said about a record of a run."""
    row = {
        "record_id": number,
        "reviewed_run_id": run.run_id,
        "verdict": verdict,
        "reviewer": "ann@example.com",
        "reviewed_at": datetime(2026, 2, 3, tzinfo=UTC),
        "review_tool": "label_studio",
        "review_id": str(number),
        "edited_pixels": 0,
        **columns,
    }
    assert write_reviews(str(output), pa.Table.from_pylist([row], schema=REVIEWS))


def decided(out: Path, *runs: Path, **settings: Any) -> Curated:
    """Decide with settings of :class:`pipeline.curation.config.DecideSettings`."""
    return curate(decide_settings(runs=[str(run) for run in runs], out=str(out), **settings))


def decisions(out: Path) -> list[dict[str, Any]]:
    """The rows that were written, in their order."""
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO((out / "decisions.parquet").read_bytes())).to_pylist()
    return rows


def outcome(out: Path) -> dict[int, str]:
    """The decision on each record."""
    return {row["record_id"]: row["decision"] for row in decisions(out)}


def reasons(out: Path) -> dict[int, str]:
    """The reason for each decision."""
    return {row["record_id"]: row["reason"] for row in decisions(out)}
