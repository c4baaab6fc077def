import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import progress
from pipeline.budget import Budget
from pipeline.config import FailuresConfig
from pipeline.crashes import Verdict, hand_of
from pipeline.progress import ProgressBoard, ProgressDisplay, Reporter, start_board
from pipeline.timing import ActorTimes
from support.run_rows import label_config


class Remote:
    """Calls a board's method in place, as `method.remote()`."""

    def __init__(self, method: Any) -> None:
        self.remote = method


class Board:
    """A handle of a board that lives in this process."""

    def __init__(self, budget: Budget | None = None) -> None:
        self.real = ProgressBoard(budget)

    def __getattr__(self, name: str) -> Remote:
        return Remote(getattr(self.real, name))


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    """A board that limits errors to a fifth of 10 objects or more; `ray.get` takes its answers as they are."""
    monkeypatch.setattr("ray.get", lambda value, timeout=0: value)
    config = FailuresConfig(max_error_rate=0.2, min_objects=10, max_rate_by_code={})
    return Board(Budget(config))


def test_counts_add_up(board: Board) -> None:
    tell = Reporter(board)
    tell({"ok": 2, "shards": 1})
    tell({"ok": 1, "image_corrupt": 1}, "p1")
    assert board.real.read() == {"ok": 3, "shards": 1, "image_corrupt": 1}


def test_counts_of_a_process_that_died_are_taken_back_and_those_of_finished_images_stay(board: Board) -> None:
    tell = Reporter(board)
    tell.begin("p1", [1])
    tell({"ok": 1}, "p1")
    tell.end("p1")
    tell.begin("p1", [2, 3])
    tell({"ok": 2, "model_failed": 1}, "p1")
    assert board.real.read() == {"ok": 3, "model_failed": 1}
    assert tell.begin("p2", [2, 3]).suspects == {2, 3}
    assert board.real.read() == {"ok": 1}
    assert board.real.deaths() == 1


def test_the_first_example_of_each_code_is_kept_and_sent_once(board: Board) -> None:
    sent: list[Any] = []
    tell = Reporter(board)
    add = board.real.add
    board.real.add = lambda *arguments: sent.append(arguments[2]) or add(*arguments)  # type: ignore[method-assign,func-returns-value]
    tell({"image_corrupt": 1}, "p1", {"image_corrupt": "first"})
    tell({"image_corrupt": 1, "image_empty": 1}, "p1", {"image_corrupt": "second", "image_empty": "none"})
    assert sent == [{"image_corrupt": "first"}, {"image_empty": "none"}]
    Reporter(board)({"image_corrupt": 1}, "p2", {"image_corrupt": "third"})
    assert board.real.examples() == {"image_corrupt": "first", "image_empty": "none"}


def test_a_budget_that_is_exceeded_stops_whoever_begins_next_and_for_good(board: Board) -> None:
    tell = Reporter(board)
    tell({"ok": 8, "image_corrupt": 2}, "p1")
    assert tell.begin("p1", [1]).stop is None
    tell({"image_corrupt": 1}, "p1", {"image_corrupt": "cut"})
    reason = tell.begin("p1", [2]).stop
    assert "3 of the first 11 objects" in str(reason)
    assert "cut" in str(reason)
    tell({"ok": 1000}, "p2")
    assert tell.begin("p2", [3]).stop == reason
    assert board.real.arrive("p3") == reason


def test_without_a_budget_nothing_stops(board: Board) -> None:
    free = ProgressBoard()
    free.add({"image_corrupt": 1000})
    assert free.begin("p", [1]).stop is None


@pytest.mark.slow
def test_a_board_on_ray_knows_which_nodes_are_alive_and_comes_back_when_it_dies(
    ray_session: None, tmp_path: Path
) -> None:
    import ray

    board = start_board(label_config(tmp_path, failures={"max_error_rate": 0.1, "min_objects": 10}))
    tell = Reporter(board)
    assert tell.arrive("p1") is None
    assert tell.begin("p1", [1]) == Verdict()
    assert tell.begin("p2", [1]) == Verdict()  # on this node, which is alive: p1's death counts
    assert tell.begin("p3", [1]).condemned[1][0] == "model_crashed"
    ray.get(board.arrive.remote("p4", "no such node"))
    tell.begin("p4", [2])
    ray.get(board.arrive.remote("p5", "no such node"))
    tell.begin("p5", [2])
    assert tell.begin("p6", [2]) == Verdict()
    tell.stuck("p6", "decoding b")
    ray.kill(board, no_restart=False)
    deadline = time.monotonic() + 30
    while tell.begin("p7", [1]).condemned and time.monotonic() < deadline:  # until the kill has arrived
        time.sleep(0.05)
    assert tell.begin("p7", [1]) == Verdict()  # it has begun to count anew
    tell({"ok": 1, "image_corrupt": 9}, "p7")
    assert tell.begin("p7", [2]).stop


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


def test_what_processes_did_is_summed_up_by_laps(board: Board) -> None:
    tell = Reporter(board)
    board.real.arrive("p1")
    tell({"images": 4, "objects": 9, "shards": 1})
    tell({"ok": 7, "image_corrupt": 2}, hand_of("p1", 0))
    tell.acted("p1", ActorTimes({"compute": 3.0, "wait": 1.0}, {"compute": 3.0}))
    tell.spent({"read": 2.0, "bytes_read": 100})
    tell.spent({"write": 1.0, "bytes_written": 10})
    lap = board.real.lap(1, 2)
    assert (lap["images"], lap["objects"], lap["model_busy"]) == (4, 9, 0.75)
    assert lap["thread_seconds"] == {"compute": 3, "read": 2, "write": 1}
    tell({"ok": 1, "images": 1}, hand_of("p2", 0))
    lap = board.real.lap(1, 2)
    assert (lap["images"], lap["objects"], lap["bytes_read"]) == (1, 1, 0)


def test_counts_of_both_hands_of_a_dead_process_are_taken_back(board: Board) -> None:
    tell = Reporter(board)
    tell.begin(hand_of("p1", 0), [1])
    tell.begin(hand_of("p1", 1), [2])
    tell({"ok": 1}, hand_of("p1", 0))
    tell({"ok": 2}, hand_of("p1", 1))
    tell.end(hand_of("p1", 1))
    tell({"image_corrupt": 4}, hand_of("p1", 1))
    tell.begin("p2", [1])
    assert board.real.read() == {"ok": 2}
