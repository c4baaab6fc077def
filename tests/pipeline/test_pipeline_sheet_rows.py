"""Which objects of a run the contact sheet shows, and where their photographs come from."""

import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config import LabelConfig
from pipeline.runs import RunDirectory
from pipeline.sheet_rows import _some_shards, collect
from pipeline.sources import base, make_source
from support.demo_run import add_records, demo_run, error_record, png


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return demo_run(str(tmp_path / "run"), tmp_path / "corpus")


def add(run: RunDirectory, shard: str, *records: dict[str, object]) -> None:
    add_records(run, shard, shard, list(records))


def ok_record(shard: str, key: str, uri: str | None, **columns: object) -> dict[str, object]:
    ok = {"status": "ok", "error_code": None, "error_message": None, "prompt_kind": "box", "image_uri": uri}
    alpha = {"bytes": png(Image.new("L", (8, 6), 255)), "path": None}
    return error_record(shard, key, key, "", **{**ok, "alpha": alpha, "image_width": 8, "image_height": 6, **columns})


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_all_objects_of_a_small_run_are_shown_with_photo_prompt_and_alpha(run: RunDirectory) -> None:
    rows = collect(run.path, limit=24)

    assert len(rows) == 20
    assert [row.key for row in rows] == sorted(row.key for row in rows)
    assert all(row.photo is not None and row.alpha is not None and not row.photo_fault for row in rows)
    assert Counter(row.kind for row in rows) == {"box": 7, "points": 7, "mask": 6}
    person = next(row for row in rows if (row.key, row.label) == ("astronaut", "person"))
    assert (person.box, person.width, person.height) == ((18.0, 14.0, 366.0, 512.0), 512, 512)
    assert person.photo is not None
    assert person.photo.size == (164, 164), "reduced while it is fetched"
    assert [row.label for row in rows if "transparent" in row.notes] == ["headlight"]
    for row in rows:
        assert (row.mask is not None, bool(row.points), row.box is not None) == (
            row.kind == "mask",
            row.kind == "points",
            row.kind == "box",
        )
        if row.mask is not None and row.alpha is not None:  # this run's alphas of masks are the masks
            assert np.array_equal(np.asarray(row.mask), np.asarray(row.alpha))


def test_the_choice_is_spread_over_kinds_and_always_the_same(run: RunDirectory) -> None:
    rows = collect(run.path, limit=6)
    assert Counter(row.kind for row in rows) == {"box": 2, "points": 2, "mask": 2}
    assert [(row.key, row.label) for row in collect(run.path, limit=6)] == [(row.key, row.label) for row in rows]
    others = [{(row.key, row.label) for row in collect(run.path, limit=6, seed=seed)} for seed in range(1, 5)]
    assert any(other != {(row.key, row.label) for row in rows} for other in others)
    assert collect(run.path, limit=0) == []


def test_errors_stand_last_and_take_at_most_a_quarter(run: RunDirectory) -> None:
    codes = ["image_corrupt", "prompt_missing", "prompt_degenerate"] * 10
    faults = [error_record("bad.tar", f"{at:02d}", code, f"fault {at}") for at, code in enumerate(codes)]
    faults = [{**fault, "record_id": at} for at, fault in enumerate(faults)]
    add(run, "bad.tar", *faults)

    rows = collect(run.path, limit=12)
    assert [bool(row.error_code) for row in rows] == [False] * 9 + [True] * 3
    assert {row.error_code for row in rows[9:]} == {"image_corrupt", "prompt_missing", "prompt_degenerate"}
    assert all(row.error_message.startswith("fault") and row.alpha is None for row in rows[9:])
    assert all(row.photo_fault == "the record names no image" for row in rows[9:])

    assert Counter(bool(row.error_code) for row in collect(run.path, limit=40)) == {False: 20, True: 20}


