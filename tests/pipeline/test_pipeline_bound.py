"""What bounds a run, from figures that were made up."""

from typing import Any

import pytest

from pipeline.bound import CERTAIN, CLOSE, LIKELY, bound


def timing(actors: int = 1, readers: int = 2, read: float = 0.0, write: float = 0.0, **seconds: float) -> Any:
    return {
        "seconds": seconds,
        "thread_seconds": {"read": read, "write": write},
        "actors": actors,
        "readers": readers,
    }


def test_a_model_that_is_nearly_always_busy_bounds_the_run() -> None:
    found = bound(timing(compute=96, decode=3, wait=1))
    assert found is not None
    assert (found.stage, found.busy, found.sure) == ("model", 0.96, CERTAIN)
    assert found.sentence.startswith("the model bounds this run: it was busy 96 % of the time; only a faster device")


def test_where_the_model_bounds_with_gaps_the_largest_gap_is_named() -> None:
    found = bound(timing(compute=80, decode=2, encode=12, score=6))
    assert found is not None
    assert (found.stage, found.sure) == ("model", CERTAIN)
    assert "busy 80 %" in found.sentence
    assert "it stood still 12 % while PNGs were encoded: raise workers.cpus_per_actor" in found.sentence


def test_actors_that_wait_for_busy_readers_are_bound_by_reading() -> None:
    found = bound(timing(readers=2, read=180, compute=55, wait=45))
    assert found is not None
    assert found.stage == "model"
    found = bound(timing(readers=2, read=180, compute=30, wait=70))
    assert found is not None
    assert (found.stage, found.share, found.sure) == ("reading", 0.7, CERTAIN)
    assert "actors waited 70 % of the time for reading, and the model was busy 30 %" in found.sentence
    assert "raise workers.readers" in found.sentence


def test_actors_that_wait_for_busy_writers_are_bound_by_writing() -> None:
    found = bound(timing(readers=2, read=10, write=95, compute=30, wait=70))
    assert found is not None
    assert found.stage == "writing"
    assert "output" in found.sentence


def test_actors_that_wait_while_nobody_is_busy_wait_for_the_handing_over() -> None:
    found = bound(timing(readers=2, read=10, write=5, compute=30, wait=70))
    assert found is not None
    assert found.stage == "waiting"
    assert "workers.images_per_block" in found.sentence


def test_readers_are_shared_by_actors() -> None:
    """Two actors of 100 s each: the readers had 100 s as well, not 200."""
    found = bound(timing(actors=2, readers=1, read=90, compute=60, wait=140))
    assert found is not None
    assert found.stage == "reading"


@pytest.mark.parametrize(
    ("part", "stage"), [("decode", "decoding"), ("score", "scoring"), ("encode", "PNG"), ("other", "handing over")]
)
def test_what_keeps_the_model_waiting_inside_an_actor_is_named(part: str, stage: str) -> None:
    found = bound(timing(**{"compute": 20, part: 70, "wait": 10}))
    assert found is not None
    assert (found.stage, found.busy) == (stage, 0.2)
    assert "it stood still 70 % of the time" in found.sentence
    assert "raise workers." in found.sentence


@pytest.mark.parametrize(("decode", "sure"), [(20, CERTAIN), (35, LIKELY), (45, CLOSE)])
def test_it_says_how_sure_it_is(decode: float, sure: str) -> None:
    found = bound(timing(compute=50, decode=decode))
    assert found is not None
    assert found.sure == sure
    assert (", most likely" in found.sentence) is (sure == LIKELY)
    assert (", if by little" in found.sentence) is (sure == CLOSE)


def test_a_run_that_hardly_worked_is_too_short_to_tell() -> None:
    found = bound(timing(ramp_up=60, compute=20, decode=5, tail=15))
    assert found is not None
    assert (found.stage, found.share, found.busy) == ("starting", 0.75, 0.8)
    assert "75 %" in found.sentence


@pytest.mark.parametrize("nothing", [None, {}, timing(), timing(ramp_up=5, tail=1)])
def test_without_figures_there_is_no_verdict(nothing: Any) -> None:
    assert bound(nothing) is None
