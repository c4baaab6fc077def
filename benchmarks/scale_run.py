"""A run of any size without a model or Ray: data files, commits and logs, written by the pipeline's own modules."""

from __future__ import annotations

import json
import math
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # for `support`

from benchmarks.scale_stage import IDENTITY
from pipeline import commit_log
from pipeline.commits import Commit, Ledger, ShardPart, wrapped_sum
from pipeline.config import LabelConfig
from pipeline.parts import write_part
from pipeline.runs import RunDirectory
from pipeline.schema import LEDGER, RECORDS
from support.run_rows import begin, charge, gray_png

PER_IMAGE = 2
PER_PART = 1000
"""Records in one data file: `output.file_mb=200`, where alphas have 200 kB."""
PER_SHARD = 2000
SOURCE = "ab" * 8
"""Fingerprint of every shard: so a follow-up run finds them unchanged."""


def config_of(run: str) -> LabelConfig:
    """Return the configuration of the run."""
    tree = {
        "input": {"kind": "webdataset", "path": "s3://corpus/*.tar"},
        "model": {"source": "untrained:sdmatte-mini"},
        "output": {"path": run, "contact_sheet": 0, "report_objects": 0},
    }
    return LabelConfig.model_validate(tree)


def shard_names(rows: int) -> list[str]:
    """Return the names of the shards that so many records are from."""
    return [f"corpus/part-{number:07d}.tar" for number in range(-(-rows // PER_SHARD))]


def build(path: str, rows: int, per_part: int = PER_PART) -> dict[str, Any]:
    """Write a run's records, commits and logs, as a job does that is killed right before its end.

    Args:
        path: The run directory.
        rows: Records.
        per_part: Records in one data file.

    Returns:
        Figures: numbers of things, seconds of writing and gathering, bytes of metadata.
    """
    run = begin(config_of(path), IDENTITY)
    names = shard_names(rows)
    run.write_plan(names)
    ids = np.random.default_rng(rows).integers(-(2**63), 2**63 - 1, rows, np.int64)
    template = _template(per_part)
    gathering = 0.0
    single = 0
    logs = 0
    start = time.monotonic()
    for part, first in enumerate(range(0, rows, per_part)):
        commit = write_part(run.claim, f"1-{part:06d}", _part(template, ids, first, names))
        assert commit is not None
        single += 1
        if single == commit_log.COMPACT_AT:  # a job does it once in a minute, in a thread
            began = time.monotonic()
            logs += commit_log.compact(run.claim, logs)
            gathering += time.monotonic() - began
            single = 0
    seconds = time.monotonic() - start - gathering
    logs += commit_log.compact(run.claim, logs, at=1)  # or runs of less than 500 commits couldn't be compared
    found = {
        "rows": rows,
        "parts": part + 1,
        "shards": len(names),
        "logs": logs,
        "write": seconds,
        "gather": gathering,
    }
    return {**found, **_sizes(Path(path), commit, len(names))}


def _sizes(run: Path, commit: Commit, shards: int) -> dict[str, float]:
    """Return bytes of metadata: of the last commit object, per record in it and in logs, and per shard of the plan."""
    text = len(commit.to_json())
    ids = sum(len(json.dumps(part.record_ids.tolist())) for part in commit.shards.values())
    records = sum(head.rows for head in commit_log.heads(str(run)) if not (run / f"commits/{head.stem}.json").exists())
    logs = sum(log.stat().st_size for log in (run / "commits").glob("log-*"))
    return {
        "commit_object": text - ids,
        "commit_record": ids / max(1, commit.rows),
        "log_record": logs / records if records else math.nan,
        "plan_shard": (run / "plan.parquet").stat().st_size / shards,
    }


def build_logs(path: str, rows: int) -> None:
    """Write the logs of a run without its data files: enough to see what reading commits takes, of many more records.

    Shards and data files have :data:`PER_PART` records each.
    """
    claim = charge(path)
    for log in range(rows // commit_log.LOG_ROWS):
        commits = []
        for number in range(log * commit_log.LOG_ROWS // PER_PART, (log + 1) * commit_log.LOG_ROWS // PER_PART):
            ids = np.random.default_rng(number).integers(-(2**63), 2**63 - 1, PER_PART, np.int64)
            part = ShardPart(ids, PER_PART, {}, Ledger(PER_PART // PER_IMAGE, PER_PART, wrapped_sum(ids)))
            stem = f"part-{claim.prefix}-1-{number:06d}"
            commits.append(Commit(stem, f"records/{stem}.parquet", PER_PART, 1, {f"corpus/{number:09d}.tar": part}))
        commit_log._write_log(path, f"log-{claim.prefix}-{log:06d}.parquet", commits)  # noqa: SLF001


def _part(template: pa.Table, ids: np.ndarray[Any, np.dtype[np.int64]], first: int, names: list[str]) -> pa.Table:
    count = min(len(template), len(ids) - first)
    numbers = np.arange(first, first + count)
    shard = pa.array(names, pa.string()).take(pa.array(numbers // PER_SHARD))
    new = {
        "record_id": pa.array(ids[numbers]),
        "image_id": pa.array(numbers // PER_IMAGE * 2654435761),
        "image_phash": pa.array(ids[numbers // PER_IMAGE * PER_IMAGE] * 31),
        "shard": shard,
        "predicted_mad": pa.array((numbers % 997 / 9970).astype(np.float32)),
    }
    table = template.slice(0, count)
    for name, column in new.items():
        table = table.set_column(table.column_names.index(name), RECORDS.field(name), column)
    ends = [end for end in range(first, first + count) if (end + 1) % PER_SHARD == 0 or end + 1 == len(ids)]
    ledgers = [_ledger(ids, end, names) for end in ends]
    schema = RECORDS.append(pa.field("ledger", LEDGER))
    table = table.append_column("ledger", pa.nulls(count, LEDGER)).cast(schema)
    return pa.concat_tables([table, pa.Table.from_pylist(ledgers, schema)])


def _ledger(ids: np.ndarray[Any, np.dtype[np.int64]], end: int, names: list[str]) -> dict[str, Any]:
    theirs = ids[end // PER_SHARD * PER_SHARD : end + 1]
    ledger = {"images": -(-len(theirs) // PER_IMAGE), "records": len(theirs), "id_sum": wrapped_sum(theirs)}
    return {"shard": names[end // PER_SHARD], "ledger": {**ledger, "matched": [], "source": SOURCE}}


def _template(rows: int) -> pa.Table:
    """Records that are alike in all but their ids."""
    row = {
        "run_id": "20260101-000000-0123ab",
        "image_key": "000000000123",
        "image_uri": "s3://corpus/part-0000000.tar#000000000123.jpg",
        "image_sha256": "ab" * 32,
        "image_width": 1024,
        "image_height": 768,
        "prompt_kind": "box",
        "label": "person",
        "prompt_score": 0.9,
        "prompt_box": [1.0, 2.0, 300.0, 400.0],
        "status": "ok",
        "alpha": {"bytes": gray_png(), "path": None},
        "coverage": 0.2,
        "definiteness": 0.9,
        "prompt_iou": 0.9,
        "edge_alignment": 0.6,
        "quality": 0.7,
        "calibration": "simulated",
        "calibration_matches": True,
        "model": "simulated",
        "weights_sha256": IDENTITY.weights_sha256,
        "precision": "float32",
        "labelled_at": datetime(2026, 1, 2, tzinfo=UTC),
    }
    return pa.Table.from_pylist([row] * rows, schema=RECORDS)


def finish(path: str, rows: int) -> None:
    """Complete the run."""
    run = begin(config_of(path), IDENTITY)
    run.finish(run.reconcile(shard_names(rows)))
    assert RunDirectory.open(path).succeeded
