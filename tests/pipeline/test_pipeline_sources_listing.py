import os
import sys
import time
from collections import Counter

import fsspec
import pytest

from pipeline import storage, storage_faults
from pipeline.errors import ConfigurationError, TransientError
from pipeline.sources import make_source
from pipeline.sources.listing import list_inputs
from pipeline.sources.tars import TAR_SUFFIXES
from support.corpora import codes, lines, reading_config, samples, tar


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage_faults, "_sleep", lambda seconds: None)


def put(folder, *names, data=None):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(tar([(f"{name}.jpg", b"1")]) if data is None else data)


def names(path, **sections):
    return [shard.name for shard in make_source(reading_config("webdataset", path, **sections)).shards()]


# --- braces ----------------------------------------------------------------------------------------------------------


def test_braces(tmp_path):
    put(tmp_path, *(f"shard-{n:03}.tar" for n in range(12)), "x/a.tar", "y/a.tar", "y/b.tar.gz", "z/a.tar")
    assert names(f"{tmp_path}/shard-{{003..011}}.tar") == [f"shard-{n:03}.tar" for n in range(3, 12)]
    assert names(f"{tmp_path}/shard-{{000..010..5}}.tar") == ["shard-000.tar", "shard-005.tar", "shard-010.tar"]
    assert names(f"{tmp_path}/{{y,x}}/{{a,b}}.tar*") == ["y/a.tar", "y/b.tar.gz", "x/a.tar", "x/b.tar*"]  # a pattern
    assert names(f"{tmp_path}/{{x,y}}") == ["x/a.tar", "y/a.tar", "y/b.tar.gz"]
    assert names(f"{tmp_path}/{{x,y,x}}/{{a..a}}.tar") == ["x/a.tar", "y/a.tar"]  # each once
    many = ",".join(f"{n:03}" for n in range(5, 12)) + ",000" * 100
    assert len(names(f"{tmp_path}/shard-{{{many}}}.tar")) == 8  # a pattern may be longer than a name
    assert names([f"{tmp_path}/{{x,y}}/a.tar", f"{tmp_path}/y/a.tar"]) == ["x/a.tar", "y/a.tar"]


def test_names_with_braces_are_names_where_there_is_such_a_file(tmp_path):
    put(tmp_path, "{a,b}.tar", "x{1}.tar")
    assert names(f"{tmp_path}/{{a,b}}.tar") == ["{a,b}.tar"]
    assert names(f"{tmp_path}/x{{1}}.tar") == ["x{1}.tar"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{0..5.tar", "[Uu]nbalanced"),
        ("{0..99999999}.tar", "more than 1000000"),
        ("{0..999}-{0..9999}.tar", "more than 1000000"),
        ("{0.." + "9" * 5000 + "}.tar", "correct its braces"),
        ("{7..9}.tar", r"none of its files is there: .*/7\.tar"),
    ],
)
def test_braces_that_can_not_be_used(tmp_path, pattern, words):
    put(tmp_path, "1.tar")
    with pytest.raises(ConfigurationError, match=words):
        names(f"{tmp_path}/{pattern}")


# --- lists -----------------------------------------------------------------------------------------------------------


