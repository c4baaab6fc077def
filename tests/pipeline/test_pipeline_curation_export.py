"""Exports as a whole: what is refused, what is missing, what is said about it."""

import json
import threading
from pathlib import Path

import fsspec
import pytest

from pipeline.curation import export
from pipeline.curation.export import FAULTS, MANIFEST, export_accepted
from pipeline.curation.exports.base import ExportSettings, Spool
from pipeline.curation.exports.trimaps import Trimaps
from pipeline.errors import ConfigurationError, TransientError
from pipeline.ids import show
from support.image_bytes import encode
from support.selections import awkward, decide, originals, photo, record, run_of, soft_alpha

PLAIN = ("huggingface", "webdataset", "coco", "trimaps")  # cut-outs take a compiled pymatting: their own tests


@pytest.fixture(scope="module")
def decisions(tmp_path_factory):
    return awkward(tmp_path_factory.mktemp("awkward"))


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


@pytest.mark.parametrize("form", PLAIN)
def test_every_form_holds_every_object_and_says_so_last(tmp_path, decisions, form):
    out = tmp_path / "out"
    done = export_accepted(decisions, str(out), form)
    assert done.complete
    assert (done.objects, done.images) == (12, 11)
    assert f"12 objects of 11 images as {form}" in str(done)
    manifest = json.loads((out / MANIFEST).read_text())
    assert manifest["complete"]
    assert manifest["counts"] == {"images": 11, "objects": 12, "reviewed": 0, "without_alpha": 0, "faults": 0}
    assert sum(manifest["runs"].values()) == 12
    assert (out / MANIFEST).stat().st_mtime_ns == max((out / name).stat().st_mtime_ns for name in names(out))
    assert not [name for name in names(out) if ".tmp" in name or ".part" in name or ".." in name]


@pytest.mark.parametrize("form", PLAIN)
def test_the_same_decisions_give_the_same_bytes(tmp_path, decisions, form):
    for out in "ab":
        export_accepted(decisions, str(tmp_path / out), form)
    assert names(tmp_path / "a") == names(tmp_path / "b")
    for name in set(names(tmp_path / "a")) - {MANIFEST}:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("form", PLAIN)
def test_any_fsspec_url_does(decisions, form):
    out = f"memory://export-{form}"
    assert export_accepted(decisions, out, form).complete
    files = fsspec.filesystem("memory").find(f"/export-{form}")
    assert f"/export-{form}/{MANIFEST}" in files
    assert len(files) > 1


@pytest.fixture
def broken(tmp_path):
    """Of six objects one is fine; and one run's decisions name a record that is not there."""
    data = originals()["plain.jpg"]
    for name in ("fine", "changed", "damaged"):
        (tmp_path / f"{name}.jpg").write_bytes(data if name != "damaged" else data[:200])
    fine = f"{tmp_path}/fine.jpg"
    rows = [
        record(fine, "fine"),
        record(fine, "fine", "small", photo()[:5, :, 0]),
        record(fine, "fine", "nonsense") | {"alpha": {"bytes": b"nonsense", "path": None}},
        record(f"{tmp_path}/gone.jpg", "gone"),
        record(f"{tmp_path}/damaged.jpg", "damaged"),
        record(f"{tmp_path}/changed.jpg", "changed", image_sha256="ab" * 32),
    ]
    run_of(tmp_path / "run", rows)
    return decide(tmp_path / "d", tmp_path / "run"), rows


@pytest.mark.parametrize("form", ["huggingface", "webdataset", "coco"])
def test_what_can_not_be_had_is_listed_and_the_rest_is_exported(tmp_path, broken, form):
    decisions, rows = broken
    out = tmp_path / "out"
    done = export_accepted(decisions, str(out), form)
    assert not done.complete
    assert (done.objects, done.images, len(done.faults)) == (1, 1, 5)
    listed = {line["record_id"]: line for line in map(json.loads, (out / FAULTS).read_text().splitlines())}
    reasons = [listed[show(row["record_id"])]["reason"] for row in rows[1:]]
    for reason, words in zip(reasons, ["64 x 5", "PNG", "gone.jpg", "too early", "has changed"], strict=True):
        assert words in reason
    manifest = json.loads((out / MANIFEST).read_text())
    assert (manifest["complete"], manifest["counts"]["faults"], len(manifest["faults"])) == (False, 5, 5)
    assert "5 faults" in str(done)
    assert reasons[2] in str(done)


def test_trimaps_need_no_photo(tmp_path, broken):
    done = export_accepted(broken[0], str(tmp_path / "out"), "trimaps")
    assert (done.objects, len(done.faults)) == (5, 1)


