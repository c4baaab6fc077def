import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.curves import LOGS, WINDOW, draw, main, read_log, smoothed

NAMES = ("mad", "l1_known", "l1_unknown", "laplacian_known", "laplacian_unknown", "seconds")


def write(path: Path, first: int, count: int, size: float, value: float) -> None:
    rows = [{"step": first + i, "size": size, **dict.fromkeys(NAMES, value)} for i in range(count)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def test_parts_of_a_run_count_on(tmp_path: Path) -> None:
    write(tmp_path / "1.jsonl.gz", 1, 4, 64.0, 0.4)
    write(tmp_path / "2.jsonl", 1, 3, 96.0, 0.2)  # a session of its own
    write(tmp_path / "3.jsonl", 4, 2, 96.0, 0.1)  # goes on counting that session's steps
    log = read_log(tmp_path)
    assert log["step"].tolist() == list(range(1, 10))
    assert log["mad"].tolist() == [0.4] * 4 + [0.2] * 3 + [0.1] * 2


@pytest.mark.parametrize(
    ("parts", "steps"),
    [
        ([(1, 3), (4, 2), (6, 2)], [1, 2, 3, 4, 5, 6, 7]),  # one session
        ([(1, 3), (1, 2), (1, 4)], [1, 2, 3, 4, 5, 6, 7, 8, 9]),  # three, of which the last is longer
        ([(1, 2), (1, 3), (4, 2)], [1, 2, 3, 4, 5, 6, 7]),
        ([(1, 4), (5, 2), (1, 2)], [1, 2, 3, 4, 5, 6, 7, 8]),
        ([(11, 2), (13, 2), (1, 2)], [11, 12, 13, 14, 15, 16]),  # the start is not there
    ],
)
def test_each_part_counts_on_from_the_start_of_its_session(
    tmp_path: Path, parts: list[tuple[int, int]], steps: list[int]
) -> None:
    for number, (first, count) in enumerate(parts):
        write(tmp_path / f"{number}.jsonl", first, count, 64.0, 0.4)
    assert read_log(tmp_path)["step"].tolist() == steps


def test_the_bundled_models_log_is_that_of_a_model_that_learnt() -> None:
    log = read_log(LOGS)
    assert len(log["step"]) > 2 * WINDOW
    assert np.all(np.diff(log["step"]) > 0)
    assert (log["size"][0], log["size"][-1]) == (64, 192)
    assert log["mad"][-WINDOW:].mean() < log["mad"][:WINDOW].mean() / 2


def test_the_mean_looks_back_only() -> None:
    assert smoothed(np.array([1.0, 3.0, 5.0, 7.0]), 2).tolist() == [1.0, 2.0, 4.0, 6.0]


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    write(tmp_path / "log.jsonl", 1, 30, 64.0, 0.3)
    draw(read_log(tmp_path / "log.jsonl"), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1300, 360)
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10


@pytest.mark.parametrize("content", [None, "", "{}\n", "no json\n", "[1]\n", '"step"\n', "3\n", '{"step": "1"}\n'])
def test_a_folder_without_a_usable_log_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
    assert main(["--run", str(tmp_path), "--out", str(tmp_path / "x.png")]) == 2
    assert "curves:" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "changed", "no gzip", "no text"])
def test_a_damaged_archive_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    path = tmp_path / "1.jsonl.gz"
    write(path, 1, 300, 64.0, 0.3)
    whole = path.read_bytes()
    changed = {
        "cut": whole[:-20],
        "changed": whole[:40] + bytes(255 - byte for byte in whole[40:60]) + whole[60:],
        "no gzip": b"no gzip at all",
        "no text": gzip.compress(b"\xff\xfe\n"),
    }
    path.write_bytes(changed[damage])
    assert main(["--run", str(tmp_path), "--out", str(tmp_path / "x.png")]) == 2
    assert f"curves: {path}" in capsys.readouterr().err


def test_curves_are_drawn_below_runs_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "log.jsonl", 1, 3, 64.0, 0.3)
    assert main(["--run", "log.jsonl"]) == 0
    assert (tmp_path / "runs" / "curves.png").exists()


@pytest.mark.parametrize("out", ["log.jsonl/x.png", "folder.png", "x.what", "x"])
def test_a_picture_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    write(tmp_path / "log.jsonl", 1, 3, 64.0, 0.3)
    (tmp_path / "folder.png").mkdir()
    assert main(["--run", str(tmp_path / "log.jsonl"), "--out", str(tmp_path / out)]) == 2
    said = capsys.readouterr().err
    assert "curves: " in said
    assert str(tmp_path / out.split("/", maxsplit=1)[0]) in said


def test_what_is_missing_to_draw_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "log.jsonl", 1, 3, 64.0, 0.3)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["--run", str(tmp_path), "--out", str(tmp_path / "x.png")]) == 2
    assert "pip install 'sdmatte[dev]'" in capsys.readouterr().err
