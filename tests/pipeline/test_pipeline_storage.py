import errno
import os
import pickle
import stat
from pathlib import Path

import boto3
import fsspec
import httpx2
import pytest
import requests
import urllib3
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import storage, storage_faults, streams
from pipeline.errors import ConfigurationError, TransientError


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    waits = []
    monkeypatch.setattr(storage_faults, "_sleep", waits.append)
    return waits


@pytest.fixture
def memory():
    fs = MemoryFileSystem()
    fs.store.clear()
    yield fs
    fs.store.clear()


class Flaky:
    """Fails a number of times, then does what the file system does."""

    def __init__(self, call, *faults):
        self.call = call
        self.faults = list(faults)
        self.calls = 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.faults:
            raise self.faults.pop(0)
        return self.call(*args, **kwargs)


def client_error(code, status):
    from botocore.exceptions import ClientError

    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


# --- names -----------------------------------------------------------------------------------------------------------


def test_join_keeps_urls_and_the_root():
    assert storage.join("s3://bucket", "a", "b.tar") == "s3://bucket/a/b.tar"
    assert storage.join("s3://bucket/x/", "/a/") == "s3://bucket/x/a"
    assert storage.join("/data/", "a") == "/data/a"
    assert storage.join("/", "a") == "/a"


def test_public_uris_carry_no_credentials():
    assert storage.public_uri("https://me:secret@host/a.jsonl?X-Amz-Signature=abc") == "https://host/a.jsonl"
    assert storage.public_uri("s3://bucket/what?.tar") == "s3://bucket/what?.tar"
    assert storage.public_uri("/data/a b#1?.jpg") == "/data/a b#1?.jpg"


# --- listing ---------------------------------------------------------------------------------------------------------


