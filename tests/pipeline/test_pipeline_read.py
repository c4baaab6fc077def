import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.config import LabelConfig
from pipeline.errors import BadInputError, TransientError
from pipeline.ids import id_sum, image_id, key_hash, record_id
from pipeline.prompt_files import load_prompt_index
from pipeline.prompts import parse_prompt
from pipeline.reconcile import UNMATCHED_PROMPTS
from pipeline.schema import IMAGE_ROWS
from pipeline.seen import Seen, short
from pipeline.sources import base, make_source
from pipeline.sources.rows import read_row as read_manifest_row
from pipeline.stages import read
from pipeline.stages.read import PLAN, ReadShards, plan_table, unmatched_rows
from support.corpora import BOX, codes, image, lines, read_rows, reading_config, tar

POINTS = {"points": [[3, 4]]}


def write(tmp_path, members, **sections):
    (tmp_path / "a.tar").write_bytes(tar(members))
    return reading_config("webdataset", tmp_path / "a.tar", **sections)


def outcome(rows):
    return [
        (row["image_key"], [prompt["error_code"] for prompt in row["prompts"]]) for row in rows if not row["ledger"]
    ]


def ids(rows):
    return [prompt["record_id"] for row in rows if not row["ledger"] for prompt in row["prompts"]]


def test_rows_and_ledger(tmp_path):
    png = image()
    config = write(tmp_path, [("a.png", png), ("a.prompts.jsonl", lines(BOX, POINTS)), ("b.png", image("JPEG"))])
    first, second, last = read_rows(config)
    assert {name: first[name] for name in first if name != "prompts"} == {
        "shard": "a.tar",
        "image_key": "a",
        "image_uri": f"{tmp_path}/a.tar#a.png",
        "image_etag": None,
        "image_id": image_id("a.tar", "a"),
        "image": png,
        "image_width": 40,
        "image_height": 30,
        "ledger": None,
    }
    box, points = first["prompts"]
    assert (box["kind"], box["box"], box["error_code"]) == ("box", [1, 2, 30, 20], None)
    assert (points["kind"], points["points"]) == ("points", [[3, 4]])
    assert box["record_id"] == record_id(first["image_id"], BOX)
    (missing,) = second["prompts"]
    assert (missing["kind"], missing["error_code"]) == (None, "prompt_missing")
    assert "b.prompts.jsonl" in missing["error_message"]
    assert missing["record_id"] == record_id(second["image_id"], {})
    everything = ids([first, second])
    assert last["ledger"] == {"images": 2, "records": 3, "id_sum": id_sum(everything), "matched": [], "source": ""}
    assert last == dict.fromkeys(IMAGE_ROWS.names) | {
        "shard": "a.tar",
        "prompts": last["prompts"],
        "ledger": last["ledger"],
    }


def test_every_fault_of_an_image_is_on_each_of_its_prompts(tmp_path):
    config = write(
        tmp_path,
        [
            ("empty.jpg", b""),
            ("empty.prompts.jsonl", lines(BOX, "broken")),
            ("text.jpg", b"<html>"),
            ("large.png", image(size=(200, 100))),
            ("large.prompts.jsonl", lines(BOX)),
            ("gone.prompts.jsonl", lines(BOX, POINTS)),
            ("empty.jpg", image()),
        ],
        input={"max_pixels": 10_000},
    )
    rows = read_rows(config)
    assert outcome(rows) == [
        ("empty", ["image_empty", "image_empty"]),
        ("text", ["image_unsupported"]),
        ("large", ["image_too_large"]),
        ("gone", ["image_missing", "image_missing"]),
        ("empty", ["duplicate_key"]),
    ]
    assert rows[0]["prompts"][0]["box"] == [1, 2, 30, 20]  # what is known stays known
    assert [row["image"] for row in rows[3:5]] == [None, None]
    assert rows[-1]["ledger"]["images"] == 4
    assert rows[-1]["ledger"]["records"] == 7
    assert len(set(ids(rows))) == 7


