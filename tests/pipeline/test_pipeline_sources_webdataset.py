import gzip
import io
import os
import random
import tarfile
import tracemalloc
from collections import Counter
from unittest import mock

import boto3
import pytest
import zstandard

from pipeline import storage, storage_faults
from pipeline.errors import BadInputError, ConfigurationError, TransientError
from pipeline.ids import image_id
from pipeline.sources import make_source, webdataset
from pipeline.sources.webdataset import WebDatasetSource
from pipeline.storage import RefusedError
from support.corpora import BOX, codes, image, lines, reading_config, samples, tar


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage_faults, "_sleep", lambda seconds: None)


def read(tmp_path, data, **sections):
    (tmp_path / "a.tar").write_bytes(data)
    return samples(reading_config("webdataset", tmp_path / "a.tar", **sections))


def test_members_are_grouped_by_key(tmp_path):
    jpeg = image("JPEG")
    found = read(
        tmp_path,
        tar(
            [
                ("./dogs/a.jpg", jpeg),
                ("./dogs/a.prompts.jsonl", lines(BOX, {"mask": "mask.png"})),
                ("./dogs/a.mask.png", b"the mask"),
                ("./dogs/a.txt", b"a dog"),
                ("README", b"no dot"),
                (".hidden.jpg", jpeg),
                ("b.v2.JPG", jpeg),
                ("c.PNG", b"c"),
                ("c.prompts.json", b'[{"box": [1, 2, 3, 4]}]'),
            ]
        ),
    )
    assert codes(found) == [("dogs/a", None), (".hidden", None), ("b.v2", None), ("c", None)]
    first, *_, second = found
    assert first.data == jpeg
    assert first.uri == f"{tmp_path}/a.tar#dogs/a.jpg"
    assert first.path == "dogs/a.jpg"
    assert first.image_id == image_id("a.tar", "dogs/a")
    assert [raw.content for raw in first.prompts] == [BOX, {"mask": "mask.png"}]
    assert first.prompts[1].where == f"{tmp_path}/a.tar#dogs/a.prompts.jsonl line 2"
    assert first.load_mask("mask.png") == b"the mask"
    with pytest.raises(BadInputError, match=r"dogs/a\.other\.png"):
        first.load_mask("other.png")
    assert [raw.content for raw in second.prompts] == [{"box": [1, 2, 3, 4]}]


def test_names_with_more_dots(tmp_path):
    found = read(
        tmp_path,
        tar(
            [
                ("photo.jpg", b"1"),
                ("photo.prompts.jsonl", lines(BOX)),
                ("photo.v2.jpg", b"2"),
                ("photo.v2.mask.png", b"mask 2"),
                ("photo.v2.prompts.jsonl", lines({"mask": "mask.png"})),
                ("photo.v3.mask.png", b"mask 3"),
                ("photo.v3.png", b"3"),
                ("x.cat.png", b"a cat"),
                ("x.dog.png", b"a dog"),
                ("x.jpg", b"4"),
                ("x.prompts.jsonl", lines({"mask": "dog.png"}, {"mask": "cat.png"})),
            ]
        ),
    )
    assert codes(found) == [("photo", None), ("photo.v2", None), ("photo.v3", None), ("x", None)]
    assert [sample.data for sample in found] == [b"1", b"2", b"3", b"4"]
    assert [len(sample.prompts) for sample in found] == [1, 1, 0, 2]
    assert found[1].load_mask("mask.png") == b"mask 2"
    assert (found[3].load_mask("dog.png"), found[3].load_mask("cat.png")) == (b"a dog", b"a cat")
    # A picture that no prompt calls its mask is an image: better a record too many than one too few.
    assert codes(read(tmp_path, tar([("a.depth.png", b"1"), ("a.jpg", b"2")]))) == [("a.depth", None), ("a", None)]


def test_images_that_begin_alike_are_not_all_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "_FAMILY_BYTES", 1000)
    members = [(f"v1.{n}.{ending}", b"x" * 600) for n in range(9) for ending in ("jpg", "mask.png")]
    assert codes(read(tmp_path, tar(members))) == [(f"v1.{n}", None) for n in range(9)]
    (tmp_path / "a.tar").write_bytes(tar(members))
    with storage.open_stream(str(tmp_path / "a.tar")) as stream:
        assert max(len(family) for family in webdataset._families(stream, 10_000, Counter())) == 1


