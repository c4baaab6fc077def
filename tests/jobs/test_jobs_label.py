"""The command as users type it, in processes of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.runs import RunDirectory, read_records
from support import zoo

LABEL = Path(__file__).parents[2] / "jobs" / "label.py"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(LABEL), *arguments], cwd=cwd, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    zoo.write_tars(tmp_path / "corpus", zoo.zoo(), shards=3)
    (tmp_path / "corpus.yaml").write_text(
        "input: {kind: webdataset, path: corpus/*.tar}\n"
        "model: {source: 'untrained:sdmatte-mini', input_size: 64}\n"
        "output: {path: run, records_per_file: 1, contact_sheet: 4}\n"
        "workers: {object_store_mb: 200, images_per_block: 1}\n"
    )
    return tmp_path


def test_a_run_its_summary_and_its_exit_code(corpus: Path) -> None:
    done = run("--config", "corpus.yaml", cwd=corpus)
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout
    assert "0 lost, 0 doubled, 0 unexpected" in done.stdout
    assert "image_truncated" in done.stdout
    assert "Traceback" not in done.stderr
    again = run("--config", "corpus.yaml", cwd=corpus)
    assert (again.returncode, "complete already" in again.stdout) == (0, True)


def test_a_killed_job_goes_on_where_it_was(corpus: Path) -> None:
    job = subprocess.Popen(
        [sys.executable, str(LABEL), "--config", "corpus.yaml"], cwd=corpus, stderr=subprocess.DEVNULL
    )
    commits = corpus / "run" / "commits"
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and not (commits.exists() and len(list(commits.glob("*.json"))) >= 2):
        time.sleep(0.05)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert not (corpus / "run" / "_SUCCESS").exists()
    before = len(read_records(str(corpus / "run"), ["record_id"]))
    assert before > 0
    done = run("--config", "corpus.yaml", cwd=corpus)
    assert done.returncode == 0, done.stderr
    assert (
        f"after {before} of an earlier job" in done.stdout
        or before == RunDirectory.open(str(corpus / "run")).info["counts"]["found"]
    )
    assert "0 lost, 0 doubled, 0 unexpected" in done.stdout


def test_faults_of_the_configuration_have_exit_code_2_and_no_traceback(corpus: Path) -> None:
    for arguments, words in [
        (["--config", "gone.yaml"], "gone.yaml"),
        (["--config", "corpus.yaml", "model.sauce=x"], "model.sauce"),
        (["--config", "corpus.yaml", "input.path=elsewhere/*.tar"], "elsewhere"),
    ]:
        done = run(*arguments, cwd=corpus)
        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_a_dry_run_prints_the_plan_and_writes_nothing(corpus: Path) -> None:
    done = run("--config", "corpus.yaml", "--dry-run", "model.batch_size=7", cwd=corpus)
    assert done.returncode == 0, done.stderr
    assert "batch_size: 7" in done.stdout
    assert "shards    3" in done.stdout
    assert not (corpus / "run").exists()
