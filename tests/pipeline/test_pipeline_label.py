"""The whole way, from image files to reconciled records, on a real Ray."""

import hashlib
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import inspection
from pipeline.commit_log import read_commits
from pipeline.config import LabelConfig, load_config
from pipeline.errors import ConfigurationError
from pipeline.label import label
from pipeline.latest import Chain
from pipeline.plan import plan
from pipeline.reconcile import UNMATCHED_PROMPTS
from pipeline.runs import read_records
from pipeline.scopes import Selection
from support import zoo

pytestmark = pytest.mark.usefixtures("ray_session")

SMALL = (
    "model.source=untrained:sdmatte-mini",
    "model.input_size=64",
    "output.contact_sheet=4",
    "workers.cpus_per_actor=0.5",
    "workers.images_per_block=4",
)


def config(kind: str, path: Path | str, output: Path | str, *more: str) -> LabelConfig:
    return load_config(None, [f"input.kind={kind}", f"input.path={path}", f"output.path={output}", *SMALL, *more])


def outcome(run: Path | str) -> dict[str, list[str | None]]:
    """Return the error codes of each image's records by the stem of its key."""
    codes: dict[str, list[str | None]] = {}
    for record in read_records(str(run), ["image_key", "error_code"]).to_pylist():
        codes.setdefault(Path(record["image_key"]).stem, []).append(record["error_code"])
    return {key: sorted(found, key=str) for key, found in codes.items()}


def corpus(kind: str, folder: Path) -> tuple[str, list[str]]:
    """Write the zoo in one form; return the input path and further settings."""
    animals = zoo.zoo()
    if kind == "webdataset":
        zoo.write_tars(folder, animals)
        return f"{folder}/*.tar", []
    zoo.write_folder(folder / "photos", animals)
    if kind == "manifest":
        (folder / "manifest.jsonl").write_bytes(zoo.manifest_lines(animals, "photos"))
        return str(folder / "manifest.jsonl"), ["input.images_per_shard=5"]
    (folder / "photos" / "masks").rename(folder / "masks")
    (folder / "prompts.jsonl").write_bytes(zoo.prompt_lines(animals, "masks"))
    return str(folder / "photos"), [
        "prompts.kind=jsonl",
        f"prompts.path={folder / 'prompts.jsonl'}",
        "input.images_per_shard=5",
    ]


@pytest.mark.parametrize("kind", ["webdataset", "folder", "manifest"])
def test_every_animal_of_the_zoo_ends_as_its_records(kind: str, tmp_path: Path) -> None:
    path, settings = corpus(kind, tmp_path / "corpus")
    run = tmp_path / "run"
    summary = label(config(kind, path, run, *settings))
    assert summary.complete, summary
    assert outcome(run) == zoo.expected(zoo.zoo())

    animals = {Path(animal.name).stem: animal for animal in zoo.zoo()}
    for record in read_records(str(run)).to_pylist():
        animal = animals[Path(record["image_key"]).stem]
        if record["status"] == "error":
            assert record["error_message"]
            assert record["alpha"] is None
            continue
        alpha = Image.open(io.BytesIO(record["alpha"]["bytes"]))
        assert alpha.size == animal.size == (record["image_width"], record["image_height"])
        assert record["image_notes"] == animal.notes
        assert record["image_sha256"] == hashlib.sha256(animal.data or b"").hexdigest()
        assert record["error_message"] is None

    info = json.loads((run / "run.json").read_text())
    assert info["state"] == "complete"
    assert info["counts"]["lost"] == info["counts"]["doubled"] == info["counts"]["unexpected"] == 0
    assert info["counts"]["found"] == sum(len(animal.codes) for animal in zoo.zoo())
    assert (run / "_SUCCESS").exists()
    assert (run / "report" / "index.html").exists()
    assert (run / "report" / "contact_sheet.jpg").exists()
    timing = info["timing"]
    shards = read_records(str(run))["shard"].to_pylist()
    assert timing["objects"] == info["counts"]["found"] - shards.count(UNMATCHED_PROMPTS)  # no actor sees those
    assert 0 < timing["model_busy"] < 1
    assert all(timing["thread_seconds"][key] > 0 for key in ("read", "decode", "compute", "score", "encode", "write"))
    assert sum(timing["seconds"].values()) == pytest.approx(timing["actor_seconds"], rel=0.02)
    files = [file for file in (run / "records").iterdir() if "unmatched" not in file.name]
    assert timing["bytes_written"] == sum(file.stat().st_size for file in files)
    assert "Where the time went" in (run / "report" / "index.html").read_text()
    # Any Parquet reader sees the same records as ours.
    assert pq.read_table(run / "records", columns=["record_id"]).num_rows == len(read_records(str(run), ["record_id"]))
    assert re.match(r"Run \S+ complete\n", str(summary))


