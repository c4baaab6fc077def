import numpy as np
import pytest

from benchmarks import png
from benchmarks.png import CHOSEN, Cost, encoders, measure, table, verdict
from pipeline.stages.records import encode_png


def test_the_pipelines_own_encoder_is_what_is_judged() -> None:
    assert encoders()[CHOSEN] is encode_png


@pytest.mark.parametrize(
    ("other", "objection"),
    [
        (Cost("other", 0.9, 0.9), "smaller and faster"),
        (Cost("other", 0.99, 0.99), None),  # no more than noise
        (Cost("other", 0.5, 1.1), None),
        (Cost("other", 1.09, 0.7), "takes 0.70 of the time for 1.09 of the bytes"),
        (Cost("other", 1.2, 0.7), None),
    ],
)
def test_only_what_is_clearly_better_speaks_against_a_setting(other: Cost, objection: str | None) -> None:
    found = verdict([Cost(CHOSEN, 1.0, 1.0), other])
    assert found is None if objection is None else objection in (found or "")


def test_the_table_marks_what_nothing_beats() -> None:
    lines = table([Cost("slow", 2.0, 3.0), Cost("small", 1.0, 2.0), Cost("fast", 3.0, 1.0)]).splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [["*", "fast"], ["*", "small"], ["slow", "2.0000"]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_files_that_do_not_hold_the_matte_are_noticed(
    monkeypatch: pytest.MonkeyPatch, dtype: type[np.unsignedinteger]
) -> None:
    alpha = np.arange(48).reshape(6, 8).astype(dtype)
    some = dict(list(encoders().items())[:8])
    monkeypatch.setattr(png, "encoders", lambda: some)
    costs = measure([alpha], 1)
    assert [cost.name for cost in costs] == list(some)
    assert all(cost.bytes > 1 and cost.ms >= 0 for cost in costs)
    monkeypatch.setattr(png, "encoders", lambda: {"wrong": lambda alpha: encode_png(alpha + 1)})
    with pytest.raises(AssertionError, match="wrong"):
        measure([alpha], 1)
