"""Distinct ids are counted exactly, whether they fit the memory or not."""

import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.distinct import DistinctIds
from pipeline.errors import ConfigurationError

IDS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.lists(IDS | st.integers(0, 3))), st.integers(1, 8))
def test_ids_are_counted_as_a_set_counts_them(pieces: list[list[int]], in_memory: int) -> None:
    counter = DistinctIds(in_memory)
    for piece in pieces:
        counter.add(np.asarray(piece, np.int64))
    everything = [number for piece in pieces for number in piece]
    assert counter.count() == (len(everything), len(set(everything)))


def test_many_ids_are_not_held_in_memory() -> None:
    ids = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 10_000, np.int64)
    counter = DistinctIds(1000)
    for start in range(0, len(ids), 300):
        counter.add(ids[start : start + 300])
        assert sum(map(len, counter._held)) < 1000
    counter.add(ids[:5])
    assert counter.count() == (10_005, 10_000)


def test_a_temporary_folder_that_cant_be_written_to_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(ConfigurationError, match=r"No space left.*TMPDIR"):
        DistinctIds(2).add(np.arange(3))
