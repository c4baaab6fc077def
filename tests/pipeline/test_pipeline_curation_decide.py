"""Each rule of deciding, on runs of a handful of records."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigurationError
from support.curation_runs import decided, decisions, failed, outcome, reasons, review, scored, scored_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Five records of errors 0.01 to 0.05, whose ids are 1 to 5."""
    scored_run(tmp_path / "run", [scored(n, n / 100) for n in range(1, 6)])
    return tmp_path / "run"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def ranked(out: Path) -> list[int]:
    """Ids of what is to be reviewed, the worst first."""
    rows = [row for row in decisions(out) if row["rank"] is not None]
    assert [row["rank"] for row in rows] == list(range(len(rows)))
    assert all(row["decision"] == "review" for row in rows)
    return [row["record_id"] for row in rows]


# --- thresholds ------------------------------------------------------------------------------------------------------


def test_thresholds_of_quality(run: Path, out: Path) -> None:
    decided(out, run, accept_above=0.5, reject_below=0.25)
    assert outcome(out) == {1: "accept", 2: "accept", 3: "review", 4: "review", 5: "reject"}
    assert reasons(out) == {
        1: "quality 0.70711 >= 0.5",
        2: "quality 0.5 >= 0.5",  # exactly that is enough
        3: "quality 0.35355 < 0.5",
        4: "quality 0.25 < 0.5",  # and that isn't below
        5: "quality 0.17678 < 0.25",
    }
    assert ranked(out) == [4, 3]


def test_a_threshold_is_compared_as_the_column_holds_it(tmp_path: Path, out: Path) -> None:
    scored_run(tmp_path / "run", [scored(1, 0.01, quality=0.7)])  # as float32 a little less than 0.7
    decided(out, tmp_path / "run", accept_above=0.7, reject_below=0.7)
    assert outcome(out) == {1: "accept"}


def test_conditions(tmp_path: Path, out: Path) -> None:
    rows = [
        scored(1, label="cat", fragments=1),
        scored(2, label="cat", fragments=30),
        scored(3, label="dog", fragments=1),
        scored(4, None, label="cat", fragments=1),
        scored(5, label="cat"),
    ]
    scored_run(tmp_path / "run", rows)
    decided(out, tmp_path / "run", accept=("label == 'cat'", "fragments < 9"), reject=("fragments > 20",))
    assert outcome(out) == {1: "accept", 2: "reject", 3: "review", 4: "accept", 5: "review"}
    assert reasons(out)[1] == "accept: label == 'cat'; fragments < 9"
    assert reasons(out)[2] == "reject: fragments > 20"
    assert reasons(out)[3] == "not met: label == 'cat'"
    assert reasons(out)[5] == "not met: fragments < 9"  # missing


# --- scores that can't be relied upon --------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [{"target_error": 0.5}, {"accept_above": 0.1}, {"accept": ("predicted_mad < 0.5",)}])
def test_without_a_score_to_rely_upon_nothing_is_accepted_by_it(tmp_path: Path, out: Path, rule: Any) -> None:
    rows = [
        scored(1),
        scored(2, None),
        scored(3, 0.001, calibration_matches=False),
        scored(4, 0.001, calibration_matches=None),
        scored(5, float("nan"), quality=float("nan")),
    ]
    scored_run(tmp_path / "run", rows)
    found = decided(out, tmp_path / "run", **rule)
    assert outcome(out) == {1: "accept", **dict.fromkeys((2, 3, 4, 5), "review")}
    assert reasons(out)[2] == reasons(out)[5] == "predicted_mad is missing"
    assert reasons(out)[3] == "predicted_mad was calibrated for another model"
    assert (found.without_score, found.mismatched) == (2, 2)
    assert "2 mattes have no predicted_mad" in str(found)
    assert "the predicted_mad of 2 mattes was calibrated for another model" in str(found)


def test_nor_is_anything_rejected_by_it(tmp_path: Path, out: Path) -> None:
    scored_run(tmp_path / "run", [scored(1, 0.5, calibration_matches=False), scored(2, 0.5), scored(3, 0.001)])
    decided(out, tmp_path / "run", accept_above=0.9, reject=("quality < 0.5",))
    assert outcome(out) == {1: "review", 2: "reject", 3: "accept"}


# --- a budget --------------------------------------------------------------------------------------------------------


def test_a_budget_alone_takes_the_worst_and_accepts_the_rest(run: Path, out: Path) -> None:
    found = decided(out, run, budget=2)
    assert ranked(out) == [5, 4]
    assert outcome(out) == {1: "accept", 2: "accept", 3: "accept", 4: "review", 5: "review"}
    assert reasons(out)[5] == "predicted_mad 0.05 is among the worst 2"
    assert reasons(out)[1] == "predicted_mad 0.01 is not among the worst 2"
    assert found.expected_error == pytest.approx(0.02)
    assert found.review_share == pytest.approx(0.09 / 0.15)


