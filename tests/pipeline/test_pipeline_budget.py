from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pipeline.budget import CANARY_SHARDS, Budget, BudgetExceededError, canary_limits, canary_verdict
from pipeline.config import FailuresConfig
from pipeline.errors import ConfigurationError, ErrorCode


def budget(**keys: Any) -> Budget:
    return Budget(FailuresConfig(**{"max_rate_by_code": {}, "min_objects": 10} | keys))


@pytest.mark.parametrize(
    ("counts", "broken"),
    [
        ({"ok": 8, "image_corrupt": 2}, False),  # a fifth is allowed
        ({"ok": 7, "image_corrupt": 3}, True),
        ({"ok": 7, "image_corrupt": 1, "prompt_malformed": 1, "model_failed": 1}, True),  # of all kinds together
        ({"ok": 6, "image_corrupt": 3}, False),  # too few yet
        ({"ok": 8, "shards": 50, "images": 60, "objects": 70, "image_corrupt": 2}, False),  # what is read isn't done
        ({"ok": 0, "image_corrupt": 0}, False),
        ({}, False),
    ],
)
def test_the_overall_rate(counts: dict[str, int], broken: bool) -> None:
    assert (budget(max_error_rate=0.2).check(counts) is not None) is broken


def test_a_code_has_a_budget_of_its_own() -> None:
    limited = budget(max_rate_by_code={"model_crashed": 0.05})
    assert limited.check({"ok": 95, "model_crashed": 5}) is None
    assert limited.check({"ok": 10, "image_corrupt": 90}) is None
    assert limited.check({"ok": 94, "model_crashed": 6}) is not None
    assert budget(max_rate_by_code={"model_crashed": 0.0}).check({"ok": 99, "model_crashed": 1}) is not None


def test_the_reason_says_which_rate_how_many_why_and_what_to_do() -> None:
    counts = {"ok": 40, "image_corrupt": 50, "prompt_malformed": 10}
    examples = {"image_corrupt": "a.tar: 7: cut", "prompt_malformed": "no JSON"}
    reason = str(budget(max_error_rate=0.25).check(counts, examples))
    assert "60 of the first 100 objects are errors (60.0%)" in reason
    assert "failures.max_error_rate allows 25.0%" in reason
    assert "image_corrupt, for example: a.tar: 7: cut" in reason
    assert "raise failures.max_error_rate" in reason
    assert "the same command" in reason
    reason = str(budget(max_rate_by_code={"prompt_malformed": 0.01}).check(counts, examples))
    assert "10 of the first 100 objects are prompt_malformed (10.0%)" in reason
    assert "for example: no JSON" in reason
    assert "raise failures.max_rate_by_code.prompt_malformed" in reason


def test_by_default_errors_of_the_input_stop_nothing_and_those_of_the_model_do() -> None:
    default = Budget(FailuresConfig())
    assert default.check({"image_corrupt": 100_000}) is None
    assert default.check({"ok": 40, "model_failed": 60}) is not None


@given(st.dictionaries(st.sampled_from(["ok", *map(str, ErrorCode)]), st.integers(0, 50)), st.floats(0, 1))
def test_what_is_within_budget_never_stops(counts: dict[str, int], rate: float) -> None:
    done = sum(counts.values())
    failed = done - counts.get("ok", 0)
    assert (budget(max_error_rate=rate).check(counts) is not None) == (done >= 10 and failed > rate * done)


@pytest.mark.parametrize(
    ("rates", "words"),
    [({"image_corupt": 0.1}, "image_corupt, which is no error code"), ({"image_corrupt": 1.5}, "from 0 to 1")],
)
def test_budgets_that_could_never_work_are_refused(rates: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        budget(max_rate_by_code=rates)


# --- canary ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 100), st.integers(1, 100))
def test_the_canary_is_spread_evenly_over_the_input(shards: int, images: int) -> None:
    names = [f"{number:03}" for number in range(shards)]
    limits = canary_limits(names, images)
    assert sum(limits.values()) == images
    assert len(limits) == min(CANARY_SHARDS, shards, images)
    assert max(limits.values()) - min(limits.values()) <= 1
    places = [int(name) for name in limits]
    gaps = [after - before for before, after in zip(places, [*places[1:], shards], strict=True)]
    assert max(gaps) - min(gaps) <= 1


def test_the_canary_is_judged_by_its_objects() -> None:
    config = FailuresConfig(canary_images=8, canary_max_error_rate=0.5)
    canary_verdict({"ok": 4, "image_corrupt": 4, "images": 8}, config)
    canary_verdict({"images": 0}, config)
    with pytest.raises(BudgetExceededError, match=r"5 of its 8 objects.*image_corrupt, for example: cut") as raised:
        canary_verdict({"ok": 3, "image_corrupt": 4, "image_empty": 1}, config, {"image_corrupt": "cut"})
    assert "failures.canary_images=0" in str(raised.value)
