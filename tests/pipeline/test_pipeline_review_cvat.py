"""CVAT: other programs read the export exactly, and only pixels that were edited change on the way back."""

import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cvat_sdk.masks import decode_mask as cvat_decode
from cvat_sdk.masks import encode_mask as cvat_encode
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import BadInputError, ConfigurationError, ErrorCode
from pipeline.review import cvat, select
from pipeline.review.binary import gather
from pipeline.review.items import Returned, ReturnFault
from pipeline.review.merge import shown_alpha
from support.review_run import SIZE, review_run, soft_alpha

CORES = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda shape: arrays(bool, shape))
KINDS = {5: np.uint16}


def core(number: int) -> NDArray[np.uint8]:
    return shown_alpha(soft_alpha(number, KINDS.get(number, np.uint8)), binary=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export of five objects on four pictures."""
    output = review_run(tmp_path).path
    items = select.review_items(select.choose([output]).objects)
    done = cvat.export(items, str(tmp_path / "export"), title="<mattes> & more")
    assert (done.tasks, done.left_out) == (5, ())
    return tmp_path / "export"


def back(path: Path, **limits: Any) -> list[Returned | ReturnFault]:
    return list(cvat.read(str(path), **limits))


def edit(folder: Path, change: Any) -> Path:
    """Applies `change` to the parsed export, as CVAT's own export would be after people edited."""
    tree = ET.parse(folder / "annotations.xml")
    change(tree.getroot())
    tree.write(folder / "back.xml", encoding="utf-8", xml_declaration=True)
    return folder / "back.xml"


@given(CORES)
def test_masks_are_encoded_as_cvat_does(mask: NDArray[np.bool_]) -> None:
    ours = cvat.encode_core(mask)
    *runs, left, top, right, bottom = cvat_encode(mask)
    assert [int(run) for run in ours["rle"].split(",")] == runs
    box = [int(ours[name]) for name in ("left", "top", "width", "height")]
    assert box == [left, top, right - left + 1, bottom - top + 1]
    size = {"width": str(mask.shape[1]), "height": str(mask.shape[0])}
    assert np.array_equal(cvat.decode_core(ours, size), mask)


@given(CORES)
def test_masks_are_decoded_as_cvat_does(mask: NDArray[np.bool_]) -> None:
    height, width = mask.shape
    *runs, left, top, right, bottom = cvat_encode(mask, [0, 0, width, height])
    shape = {"rle": ", ".join(map(str, runs)), "left": str(left), "top": str(top)}
    shape |= {"width": str(right - left + 1), "height": str(bottom - top + 1)}
    ours = cvat.decode_core(shape, {"width": str(width), "height": str(height)})
    theirs = cvat_decode([*runs, left, top, right, bottom], image_width=width, image_height=height)
    assert np.array_equal(ours, theirs)


def test_datumaro_reads_the_export_exactly(folder: Path) -> None:
    pytest.importorskip("datumaro", reason="`make datumaro` runs it, in an environment of its own")
    from datumaro import Dataset

    dataset = Dataset.import_from(str(folder), "cvat")
    found = {}
    for item in dataset:
        assert item.media.data.shape == (SIZE[1], SIZE[0], 3)
        for mask in item.annotations:
            found[int(mask.attributes["record_id"])] = mask
    assert found.keys() == {1, 2, 3, 4, 5}
    for number, mask in found.items():
        assert np.array_equal(mask.image > 0, core(number) > 0)
    names = [label.name for label in dataset.categories()[next(iter(dataset.categories()))]]
    assert sorted(names) == ["cat", "object", 'veil <&" > ö']


def test_pictures_are_upright_and_named_worst_first(folder: Path) -> None:
    root = ET.parse(folder / "annotations.xml").getroot()
    first = root.find("image")
    assert first is not None
    names = [image.get("name") for image in root.iter("image")]
    assert names == sorted(names)  # type: ignore[type-var]
    assert sorted(path.name for path in (folder / "images").iterdir()) == names
    assert [mask.findtext("attribute[@name='record_id']") for mask in first] == ["3"]
    with Image.open(folder / "images" / str(first.get("name"))) as image:
        assert image.size == SIZE
        assert image.getexif().get(0x0112, 1) == 1


def test_labels_for_the_constructor_have_the_attributes(folder: Path) -> None:
    labels = json.loads((folder / "labels.json").read_text())
    assert [label["name"] for label in labels] == ["cat", "object", 'veil <&" > ö']
    attributes = {each["name"]: each for each in labels[0]["attributes"]}
    assert attributes["verdict"]["values"] == ["none", "accept", "fix", "reject"]
    assert {"record_id", "run_id", "comment"} <= attributes.keys()


def test_untouched_objects_come_back_as_they_were_shown(folder: Path) -> None:
    found = back(folder / "annotations.xml")
    assert len(found) == 5
    for each in found:
        assert isinstance(each, Returned)
        assert np.array_equal(each.mask, core(each.record_id))  # type: ignore[arg-type]
        assert (each.verdict, each.comment, each.binary, each.tool) == (None, None, True, "cvat")


def test_an_edited_mask_a_verdict_and_a_comment_come_back(folder: Path) -> None:
    new = core(2) > 0
    new[3:9, 5:30] ^= True

    def change(root: ET.Element) -> None:
        (mask,) = [mask for mask in root.iter("mask") if mask.findtext("attribute[@name='record_id']") == "2"]
        mask.attrib.update(cvat.encode_core(new))
        for name, value in (("verdict", "fix"), ("comment", "  the <tail> & more ")):
            attribute = mask.find(f"attribute[@name='{name}']")
            assert attribute is not None
            attribute.text = value

    found = {each.record_id: each for each in back(edit(folder, change)) if isinstance(each, Returned)}
    assert np.array_equal(found[2].mask == 255, new)  # type: ignore[arg-type]
    assert (found[2].verdict, found[2].comment) == ("fix", "the <tail> & more")
    assert np.array_equal(found[1].mask, core(1))  # type: ignore[arg-type]


def test_several_masks_of_one_record_are_one(folder: Path) -> None:
    def change(root: ET.Element) -> None:
        (image, mask) = next(
            (image, mask)
            for image in root.iter("image")
            for mask in image.iter("mask")
            if mask.findtext("attribute[@name='record_id']") == "3"
        )
        corner = np.zeros((SIZE[1], SIZE[0]), bool)
        corner[:4, -4:] = True
        more = ET.fromstring(ET.tostring(mask))
        more.attrib.update(cvat.encode_core(corner))
        image.append(more)

    found = [each for each in back(edit(folder, change)) if isinstance(each, Returned) and each.record_id == 3]
    assert len(found) == 1
    expected = core(3) > 0
    expected[:4, -4:] = True
    assert np.array_equal(found[0].mask == 255, expected)  # type: ignore[arg-type]


def test_a_record_that_comes_with_two_images_counts_once(folder: Path) -> None:
    def change(root: ET.Element) -> None:
        image = next(root.iter("image"))
        twin = ET.fromstring(ET.tostring(image))
        twin.set("name", "other.jpg")
        next(twin.iter("mask")).find("attribute[@name='verdict']").text = "reject"  # type: ignore[union-attr]
        root.append(twin)

    found = back(edit(folder, change))
    (fault,) = [each for each in found if isinstance(each, ReturnFault)]
    assert fault.where.startswith("image other.jpg")
    assert "the same record came already (image 000000-" in fault.message
    assert [each.verdict for each in found if isinstance(each, Returned)] == [None] * 5


@pytest.mark.parametrize(
    ("attributes", "name", "value", "message"),
    [
        (True, "record_id", "", "has no record_id"),
        (True, "record_id", "99999999999999999999", "has no record_id"),
        (True, "verdict", "good", "its verdict is 'good'"),
        (False, "rle", "1, 2", "adds up to 3 pixels"),
        (False, "rle", "x", "must be a number"),
        (False, "left", "39", "is not a part of its image"),
        (False, "width", "-4", "whole number"),
        (False, "height", "nan", "whole number"),
    ],
)
def test_a_shape_that_cannot_be_used_is_a_fault_and_costs_no_other(
    folder: Path, attributes: bool, name: str, value: str, message: str
) -> None:
    def change(root: ET.Element) -> None:
        mask = next(root.iter("mask"))
        if attributes:
            attribute = mask.find(f"attribute[@name='{name}']")
            assert attribute is not None
            attribute.text = value
        else:
            mask.set(name, value)

    found = back(edit(folder, change))
    (fault,) = [each for each in found if isinstance(each, ReturnFault)]
    assert message in fault.message
    assert fault.where.startswith("image 000000-")
    assert len(found) == 5


def test_other_shapes_and_verdicts_that_disagree_are_faults(folder: Path) -> None:
    def change(root: ET.Element) -> None:
        image = next(root.iter("image"))
        mask = next(image.iter("mask"))
        twin = ET.fromstring(ET.tostring(mask))
        for each, verdict in ((mask, "accept"), (twin, "reject")):
            each.find("attribute[@name='verdict']").text = verdict  # type: ignore[union-attr]
        image.append(twin)
        image.append(ET.Element("polygon", {"points": "1,1;2,2;3,1"}))
        image.append(ET.Element("tag", {"label": "checked"}))

    found = back(edit(folder, change))
    faults = [each.message for each in found if isinstance(each, ReturnFault)]
    assert len(faults) == 2
    assert "<polygon> is no mask" in faults[0]
    assert "its shapes have the verdicts accept and reject; make them agree" in faults[1]
    assert len([each for each in found if isinstance(each, Returned)]) == 4  # nothing of that record


def test_pixels_are_limited_before_anything_is_decoded(folder: Path) -> None:
    found = back(folder / "annotations.xml", max_pixels=SIZE[0] * SIZE[1] - 1)
    assert len(found) == 5
    assert all(isinstance(each, ReturnFault) and "of at most 1199 pixels" in each.message for each in found)
    with pytest.raises(BadInputError):
        cvat.decode_core({"rle": "0,1"}, {"width": "999999999", "height": "999999999"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotations/>", "declares a document type"),
        ("<other/>", "outermost element is <other>"),
        ("<annotations><image", "not valid XML"),
        ("<annotations><track/></annotations>", "CVAT for video"),
        ("<annotations>" + "<a>" * 60 + "</a>" * 60 + "</annotations>", "nested too deeply"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        back(tmp_path / "a.xml")


def test_what_cannot_be_shown_is_left_out_with_its_reason(tmp_path: Path) -> None:
    output = review_run(tmp_path).path
    (tmp_path / "pictures/4.jpg").unlink()
    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, "PNG")
    (tmp_path / "pictures/5.jpg").write_bytes(small.getvalue())
    items = [*select.review_items(select.choose([output]).objects)]
    done = cvat.export([*items, items[0]], str(tmp_path / "export"), title="t")
    assert done.tasks == 3
    assert ["(image_unavailable)" in each.message for each in done.left_out] == [True, False, False]
    assert "8 x 8 pixels now" in done.left_out[1].message
    assert "there twice" in done.left_out[2].message
    assert len(back(tmp_path / "export/annotations.xml")) == 3


def test_no_picture_is_written_for_an_object_that_is_left_out(tmp_path: Path) -> None:
    output = review_run(tmp_path).path

    def refuse(core: NDArray[np.bool_]) -> None:
        raise BadInputError(ErrorCode.PROMPT_EMPTY_MASK, "this form of masks can't hold it")

    items = select.review_items(select.choose([output], limit=1).objects)
    assert len(gather(items, str(tmp_path / "export"), refuse).left_out) == 1
    assert not (tmp_path / "export").exists()


def test_a_picture_that_was_replaced_by_one_of_the_same_size_is_left_out(tmp_path: Path) -> None:
    output = review_run(tmp_path).path
    (tmp_path / "pictures/4.jpg").write_bytes((tmp_path / "pictures/5.jpg").read_bytes())
    done = cvat.export(select.review_items(select.choose([output]).objects), str(tmp_path / "export"), title="t")
    assert done.tasks == 4
    assert "has changed since its alpha was made" in done.left_out[0].message


def test_a_folder_that_holds_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="is not empty"):
        cvat.export([], str(tmp_path), title="t")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
