"""What a write task leaves behind."""

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import claims, storage
from pipeline.claims import Claim, SupersededError
from pipeline.commit_log import read_commits, seal
from pipeline.commits import Commit, Ledger, by_shard
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.ids import id_sum
from pipeline.runs import read_records
from pipeline.schema import RECORDS
from pipeline.sink import CommitSink
from pipeline.stages.parcels import pack
from support.run_rows import ROWS, begin, charge, gray_png, label_config, ledger_row, record_rows, task

FIRST, LAST = -(2**63), 2**63 - 1  # the ends of what an id can be


@pytest.fixture
def sink(tmp_path: Path) -> CommitSink:
    return CommitSink(charge(tmp_path), file_bytes=4)


def files(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith("claims/"))


def test_a_write_tells_its_seconds_and_bytes(tmp_path: Path) -> None:
    told: list[Any] = []
    sink = CommitSink(charge(tmp_path), file_bytes=4, spent=told.append)
    sink.write([record_rows("a.tar", [1])], task(0))
    sink.write([], task(1))
    (figures,) = told
    assert figures["bytes_written"] == (tmp_path / "records/part-000001-0123ab-0-000000.parquet").stat().st_size
    assert 0 < figures["write"] < 60


def test_a_write_leaves_a_data_file_and_a_commit_of_the_same_name(tmp_path: Path, sink: CommitSink) -> None:
    sink.write(
        [
            record_rows("a.tar", [FIRST, 7]),
            record_rows("a.tar", [9], error="image_corrupt"),
            ledger_row("a.tar", [FIRST, 7, 9], images=2, matched=[5, -3]),
            record_rows("b.tar", [LAST]),
        ],
        task(3),
    )

    stem = "part-000001-0123ab-0-000003"
    assert files(tmp_path) == [f"commits/{stem}.json", f"records/{stem}.parquet"]
    (commit,) = read_commits(str(tmp_path))
    data = tmp_path / f"records/{stem}.parquet"
    assert (commit.stem, commit.data, commit.rows) == (stem, f"records/{stem}.parquet", 4)
    assert commit.size == data.stat().st_size
    assert list(commit.shards) == ["a.tar", "b.tar"]
    a, b = commit.shards.values()
    assert a.record_ids.tolist() == [FIRST, 7, 9]
    assert (a.ok, a.errors) == (2, {"image_corrupt": 1})
    assert a.ledger == Ledger(images=2, records=3, id_sum=id_sum([FIRST, 7, 9]), matched=(-3, 5))
    assert (b.record_ids.tolist(), b.ok, b.errors, b.ledger) == ([LAST], 1, {}, None)
    assert pq.read_table(data)["record_id"].to_pylist() == [FIRST, 7, 9, LAST]


def test_a_commit_can_be_read_by_a_person(tmp_path: Path, sink: CommitSink) -> None:
    sink.write(
        [record_rows("ä/1.tar", [1, 2]), ledger_row("ä/1.tar", [1, 2], source="ab12"), ledger_row("empty", [])],
        task(0),
    )
    text = (tmp_path / "commits/part-000001-0123ab-0-000000.json").read_text(encoding="utf-8")
    size = (tmp_path / "records/part-000001-0123ab-0-000000.parquet").stat().st_size
    assert (
        text
        == f"""\
{{
  "version": 2,
  "data": "records/part-000001-0123ab-0-000000.parquet",
  "rows": 2,
  "bytes": {size},
  "shards": {{
    "empty": {{
      "records": 0,
      "id_sum": 0,
      "ok": 0,
      "errors": {{}},
      "ledger": {{"images": 1, "records": 0, "id_sum": 0, "matched": [], "source": ""}},
      "record_ids": []
    }},
    "ä/1.tar": {{
      "records": 2,
      "id_sum": 3,
      "ok": 2,
      "errors": {{}},
      "ledger": {{"images": 1, "records": 2, "id_sum": 3, "matched": [], "source": "ab12"}},
      "record_ids": [1, 2]
    }}
  }}
}}
"""
    )
    assert json.loads(text)["shards"]["ä/1.tar"]["record_ids"] == [1, 2]


def test_a_commit_survives_the_way_through_json(tmp_path: Path, sink: CommitSink) -> None:
    sink.write([record_rows("a", [FIRST, LAST]), ledger_row("b", [4], matched=[1])], task(0))
    (commit,) = read_commits(str(tmp_path))
    assert Commit.from_json(commit.stem, commit.to_json()).to_json() == commit.to_json()


