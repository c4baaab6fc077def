"""The command as users type it: in this process, and as a process of its own with Ray Train's workers."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jobs import train as job
from support.training_run import write_train_config

TRAIN = Path(__file__).parents[2] / "jobs" / "train.py"


def test_a_local_run_and_its_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = str(write_train_config(tmp_path))
    assert job.main(["--config", settings, "--local", "workers.count=4", "options.learning_rate=1e-4"]) == 0
    model = tmp_path / "run" / "export" / "tiny"
    assert capsys.readouterr().out == f"trained 3 steps; the model is in {model}\n"
    (model / "tiny.safetensors").unlink()
    assert job.main(["--config", settings, "--export"]) == 0
    assert capsys.readouterr().out == f"{model}\n"
    assert (model / "tiny.safetensors").exists()


def test_faults_of_the_configuration_cost_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = str(write_train_config(tmp_path))
    assert job.main(["--config", settings, "--local", "data.foregrounds=[{kind: cutouts, path: nowhere}]"]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    assert job.main(["--config", settings, "options.stages=3"]) == 2
    assert "options.stages" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        job.main(["--config", settings, "--local", "--workers", "2"])
    assert caught.value.code == 2


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(TRAIN), "--config", str(folder / "train.yaml"), *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def logged(folder: Path) -> list[int]:
    path = folder / "run" / "log.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_workers_do_what_one_does_with_two_micro_batches(tmp_path: Path) -> None:
    """Also over a SIGTERM. Each loss is a mean over its micro-batch, so that both average the same two gradients."""
    stages = "options.stages=[{steps: 40, sizes: [32], batch: 16}]"
    write_train_config(tmp_path)
    arguments = ("--workers", "2", stages, "options.save_every=50", "options.workers=1")
    two = start(tmp_path, *arguments)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and two.poll() is None and not logged(tmp_path):
        time.sleep(0.02)
    assert two.poll() is None, two.communicate()
    two.send_signal(signal.SIGTERM)
    out, err = two.communicate(timeout=300)
    assert two.returncode == 130, err
    done = max(logged(tmp_path))
    assert 0 < done < 40
    assert out == f"stopped after {done} of 40 steps; the same command continues from {tmp_path}/run\n"

    again = start(tmp_path, *arguments)
    out, err = again.communicate(timeout=300)
    assert (again.returncode, out) == (0, f"trained 40 steps; the model is in {tmp_path}/run/export/tiny\n"), err
    assert logged(tmp_path) == list(range(1, 41))

    accumulated = stages.replace("16}", "16, accumulate: 2}")
    assert (
        job.main(["--config", str(tmp_path / "train.yaml"), "--local", accumulated, f"output.path={tmp_path}/one"])
        == 0
    )
    both, one = (load_file(tmp_path / name / "weights.safetensors") for name in ("run", "one"))
    start_weights = load_file(tmp_path / "one" / "checkpoint.safetensors")
    assert any(not torch.equal(one[name], start_weights[f"model.{name}"]) for name in one)
    for name in one:
        torch.testing.assert_close(
            both[name], one[name], rtol=1e-3, atol=1e-5
        )  # equal on one machine; sums may be ordered otherwise


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_workers_name_the_fault_that_stops_them(tmp_path: Path) -> None:
    write_train_config(tmp_path)
    job_process = start(tmp_path, "--workers", "2", "data.backgrounds=[{kind: pictures, path: nowhere}]")
    out, err = job_process.communicate(timeout=300)
    assert job_process.returncode == 2, err
    assert out == ""
    assert err.startswith("train: ")
    assert "nowhere does not exist" in err
    assert "Traceback" not in err