def test_folders_are_listed_recursively_and_sorted(tmp_path):
    for name in ("b.tar", "a/z.tar", "a.tar", "c.txt", "UPPER.TAR"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12")
    files = storage.list_files(str(tmp_path), (".tar",))
    assert [file.name for file in files] == ["UPPER.TAR", "a.tar", "a/z.tar", "b.tar"]
    changed = (tmp_path / "a/z.tar").stat().st_mtime_ns
    assert files[2] == storage.FileInfo(f"{tmp_path}/a/z.tar", "a/z.tar", 2, None, f"2-{changed}")
    assert len(storage.list_files(str(tmp_path))) == 5


def test_globs_and_single_files(tmp_path):
    for name in ("x/1.tar", "y/2.tar", "y/2.txt", "we[i]rd.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    assert [file.name for file in storage.list_files(f"{tmp_path}/*/*.tar")] == ["x/1.tar", "y/2.tar"]
    assert [file.name for file in storage.list_files(f"{tmp_path}/y/2.txt", (".tar",))] == ["2.txt"]
    assert [file.name for file in storage.list_files(f"{tmp_path}/we[i]rd.tar")] == ["we[i]rd.tar"]


def test_names_that_look_like_patterns_are_taken_as_they_stand_where_asked(tmp_path, memory):
    for folder in (f"{tmp_path}/run[1]", "memory://bkt/run[1]", "memory://bkt/run*", "memory://bkt/run?"):
        storage.write_bytes_atomic(f"{folder}/claims/1.json", b"1")
        storage.write_bytes_atomic(f"{folder}/claims/1.alive", b"1")
        assert [file.name for file in storage.list_files(folder, [".json"], pattern=False)] == ["claims/1.json"]
    assert storage.list_files("memory://bkt/r[u]n", pattern=False) == []
    assert storage.list_files("memory://bkt/run[1]") == []  # matches run1


def test_versions_change_with_the_content_however_a_file_is_listed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.jpg").write_bytes(b"123")
    (tmp_path / "real/link.jpg").symlink_to("a.jpg")

    def versions():
        folder = {file.name: file.version for file in storage.list_files(str(tmp_path / "real"))}
        pattern = {file.name: file.version for file in storage.list_files(f"{tmp_path}/real/*.jpg")}
        single = {name: storage.file_info(f"{tmp_path}/real/{name}").version for name in folder}
        assert folder == pattern == single
        return folder

    before = versions()
    assert None not in before.values()
    assert versions() == before
    (tmp_path / "real/a.jpg").write_bytes(b"456")
    os.utime(tmp_path / "real/a.jpg", ns=(1, 1))
    after = versions()
    assert after["a.jpg"] != before["a.jpg"]
    assert after["link.jpg"] != before["link.jpg"]  # that of what it leads to


def test_what_is_not_there_lists_as_nothing(tmp_path):
    assert storage.list_files(str(tmp_path / "nowhere")) == []
    assert storage.list_files(f"{tmp_path}/*.tar") == []
    assert storage.list_files(str(tmp_path)) == []


def test_links_to_files_count_and_links_to_folders_are_not_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.jpg").write_bytes(b"123")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "real/a.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "real/loop").symlink_to(tmp_path)
    files = {file.name: file.size for file in storage.list_files(str(tmp_path))}
    assert files == {"real/a.jpg": 3, "link.jpg": 3, "gone.jpg": None}


def test_other_file_systems(memory):
    storage.write_bytes_atomic("memory://bucket/a/b.txt", b"hello")
    (file,) = storage.list_files("memory://bucket")
    assert (file.name, file.size) == ("a/b.txt", 5)
    assert storage.read_bytes(file.uri) == b"hello"
    assert storage.exists("memory://bucket/a/b.txt")
    storage.delete("memory://bucket/a/b.txt")
    storage.delete("memory://bucket/a/b.txt")
    assert not storage.exists("memory://bucket/a/b.txt")


def test_names_with_what_urls_use(tmp_path, memory):
    for name in ("a::b.jpg", "50%.jpg", "a#b.jpg", "a?b.jpg"):
        storage.write_bytes_atomic(f"{tmp_path}/{name}", b"1")
        assert storage.read_bytes(f"{tmp_path}/{name}") == b"1"
        storage.write_bytes_atomic(f"memory://bucket/{name}", b"2")
        assert storage.read_bytes(f"memory://bucket/{name}") == b"2"
    assert len(storage.list_files(str(tmp_path))) == 4


def test_unknown_protocols_are_faults_of_the_configuration():
    with pytest.raises(ConfigurationError, match="foo"):
        storage.read_bytes("foo://bucket/key")


# --- faults ----------------------------------------------------------------------------------------------------------


def test_missing_files(tmp_path):
    with pytest.raises(storage.NotFoundError, match="not there"):
        storage.read_bytes(str(tmp_path / "a"))
    with pytest.raises(storage.NotFoundError):
        storage.open_stream(str(tmp_path / "a"))
    with pytest.raises(storage.NotFoundError):
        storage.file_info(str(tmp_path))  # a folder
    with pytest.raises(FileNotFoundError):  # so that it can be handled as usual
        storage.read_bytes(str(tmp_path / "a" / "b"))
    fault = pickle.loads(pickle.dumps(storage.NotFoundError("x")))
    assert (type(fault), str(fault)) == (storage.NotFoundError, "x")


def test_transient_faults_are_retried_with_growing_random_waits(memory, monkeypatch, no_waiting):
    memory.pipe_file("/b/k", b"data")
    flaky = Flaky(
        memory.cat_file, TimeoutError("slow"), ConnectionResetError("reset"), OSError(errno.EBUSY, "SlowDown")
    )
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda self, *a, **k: flaky(*a, **k))
    assert storage.read_bytes("memory://b/k", retries=3) == b"data"
    assert flaky.calls == 4
    assert len(no_waiting) == 3
    assert all(0 <= wait <= 30 for wait in no_waiting)


def test_the_default_retries_outlast_a_minute_of_throttling(memory, monkeypatch, no_waiting):
    def busy(*_, **__):
        raise TimeoutError("slow")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", busy)
    totals = []
    for _ in range(200):
        no_waiting.clear()
        with pytest.raises(TransientError):
            storage.read_bytes("memory://b/k")
        assert len(no_waiting) == storage.RETRIES == 5
        assert all(0 <= wait <= most for wait, most in zip(no_waiting, (4, 16, 30, 30, 30), strict=True))
        totals.append(sum(no_waiting))
    assert 45 < sum(totals) / len(totals) < 65
    assert max(totals) - min(totals) > 20  # jitter: workers that failed together don't come back together


def test_faults_that_stay_are_transient_errors_with_a_message_fit_for_logs(memory, monkeypatch):
    flaky = Flaky(None, *[OSError("GET https://me:pw@host/k?sig=SECRET failed")] * 9)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda self, *a, **k: flaky(*a, **k))
    with pytest.raises(TransientError) as caught:
        storage.read_bytes("memory://b/k", retries=2)
    assert flaky.calls == 3
    assert "https://host/k failed" in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (client_error("SlowDown", 503), TransientError),
        (client_error("InternalError", 500), TransientError),
        (client_error("Throttling", 429), TransientError),
        (client_error("RequestTimeout", 400), TransientError),
        (client_error("ThrottlingException", 400), TransientError),
        (client_error("AccessDenied", 403), storage.RefusedError),
        (client_error("InvalidBucketName", 400), storage.RefusedError),
        (client_error("NoSuchKey", 404), storage.NotFoundError),
        (client_error("InvalidAccessKeyId", 403), ConfigurationError),
        (client_error("ExpiredToken", 400), ConfigurationError),
        (PermissionError("no"), storage.RefusedError),
        (ValueError("embedded null byte"), storage.RefusedError),
        (OSError(errno.ENOSPC, "full"), ConfigurationError),
        (OSError(errno.EIO, "disk"), TransientError),
        (EOFError("short"), TransientError),
        (OSError(errno.ELOOP, "links in a circle"), storage.RefusedError),
        (httpx2.ConnectError("Name or service not known"), TransientError),
        (httpx2.ReadTimeout("slow"), TransientError),
        (httpx2.InvalidURL("no URL"), storage.RefusedError),
        (requests.ConnectionError("refused"), TransientError),
        (urllib3.exceptions.ProtocolError("broken"), TransientError),
    ],
)
def test_kinds_of_faults(memory, monkeypatch, fault, kind):
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda self, *a, **k: (_ for _ in ()).throw(fault))
    with pytest.raises(kind) as caught:
        storage.read_bytes("memory://b/k", retries=0)
    assert type(caught.value) is kind


def test_missing_credentials(memory, monkeypatch):
    from botocore.exceptions import NoCredentialsError

    monkeypatch.setattr(
        MemoryFileSystem, "cat_file", lambda self, *a, **k: (_ for _ in ()).throw(NoCredentialsError())
    )
    with pytest.raises(ConfigurationError, match="renew"):
        storage.read_bytes("memory://b/k", retries=0)


def test_a_refused_head_is_explained_by_a_get(memory, monkeypatch):
    head = Flaky(None, *[client_error("403", 403)] * 9)
    get = Flaky(None, *[client_error("ExpiredToken", 400)] * 9)
    monkeypatch.setattr(MemoryFileSystem, "open", lambda self, *a, **k: head())
    monkeypatch.setattr(MemoryFileSystem, "info", lambda self, *a, **k: head())
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda self, *a, **k: get())
    for call in (storage.open_stream, storage.file_info, storage.list_files):
        with pytest.raises(ConfigurationError, match="renew"):
            call("memory://b/k")
    assert (head.calls, get.calls) == (3, 3)  # nothing of this is retried


def test_unknown_faults_cost_one_file_and_name_their_kind(memory, monkeypatch):
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda self, *a, **k: (_ for _ in ()).throw(TypeError("bug")))
    with pytest.raises(storage.RefusedError, match=r"bug \(builtins\.TypeError"):
        storage.read_bytes("memory://b/k")
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda self, *a, **k: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        storage.read_bytes("memory://b/k")


# --- streams ---------------------------------------------------------------------------------------------------------


class Unsteady:
    """A remote file whose connection breaks now and then."""

    def __init__(self, data, size=None):
        self.data, self.size, self.at, self.reads = data, size or len(data), 0, 0

    def seekable(self):
        return True

    def tell(self):
        return self.at

    def seek(self, to, whence=0):
        assert whence == 0
        self.at = to
        return to

    def read(self, wanted):
        self.reads += 1
        if self.reads % 2:
            self.at += 5  # as if half had come
            raise ConnectionError("reset")
        data = self.data[self.at : self.at + min(wanted, 1000)]
        self.at += len(data)
        return data

    def close(self):
        pass


def test_a_stream_takes_up_where_the_connection_broke(memory, monkeypatch):
    data = os.urandom(10_000)
    monkeypatch.setattr(MemoryFileSystem, "open", lambda self, *a, **k: Unsteady(data))
    with storage.open_stream("memory://b/k", retries=1) as stream:
        assert stream.read() == data


def test_a_stream_that_ends_early_is_a_fault(memory, monkeypatch):
    monkeypatch.setattr(MemoryFileSystem, "open", lambda self, *a, **k: Unsteady(b"x" * 100, size=200))
    with storage.open_stream("memory://b/k", retries=3) as stream, pytest.raises(TransientError, match="100 of 200"):
        stream.read()


def test_lines_of_any_end(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo\n  three")
    with storage.open_stream(str(tmp_path / "a")) as stream:
        assert list(storage.read_lines(stream)) == [(0, b"one"), (8, b""), (10, b"two"), (14, b"  three")]
    with storage.open_stream(str(tmp_path / "a")) as stream:
        stream.seek(10)
        assert list(storage.read_lines(stream, stop=14)) == [(10, b"two")]


def test_endless_lines_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "MAX_LINE", 10)
    (tmp_path / "a").write_bytes(b"x" * 35 + b"\nnext\n")
    with storage.open_stream(str(tmp_path / "a")) as stream:
        assert list(storage.read_lines(stream)) == [(0, b"x" * 10), (36, b"next")]


# --- writing ---------------------------------------------------------------------------------------------------------


def test_local_writes_replace_and_leave_nothing_behind(tmp_path):
    path = tmp_path / "new" / "a.json"
    storage.write_bytes_atomic(str(path), b"1")
    storage.write_bytes_atomic(str(path), b"22")
    assert path.read_bytes() == b"22"
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_failed_local_write_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        storage.write_bytes_atomic(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_the_beginning_of_a_file(tmp_path, memory):
    for uri in (f"{tmp_path}/a.bin", "memory://bucket/a.bin"):
        storage.write_bytes_atomic(uri, b"12345")
        assert [storage.read_beginning(uri, size) for size in (0, 4, 5, 6)] == [b"", b"1234", b"12345", b"12345"]
        with pytest.raises(storage.NotFoundError):
            storage.read_beginning(f"{uri}.gone", 1)


# --- S3 --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket(s3_server):
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="storage-tests")
    return "s3://storage-tests"


def test_s3_files(bucket):
    data = os.urandom(3_000_000)
    storage.write_bytes_atomic(f"{bucket}/dir/a.bin", data)
    storage.write_bytes_atomic(f"{bucket}/dir/sub/b::c.bin", b"2")
    files = storage.list_files(f"{bucket}/dir")
    assert [(file.name, file.size) for file in files] == [("a.bin", 3_000_000), ("sub/b::c.bin", 1)]
    assert files[0].uri == f"{bucket}/dir/a.bin"
    assert files[0].etag
    assert '"' not in files[0].etag
    assert storage.file_info(files[0].uri).etag == files[0].etag
    assert [file.name for file in storage.list_files(f"{bucket}/dir/*.bin")] == ["a.bin"]
    assert storage.read_bytes(files[0].uri) == data
    assert storage.read_bytes(files[1].uri) == b"2"
    with storage.open_stream(files[0].uri) as stream:
        assert stream.read(10) == data[:10]
        stream.seek(2_999_990)
        assert stream.read() == data[-10:]
    storage.delete(files[0].uri)
    assert not storage.exists(files[0].uri)
    assert storage.list_files(f"{bucket}/nothing/here") == []
    with pytest.raises(storage.NotFoundError):
        storage.read_bytes(files[0].uri)


def test_s3_missing_buckets(bucket):
    assert storage.list_files("s3://storage-tests-nowhere/*.tar") == []
    assert storage.list_files("s3://storage-tests-nowhere/a") == []
    with pytest.raises(ConfigurationError, match="create the bucket"):
        storage.write_bytes_atomic("s3://storage-tests-nowhere/a", b"1")
    assert not any("nowhere" in name for name in fsspec.filesystem("s3").ls(""))


def test_local_paths_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.write_bytes_atomic("sub/a.txt", b"1")
    (file,) = storage.list_files("sub")
    assert Path(file.uri).is_absolute()  # workers run in other folders
    assert storage.read_bytes("sub/a.txt") == b"1"


@pytest.mark.parametrize("read", [storage.read_bytes, storage.open_stream])
def test_devices_and_pipes_are_refused_not_read(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", str(tmp_path / "pipe")):
        with pytest.raises(storage.RefusedError, match="not a file"):
            read(path)