@pytest.mark.parametrize(("budget", "expected"), [(0, []), (5, [5, 4, 3, 2, 1]), (99, [5, 4, 3, 2, 1])])
def test_a_budget_of_nothing_and_of_more_than_there_is(run: Path, out: Path, budget: int, expected: list[int]) -> None:
    decided(out, run, budget=budget)
    assert ranked(out) == expected


def test_ties_are_broken_by_the_id(tmp_path: Path, out: Path) -> None:
    scored_run(tmp_path / "run", [scored(n, 0.01) for n in (5, -3, 4, 1)])
    decided(out, tmp_path / "run", budget=2)
    assert ranked(out) == [-3, 1]


def test_small_objects_count_by_their_size(tmp_path: Path, out: Path) -> None:
    rows = [
        scored(1, 0.02, prompt_area=0.5, coverage=0.4),
        scored(2, 0.01, prompt_area=0.01, coverage=0.02),
        scored(3, 0.01, prompt_area=None, coverage=0.1),
        scored(4, 0.001, prompt_area=None, coverage=0.0),
    ]
    scored_run(tmp_path / "run", rows)
    decided(out, tmp_path / "run", budget=4, rank="relative")
    assert ranked(out) == [4, 2, 3, 1]
    assert reasons(out)[4] == "predicted_mad 0.001 is among the worst 4 for its size"
    decided(out, tmp_path / "run", budget=4)
    assert ranked(out) == [1, 2, 3, 4]


def test_a_budget_alone_loses_nothing_that_has_no_score(tmp_path: Path, out: Path) -> None:
    rows = [scored(1, 0.5), scored(2, None), scored(3, 0.01, calibration_matches=False), scored(4, None)]
    scored_run(tmp_path / "run", rows)
    decided(out, tmp_path / "run", budget=2)
    assert ranked(out) == [3, 2, 4]
    assert outcome(out) == {1: "accept", 2: "review", 3: "review", 4: "review"}
    assert reasons(out)[4] == "predicted_mad is missing"


def test_what_cannot_be_accepted_goes_first_and_is_lost_over_a_budget_beside_another_rule(
    tmp_path: Path, out: Path
) -> None:
    rows = [scored(1, 0.5), scored(2, None), scored(3, 0.01, calibration_matches=False), scored(4, None)]
    scored_run(tmp_path / "run", rows)
    decided(out, tmp_path / "run", budget=2, target_error=0.5)
    assert ranked(out) == [3, 2]
    assert outcome(out) == {1: "accept", 2: "review", 3: "review", 4: "reject"}
    assert reasons(out)[4] == "predicted_mad is missing; over the review budget of 2"


def test_a_budget_alone_needs_scores_to_rely_upon(tmp_path: Path, out: Path) -> None:
    rows = [scored(1, 0.01, calibration_matches=False, holes=0), scored(2, None, holes=3), failed(3)]
    run = scored_run(tmp_path / "run", rows)
    with pytest.raises(ConfigurationError, match=r"none of 2 mattes .* calibrate .*--accept CONDITION"):
        decided(out, tmp_path / "run", budget=1)
    assert not out.exists()
    decided(out, tmp_path / "run", budget=1, accept=("holes == 0",))
    assert outcome(out) == {1: "accept", 2: "review", 3: "reject"}
    for number in (1, 2):  # nothing is left to be told apart
        review(run, tmp_path / "run", number, "accept")
    decided(out, tmp_path / "run", budget=1)
    assert outcome(out) == {1: "accept", 2: "accept", 3: "reject"}


@pytest.mark.parametrize("threshold", [0.5, 0.50000012, 0.123456789])
def test_reasons_tell_a_figure_from_its_threshold(tmp_path: Path, out: Path, threshold: float) -> None:
    limit = np.float32(threshold)
    near = [np.nextafter(limit, np.float32(0)), limit, np.nextafter(limit, np.float32(1)), np.float32(limit / 3)]
    scored_run(tmp_path / "run", [scored(n, 0.01, quality=float(value)) for n, value in enumerate(near)])
    decided(out, tmp_path / "run", accept_above=threshold)
    said = [reasons(out)[n].split() for n in range(4)]
    assert [sign for _, _, sign, _ in said] == ["<", ">=", ">=", "<"]
    for _, figure, sign, than in said:
        assert float(than) == threshold
        below = np.float32(figure) < np.float32(than)
        assert below == (sign == "<")
    assert len(said[3][1]) <= len("0.12345")  # no more digits than it takes


