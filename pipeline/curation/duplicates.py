"""Near-duplicates: images whose perceptual hashes differ in few bits, found exactly and without comparing all pairs.

Groups are made around the images that are kept, not by chains: in a video each frame resembles the next, but the first
and the last are different pictures. So every image that is left out is near the one that is kept for it, and those
that are kept are not near each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

_BANDS, _BAND_BITS = 4, 16
_PAIRS_AT_ONCE = 2**21  # candidates in memory: about 100 MB
_PAIRS_STORED = 2**23  # near pairs that are kept in memory: 64 MB

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]


def representatives(
    hashes: NDArray[np.int64], order: NDArray[np.int64], bits: int, *, stored: int = _PAIRS_STORED
) -> NDArray[np.int64]:
    """Choose the images that are kept, and for each other one the kept image that it nearly equals.

    In their order of preference, images are kept unless an image that is kept already is near. Any other is put to the
    nearest that is kept; of several, to the preferred one.

    Args:
        hashes: ``(N,)``, 64 bits each.
        order: ``(N,)``, distinct; the lowest is the image that people would most like to keep.
        bits: Hashes that differ in at most so many bits are near, 0 to 12.
        stored: Near pairs that may be held in memory. Where there are more, dense clusters are thinned out first;
            the outcome is the same.

    Returns:
        ``(N,)`` indices: of the image that stands for each; its own where that one is kept.
    """
    unique, which = np.unique(hashes.view(np.uint64), return_inverse=True)
    # Of equal hashes only the preferred image takes part: thousands of blank images cost nothing.
    by_order = np.argsort(order, kind="stable")
    first = np.empty(len(unique), np.int64)
    first[which[by_order[::-1]]] = by_order[::-1]
    place = np.empty(len(unique), np.int64)
    place[np.argsort(order[first], kind="stable")] = np.arange(len(unique))
    kept, touched = _kept(unique, place, bits, stored)
    stands = np.arange(len(unique))
    nearest = np.full(len(unique), np.iinfo(np.int64).max)
    some = np.flatnonzero(touched)
    for a, b, distance in near_pairs(unique[some], bits):
        for one, other in ((some[a], some[b]), (some[b], some[a])):
            use = kept[one] & ~kept[other]
            np.minimum.at(nearest, other[use], distance[use] * np.int64(len(unique)) + place[one[use]])
    left_out = np.flatnonzero(~kept)
    stands[left_out] = np.argsort(place)[nearest[left_out] % max(1, len(unique))]
    return first[stands[which]]


def _kept(
    unique: NDArray[np.uint64], place: NDArray[np.int64], bits: int, stored: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell which hashes are kept, and which have others near them."""
    kept, touched = np.zeros(len(unique), np.bool_), np.zeros(len(unique), np.bool_)
    open_ = np.arange(len(unique))
    while len(open_):
        at = place[open_]
        earliest, has_near = at.copy(), np.zeros(len(open_), np.bool_)
        pairs: list[Pairs] | None = []
        for a, b, distance in near_pairs(unique[open_], bits):
            np.minimum.at(earliest, a, at[b])
            np.minimum.at(earliest, b, at[a])
            has_near[a] = has_near[b] = True
            if pairs is not None:
                pairs.append((a, b, distance))
                if sum(len(each[0]) for each in pairs) > stored:
                    pairs = None
        touched[open_[has_near]] = True
        if pairs is not None:
            kept[open_[_greedy(len(open_), at, pairs)]] = True
            break
        # Too many to be held: keep all that come before whatever is near them, and leave out what is near those.
        wins = earliest == at
        kept[open_[wins]] = True
        rest = np.flatnonzero(has_near)
        gone = wins.copy()
        for a, b, _ in near_pairs(unique[open_[rest]], bits):
            gone[rest[a[wins[rest[b]]]]] = True
            gone[rest[b[wins[rest[a]]]]] = True
        open_ = open_[~gone]
    return kept, touched


def _greedy(count: int, place: NDArray[np.int64], pairs: list[Pairs]) -> NDArray[np.bool_]:
    """Keep what is near nothing that was kept before, in the order of places."""
    from scipy.sparse import csr_array

    kept = np.ones(count, np.bool_)
    if not pairs:
        return kept
    a = np.concatenate([first for first, _, _ in pairs])
    b = np.concatenate([second for _, second, _ in pairs])
    graph = csr_array(
        (np.ones(2 * len(a), np.bool_), (np.concatenate([a, b]), np.concatenate([b, a]))), (count, count)
    )
    starts, near = graph.indptr, graph.indices
    with_near = np.flatnonzero(np.diff(starts))
    for node in with_near[np.argsort(place[with_near])]:
        if kept[node]:
            kept[near[starts[node] : starts[node + 1]]] = False
    return kept


def near_pairs(hashes: NDArray[np.uint64], bits: int) -> Iterator[Pairs]:
    """Find all pairs of distinct hashes that differ in at most so many bits.

    Multi-index hashing (Norouzi, Punjani and Fleet 2012, section 3): the 64 bits are cut into 4 bands of 16. Of two
    hashes that differ in ``bits = 4 r + a``, one of the first ``a + 1`` bands differs in at most r bits, or one of the
    others in at most r - 1. Neighbouring bits of a hash tell similar things, so each band takes every fourth bit.

    Args:
        hashes: ``(N,)``.
        bits: 0 to 12.

    Yields:
        Indices of both, and in how many bits they differ; a pair may come several times. In memory at a time: about
        two million candidates.
    """
    radius, extra = divmod(bits, _BANDS)
    for band in range(_BANDS):
        reach = radius if band <= extra else radius - 1
        if reach < 0:
            continue
        keys = _band(hashes, band)
        sorted_by_key = np.argsort(keys, kind="stable")
        keys = keys[sorted_by_key]
        starts = np.searchsorted(keys, np.arange(2**_BAND_BITS + 1))
        sorted_hashes = hashes[sorted_by_key]
        for mask in _masks(reach):
            partner = keys ^ mask
            begin, end = starts[partner], starts[partner + 1]
            if mask == 0:
                begin = np.arange(1, len(keys) + 1)  # the rest of the own bucket
            length = np.where(keys <= partner, end - begin, 0)
            for first, second in _crossed(begin, length):
                distance = np.bitwise_count(sorted_hashes[first] ^ sorted_hashes[second])
                near = distance <= bits
                yield sorted_by_key[first[near]], sorted_by_key[second[near]], distance[near]


def _band(hashes: NDArray[np.uint64], band: int) -> NDArray[np.int64]:
    key = np.zeros(len(hashes), np.uint64)
    for place in range(_BAND_BITS):
        bit = hashes >> np.uint64(_BANDS * place + band) & np.uint64(1)
        key |= bit << np.uint64(place)
    return key.astype(np.int64)


def _masks(reach: int) -> list[int]:
    """Return all 16-bit numbers of at most so many ones."""
    chosen = (each for ones in range(reach + 1) for each in combinations(range(_BAND_BITS), ones))
    return [sum(1 << bit for bit in each) for each in chosen]


def _crossed(
    begin: NDArray[np.int64], length: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pair each index with the `length` ones from `begin` on, some millions at a time."""
    rows = np.flatnonzero(length)
    total = np.cumsum(length[rows])
    done = 0
    while done < len(rows):
        before = total[done - 1] if done else 0
        upto = max(done + 1, int(np.searchsorted(total, before + _PAIRS_AT_ONCE)))
        part = rows[done:upto]
        sizes = length[part]
        first = np.repeat(part, sizes)
        offset = np.arange(len(first)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        yield first, np.repeat(begin[part], sizes) + offset
        done = upto