def test_boxes_are_audited_against_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "JPEG", exif=exif)
    prompts = lines({"box": [0, 0, 30, 40]}, {"box": [0, 0, 40, 30]}, {"box": [31, 0, 40, 30]})
    row, _ = read_rows(write(tmp_path, [("a.jpg", file.getvalue()), ("a.prompts.jsonl", prompts)]))
    assert (row["image_width"], row["image_height"]) == (30, 40)
    assert [p["repairs"] for p in row["prompts"]] == [[], ["box_clipped"], []]
    assert [p["error_code"] for p in row["prompts"]] == [None, None, "prompt_out_of_frame"]


def test_prompts_for_images_as_they_are_stored(tmp_path):
    """A detector that was fed without regard to EXIF."""
    tags = Image.Exif()
    tags[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "JPEG", exif=tags)
    prompts = lines({"box": [0, 0, 40, 10]}, {"box": [0, 0, 40, 10], "image_size": [80, 60]})
    members = [("a.jpg", file.getvalue()), ("a.prompts.jsonl", prompts)]
    row, _ = read_rows(write(tmp_path, members, prompts={"orientation": "stored"}))
    assert [p["box"] for p in row["prompts"]] == [[20, 0, 30, 40], [25, 0, 30, 20]]
    assert [p["repairs"] for p in row["prompts"]] == [[], ["frame_scaled"]]


def test_what_the_audit_counts_and_compares_does_not_depend_on_what_is_done(tmp_path):
    members = [("a.png", image()), ("a.prompts.jsonl", lines(BOX, POINTS, BOX, POINTS, BOX))]
    config = write(tmp_path, members, prompts={"max_per_image": 4})
    whole, _ = read_rows(config)
    assert [p["error_code"] for p in whole["prompts"]] == [None, None, None, None, "prompt_too_many"]
    assert [p["repairs"] for p in whole["prompts"]] == [[], [], ["prompt_duplicate"], ["prompt_duplicate"], []]
    done = np.array([p["record_id"] for p in whole["prompts"][:2]], "<i8")
    rest, _ = read_rows(config, {"a.tar": done.tobytes()})
    assert rest["prompts"] == whole["prompts"][2:]
    (shard,) = make_source(config).shards()
    (table,) = ReadShards(config, seen=Seen(np.sort(done)))(plan_table([shard], {}))
    assert table["prompts"][0].as_py() == whole["prompts"][2:]


def test_policies_of_the_run_are_applied(tmp_path):
    members = [("a.png", image()), ("a.prompts.jsonl", lines(BOX, BOX))]
    row, _ = read_rows(write(tmp_path, members, prompts={"audit": {"duplicate": "error"}}))
    assert [p["error_code"] for p in row["prompts"]] == [None, "prompt_duplicate"]


def test_boxes_of_images_that_cannot_be_used_are_shown_only_in_the_frame_of_records(tmp_path):
    members = [("a.png", b""), ("a.prompts.jsonl", lines({"box": [0.1, 0.2, 0.3, 0.4]}))]
    row, _ = read_rows(write(tmp_path, members, prompts={"units": "normalised"}))
    (prompt,) = row["prompts"]
    assert (prompt["kind"], prompt["box"], prompt["error_code"]) == ("box", None, "image_empty")


def test_masks_of_the_shard(tmp_path):
    mask = image("PNG", shade=255)
    config = write(
        tmp_path,
        [("a.png", image()), ("a.prompts.jsonl", lines({"mask": "m.png"}, {"mask": "x.png"})), ("a.m.png", mask)],
    )
    row, _ = read_rows(config)
    first, second = row["prompts"]
    assert first["error_code"] is None
    assert first["mask"].startswith(b"\x89PNG")
    assert second["error_code"] == "prompt_malformed"
    assert "a.x.png" in second["error_message"]


