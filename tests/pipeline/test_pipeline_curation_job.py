"""What a curation leaves behind, and where it refuses to."""

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.curation.config import decide_settings
from pipeline.curation.job import curate
from pipeline.curation.schema import DECISIONS
from pipeline.errors import ConfigurationError
from support.curation_runs import decided, decisions, failed, outcome, review, scored, scored_run
from support.run_rows import ROWS, begin, complete, label_config, ledger_row


@pytest.fixture
def run(tmp_path: Path) -> Path:
    scored_run(tmp_path / "run", [*(scored(n, n / 1000, label=f"l{n % 3}") for n in range(20)), failed(77)])
    return tmp_path / "run"


def test_the_file_has_its_schema_and_order(run: Path, tmp_path: Path) -> None:
    decided(tmp_path / "out", run, budget=4, reject=("label == 'l1'",))
    table = pq.read_table(io.BytesIO((tmp_path / "out" / "decisions.parquet").read_bytes()))
    assert table.schema.equals(DECISIONS, check_metadata=True)
    rows = table.to_pylist()
    keys = [(row["decision"], -1 if row["rank"] is None else row["rank"], row["record_id"]) for row in rows]
    assert keys == sorted(keys)
    first = rows[0]
    assert (first["record_id"], first["output"], first["image_key"]) == (0, str(run), "0.jpg")
    assert (first["image_uri"], first["prompt_kind"], first["status"]) == ("s3://corpus/a.tar#0.jpg", "box", "ok")
    assert first["quality"] == 1.0


def test_the_settings_and_counts_stand_beside_it(run: Path, tmp_path: Path) -> None:
    found = decided(tmp_path / "out", run, budget=4, reject=("label == 'l1'",))
    about = json.loads((tmp_path / "out" / "curation.json").read_text())
    assert about["settings"]["budget"] == 4
    assert about["settings"]["reject"] == ["label == 'l1'"]
    assert about["runs"][0]["complete"] is True
    assert about["counts"] == found.counts == {"accept": 9, "review": 4, "reject": 8}
    assert about["records"] == 21 == sum(reason["records"] for reason in about["reasons"])
    assert {"decision": "reject", "reason": "error: image_corrupt", "records": 1} in about["reasons"]
    assert about["expected_error"] == pytest.approx(found.expected_error)
    assert about["faults"] == []


def test_the_same_runs_and_settings_give_the_same_bytes(run: Path, tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        decided(tmp_path / "out", run, budget=4, per=("label", "size"))
        contents.append([file.read_bytes() for file in sorted((tmp_path / "out").iterdir())])
    assert contents[0] == contents[1]
    assert len(contents[0]) == 2


def test_a_folder_with_other_files_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    decided(tmp_path / "out", run, budget=4)  # an empty one will do, and its own it may replace
    decided(tmp_path / "out", run, budget=5)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigurationError, match="is not empty"):
        decided(tmp_path / "mine", run, budget=4)
    with pytest.raises(ConfigurationError, match="is not empty"):
        decided(run, run, budget=4)
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_nothing_is_written_within_a_run(run: Path, tmp_path: Path) -> None:
    before = sorted(run.rglob("*"))
    (tmp_path / "link").symlink_to(run)
    for folder in (run / "curated", run / "records" / "deep", tmp_path / "link" / "curated"):
        with pytest.raises(ConfigurationError, match="lies within"):
            decided(folder, run, budget=4)
    assert sorted(run.rglob("*")) == before
    decided(tmp_path / "run-curated", run, budget=4)


def test_a_curation_that_died_halfway_can_be_repeated(run: Path, tmp_path: Path) -> None:
    decided(tmp_path / "out", run, budget=4)
    (tmp_path / "out" / "curation.json").unlink()
    decided(tmp_path / "out", run, budget=4)
    assert (tmp_path / "out" / "curation.json").exists()


