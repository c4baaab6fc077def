import base64
import csv
import gzip
import io
import json
import os
import socket

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage, storage_faults
from pipeline.config import InputConfig
from pipeline.errors import BadInputError, ConfigurationError, TransientError
from pipeline.ids import image_id
from pipeline.sources import Shard, make_source, manifest
from pipeline.sources.references import resolve
from support.corpora import BOX, codes, lines, read_rows, reading_config, samples

SCHEMES = InputConfig.model_fields["schemes"].default


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage_faults, "_sleep", lambda seconds: None)


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def read_jsonl(tmp_path, data, **sections):
    (tmp_path / "m.jsonl").write_bytes(data)
    return samples(reading_config("manifest", tmp_path / "m.jsonl", **sections))


def read_parquet(tmp_path, table, row_group_size=None, **sections):
    pq.write_table(table, tmp_path / "m.parquet", row_group_size=row_group_size)
    return samples(reading_config("manifest", tmp_path / "m.parquet", **sections))


# --- references ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("manifest", "reference", "target"),
    [
        ("/data/m.jsonl", "a.jpg", "/data/a.jpg"),
        ("/data/lists/m.jsonl", "../images/a.jpg", "/data/images/a.jpg"),
        ("/data/m.jsonl", "/other/a.jpg", "/other/a.jpg"),
        ("/data/m.jsonl", "file:///other/a.jpg", "/other/a.jpg"),
        ("/data/m.jsonl", "s3://b/a.jpg", "s3://b/a.jpg"),
        ("s3://b/lists/m.jsonl", "a b#.jpg", "s3://b/lists/a b#.jpg"),
        ("s3://b/lists/m.jsonl", "../images/a.jpg", "s3://b/images/a.jpg"),
        ("s3://b/lists/m.jsonl", "s3://other/a.jpg", "s3://other/a.jpg"),
        ("https://h/m.jsonl?sig=1", "a.jpg", "https://h/a.jpg"),
    ],
)
def test_references(manifest, reference, target):
    assert resolve(manifest, reference, SCHEMES) == target


@pytest.mark.parametrize(
    ("manifest", "reference"),
    [
        ("s3://b/lists/m.jsonl", "/etc/hostname"),
        ("s3://b/lists/m.jsonl", "file:///etc/hostname"),
        ("s3://b/lists/m.jsonl", "../../other/a.jpg"),
        ("s3://b/m.jsonl", ".."),
        ("/data/m.jsonl", "zip://a.jpg::/data/x.zip"),
        ("/data/m.jsonl", "simplecache::s3://b/a.jpg"),
        ("/data/m.jsonl", "https://h/a::file:///etc/hostname"),
        ("/data/m.jsonl", "python://os"),
        ("/data/m.jsonl", ""),
        ("/data/m.jsonl", "a\0.jpg"),
        ("/data/m.jsonl", "a\ud800.jpg"),
        ("/data/m.jsonl", "a\n.jpg"),
        ("/data/m.jsonl", "FILE:///etc/hostname"),
        ("https://h/m.jsonl", "../../../etc/hostname/../../.."),
    ],
)
def test_references_that_are_refused(manifest, reference):
    with pytest.raises(BadInputError) as caught:
        resolve(manifest, reference, SCHEMES)
    assert caught.value.code == "image_missing"


@pytest.mark.parametrize("scheme", ["http", "https", "ftp", "gopher"])
def test_schemes_are_those_of_the_configuration(scheme):
    with pytest.raises(BadInputError, match=r"not in input\.schemes .* add it there if you trust"):
        resolve("/data/m.jsonl", f"{scheme}://169.254.169.254/latest", SCHEMES)
    assert resolve("/data/m.jsonl", f"{scheme}://h/a.jpg", [scheme]) == f"{scheme}://h/a.jpg"
    with pytest.raises(BadInputError, match=r"not in input\.schemes"):
        resolve("/data/m.jsonl", "s3://b/a.jpg", [scheme])


