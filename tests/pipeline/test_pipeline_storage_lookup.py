import os
import threading
import time
from collections import Counter

import fsspec
import pytest

from pipeline import storage, storage_faults, storage_lookup
from pipeline.errors import ConfigurationError, TransientError
from pipeline.storage import FileInfo, RefusedError
from pipeline.storage_lookup import in_threads, look_up


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage_faults, "_sleep", lambda seconds: None)


@pytest.fixture
def asked(monkeypatch):
    """Counts the files that are asked for one by one."""
    calls = Counter()
    ask = storage.file_info

    def counted(uri, **options):
        calls[uri] += 1
        return ask(uri, **options)

    monkeypatch.setattr(storage, "file_info", counted)
    return calls


def test_few_files_are_asked_for_and_many_of_a_folder_listed(tmp_path, asked):
    (tmp_path / "many").mkdir()
    many = [f"{tmp_path}/many/{n:03}.tar" for n in range(storage_lookup.LISTED_FROM)]
    few = [f"{tmp_path}/{n}.tar" for n in range(3)]
    for path in many + few:
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(b"12")
    os.unlink(many[7])  # noqa: PTH108
    (tmp_path / "many/other.tar").write_bytes(b"")
    (tmp_path / "many/099.tar").unlink()
    (tmp_path / "many/099.tar").mkdir()
    uris = [*few[:1], *many, *few[1:], f"{tmp_path}/gone.tar", few[0]]
    found = look_up(uris)
    assert list(found) == list(dict.fromkeys(uris))
    assert {uri for uri, info in found.items() if info is None} == {many[7], many[99], f"{tmp_path}/gone.tar"}
    assert all(info == storage.list_files(uri)[0] for uri, info in found.items() if info and uri in few)
    assert found[many[3]].version == storage.list_files(many[3])[0].version
    assert found[many[3]].uri == many[3]
    assert asked == Counter([*few, f"{tmp_path}/gone.tar"])
    assert look_up([f"{tmp_path}/nowhere/{n}" for n in range(200)]) == {
        f"{tmp_path}/nowhere/{n}": None for n in range(200)
    }


def requests(fs):
    """Record the names of the S3 operations of a file system's client."""
    made = []
    fs.connect()
    fs.s3.meta.events.register("before-call.s3", lambda model, **_: made.append(model.name))
    return made


def test_s3_listings_are_cut_down_to_what_the_names_have_in_common(s3_server):
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    backend.create_bucket("lookup-tests", "us-east-1")
    for n in range(3000):
        backend.put_object("lookup-tests", f"shards/{'train' if n < 1000 else 'val'}-{n:04}.tar", b"1")
    made = requests(fsspec.filesystem("s3", use_listings_cache=False))
    uris = [f"s3://lookup-tests/shards/train-{n:04}.tar" for n in range(0, 1200, 2)]
    found = look_up(uris)
    assert sum(info is not None for info in found.values()) == 500
    assert all(info.etag == info.version and info.uri == uri for uri, info in found.items() if info)
    assert set(made) == {"ListObjectsV2"}
    assert len(made) <= 3  # for the 1,000 with this prefix
    made.clear()
    assert look_up(uris[:50]) == {uri: found[uri] for uri in uris[:50]}
    assert made == ["HeadObject"] * 50
    assert set(look_up([f"s3://lookup-tests-nowhere/{n}" for n in range(200)]).values()) == {None}


def test_those_who_may_read_but_not_list(tmp_path, monkeypatch, asked):
    uris = [f"memory://look/{n}.tar" for n in range(150)]
    for uri in uris:
        storage.write_bytes_atomic(uri, b"1")
    expected = look_up(uris)
    assert asked.total() == 0

    def refuse(*_, **__):
        raise PermissionError("no")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "ls", refuse)
    assert look_up(uris) == expected
    assert asked == Counter(uris)


def test_faults_of_one_file_and_of_the_store(monkeypatch):
    faults = {"a": RefusedError("no permission"), "b": TransientError("timeout"), "c": ConfigurationError("expired")}

    def ask(uri, **_):
        raise faults[uri]

    monkeypatch.setattr(storage, "file_info", ask)
    assert look_up(["a"]) == {"a": FileInfo("a", "a", None, None)}
    with pytest.raises(TransientError):
        look_up(["a", "b"])
    with pytest.raises(ConfigurationError):
        look_up(["a", "c"])


def test_threads_work_at_the_same_time_on_a_bounded_part_of_the_items():
    drawn = 0
    together = threading.Barrier(8, timeout=10)

    def items():
        nonlocal drawn
        for drawn in range(1, 1001):  # noqa: UP028 - to be counted
            yield drawn

    def call(item):
        if item <= 8:
            together.wait()  # or the first ones would wait in vain
        return -item

    results = in_threads(call, items())
    first = next(results)
    assert first[1] == -first[0]
    assert drawn <= 200
    assert sorted([first, *results]) == [(n, -n) for n in range(1, 1001)]


def test_the_first_fault_ends_the_look_up():
    calls = []

    def call(item):
        calls.append(item)
        if item == 0:
            raise TransientError("timeout")
        time.sleep(0.01)

    with pytest.raises(TransientError):
        list(in_threads(call, range(10_000)))
    assert len(calls) < 500