def test_records_that_are_there_twice_are_a_fault(tmp_path: Path) -> None:
    run = scored_run(tmp_path / "run", [scored(1), scored(2)])
    for log in Path(run.path, "commits").glob("log-*"):
        pytest.fail(f"commits are gathered in {log}: this test must copy another file")
    # A second data file with a commit of its own, as two jobs at once leave on stores without conditional writes.
    for file in [*Path(run.path, "records").iterdir(), *Path(run.path, "commits").glob("part-*.json")]:
        copy = file.with_name(file.name.replace("0-000000", "0-000001"))
        content = file.read_bytes()
        copy.write_bytes(content if file.suffix == ".parquet" else content.replace(b"0-000000", b"0-000001"))
    review(run, tmp_path / "run", 2, "reject")
    found = decided(tmp_path / "out", tmp_path / "run", budget=0)
    assert not found.complete
    assert "FAULT: " in str(found)
    assert "2 records are there twice" in str(found)
    assert [row["record_id"] for row in decisions(tmp_path / "out")] == [1, 2]  # each is decided about once
    assert outcome(tmp_path / "out") == {1: "accept", 2: "reject"}


@pytest.mark.slow
def test_it_works_on_object_storage(s3_server: str) -> None:
    import boto3

    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="curation")
    run = "s3://curation/run"
    record = scored(1) | {"run_id": "r"}
    directory = begin(label_config(run))
    complete(directory, pa.Table.from_pylist([record], schema=ROWS), ledger_row("a.tar", [1]))
    found = curate(decide_settings(runs=[run], out="s3://curation/out", budget=0))
    assert found.counts["accept"] == 1
    rows = pq.read_table(io.BytesIO(storage.read_bytes("s3://curation/out/decisions.parquet"))).to_pylist()
    assert rows[0]["output"] == run
    assert storage.exists("s3://curation/out/curation.json")
    with pytest.raises(ConfigurationError, match="is not empty"):
        curate(decide_settings(runs=[run], out="s3://curation", budget=0))


def large_tables(count: int) -> list[pa.Table]:
    """Records of three objects per image, made without a Python object for each."""
    generator = np.random.default_rng(0)
    ids = generator.integers(-(2**63), 2**63 - 1, count)
    images, hashes = (np.repeat(generator.integers(-(2**63), 2**63 - 1, count // 3 + 1), 3)[:count] for _ in range(2))
    mad = generator.exponential(0.01, count).astype(np.float32)
    numbers = np.char.add("images/", (np.arange(count) // 3).astype(str))
    columns: dict[str, Any] = {
        "record_id": ids,
        "image_id": images,
        "run_id": np.full(count, "r"),
        "shard": np.full(count, "a.tar"),
        "image_uri": np.char.add("s3://bucket/shards/a.tar#", numbers),
        "image_key": numbers,
        "image_width": np.full(count, 640),
        "image_height": np.full(count, 480),
        "image_phash": hashes,
        "label": generator.choice(["cat", "dog", "car"], count),
        "status": np.full(count, "ok"),
        "coverage": generator.random(count).astype(np.float32) ** 6,
        "predicted_mad": mad,
        "quality": 2 ** (-mad / np.float32(0.02)),
        "calibration_matches": np.ones(count, np.bool_),
    }
    arrays = {
        field.name: pa.array(columns[field.name]).cast(field.type)
        if field.name in columns
        else pa.nulls(count, field.type)
        for field in ROWS
    }
    return [pa.table(arrays, schema=ROWS), ledger_row("a.tar", ids.tolist())]


@pytest.mark.slow
def test_two_hundred_thousand_records_take_seconds(tmp_path: Path) -> None:
    complete(begin(label_config(tmp_path / "run")), *large_tables(200_000))
    before = pa.total_allocated_bytes()
    began = time.perf_counter()
    found = decided(tmp_path / "out", tmp_path / "run", target_error=0.005, budget=5000, per=("label", "size"))
    assert time.perf_counter() - began < 20  # 3 s where nothing else runs
    assert found.complete
    assert found.counts["review"] == 5000
    assert sum(found.counts.values()) == 200_000
    assert found.expected_error is not None
    assert 0.00499 < found.expected_error <= 0.005
    assert pa.total_allocated_bytes() - before < 2**20  # nothing is kept
