"""The demo's command; the labelling job it starts is replaced by a script, but in the last test."""

import io
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "jobs" / "demo.py"


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """The demo's module, with a labelling job that notes its arguments and ends with the code in a file."""
    label = tmp_path / "label.py"
    label.write_text(
        "import json, pathlib, sys\n"
        "here = pathlib.Path(__file__).parent\n"
        "here.joinpath('called.json').write_text(json.dumps([sys.executable, *sys.argv]))\n"
        "sys.exit(int(here.joinpath('code').read_text()))\n"
    )
    (tmp_path / "code").write_text("0")
    module = runpy.run_path(str(DEMO))
    module["main"].__globals__["_LABEL"] = label
    return module


def test_it_labels_its_own_configuration_with_the_same_interpreter(
    job: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert job["main"]([]) == 0
    called = json.loads((tmp_path / "called.json").read_text())
    assert called == [
        sys.executable,
        str(tmp_path / "label.py"),
        "--config",
        str(tmp_path / "demo-run" / "label.yaml"),
    ]

    said = capsys.readouterr().out
    assert "10 photographs with 20 prompts into 3 shards" in said
    for place in ("report/contact_sheet.jpg", "report/index.html", "records/*.parquet"):
        assert f"demo-run/run/{place}" in said
    assert "The mattes are those of sdmatte-nano" in said
    assert "sdmatte/configs/sdmatte-nano/README.md" in said
    command = "label.py --config demo-run/label.yaml model.source=LongfeiHuang/SDMatte "
    assert f"{command}output.path=demo-run/released" in said


def test_it_ends_with_the_code_of_the_job_and_can_be_repeated(
    job: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (tmp_path / "code").write_text("1")
    assert job["main"](["--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert "exit code 1" in captured.err
    assert "contact_sheet" not in captured.out

    (out / "run").mkdir()
    (out / "run" / "run.json").write_text("{}")
    (tmp_path / "code").write_text("0")
    assert job["main"](["--out", str(out)]) == 0
    assert not (out / "run").exists()


def test_a_folder_that_is_not_the_demos_is_refused(
    job: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job["main"](["--out", str(tmp_path)]) == 2
    assert "holds files that no demo made" in capsys.readouterr().err
    assert not (tmp_path / "called.json").exists()


@pytest.mark.slow
def test_the_whole_demo(tmp_path: Path) -> None:
    command = [sys.executable, str(DEMO), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "out" / "run"
    records = pq.read_table(run / "records", columns=["status", "alpha", "image_width", "image_height"]).to_pylist()
    assert [record["status"] for record in records] == ["ok"] * 20
    alphas = [np.asarray(Image.open(io.BytesIO(record["alpha"]["bytes"]))) for record in records]
    assert sum(alpha.max() > 200 and 0 < alpha.mean() < 200 for alpha in alphas) >= 15  # objects, not noise or nothing
    assert (run / "_SUCCESS").is_file()
    with Image.open(run / "report" / "contact_sheet.jpg") as sheet:
        assert sheet.width == 1364
    assert "The model is untrained." not in (run / "report" / "index.html").read_text()
