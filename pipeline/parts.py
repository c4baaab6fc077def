"""Parts: what one write task leaves in a run directory, a data file and the commit that makes it visible.

Nothing here needs Ray: :mod:`pipeline.sink` calls :func:`write_part` from Ray's write tasks.
"""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.claims import Claim
from pipeline.commits import Commit, Ledger, ShardPart
from pipeline.errors import PipelineError
from pipeline.schema import LEDGER, RECORDS

ROW_GROUP_BYTES = 16 * 2**20
"""Uncompressed size that row groups stay near: readers and viewers hold one in memory at a time."""

_PICTURES = ("alpha.bytes", "prompt_mask")  # PNG: compressed already, never compared, never worth a dictionary


def write_part(claim: Claim, name: str, table: pa.Table, *, retries: int = storage.RETRIES) -> Commit | None:
    """Write records and ledgers durably: one data file, then the commit that makes them visible.

    Writing the same part again under the same name (a repeated task) replaces both objects by equal ones. A process
    that dies in between leaves the earlier state, and perhaps an orphan.

    Args:
        claim: Of the job that writes; its run directory gets the part.
        name: Of the part, unique within the job for what it holds.
        table: Record rows (schema :data:`pipeline.schema.RECORDS`), with a column `ledger`
            (:data:`pipeline.schema.LEDGER`) that is set in ledger rows, where of the rest only `shard` is; without
            that column all rows are records. Other columns are left out.
        retries: How often a transient fault of the store is retried.

    Returns:
        The commit; None for a table without rows, which leaves nothing behind.

    Raises:
        SupersededError: Another job has taken the run over.
        TransientError: The store failed repeatedly.
        ConfigurationError: It refuses the write.
        PipelineError: Rows without shard or id, or two ledgers for one shard: a fault of the stages before.
    """
    records, ledgers = _split(table)
    if not table.num_rows:
        return None
    claim.check(retries=retries)  # saves a stray file; that nothing is doubled doesn't hang on it
    run, stem = claim.run, f"part-{claim.prefix}-{name}"
    data, content = None, b""
    if records.num_rows:
        data, content = f"records/{stem}.parquet", parquet(records)
        storage.write_bytes_atomic(storage.join(run, data), content, retries=retries)
    commit = Commit(stem, data, records.num_rows, len(content), _by_shard(records, ledgers))
    uri = storage.join(run, "commits", f"{stem}.json")
    storage.write_bytes_atomic(uri, commit.to_json().encode(), retries=retries)
    return commit


def _split(table: pa.Table) -> tuple[pa.Table, dict[str, Ledger]]:
    """Split ledger rows off, and bring the record rows to their schema."""
    if "ledger" not in table.column_names:
        table = table.append_column("ledger", pa.nulls(table.num_rows, LEDGER))
    is_ledger = pc.is_valid(table["ledger"])
    records = table.filter(pc.invert(is_ledger)).select(RECORDS.names).cast(RECORDS)
    if records["record_id"].null_count or table["shard"].null_count:
        raise PipelineError("a row without shard, or with neither record_id nor ledger, reached the sink")
    ledgers: dict[str, Ledger] = {}
    for row in table.filter(is_ledger).select(["shard", "ledger"]).to_pylist():
        ledger = Ledger.from_dict(row["ledger"])
        if ledgers.setdefault(row["shard"], ledger) != ledger:
            raise PipelineError(f"two different ledgers for the shard {row['shard']}: two shards have that name")
    return records, ledgers


def _by_shard(records: pa.Table, ledgers: dict[str, Ledger]) -> dict[str, ShardPart]:
    shards, ids, statuses, codes = (
        np.asarray(records[name].to_pylist(), object) for name in ("shard", "record_id", "status", "error_code")
    )
    parts = {}
    for name in sorted({*shards, *ledgers}):
        here = shards == name
        failed = here & (statuses != "ok")
        parts[name] = ShardPart(
            record_ids=ids[here].astype(np.int64),
            ok=int(here.sum() - failed.sum()),
            errors=dict(sorted(Counter(str(code) for code in codes[failed]).items())),
            ledger=ledgers.get(name),
        )
    return parts


def parquet(records: pa.Table) -> bytes:
    """Encode records as a Parquet file.

    PNG columns stand in it as they are (no compression, dictionary or statistics); the others are zstd-compressed.

    Args:
        records: Of the schema :data:`pipeline.schema.RECORDS`.
    """
    columns = [path for path in _leaf_columns() if path not in _PICTURES]
    file = io.BytesIO()
    pq.write_table(
        records,
        file,
        compression=dict.fromkeys(columns, "zstd") | dict.fromkeys(_PICTURES, "none"),
        use_dictionary=columns,
        write_statistics=columns,
        row_group_size=max(1, records.num_rows * ROW_GROUP_BYTES // max(1, records.nbytes)),
    )
    return file.getvalue()


def _leaf_columns() -> list[str]:
    """Return the Parquet paths of the records' columns, such as `prompt_box.list.element`."""
    file = io.BytesIO()
    pq.write_table(RECORDS.empty_table(), file)
    schema = pq.ParquetFile(file).schema
    return [schema.column(index).path for index in range(len(schema))]
