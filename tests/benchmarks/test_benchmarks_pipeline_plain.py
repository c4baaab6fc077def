"""Plain Python beside the pipeline: it has to do the same work, or the comparison is worth nothing."""

import io
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest

from benchmarks import pipeline_plain
from benchmarks.pipeline_set import boxes, corpus, stand_in
from benchmarks.scores import run_config
from pipeline.config import LabelConfig
from pipeline.quality.scoring import Scorer
from pipeline.schema import RECORDS
from pipeline.sources import make_source
from pipeline.stages.matte import MatteImages, identity
from pipeline.stages.read import ReadShards, plan_table

BUCKET = "plain-python"
OWN = {"record_id", "image_id", "run_id", "image_key", "image_uri", "labelled_at", "config_hash"}
"""Columns that name places and times, or that plain Python leaves empty."""


@pytest.fixture(scope="module")
def store(s3_server: str) -> Any:
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    made = corpus([(64, 48)] * 5 + [(48, 64)] * 4, 5)
    for name, data in made.shards.items():
        client.put_object(Bucket=BUCKET, Key=f"in/{name}", Body=data)
    return client


def test_shards_are_read_as_they_were_made(store: Any) -> None:
    made = corpus([(64, 48)] * 5 + [(48, 64)] * 4, 5)
    for name, data in made.shards.items():
        found = list(pipeline_plain.read(store, BUCKET, f"in/{name}"))
        assert [image for image, _ in found] == [image for image, _ in boxes(data)]


def test_records_are_those_of_the_pipeline(store: Any) -> None:
    config = LabelConfig.model_validate(
        run_config("none").model_dump() | {"input": {"kind": "webdataset", "path": f"s3://{BUCKET}/in/00000.tar"}}
    )
    model = stand_in()
    (shard,) = make_source(config).shards()
    (rows,) = ReadShards(config)(plan_table([shard], {}))
    wanted = MatteImages(config, "run", model=model).label(rows).to_pylist()[:-1]
    pairs = list(pipeline_plain.read(store, BUCKET, "in/00000.tar"))
    found = pipeline_plain.records(pairs, model, Scorer(config, identity(model)), "00000.tar").to_pylist()
    assert len(found) == len(wanted) == 5
    for mine, theirs in zip(found, wanted, strict=True):
        different = {name for name in RECORDS.names if mine[name] != theirs[name]} - OWN
        assert all(mine[name] is None for name in different), different


def test_files_are_written_at_the_size_asked_for(store: Any) -> None:
    model = stand_in()
    keys = ["in/00000.tar", "in/00001.tar"]
    score = Scorer(run_config("none"), identity(model))
    counts = pipeline_plain.label(store, BUCKET, keys, "out", 1.0, model, score)
    objects = store.list_objects_v2(Bucket=BUCKET, Prefix="out/")["Contents"]
    assert counts["images"] == 9
    assert len(objects) == 2  # of at least one byte: one for each batch
    assert counts["bytes_out"] == sum(each["Size"] for each in objects)
    body = store.get_object(Bucket=BUCKET, Key=objects[0]["Key"])["Body"].read()
    assert pq.read_schema(io.BytesIO(body)).equals(RECORDS)
