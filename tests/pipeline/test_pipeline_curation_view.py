"""Which records count, over follow-ups and several outputs."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.curation.config import decide_settings
from pipeline.curation.view import View, columns_named, read_view
from pipeline.errors import ConfigurationError
from support.curation_runs import decided, decisions, failed, outcome, review, scored, scored_run
from support.run_rows import begin, label_config

EARLY = datetime(2026, 1, 1, tzinfo=UTC)
LATE = EARLY + timedelta(days=1)


def view_of(*runs: Path, **settings: Any) -> View:
    return read_view(decide_settings(runs=[str(run) for run in runs], out="out", budget=1, **settings))


def test_of_follow_ups_the_latest_counts(tmp_path: Path) -> None:
    scored_run(tmp_path / "run", [scored(1, 0.01), failed(2, "image_unavailable")])
    run = scored_run(tmp_path / "run", [scored(2, 0.02)], followup="followups/0001")
    decided(tmp_path / "out", tmp_path / "run", budget=0)
    assert outcome(tmp_path / "out") == {1: "accept", 2: "accept"}
    assert [row["run_id"] for row in decisions(tmp_path / "out")][1] == run.run_id


def test_an_incomplete_follow_up_is_left_out_and_named(tmp_path: Path) -> None:
    scored_run(tmp_path / "run", [scored(1, 0.01)])
    run = scored_run(tmp_path / "run", [scored(1, 0.02), scored(2)], followup="followups/0001")
    Path(run.path, "_SUCCESS").unlink()
    found = decided(tmp_path / "out", tmp_path / "run", budget=0)
    assert outcome(tmp_path / "out") == {1: "accept"}
    assert found.complete
    assert f"not complete, and left out: {run.run_id}" in str(found)
    assert found.expected_error == pytest.approx(0.01)


def test_an_output_without_a_complete_run_is_refused(tmp_path: Path) -> None:
    begin(label_config(tmp_path / "run"))
    with pytest.raises(ConfigurationError, match="no complete run"):
        view_of(tmp_path / "run")
    with pytest.raises(ConfigurationError, match="not a run directory"):
        view_of(tmp_path / "nothing")


@pytest.mark.parametrize("turned", [False, True])
def test_of_several_outputs_the_record_labelled_last_counts(tmp_path: Path, *, turned: bool) -> None:
    scored_run(tmp_path / "a", [scored(1, 0.01, labelled_at=LATE), scored(2, labelled_at=EARLY)])
    scored_run(tmp_path / "b", [scored(1, 0.09, labelled_at=EARLY), scored(3, labelled_at=EARLY)])
    runs = [tmp_path / "a", tmp_path / "b"]
    view = view_of(*(reversed(runs) if turned else runs))
    assert sorted(view.ids()) == [1, 2, 3]
    assert view.superseded == 1
    of = dict(zip(view.ids().tolist(), view.table["output"].to_pylist(), strict=True))
    assert of == {1: str(tmp_path / "a"), 2: str(tmp_path / "a"), 3: str(tmp_path / "b")}


def test_of_records_labelled_at_the_same_time_that_of_the_output_named_last_counts(tmp_path: Path) -> None:
    scored_run(tmp_path / "a", [scored(1, label="a"), scored(2, label="a", labelled_at=None)])
    scored_run(tmp_path / "b", [scored(1, label="b"), scored(2, label="b", labelled_at=None)])
    assert set(view_of(tmp_path / "a", tmp_path / "b").table["label"].to_pylist()) == {"b"}
    assert set(view_of(tmp_path / "b", tmp_path / "a").table["label"].to_pylist()) == {"a"}
    assert view_of(tmp_path / "a", tmp_path / "a").superseded == 0  # named twice


def test_equal_ids_of_different_pictures_are_told(tmp_path: Path) -> None:
    scored_run(tmp_path / "a", [scored(1, image_phash=5), scored(2, image_phash=6), scored(3)])
    scored_run(tmp_path / "b", [scored(1, image_phash=9), scored(2, image_phash=6), scored(3, image_phash=1)])
    (note,) = view_of(tmp_path / "a", tmp_path / "b").notes
    assert note.startswith("1 records have the same id in several outputs, but another picture")


def test_each_output_has_its_own_reviews(tmp_path: Path) -> None:
    a = scored_run(tmp_path / "a", [scored(1, labelled_at=LATE), scored(2)])
    b = scored_run(tmp_path / "b", [scored(1, labelled_at=EARLY), scored(3)])
    review(a, tmp_path / "a", 1, "reject", reviewer="of a")
    review(b, tmp_path / "b", 1, "accept", reviewer="of b")  # of a record that doesn't count
    review(b, tmp_path / "b", 3, "accept", reviewer="of b")
    decided(tmp_path / "out", tmp_path / "a", tmp_path / "b", accept_above=1)
    assert outcome(tmp_path / "out") == {1: "reject", 2: "review", 3: "accept"}
    by = {row["record_id"]: row["reviewed_by"] for row in decisions(tmp_path / "out")}
    assert by == {1: "of a", 2: None, 3: "of b"}


def test_a_review_of_an_earlier_matte_does_not_count(tmp_path: Path) -> None:
    run = scored_run(tmp_path / "run", [scored(1)])
    review(run, tmp_path / "run", 1, "reject")
    assert view_of(tmp_path / "run").verdict.tolist() == [2]
    scored_run(tmp_path / "run", [scored(1)], followup="followups/0001")
    view = view_of(tmp_path / "run")
    assert view.verdict.tolist() == [-1]
    assert "1 reviews don't count" in view.notes[0]


def test_a_verdict_of_unknown_words_is_none(tmp_path: Path) -> None:
    run = scored_run(tmp_path / "run", [scored(1)])
    review(run, tmp_path / "run", 1, "splendid")
    view = view_of(tmp_path / "run")
    assert (view.verdict.tolist(), view.review.tolist()) == ([-1], [0])


def test_an_empty_run(tmp_path: Path) -> None:
    scored_run(tmp_path / "run", [])
    for settings in ({}, {"per": ("label", "size", "source"), "at_most": 1, "rank": "relative"}):
        found = decided(tmp_path / "out", tmp_path / "run", target_error=0.1, budget=3, **settings)
        assert found.complete
        assert found.counts == {"accept": 0, "review": 0, "reject": 0}
        assert decisions(tmp_path / "out") == []
    scored_run(tmp_path / "other", [scored(1)])
    decided(tmp_path / "out", tmp_path / "run", tmp_path / "other", budget=0)
    assert outcome(tmp_path / "out") == {1: "accept"}


def test_conditions_are_looked_at_where_they_count(tmp_path: Path) -> None:
    scored_run(tmp_path / "a", [scored(1, holes=9, labelled_at=EARLY), scored(2, holes=9)])
    scored_run(tmp_path / "b", [scored(1, holes=0, labelled_at=LATE)])
    view = view_of(tmp_path / "a", tmp_path / "b", reject=("holes > 3",))
    met = dict(zip(view.ids().tolist(), view.met["holes > 3"].tolist(), strict=True))
    assert met == {1: False, 2: True}
    assert "holes" not in view.table.column_names


def test_columns_named() -> None:
    assert columns_named(" quality < 0.5 and (label in ('mad',) or transparent)") == {
        "quality",
        "label",
        "transparent",
    }


def test_only_what_is_needed_is_read(tmp_path: Path) -> None:
    scored_run(tmp_path / "run", [scored(1)])
    plain = view_of(tmp_path / "run", duplicates=None).table
    assert {"alpha", "prompt_mask", "image_phash", "coverage", "shard"}.isdisjoint(plain.column_names)
    assert np.isnan(view_of(tmp_path / "run").numbers("image_phash")).all()


def test_a_picture_that_differs_is_told_once_for_each_row_it_stands_for(tmp_path: Path) -> None:
    for name, number in (("a", 5), ("b", 9), ("c", 5)):
        scored_run(tmp_path / name, [scored(1, image_phash=number)])
    view = view_of(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert view.superseded == 2
    assert view.notes[0].startswith("1 records")


def test_columns_are_in_one_piece_and_long_texts_may_be_more_than_two_gibibytes(tmp_path: Path) -> None:
    for name, numbers in (("a", (1, 2)), ("b", (2, 3))):
        scored_run(tmp_path / name, [scored(n) for n in numbers])
        scored_run(tmp_path / name, [scored(n + 10) for n in numbers], followup="followups/0001")
    for table in (view_of(tmp_path / "a").table, view_of(tmp_path / "a", tmp_path / "b").table):
        # Where there are several, Arrow joins them for each slice of the decisions; and other strings can't be joined.
        assert {column.num_chunks for column in table.columns} == {1}
        assert {name: str(table[name].type) for name in ("image_key", "image_uri")} == {
            "image_key": "large_string",
            "image_uri": "large_string",
        }
