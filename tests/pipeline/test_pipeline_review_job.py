"""What comes back becomes reviews: exactly the edited pixels change, counts reconcile, one fault stops no other."""

import copy
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import ConfigurationError, PipelineError
from pipeline.latest import Chain
from pipeline.prompt_formats.brush import encode_levels
from pipeline.review import coco, cvat, job, label_studio, select
from pipeline.review.items import Returned, ReturnFault
from pipeline.review.job import import_reviews
from pipeline.review.merge import decode_alpha, shown_alpha
from pipeline.review.store import read_reviews
from pipeline.scopes import Scope
from pipeline.stages.records import encode_png
from support.review_returns import NOON, alphas, counts, old, returned, run_of, stroke
from support.review_run import data_file, review_run, soft_alpha
from support.run_rows import begin, complete, label_config, ledger_row, record_rows


@pytest.fixture
def output(tmp_path: Path) -> str:
    return review_run(tmp_path).path


def files(folder: str) -> dict[str, str]:
    paths = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_review_is_a_record_that_points_to_the_old_one(output: str) -> None:
    before = files(output)
    done = import_reviews([output], [returned(output, 2, mask=stroke(2), verdict="fix", comment="the tail")])
    assert counts(done) == (1, 1, 0, 0, 0)
    assert files(output).items() > before.items()  # nothing there was touched
    (row,) = read_reviews(output).to_pylist()
    (record,) = Chain.open(output).records(["label", "image_uri", "predicted_mad", "record_id"]).to_pylist()[1:2]
    assert {name: row[name] for name in record} == record
    assert row["reviewed_run_id"] == run_of(output)
    assert (row["verdict"], row["reviewer"], row["review_comment"]) == ("fix", "ann@example.org", "the tail")
    assert row["reviewed_at"] == NOON.replace(microsecond=123000)
    assert (row["review_tool"], row["review_id"], row["rematted"]) == ("label_studio", "2", False)
    assert row["edited_pixels"] == (stroke(2) != old(2)).sum()


def test_untouched_alphas_keep_their_bytes_and_edited_ones_their_other_pixels(output: str) -> None:
    done = import_reviews(
        [output],
        [
            returned(output, 1, mask=shown_alpha(old(1))),
            returned(output, 2),
            returned(output, 5, mask=stroke(5)),
        ],
    )
    assert (counts(done), done.edited) == ((3, 3, 0, 0, 0), 1)
    found = alphas(output)
    assert [found[number] for number in (1, 2, 3, 4)] == [encode_png(old(number)) for number in (1, 2, 3, 4)]
    changed = decode_alpha(found[5])
    assert changed.dtype == np.uint16
    painted = stroke(5) != shown_alpha(old(5))
    assert np.array_equal(changed != old(5), painted)
    assert (changed[painted] == 200 * 257).all()


def test_the_same_annotations_again_add_nothing(output: str) -> None:
    both = [returned(output, 1), returned(output, 2, mask=stroke(2))]
    import_reviews([output], both)
    before = files(output)
    assert counts(import_reviews([output], both)) == (2, 0, 2, 0, 0)
    elsewhere = dataclasses.replace(both[0], reviewed_at=NOON.astimezone(timezone(timedelta(hours=5))))
    assert counts(import_reviews([output], [elsewhere, elsewhere])) == (2, 0, 2, 0, 0)
    assert files(output) == before
    later = dataclasses.replace(both[1], mask=stroke(2, 90), reviewed_at=NOON + timedelta(minutes=1))
    assert counts(import_reviews([output], [both[0], later])) == (2, 1, 1, 0, 0)
    assert decode_alpha(alphas(output)[2])[3, 3] == 90


def test_an_edit_that_was_undone_in_the_tool_is_undone_here(output: str) -> None:
    import_reviews([output], [returned(output, 2, mask=stroke(2))])
    undone = returned(output, 2, mask=shown_alpha(old(2)), reviewed_at=NOON + timedelta(minutes=1))
    import_reviews([output], [undone])
    assert alphas(output)[2] == encode_png(old(2))