def test_no_request_leaves_for_a_host_that_is_not_allowed(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.jpg"
        (found,) = read_jsonl(tmp_path, lines({"image": url, "prompts": [{"mask": url}]}))
        with pytest.raises(BadInputError, match=r"input\.schemes"):
            found.load_mask(url)
        with pytest.raises(TimeoutError):
            server.accept()
    assert codes([found]) == [(url, "image_missing")]
    assert "input.schemes" in str(found.error)
    assert len(found.prompts) == 1


# --- JSONL -----------------------------------------------------------------------------------------------------------


def test_rows(tmp_path):
    put(tmp_path, "a.jpg", "sub/b.jpg", "m.png")
    first, second, third = read_jsonl(
        tmp_path,
        b"\xef\xbb\xbf"
        + lines(
            {"image": "a.jpg", "prompts": [BOX, {"mask": "m.png"}], "caption": "left alone"},
            {"image": f"{tmp_path}/sub/b.jpg", "key": 17, "prompts": json.dumps([BOX])},
        )
        + b"\r\n"
        + lines({"image": "sub/b.jpg", "prompts": None}),
    )
    assert (first.key, first.data, first.uri) == ("a.jpg", b"a.jpg", f"{tmp_path}/a.jpg")
    assert first.image_id == image_id("m.jsonl", "a.jpg")
    assert [raw.content for raw in first.prompts] == [BOX, {"mask": "m.png"}]
    assert first.prompts[1].where == f"{tmp_path}/m.jsonl line 1 prompt 2"
    assert first.load_mask("m.png") == b"m.png"
    assert (second.key, second.data, len(second.prompts)) == ("17", b"sub/b.jpg", 1)
    assert (third.key, third.prompts) == ("sub/b.jpg", [])
    for name in ("nowhere.png", "zip://a::b", ""):
        with pytest.raises(BadInputError) as caught:
            first.load_mask(name)
        assert caught.value.code == "prompt_malformed"


def test_bad_rows_name_file_and_line(tmp_path):
    put(tmp_path, "a.jpg")
    found = read_jsonl(
        tmp_path,
        lines({"image": "a.jpg"})
        + b"\n{not json\n[1]\n"
        + lines(
            {"img": "a.jpg", "prompts": [BOX]}, {"image": 7}, {"image": "gone.jpg", "prompts": 5}, {"image": "x://a"}
        )
        + b'{"image": "\xff.jpg"}\n'
        + b"[" * 100_000,
    )
    assert [code for _, code in codes(found)] == [None] + ["image_missing"] * 8
    for sample, line in zip(found[1:], range(3, 11), strict=True):
        assert str(sample.error).startswith(f"{tmp_path}/m.jsonl line {line}: ")
    assert len({sample.image_id for sample in found}) == len(found)
    assert len(found[3].prompts) == 1  # no prompt is lost
    assert "expected a list" in found[5].prompts[0].fault


def test_signed_urls_stay_out_of_keys_and_messages(tmp_path):
    (found,) = read_jsonl(tmp_path, lines({"image": "x3://me:pw@host/a.jpg?X-Amz-Signature=SECRET", "prompts": [BOX]}))
    assert found.key == found.uri == "x3://host/a.jpg"
    assert "SECRET" not in str(found)
    assert "pw" not in str(found)


def test_shards_are_ranges_of_rows(tmp_path):
    names = [f"{n}.jpg" for n in range(10)]
    put(tmp_path, *names)
    (tmp_path / "m.jsonl").write_bytes(b"\n".join(lines({"image": name}) for name in names))
    config = reading_config("manifest", tmp_path / "m.jsonl", input={"images_per_shard": 4})
    shards = make_source(config).shards()
    assert [shard.name for shard in shards] == ["m.jsonl#000000000", "m.jsonl#000000004", "m.jsonl#000000008"]
    assert [[sample.key for sample in make_source(config).read(shard)] for shard in shards] == [
        names[:4],
        names[4:8],
        names[8:],
    ]
    json.dumps([shard.spec for shard in shards])


def test_ids_depend_on_keys_not_on_rows(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    one = read_jsonl(tmp_path, lines({"image": "a.jpg"}, {"image": "b.jpg"}))
    two = read_jsonl(
        tmp_path, lines({"image": "c.jpg"}, {"image": "b.jpg"}, {"image": "a.jpg"}), input={"images_per_shard": 1}
    )
    assert {s.key: s.image_id for s in one}.items() <= {s.key: s.image_id for s in two}.items()


def test_rows_may_share_a_key(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    rows = lines(*[{"image": name, "prompts": [BOX]} for name in ("a.jpg", "b.jpg", "a.jpg", "a.jpg")])
    found = read_jsonl(tmp_path, rows, input={"images_per_shard": 2})
    assert codes(found) == [("a.jpg", None), ("b.jpg", None), ("a.jpg", None), ("a.jpg", None)]
    assert [sample.image_id for sample in found if sample.key == "a.jpg"] == [
        image_id("m.jsonl", "a.jpg", occurrence) for occurrence in range(3)
    ]
    # ... but then a prompt file would give each of them all its prompts.
    found = read_jsonl(tmp_path, rows, input={"images_per_shard": 2}, prompts={"kind": "jsonl", "path": "unread"})
    assert codes(found) == [
        ("a.jpg", None),
        ("b.jpg", None),
        ("a.jpg", "duplicate_key"),
        ("a.jpg", "duplicate_key"),
    ]
    assert [sample.prompts for sample in found] == [None, None, (), ()]


def test_a_manifest_that_shrank_is_an_unreadable_shard(tmp_path):
    put(tmp_path, "a.jpg")
    (tmp_path / "m.jsonl").write_bytes(lines(*[{"image": "a.jpg", "key": n} for n in range(4)]))
    source = make_source(reading_config("manifest", tmp_path / "m.jsonl"))
    (shard,) = source.shards()
    (tmp_path / "m.jsonl").write_bytes(lines({"image": "a.jpg", "key": 0}))
    assert codes(source.read(shard)) == [("0", None), ("", "shard_unreadable")]
    (tmp_path / "m.jsonl").unlink()
    assert codes(source.read(shard)) == [("", "shard_unreadable")]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no rows"),
        (b"\n\n", "no rows"),
        (b"image,prompts\na.jpg,\n", "line 1 is not valid JSON"),
        (lines({"x": 1}), "names no image"),
    ],
)
def test_files_that_are_no_manifest(tmp_path, data, words):
    with pytest.raises(ConfigurationError, match=words):
        read_jsonl(tmp_path, data)


def test_an_image_that_the_store_fails_to_hand_out_keeps_key_and_prompts(tmp_path, monkeypatch):
    put(tmp_path, "a.jpg", "b.jpg")

    def failing(uri, **_):
        raise TransientError("timeout")

    monkeypatch.setattr(storage, "read_bytes", failing)
    found = read_jsonl(tmp_path, lines({"image": "a.jpg", "prompts": [BOX]}, {"image": "b.jpg"}))
    assert codes(found) == [("a.jpg", "transient"), ("b.jpg", "transient")]
    assert [(sample.prompts_known, len(sample.prompts)) for sample in found] == [(True, 1), (True, 0)]


def test_images_of_more_bytes_than_allowed(tmp_path):
    put(tmp_path, "a.jpg", "longer.jpg")
    found = read_jsonl(tmp_path, lines({"image": "a.jpg"}, {"image": "longer.jpg"}), input={"max_bytes": 5})
    assert codes(found) == [("a.jpg", None), ("longer.jpg", "image_too_large")]
    found = read_parquet(tmp_path, pa.table({"image": [b"12345", b"123456"]}), input={"max_bytes": 5})
    assert codes(found) == [("row-0", None), ("row-1", "image_too_large")]


# --- CSV and gzip ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.csv.gz", "m.TSV.GZ"])
def test_csv_rows_are_those_of_json_lines(tmp_path, name):
    names = [f"{n}.jpg" for n in range(10)]
    put(tmp_path, *names)
    rows = [
        {"image": image, "key": f'k "{n}"', "prompts": [BOX, {"mask": {"png": "x"}}]} for n, image in enumerate(names)
    ]
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t" if "tsv" in name.lower() else ",")
    writer.writerow(["prompts", "caption", "image", "key"])
    writer.writerows([json.dumps(r["prompts"], indent=1), "a\r\nb", r["image"], r["key"]] for r in rows)
    data = b"\xef\xbb\xbf" + file.getvalue().encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.lower().endswith("gz") else data)
    config = reading_config("manifest", tmp_path, input={"images_per_shard": 4})
    source = make_source(config)
    shards = [Shard(shard.name, json.loads(json.dumps(shard.spec))) for shard in source.shards()]
    assert [shard.name for shard in shards] == [f"{name}#{n:09d}" for n in (0, 4, 8)]
    found = [sample for shard in reversed(shards) for sample in source.read(shard)]
    assert {(s.key, s.data) for s in found} == {(r["key"], r["image"].encode()) for r in rows}
    assert all([raw.content for raw in sample.prompts] == [BOX, {"mask": {"png": "x"}}] for sample in found)
    assert len({sample.image_id for sample in found}) == 10
    lines_per_row = json.dumps(rows[0]["prompts"], indent=1).count("\n") + 2
    assert found[0].prompts[0].where == f"{tmp_path}/{name} line {2 + 8 * lines_per_row} prompt 1"


