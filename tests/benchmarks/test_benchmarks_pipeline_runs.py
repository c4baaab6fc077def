"""Processes that the pipeline's benchmarks start, and the pace of a run."""

import io
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.chaos_job import session
from benchmarks.pipeline_runs import BenchmarkError, Pace, end_session, engine, labelled_at, pipeline, plain
from benchmarks.pipeline_set import corpus
from support.s3.store import Store

SETTINGS = ["model.source=untrained:sdmatte-mini", "model.input_size=64", "workers.object_store_mb=120"]


@pytest.fixture
def store(s3_server: str, request: pytest.FixtureRequest) -> Store:
    bucket = f"paces-{abs(hash(request.node.name)):x}"[:40]
    boto3.client("s3").create_bucket(Bucket=bucket)
    return Store("moto", s3_server, bucket, "testing", "testing")


def test_rate_and_cpu_time_are_per_image() -> None:
    pace = Pace(images=50, seconds=25.0, cpu=10.0, wall=40.0)
    assert (pace.rate, pace.cpu_ms) == (2.0, 200.0)


def test_times_of_records_are_read_from_all_files(store: Store) -> None:
    moments = [datetime(2026, 1, 1, 0, 0, second, 250_000, UTC) for second in range(4)]
    for number in range(2):
        file = io.BytesIO()
        column = pa.array(moments[number::2], pa.timestamp("ms", tz="UTC"))
        pq.write_table(pa.table({"labelled_at": column}), file)
        store.upload({f"out/records/part-{number}.parquet": file.getvalue()})
    expected = [moment.timestamp() for moment in moments]
    np.testing.assert_allclose(np.sort(labelled_at(store, "out")), expected, atol=1e-3)


def test_a_session_is_ended_with_all_its_processes() -> None:
    script = "import subprocess, sys, time\nsubprocess.Popen(['sleep', '100'])\ntime.sleep(100)"
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    while len(session(process.pid)) < 2:
        time.sleep(0.02)
    os.kill(process.pid, 9)
    end_session(process)
    assert session(process.pid) == []


@pytest.mark.slow
def test_engine_and_plain_python_are_timed_in_processes_of_their_own(store: Store, tmp_path: Path) -> None:
    made = corpus([(64, 48)] * 6, 3)
    store.upload({f"in/{name}": data for name, data in made.shards.items()})
    for name, data in made.shards.items():
        (tmp_path / name).write_bytes(data)
    bare = engine(tmp_path, "untrained:sdmatte-mini", 64, 4, 1)
    assert bare.images == 6
    assert 0 < bare.seconds < bare.wall
    several = plain(store, [f"in/{name}" for name in made.shards], "out", 1.0, 2)
    assert several.images == 6
    assert several.mb == pytest.approx(made.bytes / 1e6)
    with pytest.raises(BenchmarkError, match="NoSuchKey"):
        plain(store, ["in/none.tar"], "out", 1.0, 1)


@pytest.mark.slow
def test_a_run_is_timed_from_its_first_batch_to_its_last_write(store: Store, tmp_path: Path) -> None:
    made = corpus([(64, 48)] * 24, 12)
    store.upload({f"in/{name}": data for name, data in made.shards.items()})
    paths = [f"input.path={store.url('in')}", f"output.path={store.url('out')}", "input.kind=webdataset"]
    command = ["benchmarks/pipeline_job.py", "-", "0.05", *SETTINGS, *paths, "workers.images_per_block=4"]
    pace = pipeline(command, store, "out", 4, made.bytes / 1e6, tmp_path, to_end=True)
    assert pace.images == 20
    assert 20 * 0.05 <= pace.seconds < pace.wall
    assert pace.cpu > 0
    assert pace.roles["actors"] > 0
    with pytest.raises(BenchmarkError, match="ended with"):
        pipeline([*command, "no.such=1"], store, "out", 4, 1.0, tmp_path, to_end=True)
