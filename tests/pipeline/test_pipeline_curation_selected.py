"""The objects that decisions chose: which ones, with which alphas, each image once."""

import hashlib
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import originals
from pipeline.curation.schema import DECISIONS, DECISIONS_FILE
from pipeline.curation.selected import Selection
from pipeline.errors import BadInputError, ConfigurationError
from pipeline.latest import followup
from pipeline.originals import Unavailable
from pipeline.review.schema import REVIEWS
from pipeline.review.store import write_reviews
from support.image_bytes import encode
from support.selections import WIDTH, decide, photo, record, run_of, save_tar, soft_alpha
from support.selections import originals as files


def ids(images):
    return [[item.record["record_id"] for item in image.objects] for image in images]


@pytest.fixture
def corpus(tmp_path):
    """Two plain files and a tar of three, and a record for each; two for the first file and the last member."""
    data = files()["plain.jpg"]
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "b.jpg").write_bytes(data)
    tar = save_tar(tmp_path / "t.tar", {f"{name}.jpg": data for name in "xyz"})
    uris = {"a": f"{tmp_path}/a.jpg", "b": f"{tmp_path}/b.jpg", **{n: f"{tar}#{n}.jpg" for n in "xyz"}}
    keys = ["z", "a", "x", "b", "y", "a", "z"]
    return [record(uris[key], key, prompt=str(number)) for number, key in enumerate(keys)]


def test_objects_of_an_image_come_together_wherever_their_records_are(tmp_path, corpus):
    run_of(tmp_path / "run", corpus, row_group=1)
    selection = Selection.open(decide(tmp_path / "d", tmp_path / "run"))
    images = list(selection.images())
    number = [row["record_id"] for row in corpus]
    # Files in the order of their records, then the tar in its own.
    assert ids(images) == [[number[1], number[5]], [number[3]], [number[2]], [number[4]], [number[0], number[6]]]
    assert len(selection) == 7
    assert [image.original() for image in images] == [files()["plain.jpg"]] * 5
    assert len({image.name for image in images}) == 5
    assert images[0].objects[0].record["alpha"]["bytes"] == encode(soft_alpha(), "PNG")
    assert set(images[0].objects[0].record) == set(REVIEWS.names[: len(images[0].objects[0].record)])


def test_a_tar_is_read_once_however_many_row_groups_name_it(tmp_path, corpus, monkeypatch):
    run_of(tmp_path / "run", corpus, row_group=1)
    selection = Selection.open(decide(tmp_path / "d", tmp_path / "run"))
    opened = []
    monkeypatch.setattr(
        originals.storage,
        "open_stream",
        lambda uri, _open=originals.storage.open_stream, **o: opened.append(uri) or _open(uri, **o),
    )
    assert len(list(selection.images())) == 5
    assert [uri for uri in opened if uri.endswith(".tar")] == [f"{tmp_path}/t.tar"]


def test_only_what_was_decided_and_meets_the_condition(tmp_path, corpus):
    corpus[3]["quality"] = 0.1
    run_of(tmp_path / "run", corpus)
    folder = decide(tmp_path / "d", tmp_path / "run", leave_out=[corpus[0]["record_id"]])
    assert len(Selection.open(folder)) == 6
    assert len(Selection.open(folder, where="quality > 0.5")) == 5
    assert len(Selection.open(folder, "review")) == 0
    assert Selection.open(folder, where="quality > 0.5").faults == []
    with pytest.raises(ConfigurationError, match="no column"):
        Selection.open(folder, where="nonsense == 1")


def test_error_records_are_counted_and_have_nothing_to_give(tmp_path, corpus):
    corpus[2] |= {"status": "error", "error_code": "prompt_tiny", "alpha": None}
    run_of(tmp_path / "run", corpus)
    selection = Selection.open(decide(tmp_path / "d", tmp_path / "run", decision="reject"), "reject")
    assert (len(selection), selection.without_alpha) == (6, 1)


def test_the_record_of_the_run_that_decisions_name_is_taken(tmp_path, corpus):
    again = {**corpus[1], "alpha": {"bytes": encode(soft_alpha(90), "PNG"), "path": None}}
    run_of(tmp_path / "run", corpus)
    run_of(tmp_path / "run", [again], followup=followup(1))
    selection = Selection.open(decide(tmp_path / "d", tmp_path / "run"))
    found = {item.record["record_id"]: item.alpha for image in selection.images() for item in image.objects}
    assert len(found) == 7
    assert found[again["record_id"]] == again["alpha"]["bytes"]
    assert sorted(selection.runs.values()) == [1, 6]


def test_images_of_one_id_in_two_corpora_stay_two(tmp_path, corpus):
    other = record(f"{tmp_path}/elsewhere.png", "a", prompt="other")
    assert other["image_id"] == corpus[1]["image_id"]
    run_of(tmp_path / "run", corpus)
    run_of(tmp_path / "run2", [other])
    images = list(Selection.open(decide(tmp_path / "d", tmp_path / "run", tmp_path / "run2")).images())
    assert len(images) == 6
    assert len({image.name for image in images}) == 6


def review(row, run, alpha, edited, at=None):
    known = {"reviewed_run_id": run.run_id, "verdict": "accept", "review_tool": "coco", "review_id": str(at)}
    known |= {"edited_pixels": edited, "alpha": {"bytes": encode(alpha, "PNG"), "path": None}}
    return {**row, "status": "ok", **known}


