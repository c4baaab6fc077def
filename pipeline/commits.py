"""The commit log: what a run has written, one small JSON object per data file.

A write puts its data file first and its commit last, each in one piece. So a commit implies its data file, and a data
file without a commit is an orphan that nobody reads. Whoever asks what a run holds asks the commits alone; the
protocol and what it can lose are described in docs/runs.md.

Nothing here needs Ray: :mod:`pipeline.sink` calls :func:`write_part` from Ray's write tasks.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.ids import id_sum
from pipeline.schema import LEDGER, RECORDS

VERSION = 1
"""Of the format of commit objects and of `run.json`."""

ROW_GROUP_BYTES = 16 * 2**20
"""Uncompressed size that row groups stay near: readers and viewers hold one in memory at a time."""

_PICTURES = ("alpha.bytes", "prompt_mask")  # PNG: compressed already, never compared, never worth a dictionary
_READERS = 32  # commits read at a time: each read of an object store is mostly waiting


@dataclass(frozen=True)
class Ledger:
    """What a shard must leave behind in a complete run; written by the stage that reads the shard, as its last row.

    Attributes:
        images: Images in the shard.
        records: Records that the shard must leave behind.
        id_sum: Their ids, summed by :func:`pipeline.ids.id_sum`.
        matched: Hashes of the prompt file's keys that found their image in the shard, ascending.
    """

    images: int
    records: int
    id_sum: int
    matched: tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Ledger:
        """Read the form of :data:`pipeline.schema.LEDGER` and of commit objects."""
        return cls(fields["images"], fields["records"], fields["id_sum"], tuple(sorted(fields["matched"] or ())))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as they stand in commit objects."""
        return {**vars(self), "matched": list(self.matched)}


@dataclass(frozen=True, eq=False)
class ShardPart:
    """What one commit holds of one shard.

    Attributes:
        record_ids: (n,) int64, in the order of the data file.
        ok: How many of the records have status `ok`.
        errors: How many of the others have which error code.
        ledger: The shard's ledger, if it came with this write.
    """

    record_ids: NDArray[np.int64]
    ok: int
    errors: dict[str, int]
    ledger: Ledger | None


@dataclass(frozen=True, eq=False)
class Commit:
    """One commit object.

    Attributes:
        stem: Its name, and its data file's, without folder and extension.
        data: The data file, relative to the run directory; None where the write had only ledgers.
        rows: Records in the data file.
        size: Size of the data file as it was written (unit: byte); for people. A repeated write task may have
            replaced the file by one of the same records and another size.
        shards: What it holds, by name of the shard.
    """

    stem: str
    data: str | None
    rows: int
    size: int
    shards: dict[str, ShardPart]

    def to_json(self) -> str:
        """Return the object's content: JSON laid out for people, one shard after the other, ids on one line."""
        shards = {
            name: _lines(
                {
                    "records": len(part.record_ids),
                    "id_sum": id_sum(part.record_ids.tolist()),
                    "ok": part.ok,
                    "errors": part.errors,
                    "ledger": part.ledger and part.ledger.to_dict(),
                    "record_ids": part.record_ids.tolist(),
                },
                depth=2,
            )
            for name, part in self.shards.items()
        }
        head = {"version": VERSION, "data": self.data, "rows": self.rows, "bytes": self.size}
        return _lines({**head, "shards": _Rendered(_lines(shards, depth=1))}, depth=0) + "\n"

    @classmethod
    def from_json(cls, stem: str, text: str | bytes) -> Commit:
        """Read the content of a commit object.

        Raises:
            ConfigurationError: It is damaged, or of a version that this program does not know.
        """
        try:
            return _commit(stem, json.loads(text))
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
            raise ConfigurationError(
                f"commit {stem}.json is damaged: delete it and start the job again, which makes its records anew"
            ) from None


class _Rendered(str):
    """JSON text, to be taken as it is."""

    __slots__ = ()


def _lines(fields: Mapping[str, Any], depth: int) -> _Rendered:
    """Render an object with one key per line, and every value on its key's line."""
    values = (
        f"{json.dumps(key, ensure_ascii=False)}: {value if isinstance(value, _Rendered) else json.dumps(value)}"
        for key, value in fields.items()
    )
    indent = "\n" + "  " * depth
    return _Rendered("{" + ",".join(f"{indent}  {value}" for value in values) + (indent if fields else "") + "}")


