"""COCO: other programs read the export exactly, and run lengths and polygons come back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from pipeline.errors import ConfigurationError
from pipeline.review import coco, select
from pipeline.review.items import Returned, ReturnFault
from pipeline.review.merge import shown_alpha
from support.review_run import SIZE, review_run, soft_alpha

FILE = "annotations/instances_default.json"


def core(number: int) -> NDArray[np.bool_]:
    return shown_alpha(soft_alpha(number, np.uint16 if number == 5 else np.uint8), binary=True) > 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export of five objects on four pictures."""
    output = review_run(tmp_path).path
    done = coco.export(select.review_items(select.choose([output]).objects), str(tmp_path / "export"), title="t")
    assert (done.tasks, done.left_out) == (5, ())
    return tmp_path / "export"


def back(content: Any, tmp_path: Path, **limits: Any) -> list[Returned | ReturnFault]:
    (tmp_path / "back.json").write_text(json.dumps(content))
    return list(coco.read(str(tmp_path / "back.json"), **limits))


def exported(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / FILE).read_text())
    return content


def test_datumaro_reads_the_export_exactly(folder: Path) -> None:
    pytest.importorskip("datumaro", reason="`make datumaro` runs it, in an environment of its own")
    from datumaro import AnnotationType, Dataset

    found = {}
    for item in Dataset.import_from(str(folder), "coco"):
        assert item.media.data.shape == (SIZE[1], SIZE[0], 3)
        for mask in item.annotations:
            if mask.type == AnnotationType.mask:  # it has the boxes, too
                found[int(mask.attributes["record_id"])] = mask
    assert found.keys() == {1, 2, 3, 4, 5}
    for number, mask in found.items():
        assert np.array_equal(mask.image > 0, core(number))


