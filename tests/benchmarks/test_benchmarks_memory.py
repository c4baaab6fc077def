"""The verdicts of the benchmark of memory."""

from typing import Any

import pytest

from benchmarks.memory import HUGE, SMALL, cases, judge, table


def seen(images: int, **other: Any) -> dict[str, Any]:
    figures = {"driver_mb": 400.0, "own_mb": 200.0, "store_mb": 3.0, "spilled_mb": 0.0, "stored_mb": 11.0}
    rest = {"encoded_mb": 6.0, "alphas_mb": 4.0, "seconds": 9.0, "complete": True, "records": images, "images": images}
    return figures | rest | other


def test_corpora_differ_in_number_and_in_the_huge_images() -> None:
    few, many, mixed, ordinary = cases(20_000)
    assert (len(few.sizes), len(many.sizes), len(mixed.sizes)) == (1_000, 20_000, 1_000)
    assert set(mixed.sizes) == {SMALL, HUGE}
    assert HUGE[0] * HUGE[1] >= 50e6
    assert HUGE not in ordinary.sizes


def test_all_is_met_where_memory_is_flat_and_little_is_copied() -> None:
    found = {"a": seen(1_000), "b": seen(20_000, driver_mb=439.0, store_mb=3.2), "c": seen(1_000), "d": seen(160)}
    assert [verdict.met for verdict in judge(found)] == [True] * 4
    assert judge(found)[3].value == pytest.approx(1.1)
    assert "20,000" in table(found)


@pytest.mark.parametrize(
    ("case", "figures", "missed"),
    [
        ("b", {"driver_mb": 441.0}, 0),
        ("b", {"store_mb": 30.0}, 1),
        ("c", {"records": 996}, 2),
        ("c", {"complete": False}, 2),
        ("d", {"stored_mb": 13.0}, 3),
    ],
)
def test_each_fault_shows_in_its_target(case: str, figures: dict[str, Any], missed: int) -> None:
    found = {"a": seen(1_000), "b": seen(20_000), "c": seen(1_000), "d": seen(160)}
    found[case] |= figures
    assert [number for number, verdict in enumerate(judge(found)) if not verdict.met] == [missed]