def test_faults_are_listed_and_cost_no_other(output: str) -> None:
    small = np.zeros((4, 4), np.uint8)
    done = import_reviews(
        [output],
        [
            ReturnFault("task 9", "no list"),
            returned(output, 77),
            returned(output, 1, run_id="an older run"),
            returned(output, 1, run_id="reviews/0001"),
            returned(output, 6),  # an error record
            returned(output, 3, mask=small),
            returned(output, 4),
        ],
    )
    assert counts(done) == (7, 1, 0, 0, 6)
    text = str(done)
    assert "FAULT: task 9: no list" in text
    assert "FAULT: record 77 of" in text
    assert text.count("no output that was named holds an ok record of that id and run") == 4
    assert "4 x 4 pixels, the alpha 40 x 30" in text
    assert "7 came back: 1 imported, 0 known already, 0 say nothing, 6 faults" in text


def test_names_from_outside_are_made_printable(output: str) -> None:
    done = import_reviews([output], [returned(output, 1, run_id="\ud800\x1b[31m\n" + "x" * 9999)])
    text = str(done)
    assert counts(done) == (1, 0, 0, 0, 1)
    assert "\x1b" not in text
    assert len(text.encode()) < 1000


def test_what_a_binary_tool_returns_without_a_word_is_no_review(output: str) -> None:
    def quiet(number: int, mask: NDArray[np.uint8], **fields: Any) -> Returned:
        plain = {"tool": "coco", "verdict": None, "reviewer": None, "reviewed_at": None, "review_id": None}
        return returned(output, number, mask=mask, binary=True, **(plain | fields))

    core = shown_alpha(old(1), binary=True)
    came = [quiet(1, core), quiet(2, shown_alpha(old(2), binary=True), verdict="reject"), quiet(3, 255 - core)]
    done = import_reviews([output], came, reviewer="bob")
    assert counts(done) == (3, 2, 0, 1, 0)
    assert sorted(row["record_id"] for row in read_reviews(output).to_pylist()) == [2, 3]
    assert set(read_reviews(output)["reviewer"].to_pylist()) == {"bob"}
    assert counts(import_reviews([output], came, reviewer="bob")) == (3, 0, 2, 1, 0)


def test_a_dry_run_counts_and_writes_nothing(output: str) -> None:
    before = files(output)
    done = import_reviews([output], [returned(output, 2, mask=stroke(2)), returned(output, 77)], dry_run=True)
    assert (counts(done), done.edited, done.files) == ((2, 1, 0, 0, 1), 1, [])
    assert files(output) == before


