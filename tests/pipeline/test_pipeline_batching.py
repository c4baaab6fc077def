from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import REGROW_AFTER, AdaptiveBatches, Failure


class FullError(Exception):
    """Stands for out-of-memory."""


class LostError(Exception):
    """Stands for a lost device."""


def batches(function, limit=4):  # type: ignore[no-untyped-def]
    return AdaptiveBatches(function, limit, lambda e: isinstance(e, FullError), lambda e: isinstance(e, LostError))


def test_results_keep_their_order_across_batches() -> None:
    sizes = []

    def double(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        return [2 * item for item in items]

    assert batches(double).run(range(10)) == [2 * item for item in range(10)]
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize("bad", [0, 3, 7, 9])
def test_only_the_guilty_item_fails(bad: int) -> None:
    def fragile(items: Sequence[int]) -> list[int]:
        if bad in items:
            raise RuntimeError(f"poison {bad}")
        return list(items)

    results = batches(fragile, limit=8).run(range(10))
    assert [item for item in results if not isinstance(item, Failure)] == [n for n in range(10) if n != bad]
    assert results[bad] == Failure(False, f"RuntimeError: poison {bad}")


def test_out_of_memory_shrinks_the_batches_and_they_grow_again() -> None:
    room, sizes = [2], []

    def hungry(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > room[0]:
            raise FullError
        return list(items)

    work = batches(hungry, limit=8)
    assert work.run(range(16)) == list(range(16))
    assert work.budget == 2
    assert sizes[:4] == [8, 4, 2, 2]  # halved down to what fits, and the size is kept for the rest
    room[0] = 8
    work.run(range(2 * 2 * REGROW_AFTER))
    assert work.budget > 2
    work.run(range(16 * REGROW_AFTER))
    assert work.budget == 8


def test_an_item_that_never_fits_fails_alone_and_says_so() -> None:
    def hungry(items: Sequence[int]) -> list[int]:
        if 5 in items:
            raise FullError("no room")
        return list(items)

    results = batches(hungry).run(range(8))
    assert results[5] == Failure(True, "FullError: no room")
    assert sum(isinstance(item, Failure) for item in results) == 1


def test_a_lost_device_is_raised_at_once() -> None:
    calls = []

    def lost(items: Sequence[int]) -> list[int]:
        calls.append(items)
        raise LostError("device-side assert")

    with pytest.raises(LostError):
        batches(lost).run(range(4))
    assert len(calls) == 1


def on_grids(function, limit: int) -> AdaptiveBatches:  # type: ignore[no-untyped-def,type-arg]
    """Batches of items that are their own grids."""
    return AdaptiveBatches(function, limit, lambda error: isinstance(error, FullError), grid=lambda item: item)


@given(
    st.lists(st.sampled_from([(2, 3), (3, 2), (4, 4), (1, 1)]), max_size=30),
    st.integers(1, 60),
)
def test_batches_are_of_one_grid_each_and_fit_the_budget(items: list[tuple[int, int]], limit: int) -> None:
    batches_made: list[Sequence[tuple[int, int]]] = []

    def area(batch: Sequence[tuple[int, int]]) -> list[int]:
        batches_made.append(batch)
        return [height * width for height, width in batch]

    assert on_grids(area, limit).run(items) == [height * width for height, width in items]
    for batch in batches_made:
        assert len(set(batch)) == 1
        (height, width) = batch[0]
        assert len(batch) == 1 or len(batch) * height * width <= limit
    for grid in set(items):  # none is smaller than it has to be
        room = max(1, limit // (grid[0] * grid[1]))
        assert sum(batch[0] == grid for batch in batches_made) == -(-items.count(grid) // room)


def test_what_did_not_fit_on_one_grid_makes_batches_of_others_smaller() -> None:
    sizes = []

    def hungry(items: Sequence[tuple[int, int]]) -> list[int]:
        pixels = sum(height * width for height, width in items)
        sizes.append((items[0], len(items)))
        if pixels > 32:
            raise FullError
        return [0] * len(items)

    work = on_grids(hungry, limit=64)
    work.run([(4, 4)] * 4 + [(2, 4)] * 8)
    assert sizes == [((4, 4), 4), ((4, 4), 2), ((4, 4), 2), ((2, 4), 4), ((2, 4), 4)]
    assert work.figures == {"limit": 64, "smallest": 32, "last": 32}


def test_the_smallest_budget_is_remembered_when_it_has_grown_again() -> None:
    room = [2]

    def hungry(items: Sequence[int]) -> list[int]:
        if len(items) > room[0]:
            raise FullError
        return list(items)

    work = batches(hungry, limit=8)
    work.run(range(8))
    room[0] = 8
    work.run(range(200))
    assert work.figures == {"limit": 8, "smallest": 2, "last": 8}
