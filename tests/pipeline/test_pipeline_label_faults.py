"""Runs whose model crashes its process, gets stuck, or fails too often, on a real Ray."""

import io
import json
import os
import re
import signal
import tarfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.budget import BudgetExceededError
from pipeline.config import LabelConfig, load_config
from pipeline.label import label
from pipeline.runs import read_records
from pipeline.stages.matte import MatteImages
from pipeline.stages.records import Work

pytestmark = pytest.mark.usefixtures("ray_session")

DEADLY, STICKY = 5, 9
"""Numbers of the images that kill their process, and that block it."""


def write_corpus(folder: Path, images: int, shards: int = 1, bad: Sequence[int] = ()) -> None:
    """Write images of noise with two boxes each; box and file name tell their number. Bad ones are not images."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:02}.tar", "w") as tar:
            for number in range(shard, images, shards):
                file = io.BytesIO()
                noise = np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)
                Image.fromarray(noise).save(file, "PNG")
                prompts = "".join(json.dumps({"box": [number, y, 60, 40]}) + "\n" for y in (1, 2))
                data = b"no image" if number in bad else file.getvalue()
                for suffix, content in ((".png", data), (".prompts.jsonl", prompts.encode())):
                    info = tarfile.TarInfo(f"{number:03}{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def config(tmp_path: Path, *more: str) -> LabelConfig:
    return load_config(
        None,
        [
            "input.kind=webdataset",
            f"input.path={tmp_path}/corpus/*.tar",
            f"output.path={tmp_path}/run",
            "model.source=untrained:sdmatte-mini",
            "model.input_size=64",
            "output.contact_sheet=0",
            "workers.cpus_per_actor=0.5",
            *more,
        ],
    )


def outcome(tmp_path: Path) -> dict[int, list[str | None]]:
    """Return the error codes of each image's records."""
    codes: dict[int, list[str | None]] = {}
    for record in read_records(str(tmp_path / "run"), ["image_key", "error_code"]).to_pylist():
        codes.setdefault(int(record["image_key"]), []).append(record["error_code"])
    return codes


class StickyModel:
    """The model, which never comes to an end with one of the images."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def matte(self, objects: Sequence[Any]) -> Any:
        if any(prompt.x0 == STICKY for _, prompt in objects):
            time.sleep(1000)
        return self._model.matte(objects)


class Hazardous(MatteImages):
    """Dies in the decoder as native code does, and has a model that gets stuck."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._model: Any = StickyModel(self._model)

    def _decode(self, work: Work) -> None:
        if int(work.row["image_key"]) == DEADLY:
            os.kill(os.getpid(), signal.SIGSEGV)
        super()._decode(work)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [1, 2])
def test_images_that_kill_or_block_the_process_are_found_and_cost_no_other(
    blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "corpus", images=12)
    monkeypatch.setattr("pipeline.stages.matte.MatteImages", Hazardous)
    unlimited = ("failures.max_rate_by_code={}", "model.batch_timeout=3")
    in_hand = f"workers.blocks_in_hand={blocks}"
    summary = label(config(tmp_path, "workers.images_per_block=4", in_hand, *unlimited))
    assert summary.complete, summary
    expected: dict[int, list[str | None]] = {number: [None, None] for number in range(12)}
    assert outcome(tmp_path) == expected | {DEADLY: ["model_crashed"] * 2, STICKY: ["model_timeout"] * 2}
    ids = Counter(read_records(str(tmp_path / "run"), ["record_id"])["record_id"].to_pylist())
    assert set(ids.values()) == {1}
    # Of two blocks in hand the guilty one is not known at first: both may die together once, or each by itself.
    died = int(re.findall(r"the model's process died (\d+) times", str(summary))[0])
    assert died == 6 if blocks == 1 else 5 <= died <= 7
    records = read_records(str(tmp_path / "run"), ["image_key", "error_message"]).to_pylist()
    messages = {int(record["image_key"]): record["error_message"] for record in records}
    assert "matting 2 object(s)" in messages[STICKY]
    assert "model.batch_timeout=3 s" in messages[STICKY]
    assert "died 2 times" in messages[DEADLY]


class DiesAtStart(MatteImages):
    """Dies when it loads the model, though the driver could load it: less memory there, another driver version."""

    def __init__(self, config: LabelConfig, run_id: str, model: Any, board: Any, threads: int) -> None:
        with (Path(config.output.path) / "starts").open("a") as file:
            file.write(".")
        reason = board.arrive("probe")
        if reason is None:
            os._exit(1)
        super().__init__(config, run_id, model, board, threads)


@pytest.mark.slow
def test_a_model_that_kills_every_process_stops_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(tmp_path / "corpus", images=2)
    monkeypatch.setattr("pipeline.stages.matte.MatteImages", DiesAtStart)
    with pytest.raises(BudgetExceededError, match=r"has been started \d+ times since an image was last finished"):
        label(config(tmp_path))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"
    assert (tmp_path / "run" / "starts").stat().st_size == 16


@pytest.mark.slow
def test_too_many_errors_stop_the_job_and_a_larger_budget_continues_it(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", images=40, bad=range(4, 20))
    limit = ("workers.images_per_block=2", "failures.min_objects=10", "output.file_mb=1e-6")
    with pytest.raises(BudgetExceededError) as raised:
        label(config(tmp_path, *limit, "failures.max_error_rate=0.3"))
    message = str(raised.value)
    assert "4 of the first 12 objects are errors (33.3%)" in message
    assert "for example: 00.tar: 004" in message
    assert "failures.max_error_rate allows 30.0%" in message
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (info["state"], info["error"]) == ("failed", message)
    before = len(read_records(str(tmp_path / "run"), ["record_id"]))
    assert before < 80
    summary = label(config(tmp_path, *limit, "failures.max_error_rate=1"))
    assert summary.complete, summary
    assert outcome(tmp_path) == {
        n: [None, None] if n not in range(4, 20) else ["image_unsupported"] * 2 for n in range(40)
    }


@pytest.mark.slow
def test_a_canary_that_fails_stops_the_job_before_the_rest_and_one_that_passes_is_part_of_it(tmp_path: Path) -> None:
    # The first image of each shard is bad, and the canary takes two of each.
    write_corpus(tmp_path / "corpus", images=24, shards=4, bad=range(4))
    with pytest.raises(BudgetExceededError, match=r"the canary failed: 8 of its 16 objects are errors \(50.0%\)"):
        label(config(tmp_path, "failures.canary_images=8", "failures.canary_max_error_rate=0.4"))
    assert sorted(outcome(tmp_path)) == list(range(8))
    summary = label(config(tmp_path, "failures.canary_images=8", "failures.canary_max_error_rate=0.4"))
    assert summary.complete, summary  # the next eight images are all good
    assert summary.before == 16
    timing = json.loads((tmp_path / "run" / "run.json").read_text())["timing"]
    assert (timing["jobs"], timing["objects"]) == (2, 48)
    assert len(timing["per_actor"]) == 3  # the failed canary's, the other one's, and that of the rest
    assert outcome(tmp_path) == {n: ["image_unsupported"] * 2 if n < 4 else [None, None] for n in range(24)}
