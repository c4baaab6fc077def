"""Conditional writes: one of several writers wins, and each of them knows; stores that can't are found out."""

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import storage
from pipeline.errors import ConfigurationError, TransientError
from pipeline.exclusive import check_store, create

WRITERS = 8


def race(uri: str) -> list[bool]:
    """Let several threads write one name at the same moment, each its own content."""
    start = threading.Barrier(WRITERS)

    def write(number: int) -> bool:
        start.wait()
        return create(uri, b"%d" % number)

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(write, range(WRITERS)))


def test_one_of_several_threads_wins_on_a_disk(tmp_path: Path) -> None:
    for attempt in range(20):
        uri = str(tmp_path / "claims" / f"{attempt}.json")
        won = race(uri)
        assert won.count(True) == 1
        assert storage.read_bytes(uri) == b"%d" % won.index(True)
    assert len(list((tmp_path / "claims").iterdir())) == 20, "temporary files were left behind"


def test_one_of_several_threads_wins_where_a_disk_knows_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    won = race(str(tmp_path / "claim"))
    assert won.count(True) == 1
    assert (tmp_path / "claim").read_bytes() == b"%d" % won.index(True)
    assert [path.name for path in tmp_path.iterdir()] == ["claim"]


@pytest.fixture(scope="module")
def bucket(s3_server: str) -> str:
    boto3.client("s3").create_bucket(Bucket="exclusive")
    return "s3://exclusive"


def test_one_of_several_threads_wins_on_s3(bucket: str) -> None:
    won = race(f"{bucket}/claims/1.json")
    assert won.count(True) == 1
    assert storage.read_bytes(f"{bucket}/claims/1.json") == b"%d" % won.index(True)


def test_a_store_that_honours_the_condition_passes_and_keeps_no_probe(bucket: str) -> None:
    check_store(f"{bucket}/probed/claims")
    assert storage.list_files(f"{bucket}/probed") == []


def test_a_bucket_that_is_not_there_is_a_fault_of_the_configuration(s3_server: str) -> None:
    with pytest.raises(ConfigurationError, match="create the bucket or folder first"):
        create("s3://no-such-bucket-of-mine/claim", b"", retries=0)


@pytest.fixture
def store() -> Callable[[Callable[..., None]], str]:
    """Registers a store in memory with another way to write objects; returns the URL of a folder in it."""

    def register(pipe_file: Callable[..., None]) -> str:
        class Store(MemoryFileSystem):
            protocol = "oddstore"
            store: dict[str, Any] = {}  # noqa: RUF012
            pseudo_dirs = [""]  # noqa: RUF012
            cachable = False

            @classmethod
            def _strip_protocol(cls, path: str) -> str:
                return super()._strip_protocol(path.replace("oddstore://", "memory://"))

        Store.pipe_file = pipe_file
        fsspec.register_implementation("oddstore", Store, clobber=True)
        return "oddstore://run/claims"

    return register


def put(fs: MemoryFileSystem, path: str, value: bytes) -> None:
    MemoryFileSystem.pipe_file(fs, path, value)


def test_a_store_that_ignores_the_condition_is_refused_with_advice(store: Any) -> None:
    folder = store(lambda fs, path, value, mode="overwrite": put(fs, path, value))
    with pytest.raises(ConfigurationError, match=r"ignores the condition.*output\.exclusive=false"):
        check_store(folder)
    assert storage.list_files(folder) == []


def test_a_store_whose_library_knows_no_condition_is_refused_with_advice(store: Any) -> None:
    folder = store(put)  # a TypeError: there is no argument `mode`
    with pytest.raises(ConfigurationError, match=r"takes no conditional writes.*output\.exclusive=false"):
        check_store(folder)


class _StatusError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


def test_a_store_that_answers_501_is_refused_at_once(store: Any) -> None:
    attempts = []

    def pipe_file(fs: MemoryFileSystem, path: str, value: bytes, mode: str = "overwrite") -> None:
        attempts.append(path)
        raise _StatusError(501)

    with pytest.raises(ConfigurationError, match=r"takes no conditional writes.*output\.exclusive=false"):
        check_store(store(pipe_file))
    assert len(attempts) == 1


def test_a_write_that_succeeded_and_was_reported_as_a_fault_counts_as_ours(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage_faults._sleep", lambda _: None)
    answers: list[int] = []

    def pipe_file(fs: MemoryFileSystem, path: str, value: bytes, mode: str = "overwrite") -> None:
        if fs.exists(path):
            answers.append(412)
            raise _StatusError(412)
        put(fs, path, value)
        answers.append(503)
        raise _StatusError(503)

    uri = store(pipe_file) + "/000001.json"
    assert create(uri, b"mine") is True
    assert answers == [503, 412]
    assert create(uri, b"of another job") is False
    assert storage.read_bytes(uri) == b"mine"


def test_a_store_that_stays_broken_is_a_transient_fault(store: Any) -> None:
    def pipe_file(fs: MemoryFileSystem, path: str, value: bytes, mode: str = "overwrite") -> None:
        raise _StatusError(503)

    with pytest.raises(TransientError):
        create(store(pipe_file) + "/000001.json", b"", retries=0)


def test_a_disk_is_not_probed(tmp_path: Path) -> None:
    check_store(str(tmp_path / "claims"))
    assert list(tmp_path.iterdir()) == []
