import json
import os

import boto3
import pytest

from pipeline import storage, storage_faults
from pipeline.errors import BadInputError, ConfigurationError, TransientError
from pipeline.ids import image_id
from pipeline.prompt_formats import label_files
from pipeline.sources import make_source
from pipeline.sources.base import Shard
from support.corpora import BOX, codes, image, lines, reading_config, samples


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage_faults, "_sleep", lambda seconds: None)


def put(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def test_images_and_what_stands_beside_them(tmp_path):
    jpeg = image("JPEG")
    put(
        tmp_path,
        {
            "z.JPG": jpeg,
            "z.prompts.jsonl": lines(BOX, {"mask": "z.mask.png"}),
            "z.mask.png": b"mask of z",
            "cats/a.v2.png": b"a",
            "cats/a.v2.prompts.json": b'[{"box": [1, 2, 3, 4]}]',
            "cats/masks/m.png": b"mask of a",
            "notes.txt": b"",
            ".hidden/x.jpg": b"",
            "cats/._a.jpg": b"",
        },
    )
    first, second = samples(reading_config("folder", tmp_path))
    assert (first.key, second.key) == ("cats/a.v2.png", "z.JPG")
    assert (first.data, second.data) == (b"a", jpeg)
    assert second.uri == f"{tmp_path}/z.JPG"
    assert second.image_id == image_id("", "z.JPG")
    assert [raw.content for raw in first.prompts] == [{"box": [1, 2, 3, 4]}]
    assert second.prompts[0].where == f"{tmp_path}/z.prompts.jsonl line 1"
    assert second.load_mask("z.mask.png") == b"mask of z"
    assert first.load_mask("masks/m.png") == b"mask of a"
    assert first.load_mask("../z.mask.png") == b"mask of z"


@pytest.mark.parametrize(
    "name",
    [
        "../out.png",
        "a/../../out.png",
        "/etc/hostname",
        "file:///etc/hostname",
        "s3://b/k.png",
        "..\\out.png",
        "",
        ".",
        "a\0.png",
        "\ud800",
        "link.png",
        "linked/out.png",
        "nowhere.png",
        "https://me:pw@h/m.png?sig=SECRET",
    ],
)
def test_masks_come_from_below_the_folder_only(tmp_path, name):
    put(tmp_path, {"in/a.jpg": b"1", "out.png": b"secret"})
    (tmp_path / "in/link.png").symlink_to(tmp_path / "out.png")
    (tmp_path / "in/linked").symlink_to(tmp_path)
    found = samples(reading_config("folder", tmp_path / "in"))
    sample = next(sample for sample in found if sample.key == "a.jpg")
    with pytest.raises(BadInputError) as caught:
        sample.load_mask(name)
    assert caught.value.code == "prompt_malformed"
    assert "SECRET" not in str(caught.value)


def test_prompts_without_image_and_two_images_of_one_stem(tmp_path):
    put(tmp_path, {"gone.prompts.jsonl": lines(BOX), "a.jpg": b"1", "a.png": b"2", "a.prompts.jsonl": lines(BOX, BOX)})
    found = samples(reading_config("folder", tmp_path))
    assert codes(found) == [("a.jpg", None), ("a.png", "duplicate_key"), ("gone", "image_missing")]
    assert [len(sample.prompts) for sample in found] == [2, 0, 1]
    (tmp_path / "a.prompts.jsonl").unlink()
    assert codes(samples(reading_config("folder", tmp_path)))[:2] == [("a.jpg", None), ("a.png", None)]


def test_prompt_files_of_their_own_leave_those_in_the_folder_alone(tmp_path):
    put(tmp_path, {"in/a.jpg": b"1", "in/a.png": b"2", "in/a.prompts.jsonl": lines(BOX), "in/b.prompts.jsonl": b""})
    config = reading_config("folder", tmp_path / "in", prompts={"kind": "jsonl", "path": "unread"})
    found = samples(config)
    assert codes(found) == [("a.jpg", None), ("a.png", None)]
    assert [sample.prompts for sample in found] == [None, None]


def test_faults_of_one_file_stay_with_it(tmp_path, monkeypatch):
    put(tmp_path, {f"{n}.jpg": b"1" for n in range(5)})
    put(tmp_path, {"1.prompts.jsonl": lines(BOX)})
    source = make_source(reading_config("folder", tmp_path, input={"images_per_shard": 1000}))
    shards = source.shards()
    (tmp_path / "0.jpg").unlink()
    read = storage.read_bytes

    def faulty(uri, **options):
        if uri.endswith("1.prompts.jsonl"):
            raise storage.RefusedError("no permission")
        if uri.endswith("2.jpg"):
            raise storage.RefusedError("no permission")
        if uri.endswith("3.jpg"):
            raise TransientError("timeout")
        return read(uri, **options)

    monkeypatch.setattr(storage, "read_bytes", faulty)
    found = [sample for shard in shards for sample in source.read(shard)]
    assert all(sample.prompts_known for sample in found)
    assert codes(found) == [
        ("0.jpg", "image_missing"),
        ("1.jpg", None),
        ("2.jpg", "image_unreadable"),
        ("3.jpg", "transient"),
        ("4.jpg", None),
    ]
    assert found[1].prompts[0].fault == "no permission"


def test_prompts_and_masks_that_the_store_fails_to_hand_out_are_no_faults_of_theirs(tmp_path, monkeypatch):
    put(tmp_path, {"a.jpg": b"1", "a.prompts.jsonl": lines(BOX), "b.jpg": b"2", "masks/m.png": b"m"})
    source = make_source(reading_config("folder", tmp_path))
    (shard,) = source.shards()
    read = storage.read_bytes

    def faulty(uri, **options):
        if uri.endswith((".jsonl", ".png")):
            raise TransientError("timeout")
        return read(uri, **options)

    monkeypatch.setattr(storage, "read_bytes", faulty)
    first, second = source.read(shard)
    assert codes([first, second]) == [("a.jpg", "transient"), ("b.jpg", None)]
    assert (first.prompts_known, second.prompts_known) == (False, True)
    with pytest.raises(TransientError):
        second.load_mask("masks/m.png")


def test_wrong_credentials_stop_the_job(tmp_path, monkeypatch):
    put(tmp_path, {"a.jpg": b"1"})
    source = make_source(reading_config("folder", tmp_path))
    (shard,) = source.shards()

    def expired(uri, **options):
        raise ConfigurationError("expired")

    monkeypatch.setattr(storage, "read_bytes", expired)
    with pytest.raises(ConfigurationError, match="expired"):
        list(source.read(shard))


def test_huge_files_are_not_read(tmp_path):
    put(tmp_path, {"a.jpg": b"1" * (2**20 + 100), "b.jpg": b"1" * 2**20})
    found = samples(reading_config("folder", tmp_path, input={"max_pixels": 10}))
    assert codes(found) == [("a.jpg", "image_too_large"), ("b.jpg", None)]


def test_images_of_more_bytes_than_allowed_are_not_read(tmp_path, monkeypatch):
    put(tmp_path, {"a.jpg": b"123456", "b.jpg": b"12345"})
    read = storage.read_bytes

    def watched(uri, **options):
        assert not uri.endswith("a.jpg")
        return read(uri, **options)

    monkeypatch.setattr(storage, "read_bytes", watched)
    found = samples(reading_config("folder", tmp_path, input={"max_bytes": 5}))
    assert codes(found) == [("a.jpg", "image_too_large"), ("b.jpg", None)]
    assert "input.max_bytes" in str(found[0].error)


def test_control_characters_in_names_become_escapes(tmp_path):
    put(tmp_path, {"a\n\x1b[2J.jpg": b"1"})
    (found,) = samples(reading_config("folder", tmp_path))
    assert (found.key, found.data) == ("a\\x0a\\x1b[2J.jpg", b"1")
    assert found.uri == f"{tmp_path}/{found.key}"


# --- shards ----------------------------------------------------------------------------------------------------------


def shards_of(folder, size=4):
    shards = make_source(reading_config("folder", folder, input={"images_per_shard": size})).shards()
    return {shard.name: [item["path"] for item in shard.spec["items"]] for shard in shards}


def test_shards_hold_every_image_once_in_order_and_about_as_many_as_configured(tmp_path):
    put(tmp_path, {f"{n:04}.jpg": b"1" for n in range(400)})
    shards = shards_of(tmp_path)
    assert [path for paths in shards.values() for path in paths] == [f"{n:04}.jpg" for n in range(400)]
    assert 60 <= len(shards) <= 140
    assert shards == shards_of(tmp_path)
    assert len(shards_of(tmp_path, size=1)) == 400
    assert [len(paths) for paths in shards_of(tmp_path, size=10**6).values()] == [400]


def test_a_changed_folder_changes_only_the_shards_it_was_changed_in(tmp_path):
    put(tmp_path, {f"{n:04}.jpg": b"1" for n in range(100)})
    before = shards_of(tmp_path)
    put(tmp_path, {"0000a.jpg": b"1", "0050a.jpg": b"1"})
    after = shards_of(tmp_path)
    unchanged = [name for name in before if after.get(name) == before[name]]
    assert len(unchanged) >= len(before) - 2
    assert all(set(before[name]) <= set(after[name]) or name not in unchanged for name in before if name in after)


def test_ids_do_not_depend_on_shards_or_place(tmp_path):
    put(tmp_path / "one", {f"{n}.jpg": b"1" for n in range(10)})
    put(tmp_path / "two", {f"{n}.jpg": b"1" for n in range(10)})
    ids = [
        {
            sample.key: sample.image_id
            for sample in samples(reading_config("folder", path, input={"images_per_shard": n}))
        }
        for path, n in ((tmp_path / "one", 2), (tmp_path / "one", 50), (tmp_path / "two", 3))
    ]
    assert ids[0] == ids[1] == ids[2]


def test_several_folders(tmp_path):
    put(tmp_path, {"x/a.jpg": b"1", "y/a.jpg": b"2", "z/x/a.jpg": b"3"})
    found = samples(reading_config("folder", [f"{tmp_path}/x", f"{tmp_path}/y/"]))
    assert [(sample.key, sample.data) for sample in found] == [("a.jpg", b"1"), ("a.jpg", b"2")]
    assert found[0].image_id != found[1].image_id
    shards = make_source(reading_config("folder", [f"{tmp_path}/x", f"{tmp_path}/z/x"])).shards()
    assert len({shard.name for shard in shards}) == 2


def test_specs_are_plain_json_also_for_odd_names(tmp_path):
    odd = [b"caf\xe9.jpg", "ü b%20#?.jpg".encode(), b"a::b.jpg", b"[x].jpg"]
    for name in odd:
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:  # noqa: PTH123
            file.write(name)
    source = make_source(reading_config("folder", tmp_path))
    shards = [Shard(shard.name, json.loads(json.dumps(shard.spec))) for shard in source.shards()]
    found = [sample for shard in shards for sample in source.read(shard)]
    assert sorted(sample.data for sample in found) == sorted(odd)
    for sample in found:
        (sample.key + sample.uri + sample.path).encode()


@pytest.mark.parametrize("path", ["nowhere", "empty"])
def test_nothing_to_read_is_a_fault_of_the_configuration(tmp_path, path):
    put(tmp_path, {"empty/notes.txt": b"", "empty/a.mask.png": b""})
    with pytest.raises(ConfigurationError, match=r"no images|nowhere does not exist"):
        make_source(reading_config("folder", tmp_path / path)).shards()


def test_links_to_images_are_images(tmp_path):
    put(tmp_path, {"real/a.jpg": b"1", "in/b.jpg": b"2"})
    (tmp_path / "in/a.jpg").symlink_to(tmp_path / "real/a.jpg")
    (tmp_path / "in/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    found = samples(reading_config("folder", tmp_path / "in"))
    assert codes(found) == [("a.jpg", None), ("b.jpg", None), ("gone.jpg", "image_missing")]


def test_s3(s3_server):
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="folder-tests")
    files = {"a.jpg": b"1", "a.prompts.jsonl": lines(BOX), "sub/b.png": b"2", "sub/b.mask.png": b"3"}
    for name, data in files.items():
        client.put_object(Bucket="folder-tests", Key=f"in/{name}", Body=data)
    client.put_object(Bucket="folder-tests", Key="in/sub/", Body=b"")  # what consoles make for folders
    client.put_object(Bucket="folder-tests", Key="out.png", Body=b"secret")
    first, second = samples(reading_config("folder", "s3://folder-tests/in"))
    assert (first.key, first.data, first.uri) == ("a.jpg", b"1", "s3://folder-tests/in/a.jpg")
    assert first.etag == client.head_object(Bucket="folder-tests", Key="in/a.jpg")["ETag"].strip('"')
    assert len(first.prompts) == 1
    assert (second.key, second.data) == ("sub/b.png", b"2")
    assert second.load_mask("b.mask.png") == b"3"
    with pytest.raises(BadInputError):
        second.load_mask("../../out.png")
    with pytest.raises(ConfigurationError, match="does not exist"):
        make_source(reading_config("folder", "s3://folder-tests/nothing")).shards()
    with pytest.raises(ConfigurationError, match="does not exist"):
        make_source(reading_config("folder", "s3://folder-tests-nowhere")).shards()


def test_images_of_foreign_formats_are_error_records(tmp_path):
    put(tmp_path, {"a.jfif": image("JPEG"), "b.heic": b"1", "c.dng": b"2", "c.jpg": image("JPEG")})
    found = samples(reading_config("folder", tmp_path))
    assert codes(found) == [("a.jfif", None), ("b.heic", "image_unsupported"), ("c.jpg", None)]


def test_too_many_prompts_beside_an_image_are_one_malformed_one(tmp_path):
    put(tmp_path, {"a.png": b"a", "a.prompts.jsonl": b"0\n" * 2_000_000, "b.png": b"b", "b.prompts.jsonl": lines(BOX)})
    first, second = samples(reading_config("folder", tmp_path))
    (raw,) = first.prompts
    assert raw.where == f"{tmp_path}/a.prompts.jsonl"
    assert "more than 100000" in raw.fault
    assert [raw.content for raw in second.prompts] == [BOX]


def test_prompts_of_too_many_bytes_are_not_read(tmp_path, monkeypatch):
    put(tmp_path, {"a.png": b"a", "b.png": b"b", "b.prompts.jsonl": lines(BOX)})
    with (tmp_path / "a.prompts.jsonl").open("wb") as file:
        file.truncate(2**40)
    first, second = samples(reading_config("folder", tmp_path))
    (raw,) = first.prompts
    assert f"has {2**40} bytes" in raw.fault
    assert [raw.content for raw in second.prompts] == [BOX]


def test_labels_of_too_many_lines_are_one_malformed_prompt(tmp_path, monkeypatch):
    monkeypatch.setattr(label_files, "MAX_PROMPTS", 3)
    put(tmp_path, {"a.png": b"a", "a.txt": b"0\n" * 4, "b.png": b"b", "b.txt": b"0\n" * 3})
    first, second = samples(reading_config("folder", tmp_path, prompts={"kind": "yolo"}))
    (raw,) = first.prompts
    assert "which is the limit" in raw.fault
    assert len(second.prompts) == 3
