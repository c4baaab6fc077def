"""The account of images in hand, driven as Ray drives it: what a dead process had in hand is given to another one."""

from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pipeline.crashes import LOSSES_ALONE, CrashAccount, Verdict, hand_of

A, B, C = 1, 2, 3
EIGHT = list(range(1, 9))
"""Ids of images."""


class Cluster:
    """Processes that die of certain images, and are replaced."""

    def __init__(self, account: CrashAccount, deadly: frozenset[int], stuck: str | None = None) -> None:
        self.account, self.deadly, self.stuck = account, deadly, stuck
        self.deaths: Counter[int] = Counter()
        self.process = "p0"
        self.number = 0

    def work(self, images: list[int]) -> dict[int, str]:
        """Do a block until it comes through; returns `ok` or the error code of each image."""
        while True:
            done = self._attempt(images)
            if done is not None:
                return done
            self.number += 1
            self.process = f"p{self.number}"
            assert self.account.arrive(self.process, "node") is None

    def _attempt(self, images: list[int]) -> dict[int, str] | None:
        verdict = self.account.begin(self.process, images)
        if not verdict.suspects:
            portions = [[image for image in images if image not in verdict.condemned]]
        else:
            portions = [[image] for image in images if image in verdict.suspects]
            portions.append([i for i in images if i not in verdict.suspects and i not in verdict.condemned])
        for portion in portions:
            if verdict.suspects:
                assert self.account.begin(self.process, portion) == Verdict()
            for image in portion:
                if image in self.deadly:
                    self.deaths[image] += 1
                    if self.stuck:
                        self.account.stuck(self.process, self.stuck)
                    return None
        self.account.end(self.process)
        return {i: str(verdict.condemned[i][0]) if i in verdict.condemned else "ok" for i in images}


def test_one_deadly_image_costs_three_deaths_and_no_neighbour() -> None:
    cluster = Cluster(CrashAccount(), frozenset([C]))
    assert cluster.work(EIGHT) == dict.fromkeys(EIGHT, "ok") | {C: "model_crashed"}
    assert cluster.deaths == {C: 3}
    assert cluster.account.deaths == 3
    assert cluster.work(EIGHT)[C] == "model_crashed"  # a block that is repeated later
    assert cluster.deaths == {C: 3}


def test_an_image_that_is_alone_from_the_start_costs_two_deaths() -> None:
    cluster = Cluster(CrashAccount(), frozenset([C]))
    assert cluster.work([C]) == {C: "model_crashed"}
    assert cluster.deaths == {C: 2}


@given(st.sets(st.integers(0, 11)), st.integers(1, 12))
def test_all_deadly_images_are_found_and_no_other_is_condemned(deadly: set[int], block: int) -> None:
    cluster = Cluster(CrashAccount(), frozenset(deadly))
    found: dict[int, str] = {}
    for start in range(0, 12, block):
        found |= cluster.work(list(range(start, min(start + block, 12))))
    assert found == {n: "model_crashed" if n in deadly else "ok" for n in range(12)}
    assert max(cluster.deaths.values(), default=0) <= 3


def test_a_stuck_image_is_a_timeout_with_the_step_named() -> None:
    cluster = Cluster(CrashAccount(), frozenset([B]), stuck="matting 1 object(s) took longer than 5 s")
    assert cluster.work([A, B, C]) == {A: "ok", B: "model_timeout", C: "ok"}
    message = cluster.account.begin("p", [B]).condemned[B][1]
    assert "took longer than 5 s" in message
    assert "model.batch_timeout" in message


def test_the_last_death_decides_between_crash_and_timeout() -> None:
    account = CrashAccount()
    account.begin("p1", [A])
    account.stuck("p1", "decoding a")
    account.begin("p2", [A])
    assert account.begin("p3", [A]).condemned[A][0] == "model_crashed"


def test_what_was_laid_down_is_nobodys_fault() -> None:
    account = CrashAccount()
    for number in range(6):
        account.begin(f"p{number}", [A])
        account.end(f"p{number}")
    assert account.begin("p", [A, B]) == Verdict()
    assert account.begin("p", [A, B]) == Verdict()  # the same process again: its `end` was lost
    assert account.deaths == 0


def test_two_processes_with_different_images_are_both_alive() -> None:
    account = CrashAccount()
    account.begin("p1", [A])
    account.begin("p2", [B])
    account.begin("p1", [C])
    assert account.deaths == 0


def test_a_preempted_node_condemns_nobody_until_it_happens_too_often() -> None:
    account = CrashAccount(node_is_alive=lambda node: node == "stays")
    for number in range(LOSSES_ALONE):
        account.arrive(f"p{number}", "preempted")
        assert account.begin(f"p{number}", [A]).condemned == {}
    assert account.begin("p", [A]).condemned[A][0] == "model_crashed"


