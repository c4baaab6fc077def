"""The command: options, what it says, and its exit code."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from jobs import curate as job
from support.curation_runs import failed, outcome, scored, scored_run
from support.run_rows import gray_png


@pytest.fixture
def run(tmp_path: Path) -> Path:
    scored_run(tmp_path / "run", [*(scored(n, n / 100, label=f"l{n % 2}") for n in range(10)), failed(77)])
    return tmp_path / "run"


def test_all_options_arrive(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--target-error 0.03 --budget 5 --accept-above 0.1 --reject-below 0.05 --rank relative --per label,size"
    more = ["--accept", "fragments is None", "--reject", "label == 'x'", "--reject", "label == 'y'", "--at-most", "9"]
    command = ["decide", str(run), "--out", str(tmp_path / "out"), *options.split(), *more]
    assert job.main([*command, "--duplicates", "off", "--on-duplicate", "keep"]) == 0
    settings = json.loads((tmp_path / "out" / "curation.json").read_text())["settings"]
    assert settings == {
        "runs": [str(run)],
        "out": str(tmp_path / "out"),
        "target_error": 0.03,
        "budget": 5,
        "accept_above": 0.1,
        "reject_below": 0.05,
        "accept": ["fragments is None"],
        "reject": ["label == 'x'", "label == 'y'"],
        "rank": "relative",
        "per": ["label", "size"],
        "at_most": 9,
        "duplicates": None,
        "on_duplicate": "keep",
    }


def test_what_it_says(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert job.main(["decide", str(run), "--out", str(tmp_path / "out"), "--budget", "2", "--per", "label"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "11 records\n  accept           8   72.7%\n  review           2   18.2%\n  reject           1"
    )
    assert "expected error of what is accepted: 0.0350 (mean predicted MAD)" in said
    assert "the review covers 38% of the error that is expected" in said
    assert "review           2  predicted_mad is among the worst 2" in said
    assert "reject           1  error: image_corrupt" in said
    assert re.search(r"label=l0 +4 +1 +0 +0\.0300\n", said)
    assert said.endswith(f"written to {tmp_path / 'out'}\n")
    assert outcome(tmp_path / "out")[9] == "review"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say what is to be accepted"),
        (["--budget", "-4"], "--budget"),
        (["--accept", "qualty > 0.5"], "is no column"),
        (["--accept", "quality > 0.5", "--duplicates", "40"], "--duplicates"),
    ],
)
def test_a_command_that_cannot_be_used_says_why(
    run: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job.main(["decide", str(run), "--out", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [["--per", "colour"], ["--duplicates", "six"], ["--rank", "best"]])
def test_options_of_closed_lists(run: Path, tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        job.main(["decide", str(run), "--out", str(tmp_path / "out"), "--budget", "1", *options])
    assert stopped.value.code == 2


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert job.main(["decide", str(tmp_path / "nothing"), "--out", str(tmp_path / "out"), "--budget", "1"]) == 2
    assert "is not a run directory" in capsys.readouterr().err


def test_a_damaged_data_file_is_exit_code_1(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file,) = (run / "records").iterdir()
    file.write_bytes(b"PAR1 and nothing else")
    assert job.main(["decide", str(run), "--out", str(tmp_path / "out"), "--budget", "1"]) == 1
    assert not (tmp_path / "out").exists()


def test_from_a_run_to_an_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 6), "red").save(tmp_path / "red.png")
    about = {"image_uri": str(tmp_path / "red.png"), "image_width": 8, "image_height": 6}
    matte = {"alpha": {"bytes": gray_png(200), "path": None}}
    scored_run(tmp_path / "run", [*(scored(n, n / 10, **about, **matte) for n in range(3)), failed(7, **about)])
    decide = ["decide", str(tmp_path / "run"), "--out", str(tmp_path / "curated"), "--target-error", "0.06"]
    assert job.main(decide) == 0
    export = ["export", str(tmp_path / "curated"), "--as", "trimaps", "--out", str(tmp_path / "trimaps")]
    assert job.main([*export, "--trimap-radius", "0.02"]) == 0
    assert "2 objects of 2 images as trimaps" in capsys.readouterr().out
    assert json.loads((tmp_path / "trimaps" / "export.json").read_text())["settings"]["trimap_radius"] == 0.02
    assert job.main(export) == 2  # it is there already


def test_a_damaged_data_file_ends_both_commands_with_what_to_do(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decide = ["decide", str(run), "--out", str(tmp_path / "out"), "--budget", "2"]
    assert job.main(decide) == 0
    (file,) = (run / "records").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-50])
    for command in (decide, ["export", str(tmp_path / "out"), "--as", "trimaps", "--out", str(tmp_path / "set")]):
        capsys.readouterr()
        assert job.main(command) == 1
        assert "jobs/runs.py redo" in capsys.readouterr().err


def test_a_budget_alone_without_a_calibration_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scored_run(tmp_path / "run", [scored(n, n / 100, calibration_matches=False) for n in range(5)])
    assert job.main(["decide", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--budget", "2"]) == 2
    assert "jobs/calibrate.py" in capsys.readouterr().err
