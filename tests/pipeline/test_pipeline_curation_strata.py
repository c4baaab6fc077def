"""Strata: their names, and how budgets are spread over them."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.curation.strata import quoted, spread, stratify


def table(**columns: list[Any]) -> pa.Table:
    made = pa.table(columns)
    for name in made.column_names:
        if pa.types.is_string(made[name].type):
            made = made.set_column(made.schema.get_field_index(name), name, pc.dictionary_encode(made[name]))
    return made


def named(rows: pa.Table, *per: Any) -> list[str]:
    strata = stratify(rows, per)
    assert strata.shown == bool(per)
    return [strata.names[code] for code in strata.codes]


def test_without_traits_all_is_one_stratum() -> None:
    assert named(table(label=["cat", None])) == ["", ""]


def test_labels_cannot_pass_for_others() -> None:
    labels = ["cat", None, "(none)", "cat, size=small", 'a"b', "\x1b[31mred", "Katze 2"]
    names = named(table(label=labels), "label")
    assert len(set(names)) == len(labels)
    assert names[:2] == ["label=cat", "label=(none)"]
    assert names[-1] == "label=Katze 2"
    assert all(name.isprintable() for name in names)


def test_an_empty_label_is_none() -> None:
    assert named(table(label=["", "cat", None]), "label") == ["label=(none)", "label=cat", "label=(none)"]
    assert named(table(label=["", ""]), "label") == ["label=(none)"] * 2


def test_sizes_are_those_of_coco_by_the_area_of_the_alpha() -> None:
    rows = table(
        coverage=[1.0, 1.0, 1.0, 1.0, 0.01, None],
        image_width=[31, 32, 95, 96, 1000, 10],
        image_height=[32, 32, 96, 96, 1000, 10],
    )
    sizes = ["small", "medium", "medium", "large", "large", "(none)"]
    assert named(rows, "size") == [f"size={size}" for size in sizes]


def test_the_source_is_the_folder_of_the_shard_or_else_the_output() -> None:
    rows = table(shard=["web/a.tar", "web/b.tar", "c.tar", None], output=["/x", "/y", "/x", "/y"])
    assert named(rows, "source") == ["source=web", "source=web", "source=/x", "source=/y"]


def test_several_traits() -> None:
    rows = table(
        label=["b", "a", "b"], coverage=[1.0, 1.0, 0.0001], image_width=[99, 99, 99], image_height=[99, 99, 99]
    )
    strata = stratify(rows, ("label", "size"))
    assert strata.names == ["label=a, size=large", "label=b, size=large", "label=b, size=small"]
    assert strata.codes.tolist() == [1, 0, 2]


def test_nothing_can_be_stratified() -> None:
    assert len(stratify(table(label=pa.array([], pa.string())), ("label",)).codes) == 0


@pytest.mark.parametrize(
    ("budget", "sizes", "shares"),
    [
        (10, [100, 100], [5, 5]),
        (10, [970, 20, 10], [8, 1, 1]),
        (5, [1000, 1, 0, 1], [3, 1, 0, 1]),
        (2, [5, 9, 9], [0, 1, 1]),
        (100, [5, 9], [5, 9]),
        (0, [5, 9], [0, 0]),
        (3, [], []),
    ],
)
def test_spread(budget: int, sizes: list[int], shares: list[int]) -> None:
    assert spread(budget, np.array(sizes, np.int64)).tolist() == shares


@given(st.integers(0, 10**9), st.lists(st.integers(0, 10**8), max_size=30))
def test_a_budget_is_spread_whole_and_fairly(budget: int, sizes: list[int]) -> None:
    room = np.array(sizes, np.int64)
    share = spread(budget, room)
    assert share.sum() == min(budget, room.sum())
    assert ((share >= 0) & (share <= room)).all()
    if budget >= (room > 0).sum():
        assert (share[room > 0] > 0).all()
    order = np.argsort(room, kind="stable")
    assert (np.diff(share[order]) >= -1).all()  # larger strata get no less, but for a remainder


def test_plain_names_stay_as_they_are() -> None:
    assert quoted("s3://bucket/run-1") == "s3://bucket/run-1"
    assert quoted("a=b") == '"a=b"'