def test_a_process_that_ended_itself_counts_though_its_node_is_gone_by_now() -> None:
    account = CrashAccount(node_is_alive=lambda _: False)
    for process in ("p1", "p2"):
        account.arrive(process, "gone")
        account.begin(process, [A])
        account.stuck(process, "decoding a")
    assert account.begin("p3", [A]).condemned[A][0] == "model_timeout"


def test_the_dead_are_reported_once() -> None:
    account = CrashAccount()
    account.begin("p1", [A])
    account.begin("p2", [A])
    assert account.dead == ["p1"]


def test_the_same_image_twice_in_a_block_is_one_image() -> None:
    account = CrashAccount()
    account.begin("p1", [A, A])
    account.end("p1")
    account.begin("p2", [A, A])
    account.begin("p3", [A, A])
    assert account.begin("p4", [A]).condemned.keys() == {A}


@pytest.mark.parametrize("actors", [1, 40])
def test_process_after_process_that_finishes_nothing_is_a_reason_to_stop(actors: int) -> None:
    account = CrashAccount(actors)
    reasons = [account.arrive(f"p{number}") for number in range(20 + 6 * actors)]
    first = next(number for number, reason in enumerate(reasons) if reason)
    assert first >= 3 * actors  # all start, meet a deadly image each, and find it
    assert "workers.actors" in str(reasons[first])


def test_any_image_that_is_finished_shows_that_processes_work() -> None:
    account = CrashAccount()
    for number in range(100):
        assert account.arrive(f"p{number}") is None
        account.begin(f"p{number}", [A])
        account.end(f"p{number}")
    for number in range(100):
        account.begin(f"q{number}", [])  # that nothing was in hand shows nothing
        account.end(f"q{number}")
        if account.arrive(f"q{number}"):
            break
    else:
        pytest.fail("never stopped")


def test_the_account_may_be_lost_and_goes_on_with_what_it_hears() -> None:
    account = CrashAccount()
    account.end("p1")
    account.stuck("p1", "decoding a")
    account.begin("p2", [A])
    account.begin("p3", [A])
    assert account.begin("p4", [A]).condemned.keys() == {A}


def test_a_process_dies_with_all_its_hands() -> None:
    account = CrashAccount()
    account.arrive("p")
    account.begin(hand_of("p", 0), [A])
    account.begin(hand_of("p", 1), [B, C])
    assert account.begin("q", [C]) == Verdict()  # alone, so it may be done at once
    assert account.deaths == 1
    assert set(account.dead) == {hand_of("p", 0), hand_of("p", 1)}
    assert account.begin("q", [A, B]).suspects == {A, B}


def test_an_image_in_one_of_two_full_hands_was_not_alone() -> None:
    account = CrashAccount()
    for number in range(10):
        account.begin(hand_of(f"p{number}", 0), [A])
        account.begin(hand_of(f"p{number}", 1), [B])
    assert account.begin("q", [A]).condemned == {}


def test_an_image_alone_in_one_of_two_hands_is_condemned() -> None:
    account = CrashAccount()
    for number in range(3):
        account.begin(hand_of(f"p{number}", 1), [B])
        account.end(hand_of(f"p{number}", 1))
        account.begin(hand_of(f"p{number}", 0), [A])
    assert str(account.begin("q", [A]).condemned[A][0]) == "model_crashed"


def test_laying_down_one_hand_leaves_the_other_full() -> None:
    account = CrashAccount()
    account.begin(hand_of("p", 0), [A])
    account.begin(hand_of("p", 1), [B])
    account.end(hand_of("p", 0))
    account.begin("q", [A])
    assert account.deaths == 0
    account.begin("q", [B])
    assert account.deaths == 1


def test_a_process_that_takes_an_image_into_another_hand_is_not_taken_for_dead() -> None:
    account = CrashAccount()
    account.begin(hand_of("p", 0), [A, B])
    assert account.begin(hand_of("p", 1), [A]) == Verdict()
    assert account.deaths == 0
    account.end(hand_of("p", 0))
    account.end(hand_of("p", 1))
    account.begin("q", [A, B])
    assert account.deaths == 0


def test_a_stuck_process_is_known_whatever_its_hands() -> None:
    account = CrashAccount()
    for number in range(3):
        account.begin(hand_of(f"p{number}", 1), [A])
        account.stuck(f"p{number}", "matting took longer than 5 s")
    assert str(account.begin("q", [A]).condemned[A][0]) == "model_timeout"