def test_equal_prompts_are_each_a_record(tmp_path):
    members = [("a.png", image()), ("a.prompts.jsonl", lines(BOX, POINTS, BOX, BOX))]
    found = ids(read_rows(write(tmp_path, members)))
    base = image_id("a.tar", "a")
    assert found == [record_id(base, BOX), record_id(base, POINTS), record_id(base, BOX, 1), record_id(base, BOX, 2)]


def test_ids_are_equal_in_every_run_and_place(tmp_path):
    members = [(f"{n}.png", image(shade=n)) for n in range(5)] + [("5.jpg", b"broken"), ("5.prompts.jsonl", b"{\n")]
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        found.append(ids(read_rows(write(tmp_path / name, members))))
    assert found[0] == found[1]


# --- blocks ----------------------------------------------------------------------------------------------------------


def tables(config, done=b""):
    shards = make_source(config).shards()
    return list(ReadShards(config)(plan_table(shards, {shards[0].name: done})))


def test_blocks_hold_a_number_of_images_and_the_last_the_ledger(tmp_path):
    members = [(f"{n}.png", image()) for n in range(7)]
    config = write(tmp_path, members, workers={"images_per_block": 3})
    found = tables(config)
    assert [len(table) for table in found] == [3, 3, 2]
    assert all(table.schema == IMAGE_ROWS for table in found)
    assert [table["ledger"].null_count for table in found] == [3, 3, 1]
    config = write(tmp_path, members[:6], workers={"images_per_block": 3})
    assert [len(table) for table in tables(config)] == [3, 4]


def test_blocks_hold_a_number_of_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "BLOCK_BYTES", 1000)
    config = write(tmp_path, [(f"{n}.png", bytes(400)) for n in range(7)])
    assert [len(table) for table in tables(config)] == [3, 3, 2]


def test_reading_is_lazy(tmp_path):
    config = write(tmp_path, [(f"{n}.png", image()) for n in range(100)], workers={"images_per_block": 1})
    shards = make_source(config).shards()
    stage = ReadShards(config)(plan_table(shards, {}))
    assert len(next(stage)) == 1
    (tmp_path / "a.tar").unlink()  # an open file stays readable
    assert len(next(stage)) == 1


def test_what_is_done_is_left_out_and_counted(tmp_path):
    config = write(
        tmp_path,
        [
            (f"{n}.{ending}", data)
            for n in range(4)
            for ending, data in (("png", image()), ("prompts.jsonl", lines(BOX, POINTS)))
        ],
    )
    (whole,) = tables(config)
    everything = ids(whole.to_pylist())
    done = np.array([*everything[:2], everything[3], 12345], "<i8").tobytes()
    (rest,) = tables(config, done)
    assert ids(rest.to_pylist()) == [everything[2], *everything[4:]]
    assert outcome(rest.to_pylist())[0] == ("1", [None])
    assert rest["ledger"][-1] == whole["ledger"][-1]
    (nothing,) = tables(config, np.array(everything, "<i8").tobytes())
    assert len(nothing) == 1
    assert nothing["ledger"][0] == whole["ledger"][-1]


def test_a_limit_hands_on_so_many_images_that_are_not_done_and_leaves_the_rest_to_a_later_plan(tmp_path):
    config = write(tmp_path, [(f"{n}.png", image()) for n in range(5)], workers={"images_per_block": 2})
    shards = make_source(config).shards()

    def limited(limit, done=b""):
        plan = plan_table(shards, {"a.tar": done}, limits={"a.tar": limit})
        return [row for table in ReadShards(config)(plan) for row in table.to_pylist()]

    first = limited(3)
    assert [row["image_key"] for row in first] == ["0", "1", "2"]  # and no ledger
    done = np.array(ids(first), "<i8").tobytes()
    assert [row["image_key"] for row in limited(1, done)] == ["3"]
    whole = read_rows(config)
    for limit in (5, 9):  # all there is, whether or not its end is seen
        assert ids(limited(limit)) == ids(whole)
    assert limited(9)[-1]["ledger"] == whole[-1]["ledger"]
    *_, last = ReadShards(config)(plan_table(shards, {"a.tar": done}))
    assert last["ledger"][-1].as_py() == whole[-1]["ledger"]