def test_only_a_few_shards_of_a_large_run_are_looked_into(run: RunDirectory, tmp_path: Path) -> None:
    for number in range(30):
        faults = [error_record(f"{number}.tar", f"{number}-{at}", "image_corrupt", "") for at in range(10)]
        add(run, f"{number}.tar", *faults)
    looked_into = _some_shards(run.committed(), limit=4, seed=0)
    assert len(looked_into) == 3
    needed = {f"{stem}.parquet" for shard in looked_into.values() for stem in shard.commits}
    for data in (tmp_path / "run" / "records").iterdir():
        if data.name not in needed:
            data.unlink()
    assert len(collect(run.path, limit=4)) == 4


def test_photos_are_turned_upright_and_alphas_of_16_bits_are_reduced(run: RunDirectory, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    picture = Image.new("RGB", (60, 40), "red")
    (tmp_path / "a#1.jpg").write_bytes(jpeg(picture, exif=exif))
    deep = png(Image.fromarray(np.full((60, 40), 32768, np.uint16)))
    add(run, "folder", ok_record("folder", "a#1.jpg", str(tmp_path / "a#1.jpg"), alpha={"bytes": deep, "path": None}))

    row = next(row for row in collect(run.path, limit=30) if row.key == "a#1.jpg")
    assert row.photo is not None
    assert row.photo.width < row.photo.height
    assert row.alpha is not None
    assert row.alpha.getextrema() == (128, 128)


def test_photos_that_cannot_be_had_any_more_leave_a_reason(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(jpeg(Image.new("RGB", (64, 64)))[:200])
    (tmp_path / "text.jpg").write_text("no picture")
    whole = (tmp_path / "corpus" / "demo-00000.tar").read_bytes()
    (tmp_path / "torn.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.tar").write_bytes(b"\xff" * 4096)
    (tmp_path / "noise.pq").write_bytes(b"\xff" * 4096)
    uris = {
        "file gone": f"{tmp_path}/gone.jpg",
        "shard gone": f"{tmp_path}/gone.tar#a.jpg",
        "member gone": f"{tmp_path}/corpus/demo-00000.tar#gone.jpg",
        "shard torn": f"{tmp_path}/torn.tar#coffee.jpg",
        "shard before the tear": f"{tmp_path}/torn.tar#astronaut.jpg",
        "no tar": f"{tmp_path}/noise.tar#a.jpg",
        "truncated": f"{tmp_path}/broken.jpg",
        "no image": f"{tmp_path}/text.jpg",
        "unknown store": "nosuchprotocol://bucket/a.jpg",
        "manifest gone": f"{tmp_path}/gone.parquet row 7",
        "no manifest": f"{tmp_path}/noise.pq row 7",
    }
    add(run, "lost", *(ok_record("lost", key, uri) for key, uri in uris.items()))

    rows = {row.key: row for row in collect(run.path, limit=60)}
    assert set(uris) < set(rows)
    assert rows["shard before the tear"].photo is not None
    for key in uris.keys() - {"shard before the tear"}:
        assert rows[key].photo is None, key
        assert rows[key].photo_fault, key
        assert rows[key].alpha is not None, key
    assert "gone.jpg" in rows["member gone"].photo_fault
    assert "not there any more" in rows["member gone"].photo_fault


def test_several_objects_of_an_image_share_one_fetch(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    from pipeline import originals

    stream = originals.storage.open_stream

    def counting(uri: str, **options: int) -> io.BufferedIOBase:
        opened.append(uri)
        return stream(uri, **options)

    monkeypatch.setattr(originals.storage, "open_stream", counting)
    assert len(collect(run.path, limit=20)) == 20
    assert len(opened) == len(set(opened)) == 3


def test_a_compressed_shard_is_read_too(run: RunDirectory, tmp_path: Path) -> None:
    picture = jpeg(Image.new("RGB", (64, 48), "green"))
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("deep/a.jpg")
        member.size = len(picture)
        tar.addfile(member, io.BytesIO(picture))
    add(run, "packed.tar.gz", ok_record("packed.tar.gz", "deep/a", f"{tmp_path}/packed.tar.gz#deep/a.jpg"))
    row = next(row for row in collect(run.path, limit=40) if row.key == "deep/a")
    assert row.photo is not None
    assert row.photo_fault == ""


def test_members_are_found_by_the_name_that_records_show(run: RunDirectory, tmp_path: Path) -> None:
    picture = jpeg(Image.new("RGB", (64, 48), "green"))
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        for name in ("./a.jpg", "caf\udce9/b.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(picture)
            tar.addfile(member, io.BytesIO(picture))
    tars = {"input": {"kind": "webdataset", "path": str(tmp_path / "odd.tar")}}
    source = make_source(LabelConfig.model_validate(run.info["config"] | tars))
    found = [sample for shard in source.shards() for sample in source.read(shard)]
    assert [sample.key for sample in found] == ["a", "caf\\udce9/b"]
    add(run, "odd.tar", *(ok_record("odd.tar", sample.key, sample.uri) for sample in found))

    rows = {row.key: row for row in collect(run.path, limit=40)}
    for sample in found:
        assert rows[sample.key].photo is not None, rows[sample.key].photo_fault


def test_what_is_larger_than_any_image_may_be_is_not_read(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_BYTES_BESIDE", 0)
    run.info["config"]["input"]["max_pixels"] = 1000
    monkeypatch.setattr(RunDirectory, "open", lambda path: run)
    whole = jpeg(Image.new("RGB", (20, 20), "green"))
    (tmp_path / "large.jpg").write_bytes(whole + bytes(8000))
    (tmp_path / "small.jpg").write_bytes(whole)
    with tarfile.open(tmp_path / "large.tar", "w") as tar:
        for name in ("large.jpg", "small.jpg"):
            tar.add(tmp_path / name, name)
    uris = [f"{tmp_path}/{name}" for name in ("large.jpg", "small.jpg", "large.tar#large.jpg", "large.tar#small.jpg")]
    add(run, "large", *(ok_record("large", uri, uri) for uri in uris))

    rows = {row.key: row for row in collect(run.path, limit=40)}
    for uri in uris:
        assert (rows[uri].photo is None) == uri.endswith("large.jpg")
        assert ("more than any image" in rows[uri].photo_fault) == uri.endswith("large.jpg")


def test_pictures_that_are_damaged_are_noted(run: RunDirectory) -> None:
    damaged = {"alpha": {"bytes": b"no png", "path": None}, "prompt_mask": png(Image.new("1", (8, 6)))[:40]}
    add(run, "bad", ok_record("bad", "bad", None, **damaged))
    row = next(row for row in collect(run.path, limit=40) if row.key == "bad")
    assert (row.alpha, row.mask, row.notes) == (None, None, ("mask unreadable", "alpha unreadable"))


@pytest.mark.parametrize("struct", [False, True])
def test_bytes_in_a_parquet_manifest_are_found(run: RunDirectory, tmp_path: Path, struct: bool) -> None:
    pictures = [jpeg(Image.new("RGB", (64, 48), (at * 10, 0, 0)), quality=100) for at in range(25)]
    images = [{"bytes": data, "path": None} for data in pictures] if struct else pictures
    manifest = tmp_path / "all of it.parquet"
    pq.write_table(pa.table({"image": images, "key": [str(at) for at in range(25)]}), manifest, row_group_size=10)
    records = [ok_record("m", f"row {at}", f"{manifest} row {at}") for at in (0, 9, 10, 24, 25)]
    add(run, "m", *records)

    rows = {row.key: row for row in collect(run.path, limit=40)}
    for at in (0, 9, 10, 24):
        photo = rows[f"row {at}"].photo
        assert photo is not None
        assert abs(photo.getpixel((5, 5))[0] - at * 10) <= 2
    assert rows["row 25"].photo is None
    assert "row 25 is not there any more" in rows["row 25"].photo_fault
