import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import ids

INT64 = st.integers(-(2**63), 2**63 - 1)


def test_ids_are_pinned() -> None:
    """Ids are part of the format: a change makes every stored record unknown."""
    image = ids.image_id("a.tar", "0001")
    assert ids.show(image) == "788d3700cff04574"
    assert ids.show(ids.record_id(image, {"box": [1, 2, 3, 4]})) == "bdf47b734c094b14"


def test_what_differs_has_different_ids() -> None:
    image = ids.image_id("a", "bc")
    assert len({image, ids.image_id("ab", "c"), ids.image_id("a", "bc", 1), ids.key_hash("bc")}) == 4
    box = {"box": [1, 2, 3, 4]}
    records = {
        ids.record_id(image, box),
        ids.record_id(image, box, 1),
        ids.record_id(image + 1, box),
        ids.record_id(image, {"box": [1, 2, 3, 5]}),
        ids.record_id(image, box | {"label": "cat"}),
    }
    assert len(records) == 5


def test_the_order_of_keys_does_not_matter() -> None:
    assert ids.record_id(1, {"a": 1, "b": 2}) == ids.record_id(1, {"b": 2, "a": 1})


def test_bytes_count_by_content() -> None:
    assert ids.record_id(1, {"mask": b"x"}) == ids.record_id(1, {"mask": b"x"}) != ids.record_id(1, {"mask": b"y"})


@given(INT64)
def test_shown_ids_can_be_parsed(identifier: int) -> None:
    assert len(ids.show(identifier)) == 16
    assert ids.parse(ids.show(identifier)) == identifier


@given(st.lists(INT64))
def test_sums_fit_64_bits_and_ignore_order(values: list[int]) -> None:
    total = ids.id_sum(values)
    assert -(2**63) <= total < 2**63
    assert (total - sum(values)) % 2**64 == 0
    assert total == ids.id_sum(reversed(values))


@pytest.mark.parametrize("values", [[], [0], [2**63 - 1, 1]])
def test_sums_at_the_edges(values: list[int]) -> None:
    assert ids.id_sum(values) == {0: 0, 1: 0, 2: -(2**63)}[len(values)]
