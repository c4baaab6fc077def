from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.quality.degrade import KINDS, degrade, extent


def soft_disc(radius: float = 20) -> np.ndarray:
    rows, columns = np.mgrid[:96, :128]
    return np.clip((radius - np.hypot(columns - 60, rows - 50)) / 4 + 0.5, 0, 1).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_changes_a_matte_and_leaves_the_given_one(kind: str) -> None:
    alpha = soft_disc()
    before = alpha.copy()
    found = KINDS[kind](alpha, np.random.default_rng(1))
    assert np.array_equal(alpha, before)
    assert found.shape == alpha.shape
    assert found.dtype == np.float32
    assert np.abs(found - alpha).mean() > 0.001
    mass, was = float(found.sum()), float(alpha.sum())
    assert {"erode": mass < was, "holes": mass < was, "dilate": mass > was, "blobs": mass > was}.get(kind, True)
    if kind == "threshold":
        assert set(np.unique(found)) == {0, 1}


def test_damage_grows_with_the_object() -> None:
    small, large = (
        np.abs(KINDS["shift"](a, np.random.default_rng(2)) - a).sum() for a in (soft_disc(6), soft_disc(30))
    )
    assert extent(soft_disc(30)) == pytest.approx(30 * np.sqrt(np.pi), rel=0.02)
    assert large > 10 * small


def test_all_kinds_come_and_another_object_takes_the_place() -> None:
    rng = np.random.default_rng(0)
    alpha, other = soft_disc(), soft_disc(5)
    seen = Counter(degrade(alpha, rng, other)[0] for _ in range(200))
    assert set(seen) == {*KINDS, "other"}
    assert "other" not in {degrade(alpha, rng)[0] for _ in range(100)}
    found = next(matte for kind, matte in (degrade(alpha, rng, other) for _ in range(100)) if kind == "other")
    assert np.allclose(found, other, atol=1 / 255)


def test_the_same_chance_gives_the_same_damage() -> None:
    first, again = (degrade(soft_disc(), np.random.default_rng(5)) for _ in range(2))
    assert first[0] == again[0]
    assert np.array_equal(first[1], again[1])


@settings(max_examples=50)
@given(arrays(np.float32, (9, 13), elements=st.floats(0, 1, width=32)), st.integers(0, 1000))
def test_any_matte_stays_one(alpha: np.ndarray, seed: int) -> None:
    _, found = degrade(alpha, np.random.default_rng(seed))
    assert found.shape == alpha.shape
    assert 0 <= found.min() <= found.max() <= 1