def test_no_kind_of_image_is_lost_without_a_word(tmp_path, caplog):
    caplog.set_level("INFO", "pipeline")
    found = read(
        tmp_path,
        tar(
            [
                ("a.jfif", b"1"),
                ("b.HEIC", b"2"),
                ("b.prompts.jsonl", lines(BOX)),
                ("c.avif", b"3"),
                ("d.dng", b"4"),
                ("d.jpg", b"5"),
                ("._e.jpg", b"a resource fork"),
                ("e.jpg", b"6"),
                ("e.txt", b"text"),
                ("f.cls", b"7"),
                ("README", b""),
            ]
        ),
    )
    assert codes(found) == [
        ("a", None),
        ("b", "image_unsupported"),
        ("c", "image_unsupported"),
        ("d", None),
        ("e", None),
    ]
    assert "convert it to JPEG" in str(found[1].error)
    assert len(found[1].prompts) == 1
    assert found[3].data == b"5"
    assert "1 README, 1 cls, 1 jpg, 1 txt" in caplog.text


def test_images_without_prompts_and_prompts_without_image(tmp_path):
    found = read(tmp_path, tar([("a.jpg", image()), ("b.prompts.jsonl", lines(BOX)), ("c.json", b"{}")]))
    assert codes(found) == [("a", None), ("b", "image_missing")]
    assert found[0].prompts == []
    assert len(found[1].prompts) == 1
    assert found[1].data is None


def test_keys_that_come_back_are_errors_and_lose_no_prompt(tmp_path):
    found = read(
        tmp_path,
        tar([("a.jpg", b"1"), ("b.jpg", b"2"), ("a.prompts.jsonl", lines(BOX)), ("b.jpg", b"3"), ("a.jpg", b"4")]),
    )
    assert codes(found) == [
        ("a", None),
        ("b", None),
        ("a", "duplicate_key"),
        ("b", "duplicate_key"),
        ("a", "duplicate_key"),
    ]
    assert [len(sample.prompts) for sample in found] == [0, 0, 1, 0, 0]
    assert len({sample.image_id for sample in found}) == 5
    assert found[2].image_id == image_id("a.tar", "a", 1)


def test_a_second_image_under_a_key(tmp_path):
    found = read(tmp_path, tar([("a.jpg", b"1"), ("a.png", b"2"), ("a.prompts.jsonl", lines(BOX))]))
    assert codes(found) == [("a", None), ("a", "duplicate_key")]
    assert [len(sample.prompts) for sample in found] == [1, 0]
    # ... unless the prompts say that it is a mask.
    found = read(tmp_path, tar([("a.jpg", b"1"), ("a.png", b"2"), ("a.prompts.jsonl", lines({"mask": "png"}))]))
    assert codes(found) == [("a", None)]
    assert found[0].load_mask("png") == b"2"


def test_prompt_files_of_their_own_leave_those_in_the_shard_alone(tmp_path):
    (tmp_path / "p.jsonl").write_bytes(lines(BOX | {"image": "a"}))
    found = read(
        tmp_path,
        tar([("a.jpg", b"1"), ("a.prompts.jsonl", lines(BOX)), ("b.prompts.jsonl", lines(BOX)), ("a.jpg", b"2")]),
        prompts={"kind": "jsonl", "path": str(tmp_path / "p.jsonl")},
    )
    assert codes(found) == [("a", None), ("a", "duplicate_key")]
    assert found[0].prompts is None  # to be looked up
    assert found[1].prompts == []  # or else each prompt would be there twice


