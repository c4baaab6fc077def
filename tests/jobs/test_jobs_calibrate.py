"""The calibration from folders to files."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config import LabelConfig
from pipeline.errors import PipelineError
from pipeline.evaluation.protocol import as_prompt
from pipeline.ids import image_id, record_id
from pipeline.quality.calibration import read_calibration
from pipeline.quality.degrade import degrade
from pipeline.quality.features import features
from pipeline.summary import Summary
from support.demo_run import MODEL, add_records, png
from support.run_rows import begin, label_config
from support.truths import disc, write_gray, write_photo

Main = Callable[[list[str]], int]

OBJECTS = 24


@pytest.fixture
def main() -> Main:
    found: Main = runpy.run_path(str(Path(__file__).parents[2] / "jobs" / "calibrate.py"))["main"]
    return found


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    for index in range(OBJECTS):
        levels = disc(radius=6 + index / 3, soft=2 + index % 5)
        write_photo(tmp_path / "mine" / "image" / f"{index:02}.png", levels)
        write_gray(tmp_path / "mine" / "alpha" / f"{index:02}.png", levels)
    return tmp_path / "mine"


def drawn_run(config: LabelConfig) -> Summary:
    """Stands for the labelling run: damaged truths with the features of a run, points refused."""
    run = begin(config, MODEL)
    records: list[dict[str, Any]] = []
    for row in map(json.loads, Path(str(config.input.path)).read_text().splitlines()):
        image = image_id("m", row["key"])
        pixels = np.asarray(Image.open(row["image"]).convert("RGB"))
        truth = np.asarray(Image.open(row["image"].replace("/image/", "/alpha/")), np.float32) / 255
        for prompt in row["prompts"]:
            known = {"shard": "m", "record_id": record_id(image, prompt), "prompt_id": prompt["id"], "image_id": image}
            if "points" in prompt:
                failed = {"status": "error", "error_code": "prompt_unsupported", "error_message": "no points"}
                records.append(known | failed)
                continue
            _, matte = degrade(truth, np.random.default_rng(len(records)))
            found = vars(features(matte, as_prompt(prompt), pixels, truth))
            kind = {"prompt_kind": "box" if "box" in prompt else "mask", "transparent": False, "status": "ok"}
            alpha = png(Image.fromarray(np.rint(matte * 255).astype(np.uint8)))
            records.append(known | found | kind | {"alpha": {"bytes": alpha, "path": None}})
    add_records(run, "test", "m", records)
    return Summary(run, run.reconcile(["m"]), 0.0)


def test_a_set_becomes_two_calibrations(
    main: Main, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.evaluation.job.label", drawn_run)
    out, single = tmp_path / "flip.json", tmp_path / "single.json"
    command = ["--data", f"folder={mine}", "--model", "any", "--out", str(out), "--single", str(single)]
    command += ["--processes", "1", "--damaged", "2", "quality.second=flip"]
    assert main(command) == 3  # points have no matte
    said = capsys.readouterr().out
    assert f"{OBJECTS} x prompt_unsupported: without a matte, and not fitted to" in said
    assert "second pass: flip" in said
    assert f"{2 * OBJECTS} records, and {4 * OBJECTS} damaged ones" in said

    made = {path: read_calibration(str(path)).content for path in (out, single)}
    assert (made[out].second.kind, made[single].second.kind) == ("flip", "none")
    assert made[out].data["damaged"] == 0
    for content in made.values():
        assert content.model.weights_sha256 == MODEL.weights_sha256
        assert content.data["sets"] == [{"title": "mine", "objects": OBJECTS, "images": OBJECTS}]
        assert content.data["without_matte"] == {"prompt_unsupported": OBJECTS}
        assert len(content.data["keys_sha256"]) == 64
        assert str(tmp_path) not in content.model_dump_json()
        # Each mean is that of mattes that were measured against their truth.
        assert 0.005 < content.figures["mean_mad"] < 0.1
    assert "second_difference" in {feature.name for feature in made[out].features}
    assert made[single].figures["mean_mad"] == made[out].figures["mean_mad"]

    config = label_config("out", quality={"second": "flip"})
    assert read_calibration(str(out)).matches(MODEL, config)


def test_truth_is_read_from_the_set(main: Main, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A perfect model has no error, whatever its features say."""
    monkeypatch.setattr("pipeline.evaluation.job.label", drawn_run)
    monkeypatch.setitem(drawn_run.__globals__, "degrade", lambda truth, _: ("", truth))
    out = tmp_path / "single.json"
    command = ["--data", f"folder={mine}", "--model", "any", "--out", str(out), "--processes", "1", "--damaged", "0"]
    assert main([*command, "--prompts", "box,mask"]) == 0
    assert read_calibration(str(out)).content.figures["mean_mad"] == 0


def test_what_must_be_changed_first(
    main: Main, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["--model", "any", "--out", str(tmp_path / "out.json"), "--processes", "1"]
    assert main(["--data", f"cutouts={mine}", *out]) == 2
    assert "not of the form <layout>=<folder>" in capsys.readouterr().err
    assert main(["--data", f"folder={mine}", *out, "output.path=elsewhere"]) == 2
    assert "leave it out" in capsys.readouterr().err
    monkeypatch.setattr("pipeline.evaluation.job.label", drawn_run)
    assert main(["--data", f"folder={mine}", *out, "--limit", "5"]) == 2
    assert "at least 20 images with mattes, and there are 5" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_a_run_that_stops_is_no_calibration(
    main: Main, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(config: LabelConfig) -> Summary:
        raise PipelineError("enough")

    monkeypatch.setattr("pipeline.evaluation.job.label", stopped)
    assert main(["--data", f"folder={mine}", "--model", "any", "--out", str(tmp_path / "o.json")]) == 1
    assert capsys.readouterr().err == "calibrate: enough\n"
