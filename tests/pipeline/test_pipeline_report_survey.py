"""The one look at all records."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.parts import write_part
from pipeline.report.choose import Chooser
from pipeline.report.survey import FEATURES, Slices, look
from pipeline.runs import RunDirectory
from pipeline.schema import RECORDS
from support.run_rows import begin, label_config, ledger_row, record_rows


def run_of(folder: Path, *parts: Mapping[str, Any]) -> RunDirectory:
    run = begin(label_config(folder / "run"))
    tables = []
    for at, part in enumerate(parts):
        columns = dict(part)
        number = columns.pop("number", 1)
        tables.append(record_rows("a.tar", range(100 * at, 100 * at + number), **columns))
    ids = [identifier for table in tables for identifier in table["record_id"].to_pylist()]
    write_part(run.claim, "0-000000", pa.concat_tables([*tables, ledger_row("a.tar", ids)]))
    return run


def test_distributions_are_of_ok_records_that_have_the_column(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"number": 3, "coverage": 0.25}, {"coverage": 1.0}, {"error": "image_corrupt"}, {})
    found = look(run, Chooser(0)).distributions
    assert (found["coverage"].count, found["coverage"].mean) == (4, pytest.approx(0.4375))
    assert np.flatnonzero(found["coverage"].counts).tolist() == [1250, 4999]
    assert found["quality"].count == 0


def test_slices_know_share_error_and_quality(tmp_path: Path) -> None:
    run = run_of(
        tmp_path,
        {"number": 3, "label": "cat", "prompt_kind": "box", "predicted_mad": 0.01, "quality": 0.7},
        {"label": "cat", "prompt_kind": "mask", "predicted_mad": 0.05, "quality": 0.2},
        {"label": "cat", "error": "image_corrupt"},
        {"label": "dog", "prompt_kind": "box"},
    )
    survey = look(run, Chooser(0))
    (cat, dog), others, more = survey.labels.top(5)
    assert (cat.name, cat.count, cat.ok, cat.mad) == ("cat", 5, 4, pytest.approx(0.02))
    assert cat.quality == pytest.approx(0.7, abs=0.005)
    assert (dog.name, dog.count, dog.ok, dog.mad, dog.quality) == ("dog", 1, 1, None, None)
    assert (others, more) == (None, 0)
    assert {one.name: one.count for one in survey.kinds.top(5)[0]} == {"box": 4, "mask": 1, None: 1}


def test_an_empty_label_is_none(tmp_path: Path) -> None:
    survey = look(run_of(tmp_path, {"label": ""}, {"label": None}, {"label": "cat", "number": 3}), Chooser(0))
    assert [(one.name, one.count) for one in survey.labels.top(5)[0]] == [("cat", 3), (None, 2)]


def test_rarer_labels_are_taken_together(tmp_path: Path) -> None:
    run = run_of(
        tmp_path, {"number": 3, "label": "cat"}, {"number": 2, "label": "dog"}, {"label": "elk"}, {"label": "fox"}
    )
    top, others, more = look(run, Chooser(0)).labels.top(2)
    assert [one.name for one in top] == ["cat", "dog"]
    assert others is not None
    assert (others.count, others.ok, more) == (2, 2, 2)


def test_calibrations_are_counted(tmp_path: Path) -> None:
    run = run_of(
        tmp_path,
        {"number": 2, "predicted_mad": 0.1, "calibration": "a", "calibration_matches": True},
        {"predicted_mad": 0.1, "calibration": "b", "calibration_matches": False},
        {"predicted_mad": 0.1},
        {"number": 4},
        {"error": "image_corrupt"},
    )
    found = look(run, Chooser(0)).calibrations
    assert found == {("a", True): 2, ("b", False): 1, (None, None): 5}


def test_what_was_made_since_the_run_was_resumed_is_counted(tmp_path: Path) -> None:
    begun = datetime(2026, 1, 2, tzinfo=UTC)
    run = run_of(tmp_path, *({"labelled_at": begun + timedelta(minutes=at)} for at in range(6)))
    run.info["resumed"] = [{"at": (begun + timedelta(minutes=4)).isoformat()}]
    survey = look(run, Chooser(0))
    assert survey.since == 2
    assert (survey.first, survey.last) == (begun, begun + timedelta(minutes=5))


def test_all_columns_are_light() -> None:
    assert all(pa.types.is_floating(RECORDS.field(name).type) for name in FEATURES)


@given(st.lists(st.sampled_from([*"abcdefgh", None]), min_size=1, max_size=200), st.integers(2, 6))
def test_nothing_is_lost_where_there_are_too_many_labels(names: list[str | None], most: int) -> None:
    slices = Slices(most)
    for at in range(0, len(names), 17):
        part = names[at : at + 17]
        nothing = np.full(len(part), np.nan)
        slices.add(pa.chunked_array([pa.array(part, pa.string())]), np.ones(len(part), bool), nothing, nothing)
    top, others, _ = slices.top(3)
    assert sum(one.count for one in top) + (others.count if others else 0) == len(names)