def test_gzipped_json_lines(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    rows = lines({"image": "a.jpg"}, {"image": "b.jpg"})
    (tmp_path / "m.jsonl.gz").write_bytes(gzip.compress(rows))
    source = make_source(reading_config("manifest", tmp_path / "m.jsonl.gz", input={"images_per_shard": 1}))
    shards = source.shards()
    assert [codes(source.read(shard)) for shard in shards] == [[("a.jpg", None)], [("b.jpg", None)]]
    (tmp_path / "m.jsonl.gz").write_bytes(gzip.compress(rows)[:-20])
    assert codes(source.read(shards[1])) == [("", "shard_unreadable")]
    with pytest.raises(ConfigurationError, match=r"can't use the manifest .*m\.jsonl\.gz"):
        source.shards()


def test_csv_files_that_are_no_manifest(tmp_path):
    for data, words in (
        (b"url\na.jpg\n", "one column image; its first line has url"),
        (b'image\n"a.jpg\n', "line 2 are never closed"),
    ):
        (tmp_path / "m.csv").write_bytes(data)
        with pytest.raises(ConfigurationError, match=words):
            samples(reading_config("manifest", tmp_path / "m.csv"))


# --- fingerprints ----------------------------------------------------------------------------------------------------


def fingerprints(path, size=2):
    shards = make_source(reading_config("manifest", path, input={"images_per_shard": size})).shards()
    return [shard.fingerprint for shard in shards]


def test_rows_that_are_appended_or_changed_change_only_their_shards(tmp_path):
    rows = [{"image": f"{n}.jpg", "prompts": [BOX]} for n in range(6)]
    (tmp_path / "m.jsonl").write_bytes(lines(*rows))
    before = fingerprints(tmp_path / "m.jsonl")
    assert len(set(before)) == 3
    (tmp_path / "m.jsonl").write_bytes(lines(*rows, {"image": "x.jpg"}))
    assert fingerprints(tmp_path / "m.jsonl")[:3] == before
    rows[2]["prompts"] = []
    (tmp_path / "m.jsonl").write_bytes(lines(*rows))
    after = fingerprints(tmp_path / "m.jsonl")
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    # A key that an earlier row now has, too, makes a later one another image.
    rows[0]["key"] = "5.jpg"
    (tmp_path / "m.jsonl").write_bytes(lines(*rows))
    assert [a == b for a, b in zip(after, fingerprints(tmp_path / "m.jsonl"), strict=True)] == [False, True, False]


def test_a_parquet_file_that_is_written_again_changes_all_its_shards(tmp_path):
    def write(*images):
        pq.write_table(pa.table({"image": images}), tmp_path / "m.parquet")
        return fingerprints(tmp_path / "m.parquet")

    before = write("a.jpg", "b.jpg", "c.jpg")
    assert fingerprints(tmp_path / "m.parquet") == before
    assert set(write("a.jpg", "b.jpg", "dd.jpg")).isdisjoint(before)


# --- Parquet ---------------------------------------------------------------------------------------------------------


def test_parquet_rows_of_uris(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    prompts = [[{"box": [1, 2, 3, 4], "points": None}], [{"box": None, "points": [[1.0, 2.0]]}], None]
    table = pa.table({"image": ["a.jpg", "b.jpg", None], "prompts": prompts, "caption": ["x", "y", "z"]})
    found = read_parquet(tmp_path, table, row_group_size=2, input={"images_per_shard": 2})
    assert codes(found) == [("a.jpg", None), ("b.jpg", None), ("row-2", "image_missing")]
    assert [[raw.content for raw in sample.prompts] for sample in found] == [
        [{"box": [1, 2, 3, 4]}],
        [{"points": [[1.0, 2.0]]}],
        [],
    ]
    assert found[0].image_id == image_id("m.parquet", "a.jpg")
    dictionary = table.set_column(0, "image", table["image"].dictionary_encode())
    assert codes(read_parquet(tmp_path, dictionary)) == codes(found)


def test_parquet_rows_of_bytes(tmp_path):
    plain = pa.table({"image": [b"1", b"2", b"", None], "key": ["a", "b", "c", "d"]})
    found = read_parquet(tmp_path, plain)
    assert codes(found) == [("a", None), ("b", None), ("c", "image_missing"), ("d", "image_missing")]
    assert [sample.data for sample in found] == [b"1", b"2", None, None]
    assert found[1].uri == f"{tmp_path}/m.parquet row 1"
    put(tmp_path, "x/3.jpg")
    rows = [{"bytes": b"1", "path": "x/1.jpg"}, {"bytes": b"2", "path": None}, {"bytes": None, "path": "x/3.jpg"}]
    found = read_parquet(tmp_path, pa.table({"image": rows}))
    assert [(sample.key, sample.data) for sample in found] == [
        ("x/1.jpg", b"1"),
        ("row-1", b"2"),
        ("x/3.jpg", b"x/3.jpg"),
    ]


def test_parquet_prompts_in_json_and_bytes(tmp_path):
    mask = base64.b64encode(b"png").decode()
    table = pa.table(
        {"image": [b"1", b"2"], "key": ["a", "b"], "prompts": [json.dumps([BOX, {"mask": {"png": mask}}]), "[broken"]}
    )
    first, second = read_parquet(tmp_path, table)
    assert [raw.content for raw in first.prompts] == [BOX, {"mask": {"png": mask}}]
    assert "not valid JSON" in second.prompts[0].fault
    table = pa.table({"image": [b"1"], "key": ["a"], "prompts": [[{"mask": {"png": b"png"}}]]})
    (sample,) = read_parquet(tmp_path, table)
    assert sample.prompts[0].content == {"mask": {"png": b"png"}}


def test_parquet_shards_are_row_groups_where_rows_hold_bytes(tmp_path):
    table = pa.table({"image": [bytes([n]) for n in range(10)], "key": [str(n) for n in range(10)]})
    pq.write_table(table, tmp_path / "m.parquet", row_group_size=4)
    source = make_source(reading_config("manifest", tmp_path / "m.parquet", input={"images_per_shard": 3}))
    shards = source.shards()
    assert [shard.name for shard in shards] == ["m.parquet#000000000", "m.parquet#000000004", "m.parquet#000000008"]
    found = [[sample.data[0] for sample in source.read(shard)] for shard in shards]
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_parquet_shards_of_uris_may_cut_row_groups(tmp_path):
    names = [f"{n}.jpg" for n in range(10)]
    put(tmp_path, *names)
    pq.write_table(pa.table({"image": names}), tmp_path / "m.parquet", row_group_size=4)
    source = make_source(reading_config("manifest", tmp_path / "m.parquet", input={"images_per_shard": 3}))
    found = [[sample.key for sample in source.read(shard)] for shard in source.shards()]
    assert found == [names[0:3], names[3:6], names[6:9], names[9:]]


def test_files_that_are_no_parquet_manifest(tmp_path):
    (tmp_path / "m.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(ConfigurationError, match=r"m\.parquet"):
        samples(reading_config("manifest", tmp_path / "m.parquet"))
    with pytest.raises(ConfigurationError, match="no column image, but url"):
        read_parquet(tmp_path, pa.table({"url": ["a.jpg"]}))
    with pytest.raises(ConfigurationError, match="no rows"):
        read_parquet(tmp_path, pa.table({"image": pa.array([], pa.string())}))
    (tmp_path / "m.data").write_bytes(b"image\na.jpg\n")
    with pytest.raises(ConfigurationError, match="not valid JSON"):
        samples(reading_config("manifest", tmp_path / "m.data"))


def test_damaged_parquet_is_an_unreadable_shard(tmp_path):
    table = pa.table({"image": [bytes(1000), bytes(1000)], "key": ["a", "b"]})
    pq.write_table(table, tmp_path / "m.parquet", compression="none", use_dictionary=False)
    source = make_source(reading_config("manifest", tmp_path / "m.parquet"))
    (shard,) = source.shards()
    (tmp_path / "m.parquet").write_bytes(b"PAR1" + b"\xff" * 5000)
    assert codes(source.read(shard)) == [("", "shard_unreadable")]


def test_a_store_that_fails_midway_ends_the_shard_for_now(tmp_path, monkeypatch):
    table = pa.table({"image": [os.urandom(100_000) for _ in range(100)], "key": [str(n) for n in range(100)]})
    pq.write_table(table, tmp_path / "m.parquet", row_group_size=20, compression="none", use_dictionary=False)
    source = make_source(reading_config("manifest", tmp_path / "m.parquet"))
    shards = source.shards()
    opened = storage.open_stream

    def failing(uri, **options):
        stream = opened(uri, **options)
        read = stream.raw.readinto

        def readinto(buffer):
            if 4_200_000 < stream.raw.tell() < 9_000_000:
                raise TransientError("timeout")
            return read(buffer)

        stream.raw.readinto = readinto
        return stream

    monkeypatch.setattr(manifest, "open_stream", failing)
    found = [list(source.read(shard)) for shard in shards]
    assert [len(samples) for samples in found[:2]] == [20, 20]
    assert codes(found[2]) == [("", "transient")]
    assert "timeout" in str(found[2][0].error)


def test_large_manifests_are_planned_in_bounded_memory(tmp_path):
    import tracemalloc

    padding = "x" * 2000
    with (tmp_path / "m.jsonl").open("w") as file:
        file.writelines(json.dumps({"image": f"{n}.jpg", "caption": padding}) + "\n" for n in range(10_000))
    source = make_source(reading_config("manifest", tmp_path / "m.jsonl"))
    tracemalloc.start()
    shards = source.shards()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(shards) == 157
    assert peak < 8_000_000  # of 21 MB


def test_s3(s3_server):
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="manifest-tests")
    rows = lines(
        {"image": "../images/a.jpg", "prompts": [BOX]},
        {"image": "s3://manifest-tests/images/b.jpg"},
        {"image": "/etc/hostname"},
    )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": ["../images/a.jpg"] * 3, "key": ["x", "y", "z"]}), sink)
    files = {"lists/m.jsonl": rows, "lists/m.parquet": sink.getvalue().to_pybytes(), "images/a.jpg": b"1"}
    for name, data in files.items():
        client.put_object(Bucket="manifest-tests", Key=name, Body=data)
    found = samples(reading_config("manifest", "s3://manifest-tests/lists/m.jsonl"))
    assert [code for _, code in codes(found)] == [None, "image_missing", "image_missing"]
    assert (found[0].data, found[0].uri) == (b"1", "s3://manifest-tests/images/a.jpg")
    assert found[0].etag == client.head_object(Bucket="manifest-tests", Key="images/a.jpg")["ETag"].strip('"')
    found = samples(reading_config("manifest", "s3://manifest-tests/lists/*.parquet"))
    assert [(sample.key, sample.data) for sample in found] == [("x", b"1"), ("y", b"1"), ("z", b"1")]


def test_urls_that_can_not_be_used_cost_their_row(tmp_path):
    urls = [
        "s3://",
        "https://",
        "http://[::1",
        "gs://bucket/a.jpg",
        "az://box/a.jpg",
        "s3://AKIAKEY:SECRETKEY@bucket/x",
    ]
    (tmp_path / "m.jsonl").write_bytes(lines(*({"image": url} for url in urls)))
    schemes = {"schemes": ["s3", "gs", "az", "http", "https"]}
    rows = read_rows(reading_config("manifest", tmp_path / "m.jsonl", input=schemes))
    prompts = [prompt for row in rows for prompt in row["prompts"] or []]
    assert [prompt["error_code"] for prompt in prompts] == ["image_unreadable"] * 6
    words = ["not a usable", "not a usable", "not a usable", "gcsfs", "adlfs", "environment"]
    assert all(word in prompt["error_message"] for word, prompt in zip(words, prompts, strict=True))
    assert "SECRETKEY" not in repr(rows)


def test_too_many_prompts_in_a_cell_of_parquet_are_one_malformed_one(tmp_path):
    kind = pa.list_(pa.struct([("box", pa.list_(pa.int64()))]))
    flat = pa.StructArray.from_arrays([pa.nulls(2_000_000, pa.list_(pa.int64()))], ["box"])
    many = pa.ListArray.from_arrays(pa.array([0, 2_000_000]), flat)
    cells = pa.chunked_array([many, pa.array([[BOX], None], kind)])
    put(tmp_path, "a.png", "b.png", "c.png")
    first, second, third = read_parquet(tmp_path, pa.table({"image": ["a.png", "b.png", "c.png"], "prompts": cells}))
    (raw,) = first.prompts
    assert "more than 100000" in raw.fault
    assert [raw.content for raw in second.prompts] == [BOX]
    assert (second.key, second.data, list(third.prompts)) == ("b.png", b"b.png", [])