def test_a_folder_that_holds_something_is_left_alone(tmp_path, decisions):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="not empty"):
        export_accepted(decisions, str(tmp_path), "coco")
    assert names(tmp_path) == ["mine.txt"]


def test_nothing_to_export_is_said(tmp_path, decisions):
    with pytest.raises(ConfigurationError, match="nothing to export"):
        export_accepted(decisions, str(tmp_path / "out"), "coco", decision="review")
    with pytest.raises(ConfigurationError, match="quality > 2: nothing"):
        export_accepted(decisions, str(tmp_path / "out"), "coco", where="quality > 2")
    with pytest.raises(ConfigurationError, match="choose one of huggingface"):
        export_accepted(decisions, str(tmp_path / "out"), "../evil")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"shard_mb": 0}, {"crop_margin": -0.1}, {"trimap_low": 0.9, "trimap_high": 0.1}, {"trimap_radius": 0.7}],
)
def test_settings_that_can_not_be(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        ExportSettings(**wrong)


@pytest.mark.parametrize("form", PLAIN)
def test_an_export_that_breaks_off_has_no_manifest_and_no_temporary_files(tmp_path, decisions, form, monkeypatch):
    taken = []

    def take(writer, result, done, _take=export._take):
        taken.append(result)
        if len(taken) == 3:
            raise TransientError("the store is tired")
        _take(writer, result, done)

    monkeypatch.setattr(export, "_take", take)
    with pytest.raises(TransientError):
        export_accepted(decisions, str(tmp_path / "out"), form)
    assert not [name for name in names(tmp_path / "out") if name == MANIFEST or ".tmp" in name or "index" in name]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("export")]


def test_a_missing_library_is_named(tmp_path, decisions, monkeypatch):
    monkeypatch.setattr(Trimaps, "libraries", ("no_such_library",))
    with pytest.raises(ConfigurationError, match=r"no_such_library.*sdmatte\[curate\]"):
        export_accepted(decisions, str(tmp_path / "out"), "trimaps")


def test_no_more_images_are_ahead_than_there_are_threads():
    handed = []

    def items():
        for number in range(40):
            handed.append(number)
            yield number

    most = 0
    for count, result in enumerate(export._in_order(lambda number: number * 2, items())):
        assert result == count * 2
        most = max(most, len(handed) - count)
    assert count == 39
    assert most <= export._MOST_THREADS + 1


def test_spools_appear_whole(tmp_path):
    spool = Spool(str(tmp_path / "a" / "b.bin"))
    spool.file.write(b"12345")
    assert spool.size == 5
    assert not (tmp_path / "a" / "b.bin").exists()
    assert spool.publish() == 5
    assert names(tmp_path) == ["a/b.bin"]
    gone = Spool(str(tmp_path / "a" / "c.bin"))
    gone.discard()
    gone.discard()
    assert names(tmp_path) == ["a/b.bin"]


def test_reviewed_alphas_are_counted(tmp_path):
    (tmp_path / "a.png").write_bytes(originals()["plain.png"])
    row = record(f"{tmp_path}/a.png", "a")
    run = run_of(tmp_path / "run", [row])
    import pyarrow as pa

    from pipeline.review.schema import REVIEWS
    from pipeline.review.store import write_reviews

    known = {"reviewed_run_id": run.run_id, "verdict": "accept", "review_id": "1", "edited_pixels": 3}
    corrected = {"alpha": {"bytes": encode(soft_alpha(77), "PNG"), "path": None}, "status": "ok"}
    write_reviews(str(tmp_path / "run"), pa.Table.from_pylist([{**row, **known, **corrected}], REVIEWS))
    decisions = decide(tmp_path / "d", tmp_path / "run")
    done = export_accepted(decisions, str(tmp_path / "out"), "trimaps")
    assert done.reviewed == 1
    assert "1 alphas are reviewers' corrections" in str(done)
    assert json.loads((tmp_path / "out" / "index.jsonl").read_text())["reviewed"] is True


@pytest.mark.parametrize("form", ["webdataset", "trimaps"])
def test_an_export_to_s3_equals_one_on_disk(tmp_path, s3_server, form):
    store = fsspec.filesystem("s3")
    bucket = f"curation-exports-{form}"
    store.mkdir(bucket)
    folder = awkward(tmp_path)
    store.put(f"{folder}/decisions.parquet", f"{bucket}/decisions/decisions.parquet")
    done = export_accepted(f"s3://{bucket}/decisions", f"s3://{bucket}/out", form)
    assert done.complete
    assert json.loads(store.cat(f"{bucket}/out/{MANIFEST}"))["counts"]["objects"] == 12
    local = tmp_path / "local"
    export_accepted(folder, str(local), form)
    for name in set(names(local)) - {MANIFEST}:
        assert store.cat(f"{bucket}/out/{name}") == (local / name).read_bytes()