def test_several_shards_in_one_batch_have_a_ledger_each(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.tar").write_bytes(tar([("a.png", image())] * (n > 0)))
    config = reading_config("webdataset", tmp_path)
    rows = read_rows(config)
    assert [row["shard"] for row in rows if row["ledger"]] == ["0.tar", "1.tar", "2.tar"]
    assert [row["ledger"]["records"] for row in rows if row["ledger"]] == [0, 1, 1]
    assert len(set(ids(rows))) == 2


def test_a_shard_that_breaks_off_has_one_error_with_its_ledger(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar([("a.png", image()), ("b.png", image())])[: -10_240 - 1024])
    config = reading_config("webdataset", tmp_path / "a.tar", workers={"images_per_block": 1, "retries": 0})
    *_, last = tables(config)
    error, ledger = last.to_pylist()
    assert (error["image_key"], error["prompts"][0]["error_code"]) == ("", "shard_unreadable")
    assert ledger["ledger"]["images"] + 1 == ledger["ledger"]["records"]


def test_the_plan_is_small_and_plain(tmp_path):
    config = write(tmp_path, [("a.png", image())])
    shards = make_source(config).shards()
    table = plan_table(shards, {"a.tar": b"12345678", "other": b""})
    assert table.schema == PLAN
    (row,) = table.to_pylist()
    assert (row["shard"], row["done"]) == ("a.tar", b"12345678")
    assert json.loads(row["spec"]) == shards[0].spec
    assert plan_table([], {}).num_rows == 0


# --- prompt files ----------------------------------------------------------------------------------------------------


def with_prompt_file(tmp_path, *prompts, tail=b""):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/p.jsonl").write_bytes(lines(*prompts) + tail)
    (tmp_path / "prompts/m.png").write_bytes(image(shade=255))
    (tmp_path / "secret.png").write_bytes(image(shade=255))
    prompt_section = {"kind": "jsonl", "path": str(tmp_path / "prompts/p.jsonl")}
    return write(tmp_path, [("x/a.png", image()), ("b.png", image())], prompts=prompt_section)


def test_prompts_of_a_file_and_what_they_matched(tmp_path):
    config = with_prompt_file(
        tmp_path,
        BOX | {"image": "a.png"},
        {"image": "a.png", "mask": "m.png"},
        {"image": "a.png", "mask": "../secret.png"},
        {"image": "a.png", "box": "wrong"},
        BOX | {"image": "gone.png"},
    )
    first, second, last = read_rows(config)
    assert [prompt["error_code"] for prompt in first["prompts"]] == [
        None,
        None,
        "prompt_malformed",
        "prompt_malformed",
    ]
    assert first["prompts"][1]["mask"]
    assert "leads out" in first["prompts"][2]["error_message"]
    assert "p.jsonl line 4: box must be" in first["prompts"][3]["error_message"]
    assert [prompt["error_code"] for prompt in second["prompts"]] == ["prompt_missing"]
    assert last["ledger"]["matched"] == [key_hash("a.png")]
    assert first["prompts"][0]["record_id"] == record_id(image_id("a.tar", "x/a"), BOX)


def test_prompts_without_image_are_records_of_a_shard_of_their_own(tmp_path):
    config = with_prompt_file(
        tmp_path,
        BOX | {"image": "a.png"},
        BOX | {"image": "gone.png"},
        POINTS | {"image": "gone.png"},
        BOX | {"image": "gone.png"},
        BOX | {"image": "far.png", "box": 7},
        tail=b"{broken\n{broken\n",
    )
    index = load_prompt_index(config)
    (table,) = unmatched_rows(index, {key_hash("a.png")})
    assert table.schema == IMAGE_ROWS
    rows = table.to_pylist()
    assert outcome(rows) == [
        *[("", ["prompt_malformed"])] * 2,
        *[("gone.png", ["image_missing"])] * 3,
        ("far.png", ["image_missing"]),
    ]
    assert {row["shard"] for row in rows} == {UNMATCHED_PROMPTS}
    assert "p.jsonl line 6: not valid JSON" in rows[0]["prompts"][0]["error_message"]
    assert "p.jsonl line 3: no image" in rows[3]["prompts"][0]["error_message"]
    assert rows[3]["prompts"][0]["points"] == [[3, 4]]
    found = ids(rows)
    assert len(set(found)) == 6
    assert rows[-1]["ledger"] == {"images": 0, "records": 6, "id_sum": id_sum(found), "matched": [], "source": ""}
    assert [
        len(table) for table in unmatched_rows(index, {key_hash(k) for k in ("a.png", "gone.png", "far.png")})
    ] == [3]


def test_prompts_without_image_come_in_tables_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "UNMATCHED_ROWS", 3)
    gone = [BOX | {"image": name} for name in ("x.png", "y.png", "x.png", "x.png", "z.png", "x.png")]
    index = load_prompt_index(with_prompt_file(tmp_path, *gone, tail=b"{broken\n"))
    tables = list(unmatched_rows(index, set()))
    assert [len(table) for table in tables] == [3, 3, 2]
    assert [table["ledger"].null_count for table in tables] == [3, 3, 1]
    rows = [row for table in tables for row in table.to_pylist()]
    assert [row["image_key"] for row in rows[:-1]] == ["", *["x.png"] * 4, "y.png", "z.png"]
    found = ids(rows)
    assert len(set(found)) == 7

    left = list(unmatched_rows(index, set(), done=frozenset(found[:5])))
    assert [ids(table.to_pylist()) for table in left] == [found[5:]]
    assert left[-1]["ledger"][-1] == tables[-1]["ledger"][-1]
    (end,) = unmatched_rows(index, set(), done=frozenset(found))
    assert end["ledger"].to_pylist() == [rows[-1]["ledger"]]