def test_ledgers_alone_leave_only_a_commit(tmp_path: Path, sink: CommitSink) -> None:
    sink.write([ledger_row("a.tar", [1, 2])], task(0))
    assert files(tmp_path) == ["commits/part-000001-0123ab-0-000000.json"]
    (commit,) = read_commits(str(tmp_path))
    assert (commit.data, commit.rows, commit.size) == (None, 0, 0)
    assert commit.shards["a.tar"].ledger == Ledger(1, 2, 3)


def test_a_write_without_rows_leaves_nothing(tmp_path: Path, sink: CommitSink) -> None:
    sink.write([pa.table({}), ROWS.empty_table()], task(0))
    sink.write([], task(1))
    assert files(tmp_path) == []


def test_pandas_blocks_are_taken_too(tmp_path: Path, sink: CommitSink) -> None:
    rows = pa.concat_tables([record_rows("a", [1, 2]), ledger_row("a", [1, 2])])
    frame = rows.to_pandas(types_mapper=pd.ArrowDtype)
    sink.write([frame], task(0))
    (commit,) = read_commits(str(tmp_path))
    assert commit.shards["a"].record_ids.tolist() == [1, 2]
    assert commit.shards["a"].ledger == Ledger(1, 2, 3)


def test_a_repeated_task_replaces_equal_by_equal(tmp_path: Path, sink: CommitSink) -> None:
    sink.write([record_rows("a", [1, 2]), ledger_row("a", [1, 2])], task(0))
    sink.write([record_rows("a", [1, 2], image_key="again"), ledger_row("a", [1, 2])], task(0))
    assert len(files(tmp_path)) == 2
    shard = by_shard(read_commits(str(tmp_path)))["a"]
    assert shard.record_ids.tolist() == [1, 2]
    assert shard.finished


def test_another_job_writes_beside_the_first_ones_files(tmp_path: Path, sink: CommitSink) -> None:
    sink.write([record_rows("a", [1])], task(0))
    logs = seal(str(tmp_path), claims.latest(str(tmp_path)), "sealed-000002-f00f00.parquet")
    second = CommitSink(charge(tmp_path, 2, "f00f00", logs), file_bytes=4)
    second.write([record_rows("a", [2])], task(0))
    assert len(files(tmp_path)) == 5
    assert by_shard(read_commits(str(tmp_path)))["a"].record_ids.tolist() == [1, 2]


def test_sinks_of_one_job_write_beside_each_other(tmp_path: Path) -> None:
    claim = charge(tmp_path)
    for phase in (0, 1):
        CommitSink(claim, file_bytes=4, phase=phase).write([record_rows("a", [phase])], task(0))
    assert by_shard(read_commits(str(tmp_path)))["a"].record_ids.tolist() == [0, 1]


def test_a_job_that_was_superseded_writes_nothing_more(tmp_path: Path, sink: CommitSink) -> None:
    charge(tmp_path, 2, "f00f00")
    with pytest.raises(SupersededError, match="another job has taken over"):
        sink.write([record_rows("a", [1])], task(0))
    assert files(tmp_path) == []


def test_parcels_are_unpacked(tmp_path: Path, sink: CommitSink) -> None:
    tables = [record_rows("a", [1, 2]), ROWS.empty_table(), record_rows("b", [3]), ledger_row("b", [3])]
    sink.write([pack(table) for table in tables], task(0))
    committed = by_shard(read_commits(str(tmp_path)))
    assert {name: shard.record_ids.tolist() for name, shard in committed.items()} == {"a": [1, 2], "b": [3]}
    assert committed["b"].finished


def test_nothing_is_committed_where_the_data_could_not_be_written(
    tmp_path: Path, sink: CommitSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(uri: str, data: bytes, **_: Any) -> None:
        raise ConfigurationError("no space left")

    monkeypatch.setattr(storage, "write_bytes_atomic", full_disk)
    with pytest.raises(ConfigurationError, match="no space left"):
        sink.write([record_rows("a", [1])], task(0))
    assert files(tmp_path) == []


@pytest.mark.parametrize("column", ["record_id", "shard"])
def test_a_row_that_is_neither_record_nor_ledger_is_never_dropped(
    tmp_path: Path, sink: CommitSink, column: str
) -> None:
    rows = record_rows("a", [1, 2])
    at = ROWS.get_field_index(column)
    broken = rows.set_column(at, ROWS.field(column), pa.nulls(2, ROWS.field(column).type))
    with pytest.raises(PipelineError, match="reached the sink"):
        sink.write([broken], task(0))
    assert files(tmp_path) == []


def test_two_shards_of_one_name_are_noticed(sink: CommitSink) -> None:
    with pytest.raises(PipelineError, match=r"two different ledgers for the shard a\.tar"):
        sink.write([ledger_row("a.tar", [1]), ledger_row("a.tar", [2])], task(0))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"version": 2,', ""),
        ('"rows": 2', '"rows": 3'),
        ('"records": 2', '"records": 1'),
        ('"id_sum": 3', '"id_sum": 4'),
        ("[1, 2]", "[1, 2.5]"),
        ("[1, 2]", "[1, 36893488147419103234]"),
        ("}", ""),
    ],
)
def test_a_damaged_commit_is_named(tmp_path: Path, sink: CommitSink, old: str, new: str) -> None:
    sink.write([record_rows("a", [1, 2])], task(0))
    path = tmp_path / "commits/part-000001-0123ab-0-000000.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigurationError, match=r"part-000001-0123ab-0-000000\.json is damaged: delete it"):
        read_commits(str(tmp_path))


