"""The command as users type it, in processes of its own."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from jobs import label as job
from pipeline import claims
from pipeline.config import LabelConfig
from pipeline.errors import PipelineError
from pipeline.runs import read_records
from pipeline.scopes import Selection
from pipeline.summary import Summary
from support import zoo

SMALL_STEPS = ("workers.readers=1", "workers.images_per_block=1", "output.file_mb=1e-6")
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
        "output: {path: run, contact_sheet: 4}\n"
        "workers: {object_store_mb: 200}\n"
    )
    return tmp_path


def test_a_run_its_summary_and_its_exit_code(corpus: Path) -> None:
    done = run("--config", "corpus.yaml", cwd=corpus)
    assert done.returncode == 0, done.stderr
    assert re.match(r"Run \S+ complete\n", done.stdout)
    assert "0 lost, 0 doubled, 0 unexpected" in done.stdout
    assert "image_truncated" in done.stdout
    assert "Traceback" not in done.stderr
    again = run("--config", "corpus.yaml", cwd=corpus)
    assert (again.returncode, "complete already" in again.stdout) == (0, True)


def stopped(corpus: Path, number: signal.Signals) -> subprocess.Popen[str]:
    """Start the job on a larger input, and send it a signal after its first commits."""
    zoo.write_tars(corpus / "corpus" / "more", zoo.zoo(), shards=3)
    settings = corpus / "corpus.yaml"
    settings.write_text(settings.read_text().replace("corpus/*.tar", "corpus/**/*.tar"))
    job = subprocess.Popen(
        [sys.executable, str(LABEL), "--config", "corpus.yaml", *SMALL_STEPS],
        cwd=corpus,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    commits = corpus / "run" / "commits"
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and job.poll() is None and not list(commits.glob("*.json")):
        time.sleep(0.02)
    assert job.poll() is None, job.communicate()
    job.send_signal(number)
    return job


@pytest.mark.slow
def test_a_killed_job_goes_on_where_it_was(corpus: Path) -> None:
    stopped(corpus, signal.SIGKILL).communicate(timeout=60)
    assert not (corpus / "run" / "_SUCCESS").exists()
    before = len(read_records(str(corpus / "run"), ["record_id"]))
    assert before > 0
    done = run("--config", "corpus.yaml", cwd=corpus)
    assert done.returncode == 0, done.stderr
    assert "0 lost, 0 doubled, 0 unexpected" in done.stdout
    (resumed,) = re.findall(r"after (\d+) of an earlier job", done.stdout)
    assert int(resumed) >= before  # a write task may have outlived the driver for a moment


@pytest.mark.slow
def test_sigterm_interrupts_in_an_orderly_way(corpus: Path) -> None:
    job = stopped(corpus, signal.SIGTERM)
    _, messages = job.communicate(timeout=60)
    assert job.returncode == 130
    assert "interrupted; the same command continues this run" in messages
    assert "Traceback" not in messages
    assert "SIGTERM received" not in messages
    info = json.loads((corpus / "run" / "run.json").read_text())
    assert (info["state"], info["error"]) == ("failed", "interrupted")


def test_faults_of_the_configuration_have_exit_code_2_and_no_traceback(corpus: Path) -> None:
    for arguments, words in [
        (["--config", "gone.yaml"], "gone.yaml"),
        (["--config", "corpus.yaml", "model.sauce=x"], "model.sauce"),
        (["--config", "corpus.yaml", "input.path=elsewhere/*.tar"], "elsewhere"),
        (["--config", "corpus.yaml", "output.path=corpus"], "no run.json"),
        (["--config", "corpus.yaml", "--dry-run", "output.path=corpus"], "no run.json"),
        (["--config", "corpus.yaml", "--dry-run", "model.source=untrained:nothing"], "nothing"),
    ]:
        done = run(*arguments, cwd=corpus)
        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_a_dry_run_finds_the_bundled_model(corpus: Path) -> None:
    done = run(
        "--config", "corpus.yaml", "--dry-run", "model.source=sdmatte-nano", "model.input_size=null", cwd=corpus
    )
    assert done.returncode == 0, done.stderr
    assert str(Path("configs", "sdmatte-nano", "sdmatte-nano.safetensors")) in done.stdout


def test_a_dry_run_prints_the_plan_and_writes_nothing(corpus: Path) -> None:
    done = run("--config", "corpus.yaml", "--dry-run", "model.batch_size=7", cwd=corpus)
    assert done.returncode == 0, done.stderr
    assert "batch_size: 7" in done.stdout
    assert "shards    3" in done.stdout
    assert not (corpus / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--retry", "image_missing"], "not of the form error_code=CODE,CODE or error_code=all"),
        (["--retry", "code=image_missing"], "not of the form"),
        (["--retry", "error_code=image_lost"], "unknown error code image_lost; known are"),
        (["--where", "colour == 'red'"], "'colour' is no column"),
        (["--where", ""], "can't be parsed"),
        (["--retry", "error_code=all"], "holds no run whose records could be made anew"),
        (["--where", "quality < 0.5"], "holds no run whose records could be made anew"),
    ],
)
def test_options_that_can_not_be_met_cost_nothing(
    corpus: Path, options: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(corpus)
    assert job.main(["--config", "corpus.yaml", *options]) == 2
    assert words in capsys.readouterr().err
    assert not (corpus / "run").exists()


def test_one_thing_at_a_time(corpus: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        job.main(["--incremental", "--where", "quality < 0.5"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("options", "selection"),
    [
        ([], Selection()),
        (["--incremental"], Selection("incremental")),
        (["--retry", "error_code=image_missing"], Selection("again", "error_code in ('image_missing',)")),
        (["--retry", "error_code=all"], Selection("again", 'status == "error"')),
        (["--where", "quality < 0.5"], Selection("again", "quality < 0.5")),
    ],
)
def test_what_options_ask_for(
    corpus: Path, options: list[str], selection: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Selection] = []

    def noted(_: LabelConfig, what: Selection) -> Summary:
        asked.append(what)
        raise PipelineError("enough")

    monkeypatch.setattr("pipeline.label.label", noted)
    monkeypatch.chdir(corpus)
    assert job.main(["--config", "corpus.yaml", *options]) == 1
    assert asked == [selection]


def test_a_second_job_is_refused_while_the_first_works(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.05)
    monkeypatch.chdir(corpus)
    claim, heartbeat = claims.acquire(str(corpus / "run"), lambda *_: ())
    assert job.main(["--config", "corpus.yaml"]) == 2
    heartbeat.close()
    assert "is writing to" in capsys.readouterr().err
    assert claims.latest(claim.run) == claim


def test_a_calibration_that_cannot_be_read_is_named_by_a_dry_run_and_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "a.png")
    (tmp_path / "bad.json").write_text("{")
    settings = ["input.kind=folder", f"input.path={tmp_path / 'in'}", "model.source=sdmatte-nano"]
    settings += [f"output.path={tmp_path / 'out'}", f"quality.calibration={tmp_path / 'bad.json'}"]
    for options in (["--dry-run"], []):
        assert job.main([*options, *settings]) == 2
        assert "bad.json is not JSON" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