def test_nothing_unmatched(tmp_path):
    config = with_prompt_file(tmp_path, BOX | {"image": "a.png"})
    assert list(unmatched_rows(load_prompt_index(config), {key_hash("a.png")})) == []


@pytest.mark.parametrize("kind", ["webdataset", "folder", "manifest"])
def test_all_sources_make_the_same_of_the_same_photos(tmp_path, kind):
    (tmp_path / "in").mkdir()
    prompts = [BOX, {"mask": {"polygon": [[1, 1, 20, 1, 20, 20]]}}, {"box": [100, 100, 101, 101]}]
    members = [("a.png", image()), ("a.prompts.jsonl", lines(*prompts)), ("b.png", image("JPEG")), ("c.png", b"no")]
    path = tmp_path / "in"
    if kind == "webdataset":
        (path / "0.tar").write_bytes(tar(members))
    else:
        for name, data in members:
            (path / name).write_bytes(data)
    if kind == "manifest":
        path = path / "m.jsonl"
        path.write_bytes(lines({"image": "a.png", "prompts": prompts}, {"image": "b.png"}, {"image": "c.png"}))
    rows = read_rows(reading_config(kind, path))
    assert [found for _, found in sorted(outcome(rows))] == [
        [None, None, "prompt_out_of_frame"],
        ["prompt_missing"],
        ["image_unsupported"],
    ]
    assert sum(row["ledger"]["records"] for row in rows if row["ledger"]) == 5
    assert Counter(ids(rows)).most_common(1)[0][1] == 1
    pa.Table.from_pylist(rows, IMAGE_ROWS).validate(full=True)


# --- documentation ---------------------------------------------------------------------------------------------------

DOCS = Path(__file__).parents[2] / "docs"


