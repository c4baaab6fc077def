"""The parts of docs/inputs.md that are code."""

import csv
import io
import json
import re
from pathlib import Path

import pytest

from pipeline import sources, storage
from pipeline.config import InputConfig
from pipeline.sources.rows import read_header, text_rows
from pipeline.stages.read import ReadShards, plan_table
from support.corpora import BOX, image, lines, reading_config

DOCS = Path(__file__).parents[2] / "docs/inputs.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)


def test_the_source_of_the_docs_works(tmp_path, monkeypatch):
    (example,) = blocks("python")
    for name in ("a", "b"):
        storage.write_bytes_atomic(f"memory://bucket/{name}.jpg", image("JPEG"))
    namespace = {}
    exec(example.replace("s3://", "memory://"), namespace)
    monkeypatch.setitem(sources._SOURCES, "folder", namespace["ListSource"])
    (tmp_path / "p.jsonl").write_bytes(lines(BOX | {"image": "memory://bucket/a.jpg"}, BOX | {"image": "b.jpg"}))
    config = reading_config("folder", "unused", prompts={"kind": "jsonl", "path": str(tmp_path / "p.jsonl")})
    storage.delete("memory://bucket/b.jpg")
    from pipeline.prompt_files import load_prompt_index

    stage = ReadShards(config, load_prompt_index(config))
    rows = [row for table in stage(plan_table(stage._source.shards(), {})) for row in table.to_pylist()]
    found = {row["image_key"]: [prompt["error_code"] for prompt in row["prompts"]] for row in rows if row["image_key"]}
    assert found == {"memory://bucket/a.jpg": [None], "memory://bucket/b.jpg": ["image_missing"]}
    assert rows[-1]["ledger"]["records"] == 2


def test_the_csv_of_the_docs_says_what_its_json_says():
    (text,) = blocks("csv")
    (json_lines,) = blocks("json")
    stream = io.BytesIO(text.encode())
    header, _, line = read_header(stream, "csv")
    found = [placed.row for placed in text_rows(stream, "csv", header, line)]
    expected = [json.loads(line) for line in json_lines.splitlines()]
    assert [row.image for row in found] == [row["image"] for row in expected]
    assert [json.loads(row.prompts or "[]") for row in found] == [row["prompts"] for row in expected]
    assert [row.key for row in found] == [row.get("key", row["image"]) for row in expected]
    assert len(list(csv.reader(io.StringIO(text)))) == 3


@pytest.mark.parametrize("kind", InputConfig.model_fields["kind"].annotation.__args__)
def test_every_configured_kind_is_a_source(kind):
    source = sources.make_source(reading_config(kind, "unread"))
    assert callable(source.shards)
    assert callable(source.read)
