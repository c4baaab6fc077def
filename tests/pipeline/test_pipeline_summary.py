from dataclasses import replace
from pathlib import Path

from pipeline.reconcile import Reconciliation
from pipeline.runs import RunDirectory
from pipeline.summary import Summary
from support.run_rows import begin, label_config

FOUND = Reconciliation(
    shards=2,
    finished=2,
    images=1200,
    expected=1500,
    found=1500,
    lost=0,
    doubled=0,
    unexpected=0,
    by_status={"ok": 1490, "error": 10},
    by_code={"image_corrupt": 7, "prompt_missing": 3},
    faults=(),
)


def run(folder: Path) -> RunDirectory:
    return begin(label_config(folder / "run"))


def test_a_complete_run(tmp_path: Path) -> None:
    summary = Summary(run(tmp_path), FOUND, 60.4, before=500, report="report/index.html", notes=("look here",))
    text = str(summary)
    assert summary.complete
    assert text.startswith(f"Run {summary.run.run_id} complete\n")
    assert "1,200 in 2 shards" in text
    assert "1,500 of 1,500: 1,490 ok, 10 errors" in text
    assert "7 image_corrupt" in text
    assert "0 lost, 0 doubled, 0 unexpected" in text
    assert "1,000 records in 60 s, after 500 of an earlier job" in text
    assert "NOTE: look here" in text


def test_an_incomplete_run_names_its_first_faults(tmp_path: Path) -> None:
    faults = tuple(f"shard {number}: not begun" for number in range(9))
    summary = Summary(run(tmp_path), replace(FOUND, found=1400, lost=100, faults=faults), 1)
    assert not summary.complete
    assert "NOT complete" in str(summary)
    assert "FAULT: shard 4: not begun" in str(summary)
    assert "shard 5" not in str(summary)
    assert "and 4 more faults" in str(summary)


def test_a_run_that_was_complete_already(tmp_path: Path) -> None:
    text = str(Summary(run(tmp_path), FOUND, 1, already=True))
    assert "was complete already, nothing to do" in text
    assert "this job" not in text


def test_credentials_stay_out(tmp_path: Path) -> None:
    there = run(tmp_path)
    there.path = "https://me:secret@host/run?sig=secret"
    assert "secret" not in str(Summary(there, FOUND, 1, report="https://me:secret@host/run/report/index.html"))


def test_what_bounds_a_run_is_one_line(tmp_path: Path) -> None:
    there = run(tmp_path)
    assert "  time " not in str(Summary(there, FOUND, 1))
    there.info["timing"] = {"seconds": {"compute": 97.0, "wait": 3.0}}
    (line,) = [line for line in str(Summary(there, FOUND, 1)).splitlines() if line.startswith("  time ")]
    assert "the model bounds this run: it was busy 97 %" in line
    assert "  time " not in str(Summary(there, FOUND, 1, already=True))
