"""Settings of decisions: what is refused, and how that is said."""

from typing import Any

import pytest

from pipeline.curation.config import decide_settings
from pipeline.errors import ConfigurationError

NAMED: dict[str, Any] = {"runs": ["run"], "out": "out"}


def test_something_must_say_what_is_accepted() -> None:
    with pytest.raises(ConfigurationError, match="say what is to be accepted"):
        decide_settings(**NAMED, reject_below=0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budget": -1}, "--budget: .*greater than or equal to 0"),
        ({"target_error": float("nan")}, "--target-error"),
        ({"accept_above": 80}, "--accept-above: .*less than or equal to 1"),
        ({"accept_above": 0.2, "reject_below": 0.5}, "would be both"),
        ({"budget": 1, "duplicates": 13}, "--duplicates"),
        ({"budget": 1, "per": ("label", "label")}, "twice"),
        ({"budget": 1, "per": ("colour",)}, "--per"),
        ({"accept": ("__import__('os')",)}, "condition"),
        ({"budget": 1, "reject": ("qualty < 0.5",)}, "'qualty' is no column"),
        ({"budget": 1, "runs": ()}, "--runs"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        decide_settings(**(NAMED | values))


def test_credentials_are_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as raised:
        decide_settings(runs=["s3://me:secret@bucket/run?x=y"], out="out", budget=-1)
    assert "secret" not in str(raised.value)