def test_a_budget_beside_thresholds_is_a_cap(run: Path, out: Path) -> None:
    decided(out, run, budget=2, accept_above=0.6)
    assert outcome(out) == {1: "accept", 2: "reject", 3: "reject", 4: "review", 5: "review"}
    assert reasons(out)[3] == "quality 0.35355 < 0.6; over the review budget of 2"


# --- a target error --------------------------------------------------------------------------------------------------


def test_as_many_are_accepted_as_the_target_allows(run: Path, out: Path) -> None:
    found = decided(out, run, target_error=0.025)
    assert outcome(out) == {1: "accept", 2: "accept", 3: "accept", 4: "accept", 5: "review"}
    assert found.expected_error == pytest.approx(0.025)
    assert reasons(out)[5] == "predicted_mad 0.05 is beyond the target error 0.025"
    decided(out, run, target_error=0.0249)
    assert outcome(out)[4] == "review"


def test_a_target_that_nothing_meets(run: Path, out: Path) -> None:
    found = decided(out, run, target_error=0.005)
    assert set(outcome(out).values()) == {"review"}
    assert found.expected_error is None


def test_objects_of_exactly_the_target_are_accepted(tmp_path: Path, out: Path) -> None:
    scored_run(tmp_path / "run", [scored(n, 0.05) for n in range(100)])  # as float32 a little more than 0.05
    decided(out, tmp_path / "run", target_error=0.05)
    assert set(outcome(out).values()) == {"accept"}


def test_a_target_with_a_budget_rejects_what_nobody_will_look_at(run: Path, out: Path) -> None:
    decided(out, run, target_error=0.01, budget=2)
    assert outcome(out) == {1: "accept", 2: "reject", 3: "reject", 4: "review", 5: "review"}
    assert reasons(out)[2] == "predicted_mad 0.02 is beyond the target error 0.01; over the review budget of 2"


@settings(max_examples=10)
@given(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.011, 0.2, 1.0]), max_size=12), st.floats(0, 0.2))
def test_one_more_would_miss_the_target(tmp_path_factory: Any, errors: list[float], target: float) -> None:
    path = tmp_path_factory.mktemp("target")
    scored_run(path / "run", [scored(n, error) for n, error in enumerate(errors)])
    decided(path / "out", path / "run", target_error=target)
    taken = outcome(path / "out")
    accepted = sorted(error for n, error in enumerate(errors) if taken[n] == "accept")
    assert accepted == sorted(errors)[: len(accepted)]
    assert sum(accepted) <= (target + 1e-7) * len(accepted)
    if len(accepted) < len(errors):
        assert sum(sorted(errors)[: len(accepted) + 1]) > (target - 1e-7) * (len(accepted) + 1)


# --- errors and verdicts ---------------------------------------------------------------------------------------------


def test_errors_are_rejected_and_never_lost(tmp_path: Path, out: Path) -> None:
    rows = [scored(1), failed(2, "image_corrupt"), failed(3, "prompt_missing"), failed(4, "code_of_next_year")]
    scored_run(tmp_path / "run", rows)
    decided(out, tmp_path / "run", budget=10)
    assert outcome(out) == {1: "review", 2: "reject", 3: "reject", 4: "reject"}
    assert reasons(out)[2] == "error: image_corrupt"
    assert reasons(out)[4] == "error: of a code that is not known"
    assert [row["error_code"] for row in decisions(out) if row["record_id"] == 4] == ["code_of_next_year"]


def test_verdicts_decide(tmp_path: Path, out: Path) -> None:
    run = scored_run(tmp_path / "run", [*(scored(n, n / 100) for n in range(1, 6)), failed(6)])
    for number, verdict in ((5, "accept"), (1, "reject"), (2, "fix"), (3, None), (6, "accept")):
        review(run, tmp_path / "run", number, verdict)
    found = decided(out, tmp_path / "run", accept_above=0.3)
    assert outcome(out) == {1: "reject", 2: "review", 3: "accept", 4: "review", 5: "accept", 6: "reject"}
    said = reasons(out)
    assert (said[5], said[1], said[2]) == ("verdict: accept", "verdict: reject", "verdict: fix")
    assert said[3].startswith("quality")  # looked at, but nothing was said
    assert said[6] == "error: image_corrupt"  # there is no matte to accept
    by = {row["record_id"]: row["reviewed_by"] for row in decisions(out)}
    assert by[4] is None
    assert by[3] == by[5] == "ann@example.com"
    assert {row["reviewed_at"].isoformat() for row in decisions(out) if row["reviewed_at"]} == {
        "2026-02-03T00:00:00+00:00"
    }
    assert ranked(out) == [2, 4]  # what was sent back comes first
    assert found.judged == 2
    assert found.expected_error == pytest.approx(0.03)  # without that of the one that a person accepted


