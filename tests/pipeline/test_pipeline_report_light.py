"""Where the time went, laid out for the page."""

from typing import Any

import pytest

from pipeline.report.light import WIDTH, light
from pipeline.timing import ActorTimes, TimeAccount, merged


def figures(**seconds: float) -> dict[str, Any]:
    account = TimeAccount(0.0, iter([0.0, 100.0, 125.0, 125.0]).__next__)
    account.acted("a", ActorTimes(seconds, dict(seconds)))
    return account.lap(images=5, objects=10, actors=1, readers=1)


def test_the_parts_fill_the_bar_and_lie_side_by_side() -> None:
    found = light(figures(compute=60.0, wait=20.0))
    assert found is not None
    assert [part.name for part in found.parts] == ["ramp-up", "compute", "wait", "tail"]
    assert [part.share for part in found.parts] == pytest.approx([0.16, 0.48, 0.16, 0.2])
    at = 0.0
    for part in found.parts:
        assert part.x == pytest.approx(at, abs=0.01)
        at += part.width
    assert at == pytest.approx(WIDTH, abs=0.1)
    assert found.unknown == 0


def test_actors_of_which_nothing_is_known_leave_a_gap() -> None:
    found = light(figures(compute=60.0) | {"actor_seconds": 250.0})
    assert found is not None
    assert found.unknown == pytest.approx(125)
    assert sum(part.width for part in found.parts) == pytest.approx(WIDTH / 2, abs=0.1)


def test_rates_are_of_wall_time() -> None:
    found = light(figures(compute=60.0) | {"bytes_read": 250_000_000, "bytes_written": 125_000_000})
    assert found is not None
    assert found.rates == pytest.approx((2, 1))


@pytest.mark.parametrize("nothing", [None, {}, merged(None, figures())])
def test_runs_without_figures_have_no_such_section(nothing: Any) -> None:
    assert light(nothing) is None
