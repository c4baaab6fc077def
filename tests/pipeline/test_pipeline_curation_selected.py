"""The objects that decisions chose: which ones, with which alphas, each image once."""

import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline import originals
from pipeline.curation.schema import DECISIONS, DECISIONS_FILE
from pipeline.curation.selected import Selection
from pipeline.errors import BadInputError, ConfigurationError, PipelineError
from pipeline.latest import Chain, followup
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


def review(row, run, alpha, edited=5, at=None, verdict="accept"):
    known = {"reviewed_run_id": run.run_id, "verdict": verdict, "review_tool": "coco", "review_id": str(at)}
    known |= {"edited_pixels": edited, "alpha": {"bytes": encode(alpha, "PNG"), "path": None}}
    return {**row, "status": "ok", **known}


def add_reviews(output, *rows):
    assert write_reviews(str(output), pa.Table.from_pylist(rows, REVIEWS))


def chosen(folder, decision="accept"):
    selection = Selection.open(folder, decision)
    found = {item.record["record_id"]: item for image in selection.images() for item in image.objects}
    assert len(found) == len(selection)
    return found, {fault.record_id: fault.reason for fault in selection.faults}


def test_corrected_alphas_replace_those_of_the_model(tmp_path, corpus):
    run = run_of(tmp_path / "run", corpus, row_group=2)
    first = [review(corpus[number], run, soft_alpha(number + 10), 5, 1) for number in (0, 1, 2)]
    # Of 1 somebody painted again; 2 was accepted as it was corrected, 3 as the model made it.
    later = [
        review(corpus[1], run, soft_alpha(30), 7, 2),
        review(corpus[2], run, soft_alpha(12), 0, 2),
        review(corpus[3], run, soft_alpha(), 0, 2),
    ]
    for rows in (first, later):
        add_reviews(tmp_path / "run", *rows)
    found, faults = chosen(decide(tmp_path / "d", tmp_path / "run"))
    assert faults == {}
    expected = {0: soft_alpha(10), 1: soft_alpha(30), 2: soft_alpha(12)}
    for number, row in enumerate(corpus):
        item = found[row["record_id"]]
        assert item.reviewed == (number in expected)
        assert item.alpha == encode(expected.get(number, soft_alpha()), "PNG")
        assert item.record["run_id"] == run.run_id


def test_the_export_holds_what_the_view_with_reviews_shows(tmp_path, corpus):
    run = run_of(tmp_path / "run", corpus)
    add_reviews(tmp_path / "run", review(corpus[2], run, soft_alpha(40), 9, 1, "fix"))
    add_reviews(tmp_path / "run", review(corpus[2], run, soft_alpha(40), 0, 2, "accept"))
    found, _ = chosen(decide(tmp_path / "d", tmp_path / "run"))
    shown = Chain.open(str(tmp_path / "run")).records(["record_id", "alpha"], reviews=True).to_pylist()
    assert {number: item.alpha for number, item in found.items()} == {
        row["record_id"]: row["alpha"]["bytes"] for row in shown
    }


def test_a_review_without_an_alpha_leaves_the_models(tmp_path, corpus):
    run = run_of(tmp_path / "run", corpus)
    add_reviews(tmp_path / "run", review(corpus[2], run, soft_alpha(), 0) | {"alpha": None})
    item = chosen(decide(tmp_path / "d", tmp_path / "run"))[0][corpus[2]["record_id"]]
    assert (item.alpha, item.reviewed) == (encode(soft_alpha(), "PNG"), False)


@pytest.mark.parametrize("verdict", ["reject", "fix"])
def test_what_was_judged_otherwise_since_is_a_fault(tmp_path, corpus, verdict):
    run = run_of(tmp_path / "run", corpus)
    folder = decide(tmp_path / "d", tmp_path / "run")
    add_reviews(tmp_path / "run", review(corpus[2], run, soft_alpha(40), verdict=verdict))
    found, faults = chosen(folder)
    assert list(faults) == [corpus[2]["record_id"]]
    assert "decide again" in faults[corpus[2]["record_id"]]
    assert set(found) == {row["record_id"] for row in corpus} - set(faults)


def test_a_later_review_that_agrees_is_none(tmp_path, corpus):
    run = run_of(tmp_path / "run", corpus)
    folder = decide(tmp_path / "d", tmp_path / "run")
    add_reviews(tmp_path / "run", review(corpus[2], run, soft_alpha(40), at=1))
    add_reviews(tmp_path / "run", review(corpus[3], run, soft_alpha(41), at=1, verdict=None))  # said nothing
    found, faults = chosen(folder)
    assert faults == {}
    assert found[corpus[2]["record_id"]].alpha == encode(soft_alpha(40), "PNG")


