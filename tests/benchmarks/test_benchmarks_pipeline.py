"""The verdicts of `make bench-pipeline`, and its tables."""

from pathlib import Path

import pytest

from benchmarks.pipeline import Bench, judge, notes, tables
from benchmarks.pipeline_runs import Pace
from support.s3.store import Store


def bench(**rates: float) -> Bench:
    """Returns measurements of three rounds, the second of which was disturbed."""
    names = {
        "engine": "engine", "job": "jobs/label.py", "plain1": "plain Python, 1 process",
        "plain2": "plain Python, 2 processes", "one": "pipeline, 1 worker", "two": "pipeline, 2 workers",
        "waiting1": "pipeline, 1 worker, waiting", "waiting2": "pipeline, 2 workers, waiting",
    }  # fmt: skip
    given = dict.fromkeys(names, 1.0) | rates
    made = Bench(Store("radosgw", "http://x", "b", "k", "s"), Path("unused"), cores=2)
    for short, name in names.items():
        roles = {"actors": 30.0, "driver": 3.0} if "pipeline" in name else {}
        times = (100 / given[short], 1000.0, 100 / given[short])
        made.paces[name] = [Pace(100, seconds, 33.0, seconds + 20, 5.0, roles) for seconds in times]
    return made


def test_medians_are_held_against_the_targets() -> None:
    kept, per_core, scaling = judge(bench(engine=1.0, job=0.96, plain2=50.0, two=40.0, one=21.0))
    assert kept.value == pytest.approx(0.96)
    assert per_core.value == pytest.approx(0.8)
    assert scaling.value == pytest.approx(40 / 21)
    assert kept.met
    assert per_core.met
    assert scaling.met


def test_what_is_missed_says_so() -> None:
    kept, per_core, scaling = judge(bench(engine=1.0, job=0.94, plain2=50.0, two=39.0, one=25.0))
    assert [each.met for each in (kept, per_core, scaling)] == [False, False, False]
    assert "MISSED" in str(kept)


def test_the_tables_have_a_line_for_each_measurement_and_where_the_time_went() -> None:
    made = bench(two=40.0)
    text = tables(made)
    lines = [line for line in text.splitlines() if line.startswith("pipeline, 2 workers  ")]
    assert len(lines) == 2
    assert "40.00" in lines[0]
    assert "actors 300.0, driver 30.0" in lines[1]
    assert "busy share of a model that waits 0.1 s" in notes(made)