def _commit(stem: str, fields: Mapping[str, Any]) -> Commit:
    if fields["version"] != VERSION:
        raise ConfigurationError(
            f"commit {stem}.json is of version {fields['version']}, this program reads version {VERSION}: "
            "continue the run with the program that began it"
        )
    shards = {name: _shard_part(part) for name, part in fields["shards"].items()}
    if fields["rows"] != sum(len(part.record_ids) for part in shards.values()):
        raise ValueError
    return Commit(stem, fields["data"], fields["rows"], fields["bytes"], shards)


def _shard_part(fields: Mapping[str, Any]) -> ShardPart:
    ids = fields["record_ids"]
    if len(ids) != fields["records"] or id_sum(ids) != fields["id_sum"]:
        raise ValueError
    ledger = fields["ledger"]
    return ShardPart(
        np.asarray(ids, np.int64), fields["ok"], fields["errors"], Ledger.from_dict(ledger) if ledger else None
    )


def write_part(run: str, stem: str, table: pa.Table, *, retries: int = storage.RETRIES) -> Commit | None:
    """Write records and ledgers durably: one data file, then the commit that makes them visible.

    Writing the same part again under the same stem (a repeated task) replaces both objects by equal ones. A process
    that dies in between leaves the earlier state, and perhaps an orphan.

    Args:
        run: The run directory.
        stem: Name of the part, unique within the run for what it holds.
        table: Record rows (schema :data:`pipeline.schema.RECORDS`), with a column `ledger`
            (:data:`pipeline.schema.LEDGER`) that is set in ledger rows, where of the rest only `shard` is; without
            that column all rows are records. Other columns are left out.
        retries: How often a transient fault of the store is retried.

    Returns:
        The commit; None for a table without rows, which leaves nothing behind.

    Raises:
        TransientError: The store failed repeatedly.
        ConfigurationError: It refuses the write.
        PipelineError: Rows without shard or id, or two ledgers for one shard: a fault of the stages before.
    """
    records, ledgers = _split(table)
    if not table.num_rows:
        return None
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


def read_commits(run: str) -> list[Commit]:
    """Read all commits of a run, ordered by name.

    Raises:
        ConfigurationError: One of them is damaged, or the store refuses to hand it out.
        TransientError: The store failed repeatedly.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(_read_commit, list_part_files(run, "commits", ".json")))


def _read_commit(file: storage.FileInfo) -> Commit:
    return Commit.from_json(file.name.removesuffix(".json"), storage.read_bytes(file.uri))


def list_part_files(run: str, folder: str, suffix: str = "") -> list[storage.FileInfo]:
    """List what lies in a run's folder `records` or `commits`, ordered by name; nothing before the first write."""
    try:
        return storage.list_files(storage.join(run, folder), [suffix] if suffix else [])
    except storage.NotFoundError:
        return []


@dataclass(frozen=True, eq=False)
class Committed:
    """What all commits together hold of one shard.

    Attributes:
        record_ids: (n,) int64; an id that was committed twice stands there twice.
        ok: How many of the records have status `ok`.
        errors: How many of the others have which error code.
        ledgers: The distinct ledgers; more than one only where the shard changed while the run went on.
        commits: Stems of the commits.
    """

    record_ids: NDArray[np.int64]
    ok: int
    errors: dict[str, int]
    ledgers: tuple[Ledger, ...]
    commits: tuple[str, ...]

    @property
    def done(self) -> bytes:
        """The record ids as little-endian int64, as the reading stage takes them to leave finished prompts out."""
        return self.record_ids.astype("<i8").tobytes()

    @property
    def finished(self) -> bool:
        """Whether exactly the records are there that the shard's ledger asks for (so that it needn't be read)."""
        if len(self.ledgers) != 1:
            return False
        distinct = np.unique(self.record_ids)
        return len(distinct) == self.ledgers[0].records and id_sum(distinct.tolist()) == self.ledgers[0].id_sum


def by_shard(commits: Iterable[Commit]) -> dict[str, Committed]:
    """Gather what commits hold, by name of the shard."""
    parts: dict[str, list[tuple[str, ShardPart]]] = {}
    for commit in commits:
        for name, part in commit.shards.items():
            parts.setdefault(name, []).append((commit.stem, part))
    return {
        name: Committed(
            record_ids=np.concatenate([part.record_ids for _, part in pieces]),
            ok=sum(part.ok for _, part in pieces),
            errors=dict(sum((Counter(part.errors) for _, part in pieces), Counter())),
            ledgers=tuple(dict.fromkeys(part.ledger for _, part in pieces if part.ledger)),
            commits=tuple(stem for stem, _ in pieces),
        )
        for name, pieces in sorted(parts.items())
    }
