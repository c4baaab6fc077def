"""Near-duplicates against brute force, and at sizes where that would not do."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.curation.duplicates import near_pairs, representatives


def distance(a: np.int64, b: np.int64) -> int:
    return ((int(a) ^ int(b)) & (2**64 - 1)).bit_count()


def by_brute_force(hashes: NDArray[np.int64], order: NDArray[np.int64], bits: int) -> list[int]:
    """Keeps in the order of preference, then puts each to the nearest that is kept."""
    kept: list[int] = []
    for index in np.argsort(order):
        if all(distance(hashes[index], hashes[other]) > bits for other in kept):
            kept.append(int(index))
    return [min((distance(value, hashes[other]), order[other], other) for other in kept)[2] for value in hashes]


@st.composite
def clusters(draw: st.DrawFn) -> NDArray[np.int64]:
    """Hashes near few centres, equal ones among them, at distances around those that are asked for."""
    centres = draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4))
    flips = st.lists(st.integers(0, 63), max_size=8)
    hashes = []
    for _ in range(draw(st.integers(0, 40))):
        value = draw(st.sampled_from(centres)) & (2**64 - 1)
        for bit in draw(flips):
            value ^= 1 << bit
        hashes.append(value)
    return np.array(hashes, np.uint64).view(np.int64)


@settings(max_examples=25)
@given(clusters(), st.integers(0, 12), st.randoms(), st.sampled_from([0, 5, 2**20]))
def test_it_finds_what_brute_force_finds(hashes: NDArray[np.int64], bits: int, random: object, stored: int) -> None:
    order = np.arange(len(hashes))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert representatives(hashes, order, bits, stored=stored).tolist() == by_brute_force(hashes, order, bits)


@pytest.mark.parametrize("bits", [*range(9), 12])
def test_every_pair_at_just_that_distance_is_found(bits: int) -> None:
    generator = np.random.default_rng(bits)
    for _ in range(40):
        value = int(generator.integers(2**63))
        flipped = sum(1 << int(bit) for bit in generator.permutation(64)[:bits])
        hashes = np.unique(np.array([value, value ^ flipped], np.uint64))
        found = {
            (int(a), int(b), int(d)) for first in near_pairs(hashes, bits) for a, b, d in zip(*first, strict=True)
        }
        assert {(min(a, b), max(a, b), d) for a, b, d in found} == ({(0, 1, bits)} if bits else set())


def test_a_chain_does_not_become_one_group() -> None:
    # As the frames of a video: neighbours differ in 4 bits, the ends in all 64.
    frames = np.array([(1 << 4 * number) - 1 for number in range(17)], np.uint64).view(np.int64)
    stands = representatives(frames, np.arange(17), 6)
    assert all(distance(frames[index], frames[kept]) <= 6 for index, kept in enumerate(stands))
    kept = np.unique(stands)
    assert len(kept) > 5
    assert all(distance(frames[a], frames[b]) > 6 for a in kept for b in kept if a != b)


def test_the_preferred_image_is_kept() -> None:
    hashes = np.array([0, 1, 3, 0], np.int64)
    assert representatives(hashes, np.array([3, 1, 2, 0]), 2).tolist() == [3, 3, 3, 3]
    assert representatives(hashes, np.array([3, 0, 2, 1]), 2).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("count", [0, 1])
def test_few_images(count: int) -> None:
    assert representatives(np.zeros(count, np.int64), np.arange(count), 6).tolist() == [0] * count


def test_many_blank_images_cost_nothing() -> None:
    stands = representatives(np.zeros(300_000, np.int64), np.arange(300_000)[::-1].copy(), 6)
    assert (stands == 299_999).all()


def test_a_hundred_thousand_images_take_seconds() -> None:
    generator = np.random.default_rng(1)
    hashes = generator.integers(-(2**63), 2**63 - 1, 100_000)
    hashes[-1000:] = hashes[:1000] ^ (1 << 5) ^ (1 << 40) ^ 7
    began = time.perf_counter()
    stands = representatives(hashes, np.arange(100_000), 6)
    assert time.perf_counter() - began < 10  # 0.3 s where nothing else runs; 5 x 10^9 comparisons would take minutes
    assert (stands[-1000:] == np.arange(1000)).all()
    assert (stands[:-1000] == np.arange(99_000)).all()


@pytest.mark.slow
def test_a_dense_cluster_fits_in_memory() -> None:
    # Hashes that differ in the last 15 bits alone: a third of all pairs are near each other.
    generator = np.random.default_rng(1)
    hashes = generator.permutation(2**15)[:5000].astype(np.int64)
    order = generator.permutation(len(hashes))
    stands = representatives(hashes, order, 6, stored=10_000)
    kept = np.unique(stands)
    assert (np.bitwise_count(hashes ^ hashes[stands]) <= 6).all()
    between = np.bitwise_count(hashes[kept][:, None] ^ hashes[kept])
    assert (between[~np.eye(len(kept), dtype=bool)] > 6).all()
