"""Rows of Parquet files by their place."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.errors import PipelineError
from pipeline.row_groups import RESTORE, RowGroups, parquet_dataset, readable

SCHEMA = pa.schema([("record_id", pa.int64()), ("label", pa.string()), ("alpha", pa.binary())])


@pytest.fixture
def dataset(tmp_path):
    for number in range(2):
        ids = np.arange(10) * 2 + number * 100
        rows = [{"record_id": int(i), "label": f"l{i % 3}", "alpha": bytes([i % 251]) * 1000} for i in ids]
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), tmp_path / f"{number}.parquet", row_group_size=4)
    return ds.dataset(sorted(map(str, tmp_path.glob("*"))), schema=SCHEMA)


def places(found):
    return {row["record_id"]: (row["group"], row["row"]) for _, table in found for row in table.to_pylist()}


def test_rows_are_found_and_read_by_their_place(dataset):
    groups = RowGroups()
    wanted = np.array([2, 3, 6, 18, 104, 118, 500])
    found = places(groups.add(dataset, wanted, ["record_id"]))
    assert sorted(found) == [2, 6, 18, 104, 118]
    for number, (group, row) in found.items():
        assert groups.row(group, row, SCHEMA) == {
            "record_id": number,
            "label": f"l{number % 3}",
            "alpha": bytes([number % 251]) * 1000,
        }


def test_a_condition_keeps_rows_but_tells_what_was_there(dataset):
    found = list(RowGroups().add(dataset, np.array([0, 2, 4]), ["record_id"], pc.field("label") == "l2"))
    assert np.concatenate([ids for ids, _ in found]).tolist() == [0, 2, 4]
    assert list(places(found)) == [2]


def test_nothing_wanted_nothing_found(dataset):
    assert list(RowGroups().add(dataset, np.array([], np.int64), ["record_id"])) == []


def test_memory_is_bounded_and_only_wanted_rows_are_kept(dataset):
    groups = RowGroups(limit=4500)
    found = places(groups.add(dataset, np.array([0, 2, 8, 10, 16, 18, 100, 108]), ["record_id"]))
    for number in (0, 8, 16, 100, 108, 0, 18):
        assert groups.row(*found[number], SCHEMA)["record_id"] == number
        assert sum(table.nbytes for table in groups._cache.values()) <= 4500
        assert all(len(table) <= 2 for table in groups._cache.values())
    assert len(groups._cache) > 1


def test_a_truncated_file_is_named_with_what_to_do(dataset, tmp_path):
    file = tmp_path / "0.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(PipelineError, match=r"0\.parquet: a data file can't be read .*jobs/runs\.py redo"):
        list(RowGroups().add(dataset, np.array([2]), ["record_id"]))


@pytest.mark.parametrize("damage", ["gone", "overwritten"])
def test_what_happens_to_a_file_between_finding_and_reading_is_told(dataset, tmp_path, damage):
    groups = RowGroups()
    found = places(groups.add(dataset, np.array([2]), ["record_id"], cure=RESTORE))
    file = tmp_path / "0.parquet"
    file.unlink()
    if damage == "overwritten":
        file.write_bytes(b"nonsense")
    with pytest.raises(PipelineError, match="restore it, or move it away"):
        groups.row(*found[2], SCHEMA)


def test_files_of_reviews_are_read_in_the_same_way(dataset, tmp_path):
    groups = RowGroups()
    found = places(groups.add(parquet_dataset(str(tmp_path / "1.parquet")), np.array([104]), ["record_id"]))
    assert groups.row(*found[104], SCHEMA)["alpha"] == bytes([104]) * 1000
    (tmp_path / "1.parquet").write_bytes(b"nonsense")
    with pytest.raises(PipelineError, match=r"1\.parquet.*restore it"):
        parquet_dataset(str(tmp_path / "1.parquet"))


def test_faults_of_data_files_hide_credentials():
    with pytest.raises(PipelineError) as error, readable("s3://key:secret@bucket/a.parquet"):
        raise OSError("https://host/a?X-Amz-Signature=abc")
    assert "secret" not in str(error.value)
    assert "abc" not in str(error.value)
