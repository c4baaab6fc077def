import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.curves import draw, main, read_log, smoothed

NAMES = ("mad", "l1_known", "l1_unknown", "laplacian_known", "laplacian_unknown", "seconds")


def write(path: Path, first: int, count: int, size: float, value: float) -> None:
    rows = [{"step": first + i, "size": size, **dict.fromkeys(NAMES, value)} for i in range(count)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def test_parts_of_a_run_count_on(tmp_path: Path) -> None:
    write(tmp_path / "1.jsonl.gz", 1, 4, 64.0, 0.4)
    write(tmp_path / "2.jsonl", 1, 3, 96.0, 0.2)  # a session of its own
    write(tmp_path / "3.jsonl", 8, 2, 96.0, 0.1)  # goes on counting
    log = read_log(tmp_path)
    assert log["step"].tolist() == list(range(1, 10))
    assert log["mad"].tolist() == [0.4] * 4 + [0.2] * 3 + [0.1] * 2


def test_the_mean_looks_back_only() -> None:
    assert smoothed(np.array([1.0, 3.0, 5.0, 7.0]), 2).tolist() == [1.0, 2.0, 4.0, 6.0]


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    write(tmp_path / "log.jsonl", 1, 30, 64.0, 0.3)
    draw(read_log(tmp_path / "log.jsonl"), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1300, 360)
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10


@pytest.mark.parametrize("content", [None, "", "{}\n", "no json\n"])
def test_a_folder_without_a_usable_log_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
    assert main(["--run", str(tmp_path), "--out", str(tmp_path / "x.png")]) == 2
    assert "curves:" in capsys.readouterr().err
