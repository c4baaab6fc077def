"""Each command on one real run, in this process, and its exit code."""

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import runs as job
from pipeline.config import load_config
from pipeline.ids import show
from pipeline.label import label
from pipeline.runs import RunDirectory, read_records
from support import zoo

RUNS = Path(__file__).parents[2] / "jobs" / "runs.py"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """A complete run of a small model over two shards, and its corpus; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("labelled")
    zoo.write_tars(folder / "corpus", zoo.zoo()[:7])
    settings = ["input.kind=webdataset", f"input.path={folder}/corpus/*.tar", f"output.path={folder}/run"]
    small = [
        "model.source=sdmatte-nano",
        "model.input_size=64",
        "output.contact_sheet=0",
        "workers.cpus_per_actor=0.5",
    ]
    assert label(load_config(None, [*settings, *small])).complete
    return folder


@pytest.fixture
def output(labelled: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    shutil.copytree(labelled / "run", tmp_path / "run")
    return tmp_path / "run"


def record(run: Path, status: str = "ok") -> dict[str, Any]:
    """A record of the run, always the same one."""
    rows = read_records(str(run), ["record_id", "status", "image_key", "shard"]).to_pylist()
    return min((row for row in rows if row["status"] == status), key=lambda row: row["record_id"])


def test_status(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert job.main(["status", str(labelled / "run")]) == 0
    said = capsys.readouterr().out
    assert re.match(r"first run  \S+  complete\n", said)
    assert "model      sdmatte-nano in float32" in said
    assert "in 2 finished of 2 shards" in said


def test_reconcile(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert job.main(["reconcile", str(output)]) == 0
    assert capsys.readouterr().out.endswith("lost 0, doubled 0, unexpected 0\n")
    next((output / "records").iterdir()).unlink()
    assert job.main(["reconcile", str(output), "--no-input"]) == 1
    said = capsys.readouterr().out
    assert "FAULT: records/part-" in said
    assert "the input was not listed" in said


def test_explain_by_hex_and_by_number(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = record(labelled / "run")
    for text in (show(wanted["record_id"]), str(wanted["record_id"])):
        assert job.main(["explain", str(labelled / "run"), text]) == 0  # a number may begin with a minus
        said = capsys.readouterr().out
        assert f"record_id          {show(wanted['record_id'])} ({wanted['record_id']})" in said
        assert f"image_key          {wanted['image_key']}" in said
        assert "weights_sha256" in said


@pytest.mark.parametrize("status", ["ok", "error"])
def test_reproduce(labelled: Path, status: str, capsys: pytest.CaptureFixture[str], one_thread: None) -> None:
    assert job.main(["reproduce", str(labelled / "run"), show(record(labelled / "run", status)["record_id"])]) == 0
    said = capsys.readouterr().out
    assert said.endswith("\nreproduced\n")
    assert "CHANGED" not in said
    assert ("largest difference" in said) == (status == "ok")


@pytest.mark.parametrize("size", ["same", "other"])
def test_an_alpha_that_comes_out_otherwise_is_not_reproduced(
    output: Path, size: str, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    wanted = record(output)
    for path in (output / "records").iterdir():  # as if the model had made something else then
        table = pq.read_table(path)
        rows = table.to_pylist()
        for row in rows:
            if row["record_id"] == wanted["record_id"]:
                with Image.open(io.BytesIO(row["alpha"]["bytes"])) as alpha:
                    changed = Image.fromarray(255 - np.asarray(alpha))
                file = io.BytesIO()
                (changed if size == "same" else changed.resize((7, 5))).save(file, "PNG")
                row["alpha"]["bytes"] = file.getvalue()
        pq.write_table(type(table).from_pylist(rows, table.schema), path)
    assert job.main(["reproduce", str(output), show(wanted["record_id"])]) == 1
    assert capsys.readouterr().out.endswith("\nNOT reproduced\n")


def test_latest(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "latest.parquet"
    assert job.main(["latest", str(labelled / "run"), "--out", str(out)]) == 0
    count = len(read_records(str(labelled / "run"), ["record_id"]))
    assert capsys.readouterr().out == f"{count} records in {out}\n"
    assert len(pq.read_table(out)) == count
    assert job.main(["latest", str(labelled / "run"), "--out", str(out), "--where", "status == 'error'"]) == 0
    assert set(pq.read_table(out)["status"].to_pylist()) == {"error"}
    assert job.main(["latest", str(labelled / "run"), "--out", str(out), "--where", "colour == 'red'"]) == 2
    assert "'colour' is no column" in capsys.readouterr().err
    assert "verdict" not in pq.read_schema(out).names
    assert job.main(["latest", str(labelled / "run"), "--out", str(out), "--reviewed"]) == 0
    assert "verdict" in pq.read_schema(out).names


def test_latest_of_a_run_that_lacks_a_data_file(output: Path, tmp_path: Path, capsys: Any) -> None:
    next((output / "records").iterdir()).unlink()
    assert job.main(["latest", str(output), "--out", str(tmp_path / "latest.parquet")]) == 1
    assert capsys.readouterr().err.startswith("runs: ")
    assert not (tmp_path / "latest.parquet").exists()


def test_compact(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert job.main(["compact", str(output)]) == 0
    assert capsys.readouterr().out.endswith("files with commits before, 1 now\n")
    assert job.main(["reconcile", str(output)]) == 0


def test_gc(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert job.main(["gc", str(output)]) == 0
    assert capsys.readouterr().out == "0 files\n"
    stray = output / "records/part-000001-0123ab-1-000009.parquet"
    stray.write_bytes(b"")
    assert job.main(["gc", str(output)]) == 0
    assert capsys.readouterr().out == f"{stray}\n1 files\nnothing was deleted; --delete does that\n"
    assert stray.exists()
    assert job.main(["gc", str(output), "--delete"]) == 0
    assert capsys.readouterr().out == f"{stray}\n1 files\n"
    assert not stray.exists()
    assert job.main(["reconcile", str(output)]) == 0


def test_redo(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert job.main(["redo", str(output)]) == 0
    assert "0 commits forgotten" in capsys.readouterr().out
    assert RunDirectory.open(str(output)).succeeded
    assert job.main(["redo", str(output), "--shard", "0000.tar"]) == 0
    assert "start the job again, which makes their records anew" in capsys.readouterr().out
    assert job.main(["redo", str(output), "--shard", "no-such.tar"]) == 1
    assert "nothing was forgotten" in capsys.readouterr().out
    assert not RunDirectory.open(str(output)).succeeded
    assert job.main(["reconcile", str(output)]) == 1
    assert "0000.tar" in capsys.readouterr().out


def test_what_can_not_be_used_like_that(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(labelled / "run")
    for arguments, words in [
        (["status", str(tmp_path)], "is not a run directory"),
        (["explain", run, "no id"], "is no record id"),
        (["explain", run, "1"], "holds no record 1"),
        (["reproduce", run, "f" * 16], f"holds no record {'f' * 16}"),
    ]:
        assert job.main(arguments) == 2
        assert words in capsys.readouterr().err
    for wrong in ([], ["forget", run], ["latest", run], ["explain", run]):
        with pytest.raises(SystemExit) as caught:
            job.main(wrong)
        assert caught.value.code == 2


def test_the_command_as_users_type_it(labelled: Path) -> None:
    command = [sys.executable, str(RUNS), "reconcile", str(labelled / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "lost 0, doubled 0, unexpected 0" in done.stdout