def test_lists_of_paths_and_patterns(tmp_path):
    put(tmp_path, "in/x/0.tar", "in/x/1.tar", "in/y/0.tar", "in/y/5.tar", "out/z.tar", "out/0.tar")
    text = f"# shards of today\n\r\n x/{{0..1}}.tar \r\ny/*.tar\nx/0.tar\n../out/z.tar\n{tmp_path}/out/0.tar"
    (tmp_path / "in/shards.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = names(tmp_path / "in/shards.txt")
    assert found == ["x/0.tar", "x/1.tar", "y/0.tar", "y/5.tar", f"{tmp_path}/out/z.tar", f"{tmp_path}/out/0.tar"]


def test_names_below_the_list_are_the_same_wherever_it_lies(tmp_path, s3_server):
    fsspec.filesystem("s3").mkdir("listing-lists")
    put(tmp_path, "a/0.tar", "b/0.tar")
    (tmp_path / "l.txt").write_text("a/0.tar\nb/{0..0}.tar\n")
    for name in ("a/0.tar", "b/0.tar", "l.txt"):
        storage.write_bytes_atomic(f"s3://listing-lists/in/{name}", (tmp_path / name).read_bytes())
    assert names(tmp_path / "l.txt") == names("s3://listing-lists/in/l.txt") == ["a/0.tar", "b/0.tar"]
    assert names("s3a://listing-lists/in/{a,b}/0.tar") == ["a/0.tar", "b/0.tar"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("more.txt", "line 2: .*a list again"),
        ("https://h/a.tar", "line 2: .*input.schemes"),
        ("a\0.tar", "line 2: .*no file name"),
        ("{1..2.tar", "line 2: .*correct its braces"),
        ("caf\udce9.tar", "line 2: .*utf-8"),
        ("", "a list without a path"),
        ("*.tar.gz", "none of its files is there"),
    ],
)
def test_lists_that_can_not_be_used(tmp_path, line, words):
    (tmp_path / "l.txt").write_bytes(b"#\n" + line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(ConfigurationError, match=words):
        names(tmp_path / "l.txt")


def test_a_list_in_a_bucket_names_no_local_files(s3_server, tmp_path):
    fsspec.filesystem("s3").mkdir("listing-escape")
    put(tmp_path, "a.tar")
    storage.write_bytes_atomic("s3://listing-escape/l.txt", f"{tmp_path}/a.tar".encode())
    with pytest.raises(ConfigurationError, match="local path"):
        names("s3://listing-escape/l.txt")


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(ConfigurationError, match="does not exist"):
        names(tmp_path / "l.txt")
    put(tmp_path, "folder.txt/a.tar")
    assert names(tmp_path / "folder.txt") == ["a.tar"]


def test_lists_of_manifests(tmp_path):
    for name in ("a", "b"):
        put(tmp_path, f"{name}.jsonl", data=lines({"image": "x.jpg", "key": name}))
    put(tmp_path, "x.jpg", data=b"1")
    put(tmp_path, "l.txt", data=b"{a,gone,b}.jsonl\n")
    source = make_source(reading_config("manifest", tmp_path / "l.txt"))
    shards = source.shards()
    assert [shard.name for shard in shards] == ["a.jsonl#000000000", "gone.jsonl#unread", "b.jsonl#000000000"]
    assert [code for shard in shards for code in codes(source.read(shard))] == [
        ("a", None),
        ("", "shard_unreadable"),
        ("b", None),
    ]
    assert [bool(shard.fingerprint) for shard in shards] == [True, False, True]


# --- what is not there -----------------------------------------------------------------------------------------------


def test_one_that_is_missing_among_many_is_a_shard_of_its_own(tmp_path, caplog):
    put(tmp_path, *(f"{n}.tar" for n in range(300)))
    (tmp_path / "7.tar").unlink()
    source = make_source(reading_config("webdataset", f"{tmp_path}/{{0..299}}.tar"))
    shards = source.shards()
    assert [shard.name for shard in shards] == [f"{n}.tar" for n in range(300)]
    assert codes(source.read(shards[7])) == [("", "shard_unreadable")]
    assert [shard.name for shard in shards if not shard.fingerprint] == ["7.tar"]
    assert f"not there, to become error records: {tmp_path}/7.tar" in caplog.text


def test_a_store_that_fails_stops_the_listing(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise TransientError("timeout")

    monkeypatch.setattr(storage, "file_info", fail)
    with pytest.raises(TransientError):
        names(f"{tmp_path}/{{0..9}}.tar")


def test_files_that_can_not_be_read_are_named(tmp_path, caplog):
    put(tmp_path, "a.tar", "b.zip")
    assert names(f"{tmp_path}/{{a.tar,b.zip}}") == ["a.tar"]
    assert "passed over b.zip" in caplog.text


def test_urls_that_records_could_not_tell_apart_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "check_readable", lambda *_, **__: None)
    monkeypatch.setattr(storage, "file_info", lambda uri, **_: storage.FileInfo(uri, "a.tar", 1, "x", "x"))
    (tmp_path / "l.txt").write_text("https://h/a.tar?version=1\nhttps://h/a.tar?version=2\n")
    with pytest.raises(ConfigurationError, match=r"two files as https://h/a\.tar"):
        names(tmp_path / "l.txt", input={"schemes": ["https"]})
    (tmp_path / "l.txt").write_text("https://h/a.tar?version=1\nhttps://h/b.tar?version=2\n")
    assert names(tmp_path / "l.txt", input={"schemes": ["https"]}) == ["https://h/a.tar", "https://h/b.tar"]


# --- very many -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    (folder / "in").mkdir()
    for n in range(20_000):
        os.close(os.open(f"{folder}/in/{n:06}.tar", os.O_CREAT))
    (folder / "in/000000.tar").write_bytes(tar([]))
    (folder / "l.txt").write_text("".join(f"in/{n:06}.tar\n" for n in range(20_000)))
    return folder


@pytest.mark.parametrize("form", ["folder", "braces", "list"])
def test_twenty_thousand_shards_are_listed_quickly_and_once(many, monkeypatch, form):
    path = {"folder": "in", "braces": "in/{000000..019999}.tar", "list": "l.txt"}[form]
    asked = Counter()
    monkeypatch.setattr(storage, "file_info", lambda uri, **_: asked.update([uri]))
    start = time.process_time()
    shards = make_source(reading_config("webdataset", many / path)).shards()
    assert time.process_time() - start < 10  # 1 s on an idle machine
    assert len({shard.spec["uri"] for shard in shards}) == len({shard.name for shard in shards}) == 20_000
    assert all(shard.fingerprint for shard in shards)
    assert asked.total() == 0
    shard = shards[-1]
    parts = [shard, shard.name, shard.fingerprint, shard.spec, *shard.spec.values()]
    assert sum(sys.getsizeof(part) for part in parts) < 1000


def test_many_shards_in_s3_take_one_listing(s3_server):
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    backend.create_bucket("listing-tests", "us-east-1")
    for n in range(2500):
        backend.put_object("listing-tests", f"shards/{n:06}.tar", b"1")
    requests = Counter()
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    fs.connect()
    fs.s3.meta.events.register("before-call.s3", lambda model, **_: requests.update([model.name]))
    found = list_inputs(reading_config("webdataset", "s3://listing-tests/shards/{000000..002499}.tar"), TAR_SUFFIXES)
    assert list(found) == [f"{n:06}.tar" for n in range(2500)]
    assert all(file.etag for file in found.values())
    assert requests["ListObjectsV2"] <= 3
    assert requests.total() <= 5  # and whether the first one can be read


def test_every_shard_of_a_pattern_is_read(tmp_path):
    put(tmp_path, *(f"{n}.tar" for n in range(5)))
    assert len(samples(reading_config("webdataset", f"{tmp_path}/{{0..4}}.tar"))) == 5