def test_a_commit_of_a_newer_version_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="of version 3, this program reads version 2"):
        Commit.from_json("part-x", '{"version": 3}')


def test_the_data_file_has_the_schema_and_keeps_pictures_as_they_are(tmp_path: Path, sink: CommitSink) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    alpha = {"bytes": file.getvalue(), "path": None}
    sink.write([record_rows("a", range(5), alpha=alpha, prompt_mask=gray_png())], task(0))

    path = tmp_path / "records/part-000001-0123ab-0-000000.parquet"
    schema = pq.read_schema(path)
    assert schema.equals(RECORDS)
    assert schema.metadata == RECORDS.metadata
    assert [field.metadata[b"description"] for field in schema] == [
        field.metadata[b"description"] for field in RECORDS
    ]
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    for picture in ("alpha.bytes", "prompt_mask"):
        column = columns.pop(picture)
        assert column.compression == "UNCOMPRESSED"
        assert column.statistics is None
        assert not any("DICTIONARY" in encoding for encoding in column.encodings)
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert columns["record_id"].statistics.max == 4
    assert "RLE_DICTIONARY" in columns["shard"].encodings
    assert pd.read_parquet(path)["alpha"][0]["bytes"] == file.getvalue()


def test_row_groups_stay_small(tmp_path: Path, sink: CommitSink) -> None:
    alpha = {"bytes": bytes(2**20), "path": None}
    sink.write([record_rows("a", range(40), alpha=alpha)], task(0))
    metadata = pq.ParquetFile(tmp_path / "records/part-000001-0123ab-0-000000.parquet").metadata
    sizes = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    assert metadata.num_row_groups == 3
    assert max(sizes) < 17 * 2**20


class KilledOnce(CommitSink):
    """Its first write dies between data file and commit, with its worker."""

    def __init__(self, claim: Claim, file_bytes: int, flag: str) -> None:
        super().__init__(claim, file_bytes)
        self._flag = flag

    def write(self, blocks: Any, ctx: Any) -> None:
        put = storage.write_bytes_atomic

        def put_or_die(uri: str, data: bytes, **options: Any) -> None:
            if "/commits/" in uri:
                try:
                    os.close(os.open(self._flag, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    pass
                else:
                    os.kill(os.getpid(), signal.SIGKILL)
            put(uri, data, **options)

        storage.write_bytes_atomic = put_or_die
        try:
            super().write(blocks, ctx)
        finally:
            storage.write_bytes_atomic = put


def test_ray_writes_each_record_once_though_a_writer_is_killed(tmp_path: Path, ray_session: None) -> None:
    import ray

    flag = tmp_path / "killed"
    config = label_config(tmp_path / "run")
    run = begin(config)
    ids = {f"{shard}.tar": range(shard * 100, shard * 100 + 10) for shard in range(6)}
    blocks = [table for shard in ids for table in (record_rows(shard, ids[shard]), ledger_row(shard, ids[shard]))]
    ray.data.from_arrow(blocks).write_datasink(KilledOnce(run.claim, 12_000, str(flag)))

    assert flag.exists()
    outcome = run.reconcile(ids)
    assert outcome.complete, outcome.faults
    assert (outcome.found, outcome.by_status) == (60, {"ok": 60, "error": 0})
    # The repeated write took the orphan's name, and 30 kB came in writes of at least 12.
    assert run.orphans() == []
    assert len(read_commits(run.path)) <= 3
    written = read_records(run.path, ["record_id"])["record_id"].to_pylist()
    assert sorted(written) == sorted(number for shard in ids.values() for number in shard)
