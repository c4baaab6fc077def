"""One seed of each fault of `make chaos`; the quickest of them in every run of the suite."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.chaos import prepared, run_case
from benchmarks.chaos_faults import FAULTS
from benchmarks.chaos_job import Corpus, make_corpus
from support.s3.store import Store


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Path, Store]]:
    with prepared() as made:
        yield made


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return make_corpus(shards=4)


QUICK = ["driver-kill"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAULTS]
)
def test_a_run_is_exact_after_a_fault(name: str, place: tuple[Path, Store], corpus: Corpus) -> None:
    result = run_case(name, 1, corpus, *place)
    if not result.available:
        pytest.skip(result.notes[0])
    assert result.outcome is not None, result.notes
    assert result.outcome.exact, result.outcome
    assert result.jobs >= 2