def test_links_devices_and_paths_out_are_only_names(tmp_path, caplog):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind in (("link.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE), ("dev.jpg", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("../../etc/out.jpg")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"1"))
    before = sorted(tmp_path.rglob("*"))
    caplog.set_level("INFO", "pipeline")
    found = read(tmp_path, file.getvalue())
    assert codes(found) == [("../../etc/out", None)]
    assert "1 device, 2 link" in caplog.text
    assert sorted(tmp_path.rglob("*")) == [*before, tmp_path / "a.tar"]


def test_names_that_are_not_utf8(tmp_path):
    (found,) = read(tmp_path, tar([("caf\udce9/a.jpg", b"1")]))
    assert found.key == "caf\\udce9/a"
    (found.key + found.uri + found.path).encode()


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tars(tmp_path, mode):
    found = read(tmp_path, tar([("a.jpg", b"1"), ("a.prompts.jsonl", lines(BOX))], mode))
    assert codes(found) == [("a", None)]
    assert len(found[0].prompts) == 1


@pytest.mark.parametrize("name", ["a.tar.zst", "a.tzst", "a.TAR.ZST"])
def test_zstandard(tmp_path, name):
    data = tar([("a.jpg", b"1"), ("a.prompts.jsonl", lines(BOX))])
    (tmp_path / name).write_bytes(zstandard.ZstdCompressor().compress(data))
    (found,) = samples(reading_config("webdataset", tmp_path))
    assert (found.key, found.data, len(found.prompts)) == ("a", b"1", 1)
    assert found.uri == f"{tmp_path}/{name}#a.jpg"


def test_members_that_do_not_stand_together_and_a_broken_end_in_a_compressed_tar(tmp_path):
    noise = random.Random(0).randbytes(300_000)
    data = tar([("a.jpg", noise), ("b.jpg", noise), ("a.prompts.jsonl", lines(BOX)), ("c.jpg", noise[::-1])])
    (tmp_path / "a.tar.zst").write_bytes(zstandard.ZstdCompressor().compress(data)[:-1000])
    found = samples(reading_config("webdataset", tmp_path))
    assert codes(found) == [("a", None), ("b", None), ("a", "duplicate_key"), ("", "shard_unreadable")]
    assert len(found[2].prompts) == 1


def test_fingerprints_are_those_of_the_files(tmp_path):
    def fingerprints():
        shards = make_source(reading_config("webdataset", tmp_path)).shards()
        return {shard.name: shard.fingerprint for shard in shards}

    (tmp_path / "a.tar").write_bytes(tar([("a.jpg", b"1")]))
    (tmp_path / "b.tar").write_bytes(tar([("a.jpg", b"1")]))
    before = fingerprints()
    assert all(before.values())
    assert fingerprints() == before
    (tmp_path / "b.tar").write_bytes(tar([("a.jpg", b"2")]))
    os.utime(tmp_path / "b.tar", ns=(1, 1))
    after = fingerprints()
    assert (after["a.tar"] == before["a.tar"], after["b.tar"] == before["b.tar"]) == (True, False)


def test_members_of_more_bytes_than_allowed(tmp_path):
    found = read(tmp_path, tar([("a.jpg", b"123456"), ("b.jpg", b"12345")]), input={"max_bytes": 5})
    assert codes(found) == [("a", "image_too_large"), ("b", None)]
    assert "input.max_bytes" in str(found[0].error)


def test_gzip_in_several_parts(tmp_path):
    data = tar([("a.jpg", b"1"), ("b.jpg", b"2")])
    found = read(tmp_path, gzip.compress(data[:700]) + gzip.compress(data[700:]))
    assert codes(found) == [("a", None), ("b", None)]


MEMBERS = [
    (f"{n}.{ending}", data) for n in range(4) for ending, data in (("jpg", b"x" * 3000), ("prompts.jsonl", lines(BOX)))
]


@pytest.mark.parametrize("cut", [0, 100, 512, 2000, 4096 + 512, 5000, 5120, 7000, 13000, 18432])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_breaks_off_yields_what_was_read_and_one_error(tmp_path, cut, mode):
    whole = tar(MEMBERS, mode)
    (tmp_path / "a.tar").write_bytes(whole)
    config = reading_config("webdataset", tmp_path / "a.tar")
    source = make_source(config)
    (shard,) = source.shards()
    complete = codes(source.read(shard))
    assert complete == [(str(n), None) for n in range(4)]
    cut = cut if mode == "w" else cut * len(whole) // 25_000
    (tmp_path / "a.tar").write_bytes(whole[:cut])
    found = list(source.read(shard))
    *good, last = codes(found)
    assert last == ("", "shard_unreadable")
    assert good == complete[: len(good)]
    assert all(len(sample.prompts) == 1 for sample in found[:-1])
    assert found[-1].image_id == image_id("a.tar", "")
    assert str(tmp_path / "a.tar") in str(found[-1].error)


def test_damage_in_the_middle_is_not_taken_for_the_end(tmp_path):
    whole = bytearray(tar(MEMBERS))
    header = whole.index(b"2.jpg\0")
    damaged = bytes(whole[:header]) + b"\x07" * 512 + bytes(whole[header + 512 :])
    assert codes(read(tmp_path, damaged))[-1] == ("", "shard_unreadable")
    hole = bytes(whole[:header]) + bytes(1024) + bytes(whole[header + 1024 :])
    assert codes(read(tmp_path, hole))[-1] == ("", "shard_unreadable")
    assert codes(read(tmp_path, tar(MEMBERS) * 2))[-1] == ("", "shard_unreadable")
    without_end = tar(MEMBERS).rstrip(b"\0")
    padded = without_end + bytes(-len(without_end) % 512)
    assert codes(read(tmp_path, padded))[-1] == ("", "shard_unreadable")
    assert codes(read(tmp_path, b"<html>not found</html>" * 100)) == [("", "shard_unreadable")]
    assert read(tmp_path, tar([])) == []


def test_a_shard_that_is_gone(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar([]))
    source = make_source(reading_config("webdataset", tmp_path / "a.tar"))
    (shard,) = source.shards()
    (tmp_path / "a.tar").unlink()
    assert codes(source.read(shard)) == [("", "shard_unreadable")]


@pytest.mark.parametrize(
    ("fault", "code"),
    [(TransientError("timeout"), "transient"), (RefusedError("no permission"), "shard_unreadable")],
)
def test_a_store_that_refuses_costs_the_shard_and_one_that_fails_does_not(tmp_path, monkeypatch, fault, code):
    (tmp_path / "a.tar").write_bytes(tar([]))
    source = make_source(reading_config("webdataset", tmp_path / "a.tar"))
    (shard,) = source.shards()
    monkeypatch.setattr(webdataset, "open_stream", mock.Mock(side_effect=fault))
    assert codes(source.read(shard)) == [("", code)]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_connection_that_breaks_in_the_middle_is_no_damage(tmp_path, monkeypatch, mode):
    members = [(f"{n}.jpg", random.Random(n).randbytes(400_000)) for n in range(8)]
    (tmp_path / "a.tar").write_bytes(tar(members, mode))
    source = make_source(reading_config("webdataset", tmp_path / "a.tar"))
    (shard,) = source.shards()
    whole = codes(source.read(shard))
    monkeypatch.setattr(webdataset, "open_stream", lambda uri, retries: io.BufferedReader(Breaking(uri), 4096))
    *read, last = codes(source.read(shard))
    assert last == ("", "transient")
    assert read == whole[: len(read)]
    assert len(read) < 8


class Breaking(io.FileIO):
    """Fails for good in the middle of a file."""

    def readinto(self, buffer):
        if self.tell() > 1_500_000:
            raise TransientError("reset")
        return super().readinto(buffer)


def test_a_tar_whose_own_name_is_not_utf8(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.tar"
    with open(name, "wb") as file:  # noqa: PTH123 - a name of bytes
        file.write(tar([("a.jpg", b"1"), ("a.prompts.jsonl", lines(BOX))]))
    (found,) = samples(reading_config("webdataset", tmp_path))
    assert found.uri == f"{tmp_path}/caf\\udce9.tar#a.jpg"
    assert found.prompts[0].where.startswith(f"{tmp_path}/caf\\udce9.tar#")


def test_wrong_credentials_stop_the_job(tmp_path, monkeypatch):
    (tmp_path / "a.tar").write_bytes(tar([]))
    source = make_source(reading_config("webdataset", tmp_path / "a.tar"))
    (shard,) = source.shards()
    monkeypatch.setattr(webdataset, "open_stream", mock.Mock(side_effect=ConfigurationError("expired")))
    with pytest.raises(ConfigurationError, match="expired"):
        list(source.read(shard))
    monkeypatch.setattr(storage, "check_readable", mock.Mock(side_effect=RefusedError("no permission")))
    with pytest.raises(ConfigurationError, match="no permission"):
        source.shards()


def test_huge_members_are_passed_over(tmp_path):
    limit = {"max_pixels": 10}  # 1 MiB and 80 bytes
    found = read(
        tmp_path,
        tar(
            [
                ("a.jpg", b"x" * 2**21),
                ("a.prompts.jsonl", lines(BOX)),
                ("b.jpg", b"1"),
                ("b.prompts.jsonl", b"x" * 2**21),
                ("b.mask.png", b"x" * 2**21),
            ]
        ),
        input=limit,
    )
    assert codes(found) == [("a", "image_too_large"), ("b", None)]
    assert "too many" in found[1].prompts[0].fault
    with pytest.raises(BadInputError, match=r"b\.mask\.png"):
        found[1].load_mask("mask.png")


def test_memory_does_not_grow_with_the_shard(tmp_path):
    members = [(f"{n:04}.jpg", bytes([n % 256]) * 500_000) for n in range(120)]
    (tmp_path / "a.tar").write_bytes(tar(members))
    source = make_source(reading_config("webdataset", tmp_path / "a.tar"))
    (shard,) = source.shards()
    tracemalloc.start()
    count = sum(1 for _ in source.read(shard))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 120
    assert peak < 20_000_000  # of 60 MB


def test_shard_names_are_relative_sorted_and_unique(tmp_path):
    for name in ("x/1.tar", "x/0.tar", "y/0.tar", "x/readme.txt", "x/2.tar.lz4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(tar([]))

    def names(path):
        return [shard.name for shard in make_source(reading_config("webdataset", path)).shards()]

    assert names(tmp_path) == names(f"{tmp_path}/*/*.tar") == ["x/0.tar", "x/1.tar", "y/0.tar"]
    assert names(f"{tmp_path}/x") == names([f"{tmp_path}/x/0.tar", f"{tmp_path}/x/*.tar"]) == ["0.tar", "1.tar"]
    assert names([f"{tmp_path}/x", f"{tmp_path}/y"]) == [f"{tmp_path}/x/0.tar", "1.tar", f"{tmp_path}/y/0.tar"]


@pytest.mark.parametrize("path", ["nowhere", "*.tar", [], ["there", "nowhere"]])
def test_nothing_to_read_is_a_fault_of_the_configuration(tmp_path, path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/a.tar").write_bytes(tar([]))
    paths = [f"{tmp_path}/{part}" for part in path] if isinstance(path, list) else f"{tmp_path}/{path}"
    with pytest.raises(ConfigurationError, match=r"input\.path"):
        WebDatasetSource(reading_config("webdataset", paths)).shards()


def test_what_is_not_there_and_what_can_not_be_read_is_said(tmp_path, caplog):
    def shards(path):
        return make_source(reading_config("webdataset", tmp_path / path)).shards()

    with pytest.raises(ConfigurationError, match=r"nowhere does not exist"):
        shards("nowhere")
    (tmp_path / "a.tar.lz4").write_bytes(b"1")
    with pytest.raises(ConfigurationError, match=r"but a\.tar\.lz4, which can't be read"):
        shards("")
    with pytest.raises(ConfigurationError, match=r"but a\.tar\.lz4, which can't be read"):
        shards("a.tar.lz4")
    for name, mode in (("b.tar.bz2", "w:bz2"), ("c.tar.xz", "w:xz"), ("d.tar", "w")):
        (tmp_path / name).write_bytes(tar([("a.jpg", b"1")], mode))
    assert [shard.name for shard in shards("")] == ["b.tar.bz2", "c.tar.xz", "d.tar"]
    assert "passed over a.tar.lz4" in caplog.text


def test_s3(s3_server):
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="webdataset-tests")
    data = tar([(f"{n}.jpg", bytes([n]) * 1_000_000) for n in range(20)])
    for name, body in (("b.tar", data), ("a.tar", tar([("a.jpg", image())])), ("notes.txt", b"")):
        client.put_object(Bucket="webdataset-tests", Key=f"shards/{name}", Body=body)
    source = make_source(reading_config("webdataset", "s3://webdataset-tests/shards/*.tar"))
    first, second = source.shards()
    assert (first.name, second.name) == ("a.tar", "b.tar")
    found = list(source.read(second))
    assert [sample.data for sample in found] == [bytes([n]) * 1_000_000 for n in range(20)]
    assert found[3].uri == "s3://webdataset-tests/shards/b.tar#3.jpg"
    etag = client.head_object(Bucket="webdataset-tests", Key="shards/b.tar")["ETag"].strip('"')
    assert found[3].etag == etag
    client.delete_object(Bucket="webdataset-tests", Key="shards/b.tar")
    assert codes(source.read(second)) == [("", "shard_unreadable")]


def test_too_many_prompts_beside_an_image_are_one_malformed_one(tmp_path):
    members = [
        ("a.png", b"a"),
        ("a.prompts.jsonl", b"0\n" * 2_000_000),
        ("b.png", b"b"),
        ("b.prompts.jsonl", lines(BOX)),
    ]
    first, second = read(tmp_path, tar(members))
    (raw,) = first.prompts
    assert raw.where == f"{tmp_path}/a.tar#a.prompts.jsonl"
    assert "more than 100000" in raw.fault
    assert [raw.content for raw in second.prompts] == [BOX]


def test_prompts_of_an_image_in_many_members_count_together(tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "MAX_PROMPTS", 4)
    beside = [
        ("a.prompts.jsonl", lines(BOX, BOX)),
        ("a.prompts.json", b"[{}, {}, {}]"),
        ("a.PROMPTS.jsonl", lines(BOX)),
    ]
    (found,) = read(tmp_path, tar([("a.png", b"a"), *beside]))
    assert [bool(raw.fault) for raw in found.prompts] == [False, False, True, False]


def test_prompts_of_too_many_bytes_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "MAX_BYTES", 60)
    (found,) = read(tmp_path, tar([("a.png", b"a" * 200), ("a.prompts.jsonl", lines(BOX, BOX, BOX))]))
    assert found.error is None
    (raw,) = found.prompts
    assert "may have 60;" in raw.fault