def test_a_complete_run_is_left_as_it_is_and_another_one_is_equal(tmp_path: Path) -> None:
    zoo.write_tars(tmp_path / "corpus", zoo.zoo()[:3])
    settings = config("webdataset", tmp_path / "corpus/*.tar", tmp_path / "run")
    assert label(settings).complete
    two = "workers.blocks_in_hand=2"
    assert label(config("webdataset", tmp_path / "corpus/*.tar", tmp_path / "other", two)).complete
    alphas = [
        {
            row["record_id"]: row["alpha"]
            for row in read_records(str(tmp_path / name), ["record_id", "alpha"]).to_pylist()
        }
        for name in ("run", "other")
    ]
    assert alphas[0] == alphas[1]
    assert len(alphas[0]) == 4

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    again = label(settings)
    assert again.complete
    assert again.already
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    assert "is complete, nothing to do" in plan(settings)
    with pytest.raises(ConfigurationError, match=r"model\.input_size: 64 there, 128 here"):
        label(config("webdataset", tmp_path / "corpus/*.tar", tmp_path / "run", "model.input_size=128"))
    zoo.write_tars(tmp_path / "more", zoo.zoo()[:1], shards=1)
    (tmp_path / "more" / "0000.tar").rename(tmp_path / "corpus" / "0009.tar")
    with pytest.raises(ConfigurationError, match="no longer what it was"):
        label(settings)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_without_doing_anything_twice(tmp_path: Path) -> None:
    zoo.write_tars(tmp_path / "corpus", zoo.zoo(), shards=3)
    run = tmp_path / "run"
    settings = config("webdataset", tmp_path / "corpus/*.tar", run, "output.file_mb=1e-6")
    assert label(settings).complete
    made = {r["record_id"]: r["labelled_at"] for r in read_records(str(run), ["record_id", "labelled_at"]).to_pylist()}
    # What a job that was killed leaves behind: some commits are missing, their data files are orphans.
    (run / "_SUCCESS").unlink()
    dropped = sorted((run / "commits").glob("*.json"))[::2]
    for commit in dropped:
        commit.unlink()
    kept = set(read_records(str(run), ["record_id"])["record_id"].to_pylist())
    assert 0 < len(kept) < len(made)

    summary = label(settings)
    assert summary.complete, summary
    assert summary.before == len(kept)
    timing = json.loads((run / "run.json").read_text())["timing"]
    assert (timing["jobs"], len(timing["per_actor"])) == (2, 2)
    assert timing["objects"] == len(made) + len(made) - len(kept)
    assert outcome(run) == zoo.expected(zoo.zoo())
    rows = read_records(str(run), ["record_id", "labelled_at"]).to_pylist()
    assert len(rows) == len(made)
    assert all(made[row["record_id"]] == row["labelled_at"] for row in rows if row["record_id"] in kept)
    files = {f"records/{path.name}" for path in (run / "records").iterdir()}
    assert files == {commit.data for commit in read_commits(str(run))} - {None}


def test_coco_detections_label_a_folder(tmp_path: Path) -> None:
    zoo.write_folder(tmp_path / "photos", [a for a in zoo.zoo() if a.name in {"plain.jpg", "alpha.png"}])
    annotations = {
        "images": [{"id": 1, "file_name": "plain.jpg"}, {"id": 2, "file_name": "alpha.png"}],
        "categories": [{"id": 3, "name": "disc"}],
    }
    found: list[dict[str, Any]] = [
        {"image_id": 1, "category_id": 3, "bbox": [20, 10, 70, 60], "score": 0.9},
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 30, 30], "score": 0.2},
        {"image_id": 2, "category_id": 3, "bbox": [20, 10, 70, 60], "score": 0.8},
        {"image_id": 9, "category_id": 3, "bbox": [20, 10, 70, 60], "score": 0.8},
    ]
    (tmp_path / "images.json").write_text(json.dumps(annotations))
    (tmp_path / "found.json").write_text(json.dumps(found))
    summary = label(
        config(
            "folder",
            tmp_path / "photos",
            tmp_path / "run",
            "prompts.kind=coco",
            f"prompts.path={tmp_path / 'found.json'}",
            f"prompts.coco_images={tmp_path / 'images.json'}",
            "prompts.min_score=0.5",
        )
    )
    assert summary.complete, summary
    records = read_records(str(tmp_path / "run")).to_pylist()
    ok = [record for record in records if record["status"] == "ok" and record["label"] == "disc"]
    assert sorted((r["image_key"], r["prompt_box"], r["prompt_score"]) for r in ok) == [
        ("alpha.png", [20, 10, 90, 70], 0.8),
        ("plain.jpg", [20, 10, 90, 70], 0.9),
    ]
    errors = [record["error_code"] for record in records if record["status"] == "error"]
    assert "image_missing" in errors  # image 9
    assert sum(code == "image_missing" for code in errors) == 1