def test_large_imports_add_several_files(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_BATCH", 2)
    monkeypatch.setattr(job, "_FILE_BYTES", 1)
    done = import_reviews([output], [returned(output, number) for number in range(1, 6)])
    assert [Path(uri).name for uri in done.files] == ["0001.parquet", "0002.parquet", "0003.parquet"]
    assert len(read_reviews(output)) == 5


def test_each_review_goes_to_the_output_that_holds_its_record(tmp_path: Path, output: str) -> None:
    other = review_run(tmp_path / "other").path
    done = import_reviews([output, other], [returned(output, 1), returned(other, 1), returned(other, 2)])
    assert counts(done) == (3, 3, 0, 0, 0)
    assert [len(read_reviews(path)) for path in (output, other)] == [1, 2]


def test_an_output_given_twice_or_copied_is_no_guess(
    tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(output).parent)
    done = import_reviews([output, output, "run", "./run", f"{output}/"], [returned(output, 1)])
    assert counts(done) == (1, 1, 0, 0, 0)
    shutil.copytree(output, tmp_path / "copy")
    done = import_reviews([output, str(tmp_path / "copy")], [returned(output, 2)])
    assert "several outputs hold it" in done.faults[0].message


def test_a_review_of_a_record_that_was_made_anew_is_kept_and_does_not_count(output: str) -> None:
    scope = Scope("again", "quality is None", ("",))
    again = begin(label_config(output), scope=scope, followup="followups/0001")
    newer = {"bytes": encode_png(soft_alpha(8)), "path": None}
    complete(again, record_rows("a", [2], run_id=again.run_id, alpha=newer), ledger_row("a", [2]))
    done = import_reviews([output], [returned(output, 2, mask=stroke(2)), returned(output, 3)])
    assert (counts(done), done.outdated) == ((2, 2, 0, 0, 0), 1)
    assert "1 are about records that were made anew since" in str(done)
    assert alphas(output)[2] == newer["bytes"]
    assert len(read_reviews(output)) == 2


def test_a_corrected_alpha_can_be_corrected_again(output: str) -> None:
    import_reviews([output], [returned(output, 3, mask=stroke(3), verdict="fix")])
    (item,) = select.review_items(select.choose([output], limit=1).objects)
    assert item.record["record_id"] == 3
    shown = shown_alpha(decode_alpha(item.record["alpha"]["bytes"]))
    mask = shown.copy()
    mask[20:22, :5] = 111
    second = returned(output, 3, run_id=item.record["run_id"], mask=mask, review_id="other")
    assert counts(import_reviews([output], [second])) == (1, 1, 0, 0, 0)
    expected = np.where(stroke(3) != old(3), stroke(3), old(3))
    expected[20:22, :5] = 111
    assert np.array_equal(decode_alpha(alphas(output)[3]), expected)
    (row,) = read_reviews(output).to_pylist()
    assert (row["edited_pixels"], row["reviewed_run_id"]) == (10, run_of(output))


def test_what_was_shown_is_kept_and_two_versions_of_a_record_in_one_file_add_nothing_a_second_time(
    output: str,
) -> None:
    import_reviews([output], [returned(output, 3, mask=stroke(3), verdict="fix")])
    plain = {"tool": "cvat", "reviewer": None, "reviewed_at": None, "review_id": None}
    both = [
        returned(output, 3, verdict="fix", **plain),
        returned(output, 3, verdict="accept", run_id="reviews/0001", **plain),
    ]
    assert counts(import_reviews([output], both)) == (2, 2, 0, 0, 0)
    (row,) = read_reviews(output).to_pylist()
    assert (row["verdict"], row["shown_run_id"], row["edited_pixels"]) == ("accept", "reviews/0001", 0)
    assert row["alpha"]["bytes"] != encode_png(old(3))  # the correction that was shown
    for _ in range(2):
        assert counts(import_reviews([output], both)) == (2, 0, 2, 0, 0)
    assert counts(import_reviews([output], both[:1])) == (1, 0, 1, 0, 0)
    (row,) = read_reviews(output).to_pylist()
    assert row["verdict"] == "accept"


def test_a_verdict_about_an_older_matte_keeps_the_correction(output: str) -> None:
    import_reviews([output], [returned(output, 3, mask=stroke(3), verdict="fix")])
    corrected = alphas(output)[3]
    other = [
        returned(output, 3, mask=shown_alpha(old(3)), review_id="other"),
        returned(output, 2, review_id="two"),  # nobody corrected that
        returned(output, 4, tool="coco", mask=shown_alpha(old(4), binary=True), binary=True, review_id=None),
    ]
    done = import_reviews([output], other)
    assert (counts(done), done.edited) == ((3, 3, 0, 0, 0), 0)
    assert len(done.notes) == 1
    said = "NOTE: 1 reviews are about an older matte than the one that counts: their verdicts count, the corrected "
    assert said + "alphas stay (record 3)" in str(done)
    assert alphas(output)[3] == corrected
    row = next(row for row in read_reviews(output).to_pylist() if row["record_id"] == 3)
    assert (row["verdict"], row["edited_pixels"], row["reviewed_run_id"]) == ("accept", 0, run_of(output))
    assert row["shown_run_id"] == run_of(output)
    done = import_reviews([output], other)
    assert (counts(done), done.notes) == ((3, 0, 3, 0, 0), [])


def test_a_correction_of_the_same_import_stays_too(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_BATCH", 1)
    monkeypatch.setattr(job, "_FILE_BYTES", 1)
    both = [returned(output, 3, mask=stroke(3)), returned(output, 3, review_id="other")]
    done = import_reviews([output], both)
    assert (len(done.files), len(done.notes)) == (2, 1)
    assert np.array_equal(decode_alpha(alphas(output)[3]), stroke(3))


def test_an_edit_of_an_older_matte_counts_and_is_noted(output: str) -> None:
    import_reviews([output], [returned(output, 3, mask=stroke(3))])
    done = import_reviews([output], [returned(output, 3, mask=stroke(3, 90), review_id="other")])
    assert counts(done) == (1, 1, 0, 0, 0)
    assert "NOTE: 1 edited reviews are about an older matte than the one that counts: their alphas" in str(done)
    assert np.array_equal(decode_alpha(alphas(output)[3]), stroke(3, 90))
    same = returned(output, 3, mask=stroke(3, 90), review_id="third")  # nothing is lost by that
    assert import_reviews([output], [same]).notes == []


def test_a_damaged_data_file_says_what_to_do(tmp_path: Path) -> None:
    run = review_run(tmp_path)
    path = data_file(run)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(PipelineError, match=r"a data file can't be read .*jobs/runs\.py reconcile"):
        import_reviews([run.path], [returned(run.path, 1)])


def test_where_no_run_is_complete_nothing_is_imported(tmp_path: Path, output: str) -> None:
    (Path(output) / "_SUCCESS").unlink()
    with pytest.raises(ConfigurationError, match="holds no complete run"):
        import_reviews([output], [])
    with pytest.raises(ConfigurationError, match="not a run directory"):
        import_reviews([str(tmp_path)], [])


# --- the round trip of each tool -------------------------------------------------------------------------------------


def painted_mask(shown: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What people make of a mask: rows 8 to 12 inverted, at all columns."""
    mask = shown.copy()
    mask[8:13] = 255 - mask[8:13]
    return mask


def by_label_studio(items: Iterator[Any], folder: Path) -> Iterator[Returned | ReturnFault]:
    label_studio.export(items, str(folder), title="t")
    tasks = json.loads((folder / "tasks-0001.json").read_text())
    for number, task in enumerate(tasks, 1):
        results = copy.deepcopy(task["predictions"][0]["result"])
        for result in results:
            if result["type"].startswith("brush"):
                shown = shown_alpha(old(int(task["data"]["record_id"])))
                edited = painted_mask(shown) if task["data"]["record_id"] in ("3", "5") else shown
                result["value"]["rle"] = encode_levels(edited)
        annotation = {"id": number, "result": results, "updated_at": "2026-03-01T12:00:00Z", "completed_by": 1}
        task |= {"id": number, "annotations": [annotation]}
    yield from label_studio.read(tasks)


def by_cvat(items: Iterator[Any], folder: Path) -> Iterator[Returned | ReturnFault]:
    import xml.etree.ElementTree as ET

    cvat.export(items, str(folder), title="t")
    tree = ET.parse(folder / "annotations.xml")
    for image in tree.getroot().iter("image"):
        for mask in image.iter("mask"):
            number = mask.findtext("attribute[@name='record_id']")
            if number in ("3", "5"):
                shown = cvat.decode_core(mask.attrib, image.attrib)
                mask.attrib.update(cvat.encode_core(painted_mask(np.where(shown, 255, 0).astype(np.uint8)) > 0))
            mask.find("attribute[@name='verdict']").text = "accept"  # type: ignore[union-attr]
    tree.write(folder / "back.xml")
    yield from cvat.read(str(folder / "back.xml"))


def by_coco(items: Iterator[Any], folder: Path) -> Iterator[Returned | ReturnFault]:
    from pycocotools import mask as coco_masks

    coco.export(items, str(folder), title="t")
    content = json.loads((folder / coco.ANNOTATIONS_FILE).read_text())
    for annotation in content["annotations"]:
        if annotation["attributes"]["record_id"] in ("3", "5"):
            edited = painted_mask(coco_masks.decode(annotation["segmentation"]) * np.uint8(255))
            annotation["segmentation"]["counts"] = coco_masks.encode(np.asfortranarray(edited // 255))[
                "counts"
            ].decode()
        annotation["attributes"]["verdict"] = "accept"
    (folder / "back.json").write_text(json.dumps(content))
    yield from coco.read(str(folder / "back.json"))


@pytest.mark.parametrize("tool", [by_label_studio, by_cvat, by_coco])
def test_in_a_round_trip_exactly_the_edited_pixels_change(
    tmp_path: Path, output: str, tool: Callable[..., Iterator[Returned | ReturnFault]]
) -> None:
    items = select.review_items(select.choose([output]).objects)
    done = import_reviews([output], tool(items, tmp_path / "export"))
    assert (counts(done), done.edited) == ((5, 5, 0, 0, 0), 2)
    for number, png in alphas(output).items():
        if number not in (3, 5):
            assert png == encode_png(old(number))
            continue
        shown = shown_alpha(old(number), binary=tool is not by_label_studio)
        edited = painted_mask(shown) != shown
        now = decode_alpha(png)
        assert now.dtype == old(number).dtype
        assert np.array_equal(now[~edited], old(number)[~edited])
        assert np.array_equal(shown_alpha(now)[edited], painted_mask(shown)[edited])
        rows = np.flatnonzero((now != old(number)).any(axis=1))
        assert rows.tolist() == [8, 9, 10, 11, 12]