def code_blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_the_documented_prompts_are_prompts(tmp_path):
    (native,) = code_blocks("prompts.md", "json")
    (tmp_path / "p.jsonl").write_text(native)
    config = reading_config("folder", tmp_path, prompts={"kind": "jsonl", "path": str(tmp_path / "p.jsonl")})
    index = load_prompt_index(config)
    assert not index.nameless
    raws = [raw for key in ("cats/0001.jpg", "glass/7.png") for raw in index.lookup(key).prompts]
    prompts = [parse_prompt(raw, 0) for raw in raws]
    assert [(prompt["kind"], prompt["error_code"]) for prompt in prompts] == [
        ("box", None),
        ("points", None),
        ("mask", None),
    ]
    (manifest,) = code_blocks("inputs.md", "json")
    assert all(json.loads(line)["image"] for line in manifest.splitlines())


def test_the_documented_source_is_a_source(tmp_path):
    (example,) = code_blocks("inputs.md", "python")
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(b"1")
    names = {"BadInputError": BadInputError, "Iterator": Iterator, "LabelConfig": LabelConfig, "fetch": base.fetch}
    names |= {"Sample": base.Sample, "Shard": base.Shard, "image_id": image_id, "TransientError": TransientError}
    exec(example.replace("s3://bucket", str(tmp_path)).replace("b.jpg", "gone.jpg"), names)
    source = names["ListSource"](reading_config("folder", tmp_path))
    (shard,) = source.shards()
    assert [code for _, code in codes(source.read(shard))] == [None, "image_missing"]


@pytest.mark.parametrize(
    "url",
    [
        "https://{}/my photo.jpg?X-Amz-Signature=SECRET",
        "HTTPS://u:SECRET@{}/x?SECRET",
        "https://{}/a.jpg#frag?sig=SECRET",
        "https://{}/a.jpg?a=b c&sig=SECRET",
        "simplecache::https://{}/my photo.jpg?SECRET",
    ],
)
def test_nothing_of_a_signature_is_in_a_row(tmp_path, url):
    url = url.format("127.0.0.1:1")  # where nobody answers
    (tmp_path / "a.jsonl").write_bytes(lines({"image": url, "prompts": [BOX]}))
    config = reading_config("manifest", tmp_path / "a.jsonl", input={"schemes": ["https", "HTTPS"]})
    row, *_ = rows = read_rows(config)
    assert row["image_key"] == row["image_uri"]
    assert row["image_key"].endswith((".jpg", "/x"))
    assert row["prompts"][0]["error_message"]
    assert "SECRET" not in repr(rows)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://host/a.jpg", "https://host/a.jpg"),
        ("https://me:pw@host:80/a@b.jpg?sig=1", "https://host:80/a@b.jpg"),
        ("s3://bucket/a=1/b#2.jpg", "s3://bucket/a=1/b#2.jpg"),
        ("s3://bucket/b.jpg?versionId=3", "s3://bucket/b.jpg"),
        ("sub/a b?.jpg", "sub/a b?.jpg"),
    ],
)
def test_keys_of_urls_stay_what_they_are_for_image_ids_hang_on_them(url, key):
    assert read_manifest_row({"image": url}, "row-0").key == key


def test_what_earlier_runs_hold_is_left_out_unless_the_image_is_another_one_now(tmp_path):
    config = write(tmp_path, [("a.png", image()), ("a.prompts.jsonl", lines(BOX))])
    whole, _ = read_rows(config)
    records = np.asarray([whole["prompts"][0]["record_id"]])
    ids = np.asarray([whole["image_id"]])
    (shard,) = make_source(config).shards()
    for digest, images in ((short(hashlib.sha256(whole["image"]).hexdigest()), 0), (7, 1)):
        (table,) = ReadShards(config, seen=Seen(records, ids, np.asarray([digest])))(plan_table([shard], {}))
        *rows, end = table.to_pylist()
        assert (len(rows), end["ledger"]["records"]) == (images, images)