def test_what_was_sent_back_is_reviewed_whatever_the_budget(tmp_path: Path, out: Path) -> None:
    run = scored_run(tmp_path / "run", [scored(n, n / 100) for n in range(1, 6)])
    for number in (1, 2):
        review(run, tmp_path / "run", number, "fix")
    decided(out, tmp_path / "run", budget=1)
    assert ranked(out) == [2, 1]
    decided(out, tmp_path / "run", budget=3)
    assert ranked(out) == [2, 1, 5]


def test_the_accepted_do_not_eat_up_the_target(tmp_path: Path, out: Path) -> None:
    run = scored_run(tmp_path / "run", [scored(n, n / 100) for n in range(1, 6)])
    review(run, tmp_path / "run", 5, "accept")
    decided(out, tmp_path / "run", target_error=0.015)
    assert outcome(out) == {1: "accept", 2: "accept", 3: "review", 4: "review", 5: "accept"}


# --- strata ----------------------------------------------------------------------------------------------------------


def test_a_budget_is_spread_over_strata(tmp_path: Path, out: Path) -> None:
    rows = [scored(n, 0.5 - n / 1000, label="cat") for n in range(18)] + [scored(99, 0.001, label="dog")]
    scored_run(tmp_path / "run", rows)
    found = decided(out, tmp_path / "run", budget=4, per=("label",))
    assert ranked(out) == [0, 1, 2, 99]
    assert {row["stratum"] for row in decisions(out)} == {"label=cat", "label=dog"}
    table = [(each.name, each.counts) for each in found.strata]
    assert table[0] == ("label=cat", {"accept": 15, "review": 3, "reject": 0})
    assert "label=dog" in str(found)


def test_a_stratum_is_capped_at_its_best(tmp_path: Path, out: Path) -> None:
    cats = [scored(n, n / 100, label="cat") for n in range(1, 6)]
    run = scored_run(tmp_path / "run", [*cats, scored(6, 0.09, label="dog"), scored(7, None, label="cat")])
    decided(out, tmp_path / "run", accept=("coverage > 0.1",), at_most=2, per=("label",))
    assert [n for n, decision in outcome(out).items() if decision == "accept"] == [1, 2, 6]
    assert reasons(out)[3] == reasons(out)[7] == "over 2 accepted of label=cat"
    review(run, tmp_path / "run", 5, "accept")  # counts, and stays
    decided(out, tmp_path / "run", accept=("coverage > 0.1",), at_most=2, per=("label",))
    assert [n for n, decision in outcome(out).items() if decision == "accept"] == [1, 5, 6]


def test_a_cap_without_strata_and_with_a_target(run: Path, out: Path) -> None:
    decided(out, run, target_error=0.02, at_most=2)
    assert outcome(out) == {1: "accept", 2: "accept", 3: "reject", 4: "reject", 5: "reject"}
    assert reasons(out)[3] == "over 2 accepted"
    assert all(row["stratum"] is None for row in decisions(out))


def test_the_target_holds_for_what_the_cap_leaves(tmp_path: Path, out: Path) -> None:
    cats = [scored(n, 0.001, label="cat") for n in range(10)]
    dogs = [scored(20 + n, 0.02, label="dog") for n in range(5)]
    scored_run(tmp_path / "run", cats + dogs)
    found = decided(out, tmp_path / "run", target_error=0.01, at_most=2, per=("label",))
    # All dogs could hide behind ten cats, but not behind two.
    assert [n for n, decision in outcome(out).items() if decision == "accept"] == [0, 1, 20]
    assert found.expected_error is not None
    assert found.expected_error <= 0.01


def test_a_matte_in_which_nothing_is_opaque_is_never_accepted_unseen(tmp_path: Path, out: Path) -> None:
    rows = [
        scored(1, 0.001, fragments=0),
        scored(2, 0.001, fragments=0, transparent=True),  # glass need not be opaque anywhere
        scored(3, 0.001, fragments=1),
        scored(4, 0.001, fragments=None),  # of a run before there were such features
        scored(5, 0.001, fragments=0, label="dog"),
    ]
    scored_run(tmp_path / "run", rows)
    for rules in ({"target_error": 0.1}, {"accept_above": 0.1}, {"accept": ["label in ('cat', 'dog')"]}):
        decided(out, tmp_path / "run", **rules, reject=["label == 'dog'"])
        assert outcome(out) == {1: "review", 2: "accept", 3: "accept", 4: "accept", 5: "reject"}
        assert reasons(out)[1].startswith("nothing is opaque")
