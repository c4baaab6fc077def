"""Which objects get pictures."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.report.choose import Chooser

SCHEMA = pa.schema(
    [
        ("record_id", pa.int64()),
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("label", pa.string()),
        ("predicted_mad", pa.float32()),
        ("__filename", pa.string()),
    ]
)


def ok(identifier: int, mad: float | None = None, label: str | None = "cat", file: str = "a") -> dict[str, Any]:
    return {"record_id": identifier, "status": "ok", "label": label, "predicted_mad": mad, "__filename": file}


def error(identifier: int, code: str) -> dict[str, Any]:
    return {"record_id": identifier, "status": "error", "error_code": code, "label": "cat", "__filename": "e"}


def chosen(limit: int, *batches: list[dict[str, Any]]) -> dict[str, list[int]]:
    chooser = Chooser(limit)
    for rows in batches:
        chooser.add(pa.Table.from_pylist(rows, schema=SCHEMA))
    found: dict[str, list[int]] = {}
    for one in chooser.chosen():
        found.setdefault(one.why, []).append(one.record_id)
    return found


def test_the_worst_come_first_and_the_best_are_there_too() -> None:
    found = chosen(20, [ok(at, at / 1000) for at in range(100)])
    assert found["worst"] == [99, 98, 97, 96, 95, 94, 93]
    assert found["best"] == [0, 1, 2]
    assert len(found["spread"]) == 10


def test_the_choice_does_not_depend_on_the_order_of_the_records() -> None:
    dice = np.random.default_rng(1)
    rows = [
        ok(int(identifier), float(dice.random()), f"label {dice.integers(30)}")
        for identifier in dice.integers(-(2**62), 2**62, 500)
    ] + [error(int(identifier), f"code {identifier % 3}") for identifier in dice.integers(0, 2**62, 60)]
    expected = chosen(40, rows)
    for _ in range(3):
        dice.shuffle(rows)
        assert chosen(40, rows[:200], rows[200:210], rows[210:]) == expected


def test_every_code_has_an_example() -> None:
    errors = [error(at, "common") for at in range(500)] + [error(1000, "rare"), error(1001, "rarer")]
    found = chosen(20, [ok(2000 + at, 0.1) for at in range(500)], errors)
    assert len(found["error"]) == 4
    assert {1000, 1001} <= set(found["error"])


def test_labels_have_their_share_whatever_their_number() -> None:
    rows = [ok(at, None, "person") for at in range(1000)] + [ok(2000 + at, None, f"rare {at}") for at in range(5)]
    found = chosen(20, rows)
    assert set(found) == {"spread"}
    assert {2000, 2001, 2002, 2003, 2004} <= set(found["spread"])
    assert len(found["spread"]) == 20, "the frequent label fills the rest"


@pytest.mark.parametrize("labels", [1, 7, 3000])
def test_the_limit_is_kept_and_used(labels: int) -> None:
    rows = [ok(at, at / 1e4, f"label {at % labels}") for at in range(3000)]
    found = chosen(50, rows[:1500], rows[1500:])
    assert sum(map(len, found.values())) == 50
    assert len({identifier for part in found.values() for identifier in part}) == 50


def test_what_is_kept_is_bounded() -> None:
    chooser = Chooser(10)
    for start in range(0, 40_000, 10_000):
        rows = [ok(at, at / 1e6, f"label {at}") for at in range(start, start + 10_000)]
        chooser.add(pa.Table.from_pylist(rows, schema=SCHEMA))
    pools = [value for value in vars(chooser).values() if isinstance(value, np.ndarray)]
    assert sum(map(len, pools)) <= 10 * 3 + 10 * 4


def test_all_are_taken_where_there_is_room() -> None:
    found = chosen(200, [ok(1, 0.5), ok(2, 0.1), ok(3), error(4, "image_corrupt"), error(5, "image_corrupt")])
    assert sorted(identifier for part in found.values() for identifier in part) == [1, 2, 3, 4, 5]


def test_scores_that_are_no_numbers_count_as_none() -> None:
    found = chosen(10, [ok(at, float("nan"), f"label {at}") for at in range(4)])
    assert Counter({why: len(part) for why, part in found.items()}) == {"spread": 4}


def test_the_file_of_each_record_is_told() -> None:
    chooser = Chooser(4)
    for name in ("b", "a", "b"):
        chooser.add(pa.Table.from_pylist([ok(ord(name), None, name, f"records/{name}.parquet")], schema=SCHEMA))
    assert {(one.record_id, one.file) for one in chooser.chosen()} == {
        (97, "records/a.parquet"),
        (98, "records/b.parquet"),
    }


def test_no_pictures_no_choice() -> None:
    assert chosen(0, [ok(1, 0.5)]) == {}
