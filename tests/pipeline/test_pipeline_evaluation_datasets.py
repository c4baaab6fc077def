"""Layouts of data sets, written in miniature."""

import json
from pathlib import Path

import pytest

from pipeline.errors import ConfigurationError
from pipeline.evaluation.datasets import LAYOUTS, Case, Listing, find_cases, parse_dataset
from pipeline.evaluation.published import published
from support.truths import disc, write_gray, write_object, write_photo


def listing(layout: str, root: Path, **names: str) -> Listing:
    return find_cases(parse_dataset(f"{layout}={root}", **names))


def messages(found: Listing) -> list[str]:
    return [str(fault) for fault in found.faults]


def test_aim_500_with_its_transparent_objects(tmp_path: Path) -> None:
    for key in ("o_1", "o_2"):
        write_object(tmp_path, key, "original", "mask", "trimap")
    categories = {"o_1": {"type": "SO", "category": "animal"}, "o_2": {"type": "STM", "category": "transparent"}}
    (tmp_path / "aim_category_type.json").write_text(json.dumps(categories))
    found = listing("aim-500", tmp_path)
    assert found.dataset.title == "AIM-500"
    assert found.faults == ()
    assert found.images == 2
    opaque, transparent = found.cases
    assert opaque == Case(
        *("AIM-500", "o_1", tmp_path / "original" / "o_1.jpg", tmp_path / "mask" / "o_1.png"),
        *(tmp_path / "trimap" / "o_1.png", False),
    )
    assert (transparent.key, transparent.transparent) == ("o_2", True)

    (tmp_path / "transparent.txt").write_text("o_1.jpg\n\n")
    assert [case.transparent for case in listing("aim-500", tmp_path).cases] == [True, False]


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_without_categories_all_is_opaque_and_that_is_said(content: str | None, tmp_path: Path) -> None:
    write_object(tmp_path, "o_1", "original", "mask", "trimap")
    if content is not None:
        (tmp_path / "aim_category_type.json").write_text(content)
    found = listing("aim-500", tmp_path)
    assert [case.transparent for case in found.cases] == [False]
    (message,) = messages(found)
    assert message.startswith("AIM-500: aim_category_type.json: ")
    assert message.endswith("all objects are prompted as opaque")


@pytest.mark.parametrize("below", ["", "AM-2k/"])
def test_am_2k_from_the_set_or_its_validation_folder(below: str, tmp_path: Path) -> None:
    write_object(tmp_path / "AM-2k" / "validation", "m_1", "original", "mask", "trimap")
    write_object(tmp_path / "AM-2k" / "train", "m_9", "original", "mask")
    root = tmp_path / "AM-2k" / ("" if below else "validation")
    assert [case.key for case in listing("am-2k", root).cases] == ["m_1"]


@pytest.mark.parametrize("below", ["", "validation", "validation/P3M-500-NP"])
def test_p3m_500_np_wherever_it_is_given_from(below: str, tmp_path: Path) -> None:
    write_object(tmp_path / "validation" / "P3M-500-NP", "p_1", "original_image", "mask", "trimap")
    write_object(tmp_path / "validation" / "P3M-500-P", "p_9", "blurred_image", "mask", "trimap")
    (case,) = listing("p3m-500-np", tmp_path / below).cases
    assert (case.dataset, case.key, case.image.parent.name) == ("P3M-500-NP", "p_1", "original_image")


@pytest.mark.parametrize("labels", [True, False])
def test_refmatte_rw_100_has_several_objects_on_an_image(labels: bool, tmp_path: Path) -> None:
    write_photo(tmp_path / "image" / "r_1.jpg", disc())
    for name in ("r_1_0", "r_1_1"):
        write_gray(tmp_path / "mask" / f"{name}.png", disc())
    if labels:
        write_photo(tmp_path / "image" / "other.jpg", disc())
        content = {"r_1_0": {"image_name": "r_1", "expressions": []}, "r_1_1": {"image_name": "other"}}
        (tmp_path / "refmatte_rw100_label.json").write_text(json.dumps(content))
    found = listing("refmatte-rw-100", tmp_path)
    assert [(case.key, case.image.stem) for case in found.cases] == [
        ("r_1_0", "r_1"),
        ("r_1_1", "other" if labels else "r_1"),
    ]
    assert found.images == (2 if labels else 1)
    assert len(found.faults) == (0 if labels else 1)
    assert all(case.trimap is None for case in found.cases)


def test_a_generic_folder_and_its_names(tmp_path: Path) -> None:
    write_object(tmp_path / "mine", "b", "pictures", "mattes")
    write_object(tmp_path / "mine", "a", "pictures", "mattes")
    write_gray(tmp_path / "mine" / "mattes" / "c_12.png", disc())
    write_photo(tmp_path / "mine" / "pictures" / "c.jpg", disc())
    (tmp_path / "mine" / "pictures" / "notes.txt").write_text("left alone")
    (tmp_path / "mine" / "pictures" / "._a.jpg").write_text("left alone")
    found = listing("FOLDER", tmp_path / "mine", image="pictures", alpha="mattes")
    assert (found.dataset.title, found.faults) == ("mine", ())
    assert [(case.key, case.image.name) for case in found.cases] == [
        ("a", "a.jpg"),
        ("b", "b.jpg"),
        ("c_12", "c.jpg"),
    ]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    for key in ("a", "b", "c", "d"):
        write_object(tmp_path, key, trimap="trimap")
    (tmp_path / "image" / "a.jpg").unlink()
    (tmp_path / "alpha" / "b.png").unlink()
    (tmp_path / "trimap" / "c.png").unlink()
    write_gray(tmp_path / "image" / "d.png", disc())
    found = listing("folder", tmp_path)
    assert [(case.key, case.trimap is None) for case in found.cases] == [("c", True), ("d", False)]
    name = tmp_path.name
    assert sorted(messages(found)) == [
        f"{name}: alpha/a.png: no image belongs to this alpha; it is left out",
        f"{name}: image/b.jpg: no true alpha belongs to this image; it is left out",
        f"{name}: image/d.png: d.jpg has the same name; this one is left out",
        f"{name}: trimap/c.png: missing; a trimap is derived from the alpha",
    ]


def test_folders_that_cant_be_right_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not laid out as expected: original_image and mask"):
        listing("p3m-500-np", tmp_path / "nowhere")
    write_gray(tmp_path / "alpha" / "a.png", disc())
    (tmp_path / "image").mkdir()
    with pytest.raises(ConfigurationError, match=r"alpha/a\.png: no image belongs"):
        listing("folder", tmp_path)
    for text in ("aim=x", "aim-500", "aim-500="):
        with pytest.raises(ConfigurationError, match="layouts are aim-500, am-2k"):
            parse_dataset(text)


def test_every_public_set_has_published_figures() -> None:
    titles = [layout.title for layout in LAYOUTS.values() if layout.title]
    assert len(titles) == 4
    for title in titles:
        rows = list(published(title, "box"))
        assert [row.method for row in rows][:3] == ["SDMatte", "LiteSDMatte", "SDMatte*"]
        for row in rows[:3]:
            assert set(row.figures) == {"mse", "mad", "sad", "grad", "conn_sdmatte"}
            assert 0 < row.figures["mse"] < row.figures["mad"] < row.figures["sad"]
    assert list(published("mine", "box")) == []
    assert {row.method: row.figures for row in published("AIM-500", "points")}["MAM"] == {"mse": 0.0752}
