"""What the reading stage leaves for the next job while a store fails."""

from unittest import mock

import numpy as np
import pytest

from pipeline import storage
from pipeline.errors import TransientError
from pipeline.schema import IMAGE_ROWS
from pipeline.sources import make_source, webdataset
from pipeline.stages.read import ReadShards, plan_table
from support.corpora import BOX, image, lines, read_rows, reading_config, tar

POINTS = {"points": [[3, 4]]}


def outcome(rows):
    return [
        (row["image_key"], [prompt["error_code"] for prompt in row["prompts"]]) for row in rows if not row["ledger"]
    ]


def ids(rows):
    return [prompt["record_id"] for row in rows for prompt in row["prompts"]]


def outage(monkeypatch, *endings):
    """Let the store fail over files whose names end so."""
    whole = storage.read_bytes

    def failing(uri, **options):
        if uri.endswith(endings):
            raise TransientError(f"can't read {uri}: 503")
        return whole(uri, **options)

    monkeypatch.setattr(storage, "read_bytes", failing)


@pytest.fixture
def corpus(tmp_path):
    """A folder of three images, the second with a mask file; and the configuration that reads it."""
    (tmp_path / "in").mkdir()
    files = {"a.png": image(), "a.prompts.jsonl": lines(BOX), "c.png": image(), "c.prompts.jsonl": lines(BOX, POINTS)}
    files |= {"b.png": image(), "b.prompts.jsonl": lines(BOX, {"mask": "masks/m.png"})}
    for name, data in files.items():
        (tmp_path / "in" / name).write_bytes(data)
    (tmp_path / "in/masks").mkdir()
    (tmp_path / "in/masks/m.png").write_bytes(image(shade=255))
    return reading_config("folder", tmp_path / "in", input={"images_per_shard": 1_000_000})


@pytest.mark.parametrize(
    ("missing", "fate"),
    [("b.png", ["image_unavailable"] * 2), ("m.png", [None, "prompt_unavailable"])],
)
def test_what_the_store_fails_to_hand_out_becomes_a_record_that_may_be_made_again(corpus, monkeypatch, missing, fate):
    (shard,) = make_source(corpus).shards()
    (whole,) = ReadShards(corpus)(plan_table([shard], {}))
    warnings = []
    with monkeypatch.context() as patch:
        outage(patch, missing)
        (table,) = ReadShards(corpus, warn=warnings.append)(plan_table([shard], {}))
    rows = table.to_pylist()
    assert outcome(rows) == [("a.png", [None]), ("b.png", fate), ("c.png", [None, None])]
    assert next(p["error_message"] for p in rows[1]["prompts"] if p["error_code"]).endswith("503")
    assert table["ledger"][-1] == whole["ledger"][-1]  # ids and all
    assert not warnings

    done = [prompt["record_id"] for row in rows for prompt in row["prompts"] or () if prompt["error_code"] is None]
    (rest,) = ReadShards(corpus)(plan_table([shard], {shard.name: np.array(done, "<i8").tobytes()}))
    assert outcome(rest.to_pylist()) == [("b.png", [None] * (2 - fate.count(None)))]


def test_an_image_whose_prompts_the_store_fails_to_hand_out_is_left_for_the_next_job(corpus, monkeypatch):
    (shard,) = make_source(corpus).shards()
    (whole,) = ReadShards(corpus)(plan_table([shard], {}))
    warnings = []
    with monkeypatch.context() as patch:
        outage(patch, "b.prompts.jsonl")
        (table,) = ReadShards(corpus, warn=warnings.append)(plan_table([shard], {}))
    rows = table.to_pylist()
    assert outcome(rows) == [("a.png", [None]), ("c.png", [None, None])]
    assert table["ledger"].null_count == len(table)  # not read to its end
    (warning,) = warnings
    for words in (shard.name, "in/b.png", "b.prompts.jsonl", "503"):
        assert words in warning

    done = np.array(ids(rows), "<i8").tobytes()
    (rest,) = ReadShards(corpus)(plan_table([shard], {shard.name: done}))
    assert outcome(rest.to_pylist()) == [("b.png", [None, None])]
    assert rest["ledger"][-1] == whole["ledger"][-1]


def test_a_manifest_goes_on_over_an_image_that_the_store_fails_over(tmp_path, monkeypatch):
    rows = [{"image": name, "prompts": [BOX]} for name in ("a.png", "b.png", "c.png", "gone.png")]
    (tmp_path / "m.jsonl").write_bytes(lines(*rows))
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(image())
    outage(monkeypatch, "b.png")
    found = read_rows(reading_config("manifest", tmp_path / "m.jsonl"))
    fates = {"a.png": [None], "b.png": ["image_unavailable"], "c.png": [None], "gone.png": ["image_missing"]}
    assert outcome(found) == [*fates.items()]


def test_a_tar_that_cannot_be_opened_for_now_leaves_an_empty_table(tmp_path, monkeypatch):
    (tmp_path / "a.tar").write_bytes(tar([("a.png", image())]))
    config = reading_config("webdataset", tmp_path / "a.tar")
    (shard,) = make_source(config).shards()
    monkeypatch.setattr(webdataset, "open_stream", mock.Mock(side_effect=TransientError("can't open it: timeout")))
    warnings = []
    (table,) = ReadShards(config, warn=warnings.append)(plan_table([shard], {}))
    assert table.schema == IMAGE_ROWS
    assert len(table) == 0
    assert len(warnings) == 1
    assert "a.tar" in warnings[0]
    assert "timeout" in warnings[0]
    assert list(ReadShards(config)(plan_table([shard], {})))  # nobody need listen


def test_masks_of_a_prompt_file_in_an_outage(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("in/a.png", "in/b.png", "m.png"):
        (tmp_path / name).write_bytes(image(shade=255))
    (tmp_path / "p.jsonl").write_bytes(lines({"image": "a.png", "mask": "m.png"}, BOX | {"image": "b.png"}))
    config = reading_config("folder", tmp_path / "in", prompts={"kind": "jsonl", "path": str(tmp_path / "p.jsonl")})
    outage(monkeypatch, "m.png")
    rows = read_rows(config)
    assert outcome(rows) == [("a.png", ["prompt_unavailable"]), ("b.png", [None])]
