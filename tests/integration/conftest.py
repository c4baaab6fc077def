"""Object stores on this machine: one per module and kind, each with a small corpus in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.chaos_job import Corpus, make_corpus
from support.faulty_store import FaultyStore
from support.s3.moto_store import moto_store, strict_moto_store
from support.s3.radosgw import missing, radosgw_store
from support.s3.store import Store
from support.store_runs import put_corpus


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    """Three shards of four images."""
    return make_corpus(shards=3, images=4)


@pytest.fixture(scope="session", params=["moto", pytest.param("radosgw", marks=pytest.mark.slow)])
def object_store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, corpus: Corpus
) -> Iterator[Store]:
    """A store that checks keys, with the corpus in `in/` of the owner's bucket."""
    if request.param == "radosgw" and (reason := missing()):
        pytest.skip(reason)
    start = strict_moto_store if request.param == "moto" else radosgw_store
    with start(tmp_path_factory.mktemp(request.param)) as store:
        put_corpus(store, corpus)
        yield store


@pytest.fixture
def careless_store(tmp_path: Path, corpus: Corpus) -> Iterator[Store]:
    """A store that takes the condition of conditional writes and ignores it; there are such ones."""
    with moto_store(tmp_path / "moto") as store, FaultyStore(store.endpoint, drop=["if-none-match"]) as proxy:
        put_corpus(store, corpus)
        yield Store("careless", proxy.url, store.bucket, store.key, store.secret)
