"""Sums of time: of threads in an actor, and of actors in a run."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.timing import (
    ACTIVITIES,
    ACTORS_LISTED,
    BYTES_READ,
    BYTES_WRITTEN,
    COMPUTE,
    DECODE,
    ENCODE,
    FOREMOST,
    OTHER,
    RAMP_UP,
    READ,
    SCORE,
    TAIL,
    WAIT,
    WRITE,
    ActorTimes,
    Spans,
    TimeAccount,
    measured,
    merged,
)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_time_counts_as_what_is_foremost_and_the_rest_as_waiting() -> None:
    clock = Clock()
    spans = Spans(clock)
    with spans.span(OTHER):
        clock.now += 1
        with spans.span(DECODE):
            clock.now += 2
            with spans.span(COMPUTE):  # as another thread may do meanwhile
                clock.now += 4
        clock.now += 8
    clock.now += 16
    with spans.span(OTHER):
        clock.now += 32
    times = spans.times({"matte": {"limit": 4, "smallest": 2, "last": 4}})
    assert times.exclusive == {OTHER: 1 + 8 + 32, DECODE: 2, COMPUTE: 4, WAIT: 16}
    assert times.threads == {DECODE: 6, COMPUTE: 4}
    assert times.total == 63
    assert times.batches == {"matte": {"limit": 4, "smallest": 2, "last": 4}}


def test_the_time_after_the_last_work_is_not_counted_yet() -> None:
    clock = Clock()
    spans = Spans(clock)
    with spans.span(COMPUTE):
        clock.now += 1
    clock.now += 50
    assert spans.times().total == 1


def test_a_span_ends_where_its_work_fails() -> None:
    clock = Clock()
    spans = Spans(clock)

    def fail() -> None:
        clock.now += 1
        raise RuntimeError

    with pytest.raises(RuntimeError), spans.span(COMPUTE):
        fail()
    clock.now += 2
    with spans.span(DECODE):
        clock.now += 4
    assert spans.times().exclusive == {COMPUTE: 1, WAIT: 2, DECODE: 4}


def test_calls_are_timed_and_their_results_handed_on() -> None:
    clock = Clock()
    spans = Spans(clock)

    def double(number: int) -> int:
        clock.now += number
        return 2 * number

    assert [spans.timed(SCORE, double)(number) for number in (1, 2)] == [2, 4]
    assert spans.times().threads == {SCORE: 3}


def test_threads_lose_no_time_and_count_none_twice() -> None:
    spans = Spans()
    begin = time.perf_counter()

    def work() -> None:
        for _ in range(300):
            with spans.span(DECODE), spans.span(ENCODE):
                pass

    with spans.span(OTHER):
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    wall = time.perf_counter() - begin
    times = spans.times()
    assert 0 < times.total <= wall
    assert times.threads[DECODE] <= 4 * wall
    assert set(times.exclusive) <= {DECODE, ENCODE, OTHER}  # all ended, so nothing counts as it for ever


@given(st.lists(st.tuples(st.sampled_from(FOREMOST), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20))
def test_the_parts_add_up_to_the_time_between_first_and_last_work(steps: list[tuple[str, int, int]]) -> None:
    clock = Clock()
    spans = Spans(clock)
    for activity, within, after in steps:
        with spans.span(activity):
            clock.now += within
        last = clock.now
        clock.now += after
    assert spans.times().total == last - 100


def test_only_making_items_is_measured() -> None:
    def slow() -> Iterator[int]:
        for number in range(2):
            time.sleep(0.02)
            yield number

    found = []
    for number, seconds in measured(slow()):
        found.append((number, seconds))
        time.sleep(0.1)
    assert [number for number, _ in found] == [0, 1]
    assert all(0.02 <= seconds < 0.1 for _, seconds in found)


def account(clock: Clock) -> TimeAccount:
    """An account that was opened ten seconds after its job began."""
    return TimeAccount(10.0, clock)


def test_ramp_up_and_tail_are_what_lies_around_an_actors_work() -> None:
    clock = Clock()
    times = account(clock)
    clock.now += 5
    times.arrive("a")
    times.arrive("b")
    clock.now += 25  # at 40 s of the job
    times.acted("a", ActorTimes({COMPUTE: 15.0, DECODE: 3.0, WAIT: 2.0}, {COMPUTE: 15.0, DECODE: 6.0}))
    clock.now += 10  # at 50 s
    times.acted("b", ActorTimes({COMPUTE: 30.0}, {COMPUTE: 30.0}))
    times.spent({READ: 4.0, BYTES_READ: 1000})
    times.spent({READ: 1.0, BYTES_READ: 500})
    times.spent({WRITE: 2.0, BYTES_WRITTEN: 300})
    clock.now += 5
    lap = times.lap(images=11, objects=22, actors=2, readers=3)
    assert lap["wall_seconds"] == 55
    assert lap["actor_seconds"] == 110
    assert lap["seconds"] | {"copy": 0, "score": 0, "encode": 0, "other": 0} == lap["seconds"]
    assert lap["seconds"][RAMP_UP] == (40 - 20) + (50 - 30)
    assert lap["seconds"][TAIL] == (55 - 40) + (55 - 50)
    assert sum(lap["seconds"].values()) == lap["actor_seconds"]
    assert list(lap["seconds"]) == list(ACTIVITIES)
    assert lap["model_busy"] == 0.9
    assert lap["thread_seconds"] == {COMPUTE: 45, DECODE: 6, READ: 5, WRITE: 2}
    assert (lap["images"], lap["objects"], lap["bytes_read"], lap["bytes_written"]) == (11, 22, 1500, 300)
    assert (lap["images_per_second"], lap["objects_per_second"]) == (0.2, 0.4)
    assert (lap["jobs"], lap["actors"], lap["readers"]) == (1, 2, 3)
    assert [row["process"] for row in lap["per_actor"]] == ["a", "b"]
    json.dumps(lap)


def test_what_a_process_tells_replaces_what_it_told_before_whichever_comes_first() -> None:
    clock = Clock()
    times = account(clock)
    times.arrive("a")
    for seconds in (1.0, 3.0, 2.0):
        times.acted("a", ActorTimes({COMPUTE: seconds}, {COMPUTE: seconds}))
    assert times.lap(1, 1, 1, 1)["seconds"][COMPUTE] == 3


def test_a_process_that_stood_in_for_a_dead_one_starts_when_it_arrives_and_the_dead_one_has_no_tail() -> None:
    clock = Clock()
    times = account(clock)
    times.arrive("dead")
    clock.now += 20
    times.acted("dead", ActorTimes({COMPUTE: 10.0}))
    clock.now += 30
    times.arrive("heir")
    clock.now += 10
    times.acted("heir", ActorTimes({COMPUTE: 4.0}))
    clock.now += 1
    dead, heir = times.lap(1, 1, actors=1, readers=1)["per_actor"]
    assert (dead["seconds"][RAMP_UP], dead["seconds"][TAIL]) == (20, 0)
    assert (heir["seconds"][RAMP_UP], heir["seconds"][TAIL]) == (6, 1)


def test_an_actor_that_got_no_images_only_started() -> None:
    clock = Clock()
    times = account(clock)
    times.arrive("a")
    clock.now += 10
    lap = times.lap(0, 0, 1, 1)
    assert lap["seconds"][RAMP_UP] == 20
    assert lap["model_busy"] is None


def test_laps_begin_anew() -> None:
    clock = Clock()
    times = account(clock)
    times.acted("a", ActorTimes({COMPUTE: 3.0}))
    clock.now += 10
    times.lap(5, 5, 1, 1)
    clock.now += 7
    second = times.lap(1, 1, 1, 1)
    assert second["wall_seconds"] == 7
    assert second["per_actor"] == []


def figures(seconds: float = 8.0, smallest: int = 4, **more: Any) -> dict[str, Any]:
    clock = Clock()
    times = TimeAccount(0.0, clock)
    clock.now += 10
    budget = {"matte": {"limit": 8, "smallest": smallest, "last": 6}}
    times.acted("a", ActorTimes({COMPUTE: seconds, WAIT: 2.0}, {COMPUTE: seconds}, budget))
    return times.lap(10, 20, 1, 1) | more


def test_jobs_of_one_run_add_up() -> None:
    both = merged(figures(), figures(3.0, 2))
    assert both["jobs"] == 2
    assert both["wall_seconds"] == 20
    assert (both["images"], both["objects"]) == (20, 40)
    assert both["seconds"][COMPUTE] == 11
    assert both["model_busy"] == pytest.approx(11 / 15, abs=1e-5)
    assert both["objects_per_second"] == 2
    assert both["batches"] == {"matte": {"limit": 8, "smallest": 2, "last": 6}}
    assert len(both["per_actor"]) == 2
    assert merged(figures(), figures(), same_job=True)["jobs"] == 1


def test_the_smallest_budget_is_that_of_all_jobs_and_kinds_of_earlier_ones_stay() -> None:
    assert merged(figures(smallest=2), figures(smallest=4))["batches"]["matte"]["smallest"] == 2
    assert merged(figures(), figures(batches={}))["batches"]["matte"]["smallest"] == 4


def test_actors_are_listed_up_to_a_limit() -> None:
    total = None
    for _ in range(ACTORS_LISTED + 3):
        total = merged(total, figures())
    assert total is not None
    assert len(total["per_actor"]) == ACTORS_LISTED
    assert total["jobs"] == ACTORS_LISTED + 3
