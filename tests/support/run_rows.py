"""Rows as the model stage hands them to the sink, a configuration, a run, and the context of a write task."""

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image
from ray.data._internal.execution.interfaces import TaskContext

from pipeline import storage
from pipeline.claims import Claim
from pipeline.config import LabelConfig
from pipeline.holding import holding
from pipeline.ids import id_sum
from pipeline.parts import write_part
from pipeline.provenance import ModelIdentity
from pipeline.reconcile import UNMATCHED_PROMPTS
from pipeline.runs import RunDirectory
from pipeline.schema import LEDGER, RECORDS
from pipeline.scopes import ALL, Scope

ROWS = RECORDS.append(pa.field("ledger", LEDGER))
MODEL = ModelIdentity("sdmatte-mini", "ab" * 32, "float32", 64)


def gray_png(shade: int = 128, size: tuple[int, int] = (8, 6)) -> bytes:
    file = io.BytesIO()
    Image.new("L", size, shade).save(file, "PNG")
    return file.getvalue()


def record_rows(shard: str, ids: Sequence[int], *, error: str | None = None, **columns: Any) -> pa.Table:
    """Records of one shard; `ok` with an alpha, or of the given error code."""
    common = {
        "shard": shard,
        "image_key": "a.jpg",
        "status": "error" if error else "ok",
        "error_code": error,
        "alpha": None if error else {"bytes": gray_png(), "path": None},
        "prompt_box": [1.0, 2.0, 3.0, 4.0],
        "labelled_at": datetime(2026, 1, 2, tzinfo=UTC),
    }
    return pa.Table.from_pylist([{**common, **columns, "record_id": number} for number in ids], schema=ROWS)


def ledger_row(
    shard: str, ids: Sequence[int], *, images: int = 1, matched: Sequence[int] = (), source: str = ""
) -> pa.Table:
    """The row that ends a shard whose records have these ids."""
    ledger = {"images": images, "records": len(ids), "id_sum": id_sum(ids), "matched": list(matched)}
    ledger["source"] = source
    return pa.Table.from_pylist([{"shard": shard, "ledger": ledger}], schema=ROWS)


def task(index: int) -> TaskContext:
    return TaskContext(task_idx=index, op_name="Write")


def charge(run: str | Path, epoch: int = 1, nonce: str = "0123ab", logs: Sequence[str] = ()) -> Claim:
    """Put a claim as it lies in the store once its job is dead: without signs of life, at any epoch."""
    claim = Claim(str(run), epoch, nonce, tuple(logs))
    storage.write_bytes_atomic(storage.join(str(run), "claims", f"{epoch:06d}.json"), claim.to_json())
    return claim


def begin(
    config: LabelConfig, model: ModelIdentity = MODEL, scope: Scope = ALL, *, followup: str = ""
) -> RunDirectory:
    """Begin a run, or go on with one, as a job that is over at once: its claim can still be written with."""
    path = storage.join(config.output.path, followup) if followup else config.output.path
    with holding(path, exclusively=config.output.exclusive) as claim:
        return RunDirectory.begun(claim, config, model, scope)


def complete(run: RunDirectory, *tables: pa.Table) -> RunDirectory:
    """Write the records and ledgers that a run is to hold, and finish it."""
    table = pa.concat_tables(tables) if tables else ROWS.empty_table()
    write_part(run.claim, "0-000000", table)
    shards = sorted({*table["shard"].to_pylist()} - {UNMATCHED_PROMPTS})
    run.write_plan(shards)
    reconciliation = run.reconcile(shards)
    assert reconciliation.complete, reconciliation.faults
    run.finish(reconciliation)
    return run


def label_config(output: str | Path, /, **sections: dict[str, Any]) -> LabelConfig:
    tree: dict[str, Any] = {
        "input": {"kind": "webdataset", "path": "s3://corpus/*.tar"},
        "model": {"source": "untrained:sdmatte-mini"},
        "output": {"path": str(output)},
    }
    for name, keys in sections.items():
        tree[name] = {**tree.get(name, {}), **keys}
    return LabelConfig.model_validate(tree)
