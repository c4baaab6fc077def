"""Figures for people."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from pipeline.reconcile import Reconciliation
from pipeline.report.facts import Pace, calibration, histogram, median, pace, plain
from pipeline.report.survey import FINE, Distribution, Survey
from pipeline.runs import RunDirectory
from support.run_rows import begin, label_config

BEGIN = datetime(2026, 1, 2, 8, tzinfo=UTC)
FOUND = Reconciliation(1, 1, 1, 600, 600, 0, 0, 0, {"ok": 600}, {}, ())


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = begin(label_config(tmp_path / "run"))
    run.info |= {"started_at": BEGIN.isoformat(), "finished_at": (BEGIN + timedelta(minutes=10)).isoformat()}
    return run


def test_the_pace_of_a_run(run: RunDirectory) -> None:
    found = pace(run, FOUND, Survey())
    assert found == Pace(600, 600.0, since_resumed=False)
    assert (found.per_hour, found.per_second, found.duration) == (3600, 1, "10 min 00 s")


def test_the_last_record_ends_a_run_that_is_not_over(run: RunDirectory) -> None:
    run.info["finished_at"] = None
    found = pace(run, FOUND, Survey(last=BEGIN + timedelta(minutes=5)))
    assert found
    assert found.seconds == 300


def test_a_resumed_run_counts_from_there_on(run: RunDirectory) -> None:
    run.info["resumed"] = [{"at": (BEGIN + timedelta(minutes=at)).isoformat()} for at in (3, 8)]
    assert pace(run, FOUND, Survey(since=30)) == Pace(30, 120.0, since_resumed=True)


@pytest.mark.parametrize("last", [None, BEGIN - timedelta(days=1), BEGIN])
def test_no_pace_where_it_can_not_be_told(run: RunDirectory, last: datetime | None) -> None:
    run.info["finished_at"] = None
    assert pace(run, FOUND, Survey(last=last)) is None


def test_hours_are_told_in_words() -> None:
    assert Pace(1, 7505, since_resumed=False).duration == "2 h 05 min"
    assert Pace(1, 42, since_resumed=False).duration == "42 s"


def test_calibration_is_judged_by_its_worst_part() -> None:
    def state(**counts: int) -> str | None:
        keys = {"good": ("a", True), "other": ("b", False), "unknown": ("c", None), "none": (None, None)}
        survey = Survey(calibrations={keys[name]: number for name, number in counts.items()})
        survey.distributions["predicted_mad"].counts[0] = sum(counts.values()) - counts.get("none", 0)
        found = calibration(survey)
        return found and found.state

    assert state() is None
    assert state(none=3) == "none"
    assert state(good=3, none=1) == "good"
    assert state(good=3, other=1) == "other"
    assert state(good=3, unknown=1) == "unknown"


def of(values: list[float]) -> Distribution:
    counts = np.bincount(np.minimum((np.array(values) * FINE).astype(int), FINE - 1), minlength=FINE)
    return Distribution(counts.astype(np.int64), sum(values))


@pytest.mark.parametrize(("largest", "high"), [(0.004, 0.01), (0.03, 0.05), (0.09, 0.1), (0.6, 1.0)])
def test_the_axis_ends_where_the_values_do(largest: float, high: float) -> None:
    drawn = histogram("predicted_mad", of(np.linspace(0, largest, 400).tolist()))
    assert (drawn.low, drawn.high, drawn.beyond) == (0, high, 0)
    assert sum(int(words.rsplit(": ")[1]) for *_, words in drawn.bars) == 400
    assert drawn.median == pytest.approx(largest / 2, abs=0.001)


def test_few_outliers_do_not_squeeze_the_rest() -> None:
    drawn = histogram("predicted_mad", of([0.005] * 999 + [0.9]))
    assert (drawn.high, drawn.beyond) == (0.01, 1)
    assert drawn.bars[-1][-1].endswith(": 1"), "what lies beyond is in the last bar"


def test_a_bin_that_is_not_empty_is_seen() -> None:
    heights = [bar[3] for bar in histogram("quality", of([0.1] * 100_000 + [0.95])).bars]
    assert sorted(heights)[-2:] == [1.5, 60]


def test_energies_have_an_axis_of_their_own() -> None:
    distribution = Distribution()
    distribution.counts[round((-4.5 + 10) / 12 * FINE)] = 7
    drawn = histogram("laplacian_energy", distribution)
    assert (drawn.low, drawn.high, drawn.median) == (-5, -4, pytest.approx(-4.5, abs=0.01))


def test_a_median_needs_values() -> None:
    assert median(Survey(), "quality") is None


def test_numbers_that_json_lacks_are_left_out() -> None:
    assert [plain(value) for value in (None, float("nan"), float("inf"), 0.1234567)] == [None, None, None, 0.12346]