def test_faults_of_the_configuration_stop_the_job_before_it_costs(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        label(config("webdataset", tmp_path / "nowhere/*.tar", tmp_path / "run"))
    zoo.write_tars(tmp_path / "corpus", zoo.zoo()[:1])
    with pytest.raises(ConfigurationError, match="no-such-model"):
        label(
            config("webdataset", tmp_path / "corpus/*.tar", tmp_path / "run", f"model.source={tmp_path}/no-such-model")
        )
    with pytest.raises(ConfigurationError, match="GPU"):
        label(config("webdataset", tmp_path / "corpus/*.tar", tmp_path / "run", "model.device=cuda"))
    with pytest.raises(ConfigurationError, match="lies in the input folder"):
        label(config("folder", tmp_path / "corpus", tmp_path / "corpus" / "run"))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"claims"}, "more than a claim was written"
    for selection in (Selection("again", "status == 'error'"), Selection("incremental")):
        with pytest.raises(ConfigurationError, match="nowhere"):
            label(config("webdataset", tmp_path / "nowhere/*.tar", tmp_path / "run"), selection)


def test_only_what_is_new_is_labelled_and_finished_shards_are_not_opened(tmp_path: Path) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    zoo.write_tars(corpus, zoo.zoo()[:4])
    settings = config("webdataset", corpus / "*.tar", run, "model.source=sdmatte-nano")
    assert label(settings, Selection("incremental")).complete
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    for tar in corpus.glob("*.tar"):  # whoever opens it now finds nothing
        state = tar.stat()
        tar.write_bytes(b"\xff" * state.st_size)
        os.utime(tar, ns=(state.st_atime_ns, state.st_mtime_ns))
    zoo.write_tars(tmp_path / "more", zoo.zoo()[4:7], shards=1)
    (tmp_path / "more" / "0000.tar").rename(corpus / "0009.tar")
    with pytest.raises(ConfigurationError, match="With --incremental, what is new is labelled"):
        label(settings)
    second = label(settings, Selection("incremental"))
    assert second.complete, second
    assert second.run.path == str(run / "followups/0001")
    assert second.run.plan() == ["0009.tar"]
    assert outcome(second.run.path) == zoo.expected(zoo.zoo()[4:7])
    assert {path: path.read_bytes() for path in before} == before

    chain = Chain.open(str(run))
    records = chain.records(["record_id", "image_key"])
    assert len(set(records["record_id"].to_pylist())) == len(records)
    assert set(records["image_key"].to_pylist()) == {Path(animal.name).stem for animal in zoo.zoo()[:7]}
    assert inspection.reconcile(chain).complete

    third = label(settings, Selection("incremental"))
    assert third.already
    assert third.run.path == second.run.path
    assert list(Chain.open(str(run)).runs) == ["", "followups/0001"]


def test_the_plan_starts_nothing(tmp_path: Path) -> None:
    zoo.write_tars(tmp_path / "corpus", zoo.zoo(), shards=2)
    text = plan(config("webdataset", tmp_path / "corpus/*.tar", tmp_path / "run"))
    assert "shards    2: " in text
    assert "source: untrained:sdmatte-mini" in text
    assert not (tmp_path / "run").exists()


def test_s3_to_s3(s3_server: str, tmp_path: Path) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="label-whole")
    zoo.write_tars(tmp_path / "corpus", zoo.zoo())
    for tar in (tmp_path / "corpus").glob("*.tar"):
        client.upload_file(str(tar), "label-whole", f"shards/{tar.name}")
    summary = label(config("webdataset", "s3://label-whole/shards/*.tar", "s3://label-whole/runs/1"))
    assert summary.complete, summary
    assert outcome("s3://label-whole/runs/1") == zoo.expected(zoo.zoo())
    keys = {item["Key"] for item in client.list_objects_v2(Bucket="label-whole", Prefix="runs/1/")["Contents"]}
    assert {"runs/1/run.json", "runs/1/_SUCCESS", "runs/1/report/index.html"} <= keys
    (record, *_) = [r for r in read_records("s3://label-whole/runs/1").to_pylist() if r["status"] == "ok"]
    assert record["image_uri"].startswith("s3://label-whole/shards/")
    assert np.asarray(Image.open(io.BytesIO(record["alpha"]["bytes"]))).dtype == np.uint8