def test_corrected_alphas_replace_those_of_the_model(tmp_path, corpus):
    run = run_of(tmp_path / "run", corpus, row_group=2)
    first = [review(corpus[0], run, soft_alpha(10), 5, 1), review(corpus[1], run, soft_alpha(20), 5, 1)]
    later = [review(corpus[1], run, soft_alpha(30), 7, 2), review(corpus[2], run, soft_alpha(40), 0, 2)]
    for rows in (first, later):
        assert write_reviews(str(tmp_path / "run"), pa.Table.from_pylist(rows, REVIEWS))
    selection = Selection.open(decide(tmp_path / "d", tmp_path / "run"))
    found = {item.record["record_id"]: item for image in selection.images() for item in image.objects}
    expected = {0: soft_alpha(10), 1: soft_alpha(30)}  # 2 was looked at, and nothing changed in it
    for number, row in enumerate(corpus):
        item = found[row["record_id"]]
        assert item.reviewed == (number in expected)
        assert item.alpha == encode(expected.get(number, soft_alpha()), "PNG")
        assert item.record["run_id"] == run.run_id


def test_reviews_of_an_earlier_matte_do_not_count(tmp_path, corpus):
    run = run_of(tmp_path / "run", corpus)
    rows = [review(corpus[0], run, soft_alpha(10), 5)]
    write_reviews(str(tmp_path / "run"), pa.Table.from_pylist(rows, REVIEWS))
    run_of(tmp_path / "run", [corpus[0]], followup=followup(1))
    images = Selection.open(decide(tmp_path / "d", tmp_path / "run")).images()
    assert not any(item.reviewed for image in images for item in image.objects)


def test_changed_and_missing_originals(tmp_path, corpus):
    corpus[1]["image_sha256"] = "ab" * 32
    run_of(tmp_path / "run", corpus)
    (tmp_path / "b.jpg").unlink()
    with tarfile.open(tmp_path / "t.tar", "w"):
        pass
    folder = decide(tmp_path / "d", tmp_path / "run")
    images = {image.objects[0].record["image_key"]: image for image in Selection.open(folder).images()}
    assert all(isinstance(images[key].original(), Unavailable) for key in "bxyz")
    sha256 = hashlib.sha256(images["a"].original()).hexdigest()
    with pytest.raises(BadInputError, match="has changed"):
        images["a"].check_unchanged(images["a"].objects[0], sha256)
    images["a"].check_unchanged(images["a"].objects[1], sha256)


def test_a_record_without_image_says_so(tmp_path):
    run_of(tmp_path / "run", [record("", "a") | {"image_uri": None}])
    (image,) = Selection.open(decide(tmp_path / "d", tmp_path / "run")).images()
    assert "doesn't say" in image.original()


def test_alphas_are_measured_and_damaged_ones_refused(tmp_path, corpus):
    corpus[1]["alpha"] = {"bytes": encode(photo()[:5, :, 0], "PNG"), "path": None}
    corpus[3]["alpha"] = {"bytes": b"nonsense", "path": None}
    run_of(tmp_path / "run", corpus)
    images = list(Selection.open(decide(tmp_path / "d", tmp_path / "run")).images())
    assert images[0].objects[0].matte(10_000).shape == (5, WIDTH)
    with pytest.raises(BadInputError):
        images[1].objects[0].matte(10_000)
    with pytest.raises(BadInputError, match="allowed"):
        images[0].objects[0].matte(20)


def test_what_the_run_lost_is_a_fault_and_a_lost_run_an_error(tmp_path, corpus):
    run_of(tmp_path / "run", corpus)
    folder = decide(tmp_path / "d", tmp_path / "run")
    table = pq.read_table(tmp_path / "d" / DECISIONS_FILE).to_pylist()
    stray = {**table[0], "record_id": 77}
    pq.write_table(pa.Table.from_pylist([*table, stray], DECISIONS), tmp_path / "d" / DECISIONS_FILE)
    selection = Selection.open(folder)
    assert [fault.record_id for fault in selection.faults] == [77]
    assert len(selection) == 7
    elsewhere = [{**row, "run_id": "another"} for row in table]
    pq.write_table(pa.Table.from_pylist(elsewhere, DECISIONS), tmp_path / "d" / DECISIONS_FILE)
    with pytest.raises(ConfigurationError, match="name the run another"):
        Selection.open(folder)


@pytest.mark.parametrize("content", [None, b"nonsense", "twice", "other"])
def test_no_decisions(tmp_path, corpus, content):
    run_of(tmp_path / "run", corpus)
    folder = decide(tmp_path / "d", tmp_path / "run")
    path = tmp_path / "d" / DECISIONS_FILE
    table = pq.read_table(path)
    match content:
        case None:
            path.unlink()
        case bytes():
            path.write_bytes(content)
        case "twice":
            pq.write_table(pa.concat_tables([table, table]), path)
        case _:
            pq.write_table(table.drop_columns("output"), path)
    with pytest.raises(ConfigurationError, match=DECISIONS_FILE):
        Selection.open(folder)


def test_memory_does_not_grow_with_the_records(tmp_path, corpus):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8)
    rows = [record(f"{tmp_path}/{n}.jpg", str(n), alpha=noise) for n in range(60)]
    run_of(tmp_path / "run", rows, row_group=5)
    selection = Selection.open(decide(tmp_path / "d", tmp_path / "run"))
    selection._rows._limit = 500_000
    before = pa.total_allocated_bytes()
    most = 0
    for _ in selection.images():
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 2_000_000 < sum(len(row["alpha"]["bytes"]) for row in rows)
