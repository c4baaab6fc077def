import time
from typing import Any

import pytest

from pipeline import progress
from pipeline.progress import ProgressBoard, ProgressDisplay, Reporter


class Remote:
    """Calls a board's method in place, as `method.remote()`."""

    def __init__(self, method: Any) -> None:
        self.remote = method


class Board:
    """A handle of a board that lives in this process."""

    def __init__(self) -> None:
        self.real = ProgressBoard()

    def __getattr__(self, name: str) -> Remote:
        return Remote(getattr(self.real, name))


def test_counts_add_up_and_images_are_held_until_they_are_done() -> None:
    board = Board()
    tell = Reporter(board)
    tell({"ok": 2, "shards": 1})
    tell({"ok": 1, "image_corrupt": 1})
    assert board.real.read() == {"ok": 3, "shards": 1, "image_corrupt": 1}
    tell.hold(["a.tar: 1", "a.tar: 2"])
    assert board.real.held() == ["a.tar: 1", "a.tar: 2"]
    tell.hold([])
    assert board.real.held() == []


def test_faults_are_kept_up_to_a_limit() -> None:
    board = ProgressBoard()
    for number in range(1000):
        board.fault(str(number))
    assert board.faults() == [str(number) for number in range(100)]


def test_where_there_is_no_terminal_a_line_is_written_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.05)
    monkeypatch.setattr("ray.get", lambda value, timeout: value)
    board = Board()
    board.real.add({"shards": 1, "images": 4, "objects": 9, "ok": 5, "image_corrupt": 2})
    with ProgressDisplay(board, shards=3):
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert "1 of 3 shards read, 7 of 9 objects done, 2 errors" in lines[0]