def test_a_verdict_that_decided_and_counts_no_more_is_a_fault(tmp_path, corpus):
    run = run_of(tmp_path / "run", corpus)
    add_reviews(tmp_path / "run", review(corpus[2], run, soft_alpha(40), at=1))
    folder = decide(tmp_path / "d", tmp_path / "run")
    rows = pq.read_table(tmp_path / "d" / DECISIONS_FILE).to_pylist()
    rows = [row | {"reason": "verdict: accept" if row["record_id"] == corpus[2]["record_id"] else "x"} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, DECISIONS), tmp_path / "d" / DECISIONS_FILE)
    assert chosen(folder)[1] == {}
    add_reviews(tmp_path / "run", review(corpus[2], run, soft_alpha(40), at=2, verdict=None))
    assert list(chosen(folder)[1]) == [corpus[2]["record_id"]]


def test_what_was_labelled_again_since_is_a_fault(tmp_path, corpus):
    run_of(tmp_path / "run", corpus)
    folder = decide(tmp_path / "d", tmp_path / "run")
    run_of(tmp_path / "run", [corpus[1]], followup=followup(1))
    found, faults = chosen(folder)
    assert list(faults) == [corpus[1]["record_id"]]
    assert "another run has labelled it since" in faults[corpus[1]["record_id"]]
    assert len(found) == 6


def add_part(output, row):
    """Commit a record for a second time, as two jobs at once do on stores without conditional writes."""
    (data,) = (output / "records").glob("*.parquet")
    (commit,) = (output / "commits").glob("part-*.json")
    table = pq.read_table(data)
    (old,) = table.filter(pc.equal(table["record_id"], row["record_id"])).to_pylist()
    name = data.name.replace("0-000000", "0-000001")
    pq.write_table(pa.Table.from_pylist([old | {"alpha": row["alpha"]}], table.schema), data.with_name(name))
    copy = commit.with_name(commit.name.replace("0-000000", "0-000001"))
    copy.write_bytes(commit.read_bytes().replace(b"0-000000", b"0-000001"))


def test_a_record_that_is_there_twice_is_taken_once_and_a_fault(tmp_path, corpus):
    twice = {**corpus[0], "alpha": {"bytes": encode(soft_alpha(90), "PNG"), "path": None}}
    run = run_of(tmp_path / "run", corpus)
    add_part(tmp_path / "run", twice)
    selection = Selection.open(decide(tmp_path / "d", tmp_path / "run"))
    items = [item for image in selection.images() for item in image.objects]
    assert len(items) == len(selection) == 7
    (alpha,) = [item.alpha for item in items if item.record["record_id"] == twice["record_id"]]
    assert alpha == twice["alpha"]["bytes"]  # the later one, which decisions are about
    (fault,) = selection.faults
    assert (fault.record_id, "twice" in fault.reason) == (twice["record_id"], True)
    assert selection.runs == {run.run_id: 7}


def test_a_damaged_data_file_says_what_to_do(tmp_path, corpus):
    run_of(tmp_path / "run", corpus)
    folder = decide(tmp_path / "d", tmp_path / "run")
    (file,) = (tmp_path / "run" / "records").glob("*.parquet")
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(PipelineError, match=r"jobs/runs\.py redo"):
        Selection.open(folder)
    file.write_bytes(whole)
    selection = Selection.open(folder)
    file.unlink()
    with pytest.raises(PipelineError, match=r"jobs/runs\.py redo"):
        list(selection.images())


def test_rows_of_a_manifest_are_read_together(tmp_path, monkeypatch):
    data = files()["plain.jpg"]
    pq.write_table(pa.table({"image": [data] * 9}), tmp_path / "m.parquet")
    rows = [record(f"{tmp_path}/m.parquet row {number}", str(number)) for number in (8, 3, 5)]
    run_of(tmp_path / "run", rows)
    selection = Selection.open(decide(tmp_path / "d", tmp_path / "run"))
    opened = []
    monkeypatch.setattr(
        originals.storage,
        "open_stream",
        lambda uri, _open=originals.storage.open_stream, **o: opened.append(uri) or _open(uri, **o),
    )
    assert [image.original() for image in selection.images()] == [data] * 3
    assert opened == [f"{tmp_path}/m.parquet"]


def test_reviews_of_an_earlier_matte_do_not_count(tmp_path, corpus):
    run = run_of(tmp_path / "run", corpus)
    add_reviews(tmp_path / "run", review(corpus[0], run, soft_alpha(10)))
    run_of(tmp_path / "run", [corpus[0]], followup=followup(1))
    images = Selection.open(decide(tmp_path / "d", tmp_path / "run")).images()
    assert not any(item.reviewed for image in images for item in image.objects)


def test_missing_originals(tmp_path, corpus):
    run_of(tmp_path / "run", corpus)
    (tmp_path / "b.jpg").unlink()
    with tarfile.open(tmp_path / "t.tar", "w"):
        pass
    folder = decide(tmp_path / "d", tmp_path / "run")
    images = {image.objects[0].record["image_key"]: image for image in Selection.open(folder).images()}
    assert all(isinstance(images[key].original(), Unavailable) for key in "bxyz")
    assert images["a"].original() == files()["plain.jpg"]


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