def test_pycocotools_reads_the_export_exactly(folder: Path) -> None:
    truth = COCO(folder / FILE)
    assert len(truth.anns) == 5
    for annotation in truth.anns.values():
        mask = core(int(annotation["attributes"]["record_id"]))
        assert np.array_equal(truth.annToMask(annotation) > 0, mask)
        assert annotation["area"] == mask.sum()
        x, y, width, height = annotation["bbox"]
        rows, columns = np.nonzero(mask)
        assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_what_datumaro_writes_again_comes_back_as_it_was(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("datumaro", reason="`make datumaro` runs it, in an environment of its own")
    from datumaro import Dataset

    dataset = Dataset.import_from(str(folder), "coco")
    # As it stands it would make polygons of masks, which round their outlines.
    dataset.export(str(tmp_path / "again"), "coco_instances", save_media=False, segmentation_mode="mask")
    found = list(coco.read(str(tmp_path / "again" / FILE)))
    assert len(found) == 5
    for each in found:
        assert isinstance(each, Returned), each
        assert np.array_equal(each.mask == 255, core(each.record_id))  # type: ignore[arg-type]


def test_ids_of_64_bits_are_text(tmp_path: Path, folder: Path) -> None:
    content = exported(folder)
    for annotation in content["annotations"]:
        assert isinstance(annotation["attributes"]["record_id"], str)
    content["annotations"][0]["attributes"]["record_id"] = str(-(2**63))
    (first, *_) = back(content, tmp_path)
    assert isinstance(first, Returned)
    assert first.record_id == -(2**63)


@pytest.mark.parametrize("form", ["compressed", "counts", "polygons", "parts", "erased"])
def test_every_form_of_a_mask_comes_back(folder: Path, tmp_path: Path, form: str) -> None:
    content = exported(folder)
    annotation = content["annotations"][0]
    new = np.zeros((SIZE[1], SIZE[0]), bool)
    new[4:11, 6:21] = True
    new[20:24, 2:9] = form != "erased"
    if form == "compressed":
        run_lengths = coco_masks.encode(np.asfortranarray(new, np.uint8))
        annotation["segmentation"]["counts"] = run_lengths["counts"].decode()
    elif form == "counts":
        flat = new.T.ravel()
        edges = np.flatnonzero(np.diff(flat, prepend=False))
        annotation["segmentation"]["counts"] = np.diff(edges, prepend=0, append=flat.size).tolist()
    elif form == "polygons":
        annotation["segmentation"] = [[6, 4, 21, 4, 21, 11, 6, 11], [2, 20, 9, 20, 9, 24, 2, 24]]
    elif form == "parts":
        annotation["segmentation"] = [[6, 4, 21, 4, 21, 11, 6, 11]]
        more = annotation | {"id": 99, "segmentation": [[2, 20, 9, 20, 9, 24, 2, 24]]}
        content["annotations"].append(more)
    else:
        annotation["segmentation"], new = [], np.zeros_like(new)
    found = back(content, tmp_path)
    assert len(found) == 5
    (one,) = [each for each in found if isinstance(each, Returned) and each.record_id == 3]
    assert np.array_equal(one.mask == 255, new)  # type: ignore[arg-type]
    assert one.binary


def test_a_record_on_images_of_different_size_is_a_fault_and_costs_no_other(folder: Path, tmp_path: Path) -> None:
    content = exported(folder)
    content["images"].append(content["images"][0] | {"id": 99, "width": 50})
    small = {"size": [SIZE[1], 50], "counts": [SIZE[1] * 50]}
    content["annotations"].append(content["annotations"][0] | {"id": 99, "image_id": 99, "segmentation": small})
    found = back(content, tmp_path)
    (fault,) = [each for each in found if isinstance(each, ReturnFault)]
    assert "its shapes lie on images of 40 x 30 and 50 x 30 pixels" in fault.message
    assert len(found) == 5


def test_spaces_around_ids_make_no_second_record(folder: Path, tmp_path: Path) -> None:
    content = exported(folder)
    attributes = {name: f" {value} " for name, value in content["annotations"][0]["attributes"].items()}
    attributes["verdict"] = "none"
    content["annotations"].append(content["annotations"][0] | {"id": 99, "attributes": attributes})
    found = back(content, tmp_path)
    assert len(found) == 5
    assert len({each.run_id for each in found if isinstance(each, Returned)}) == 1


@pytest.mark.parametrize("verdicts", [("accept", "reject"), ("reject", "accept", "fix", "none")])
def test_a_record_with_verdicts_that_disagree_is_one_fault(
    folder: Path, tmp_path: Path, verdicts: tuple[str, ...]
) -> None:
    content = exported(folder)
    first = content["annotations"].pop(0)
    for verdict in verdicts:
        attributes = first["attributes"] | {"verdict": verdict}
        content["annotations"].append(first | {"id": len(content["annotations"]) + 90, "attributes": attributes})
    found = back(content, tmp_path)
    (fault,) = [each for each in found if isinstance(each, ReturnFault)]
    assert "make them agree" in fault.message
    number = int(first["attributes"]["record_id"])
    assert number not in [each.record_id for each in found if isinstance(each, Returned)]
    assert len(found) == 5


def test_verdicts_and_comments_come_back(folder: Path, tmp_path: Path) -> None:
    content = exported(folder)
    content["annotations"][0]["attributes"] |= {"verdict": "reject", "comment": "glass"}
    first = back(content, tmp_path)[0]
    assert isinstance(first, Returned)
    assert (first.verdict, first.comment, first.tool) == ("reject", "glass", "coco")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attributes": {}}, "has no record_id"),
        ({"attributes": [1]}, "has no record_id"),
        ({"attributes": {"record_id": True, "verdict": "accept"}}, "has no record_id"),
        ({"attributes": {"record_id": "3", "verdict": "fine"}}, "its verdict is 'fine'"),
        ({"image_id": 99}, "must be listed with width and height"),
        ({"segmentation": None}, "no segmentation"),
        ({"segmentation": {"size": [4, 4], "counts": [16]}}, "are of 4 x 4 pixels"),
        ({"segmentation": {"size": [30, 40], "counts": [10**12]}}, "don't add up"),
        ({"segmentation": {"size": [30, 40], "counts": "\u00ff"}}, "damaged"),
        ({"segmentation": [[1, 2, 3]]}, "at least three points"),
        ({"segmentation": [["a"] * 6]}, "at least three points"),
    ],
)
def test_an_annotation_that_cannot_be_used_is_a_fault_and_costs_no_other(
    folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    content = exported(folder)
    content["annotations"][0] |= change
    found = back(content, tmp_path)
    (fault,) = [each for each in found if isinstance(each, ReturnFault)]
    assert message in fault.message
    assert fault.where == "annotation number 1"
    assert len(found) == 5


def test_pixels_are_limited_before_anything_is_decoded(folder: Path, tmp_path: Path) -> None:
    content = exported(folder)
    for image in content["images"]:
        image |= {"width": 10**6, "height": 10**6}
    found = back(content, tmp_path)
    assert all(isinstance(each, ReturnFault) and "of at most" in each.message for each in found)
    content["annotations"].append(7)
    assert "no JSON object" in str(back(content, tmp_path))


@pytest.mark.parametrize("text", ["", "[]", '{"annotations": 3}', "[" * 100_000, "\u00ff"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigurationError, match="is no COCO file"):
        list(coco.read(str(tmp_path / "a.json")))


def test_an_object_without_a_core_is_shown_as_an_empty_mask(tmp_path: Path) -> None:
    from pipeline.stages.records import encode_png

    faint = {"bytes": encode_png(np.full((SIZE[1], SIZE[0]), 90, np.uint8)), "path": None}
    output = review_run(tmp_path, alpha=faint).path
    coco.export(select.review_items(select.choose([output]).objects), str(tmp_path / "export"), title="t")
    found = list(coco.read(str(tmp_path / "export" / FILE)))
    assert [isinstance(each, Returned) and not each.mask.any() for each in found] == [True] * 5  # type: ignore[union-attr]
