"""The evaluation from folders to tables."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from pipeline.config import LabelConfig
from pipeline.errors import PipelineError
from pipeline.evaluation.baselines import BASELINES
from pipeline.evaluation.protocol import KINDS
from pipeline.ids import image_id, record_id
from pipeline.summary import Summary
from support.demo_run import MODEL, add_records, png
from support.run_rows import begin
from support.truths import write_object

EVALUATE = Path(__file__).parents[2] / "jobs" / "evaluate.py"

Main = Callable[[list[str]], int]


@pytest.fixture
def job() -> dict[str, Any]:
    return runpy.run_path(str(EVALUATE))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    for key in ("a", "b", "c"):
        write_object(tmp_path / "mine", key, trimap="trimap" if key == "a" else None)
    return tmp_path / "mine"


def test_the_command_line_knows_all_kinds_and_baselines(job: dict[str, Any]) -> None:
    assert job["KINDS"] == KINDS
    assert job["BASELINES"] == tuple(BASELINES)


def drawn_run(config: LabelConfig) -> Summary:
    """Stands for the labelling run: boxes filled, points refused, and one record short."""
    run = begin(config, MODEL)
    lines = Path(str(config.input.path)).read_text().splitlines()
    records: list[dict[str, Any]] = []
    for row in map(json.loads, lines):
        image = image_id("m", row["key"])
        with Image.open(row["image"]) as photo:
            alpha = Image.new("L", photo.size)
        for prompt in row["prompts"]:
            known = {"shard": "m", "record_id": record_id(image, prompt), "prompt_id": prompt["id"], "status": "ok"}
            if "box" in prompt:
                ImageDraw.Draw(alpha).rectangle(prompt["box"], fill=255)
                records.append(known | {"alpha": {"bytes": png(alpha), "path": None}})
            else:
                failed = {"status": "error", "error_code": "prompt_unsupported", "error_message": "boxes only"}
                records.append(known | failed)
    add_records(run, "test", "m", records[:-1])
    return Summary(run, run.reconcile(["m"]), 0.0)


def test_a_model_and_a_baseline_over_two_sets(
    job: dict[str, Any],
    mine: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.evaluation.job.label", drawn_run)
    (mine / "alpha" / "b.png").unlink()
    write_object(tmp_path / "AM-2k" / "validation", "m_1", "original", "mask", "trimap")
    out = tmp_path / "out"
    command = [
        *("--data", f"folder={mine}", "--data", f"am-2k={tmp_path / 'AM-2k'}", "--out", str(out)),
        *("--model", "any", "--baseline", "prompt", "--prompts", "points,box", "--processes", "1"),
        "model.input_size=64",
    ]
    assert job["main"](command) == 3
    said = capsys.readouterr().out
    assert "AM-2K: 1 images, the complete set has 200" in said
    assert "mine: image/b.jpg: no true alpha belongs to this image" in said
    assert f"{MODEL.name}: 2 x prompt_unsupported, such as: boxes only" in said
    assert f"{MODEL.name}: 1 x model_failed, such as: the run has no record of this prompt" in said

    scores = pq.read_table(out / "scores.parquet").to_pylist()
    assert len(scores) == 3 * 2 * 2  # objects, kinds, methods
    content = json.loads((out / "table.json").read_text())
    assert content["models"][0]["settings"]["input_size"] == 64
    table = {(row["dataset"], row["prompt"], row["method"]): row for row in content["table"]}
    assert list(table)[:2] == [("mine", "box", MODEL.name), ("mine", "box", "prompt")]
    boxes, points = table["mine", "box", MODEL.name], table["mine", "points", MODEL.name]
    assert (boxes["objects"], boxes["errors"], points["objects"], points["errors"]) == (2, 0, 0, 2)
    # Pillow's rectangles include their last row and column.
    assert boxes["figures"]["mad_whole"] == pytest.approx(
        table["mine", "box", "prompt"]["figures"]["mad_whole"], rel=0.3
    )
    assert table["AM-2K", "points", "SDMatte (paper)"]["figures"]["sad_whole"] == 17.54
    assert "SDMatte* (paper)" in said
    assert (out / "table.md").read_text().endswith(said.partition(f"  {out}")[0].rstrip() + "\n")
    for name in ("worst-prompt.jpg", f"worst-{MODEL.name}.jpg"):
        with Image.open(out / name) as sheet:
            assert sheet.width > 1000


def test_other_prompts_settings_or_weights_get_runs_of_their_own(
    job: dict[str, Any], mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []

    def noted(config: LabelConfig) -> Summary:
        runs.append(config.output.path)
        raise PipelineError("enough")

    monkeypatch.setattr("pipeline.evaluation.job.label", noted)
    weights = tmp_path / "nano.safetensors"
    weights.write_bytes(b"1")
    data = ["--data", f"folder={mine}", "--out", str(tmp_path / "out"), "--processes", "1"]
    command = [*data, "--model", str(weights)]
    for more in ([], ["workers.actors=2"], ["model.input_size=64"], ["--seed", "1"]):
        assert job["main"]([*command, *more]) == 1
    weights.write_bytes(b"22")
    assert job["main"](command) == 1
    assert runs[0] == runs[1]
    assert len(set(runs)) == 4
    assert all("nano.safetensors-" in Path(run).name for run in runs)


@pytest.mark.slow  # a minute on a busy machine
@pytest.mark.usefixtures("ray_session")
def test_the_real_pipeline_all_the_way(
    job: dict[str, Any], mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = mine / "image" / "c.jpg"
    photo.write_bytes(photo.read_bytes()[:-200])  # its header is good: the run itself finds out
    out = tmp_path / "out"
    command = [
        *("--data", f"folder={mine}", "--model", "untrained:sdmatte-mini", "--out", str(out), "--processes", "2"),
        *("model.input_size=64", "workers.cpus_per_actor=0.5"),
    ]
    assert job["main"](command) == 3
    assert "3 x image_truncated" in capsys.readouterr().out
    scores = pq.read_table(out / "scores.parquet").to_pylist()
    assert [(row["key"], row["status"]) for row in scores[:3]] == [("a", "ok"), ("b", "ok"), ("c", "error")]
    assert len(scores) == 3 * len(KINDS)
    assert all(0 < row["mad_whole"] < 1 for row in scores if row["status"] == "ok")

    assert job["main"](command) == 3
    again = pq.read_table(out / "scores.parquet").to_pylist()
    assert [row["mad_whole"] for row in again] == [row["mad_whole"] for row in scores]
    assert len(list((out / "runs").iterdir())) == 1


def test_what_must_be_changed_first(
    job: dict[str, Any], mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main: Main = job["main"]
    out = ["--out", str(tmp_path / "out")]
    data = ["--data", f"folder={mine}"]
    assert main([*data, *out]) == 2
    assert "name at least one --model or --baseline" in capsys.readouterr().err
    assert main([*data, *out, "--baseline", "prompt", "model.source=x"]) == 2
    assert "leave it out" in capsys.readouterr().err
    assert main([*data, *data, *out, "--baseline", "prompt"]) == 2
    assert "two data sets are called mine" in capsys.readouterr().err
    for wrong in (["--prompts", "box,dots"], ["--limit", "0"]):
        with pytest.raises(SystemExit) as caught:
            main([*data, *out, *wrong])
        assert caught.value.code == 2


def test_a_baseline_needs_no_run(
    job: dict[str, Any], mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--data", f"folder={mine}", "--baseline", "prompt", "--out", str(tmp_path / "out"), "--processes", "1"]
    assert job["main"]([*command, "--limit", "2"]) == 3  # b has no trimap, though there is a folder of them
    said = capsys.readouterr().out
    assert "2 of 3 objects" in said
    assert "MAD (unknown)" in said
    assert not (tmp_path / "out" / "runs").exists()
    assert {row["key"] for row in pq.read_table(tmp_path / "out" / "scores.parquet").to_pylist()} == {"a", "b"}
