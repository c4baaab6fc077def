"""COCO instances, read by pycocotools and by datumaro."""

import json

import numpy as np
import pytest
from PIL import Image

from pipeline.curation.export import export_accepted
from support.image_bytes import encode
from support.selections import HEIGHT, WIDTH, awkward, decide, fits, originals, record, run_of, soft_alpha

LABEL = "../cat\x00\u202e<b>"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    export_accepted(awkward(folder), str(folder / "out"), "coco")
    return folder / "out"


def alpha_of(folder, annotation):
    return np.asarray(Image.open(folder / "alphas" / annotation["alpha"]))


def test_pycocotools_reads_masks_equal_to_the_alphas_core(exported, capsys):
    from pycocotools.coco import COCO

    coco = COCO(str(exported / "annotations" / "instances_default.json"))
    assert len(coco.getImgIds()) == 11
    assert sorted(coco.getAnnIds()) == list(range(1, 13))
    assert [row["name"] for row in coco.loadCats(coco.getCatIds())] == ["cat", "object"]
    for annotation in coco.loadAnns(coco.getAnnIds()):
        alpha = alpha_of(exported, annotation)
        mask = coco.annToMask(annotation)
        np.testing.assert_array_equal(mask, alpha >= 128)
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["bbox"] == box
        assert annotation["area"] == mask.sum()
        assert (annotation["iscrowd"], annotation["score"]) == (0, 0.75)
        (image,) = coco.loadImgs(annotation["image_id"])
        assert (image["width"], image["height"]) == (WIDTH, HEIGHT)
        assert fits(Image.open(exported / "images" / image["file_name"]), alpha)
    both = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert sorted(coco.cats[annotation["category_id"]]["name"] for annotation in both) == ["cat", "object"]


def test_datumaro_imports_it(exported):
    pytest.importorskip("datumaro", reason="`make datumaro` runs it, in an environment of its own")
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset

    data = Dataset.import_from(str(exported), "coco_instances")
    content = json.loads((exported / "annotations" / "instances_default.json").read_text())
    images = {row["file_name"].rpartition(".")[0]: row["id"] for row in content["images"]}
    found = list(data)
    assert {item.id for item in found} == set(images)
    count = 0
    for item in found:
        assert item.media.data.shape[:2] == (HEIGHT, WIDTH)
        ours = {row["id"]: row for row in content["annotations"] if row["image_id"] == images[item.id]}
        assert {part.id for part in item.annotations} == set(ours)
        for annotation in (part for part in item.annotations if part.type == AnnotationType.mask):
            np.testing.assert_array_equal(annotation.image > 0, alpha_of(exported, ours[annotation.id]) >= 128)
            assert annotation.attributes["score"] == 0.75
            count += 1
    assert count == 12


def test_hostile_names_deep_alphas_and_faint_objects(tmp_path):
    (tmp_path / "a.png").write_bytes(originals()["plain.png"])
    uri = f"{tmp_path}/a.png"
    deep = {"bytes": encode(soft_alpha().astype(np.uint16) * 257, "PNG"), "path": None}
    rows = [
        record(uri, "../../../etc/passwd", "deep", label=LABEL, quality=None) | {"alpha": deep},
        record(uri, "../../../etc/passwd", "faint", soft_alpha(120), label="ghost"),
    ]
    run_of(tmp_path / "run", rows)
    done = export_accepted(decide(tmp_path / "d", tmp_path / "run"), str(tmp_path / "out"), "coco")
    assert [(fault.record_id, "no pixel has an alpha" in fault.reason) for fault in done.faults] == [
        (rows[1]["record_id"], True)
    ]
    content = json.loads((tmp_path / "out" / "annotations" / "instances_default.json").read_text())
    (annotation,) = content["annotations"]
    assert "score" not in annotation
    assert {row["id"]: row["name"] for row in content["categories"]}[annotation["category_id"]] == LABEL
    assert annotation["area"] == (soft_alpha() >= 128).sum()
    assert (tmp_path / "out" / "alphas" / annotation["alpha"]).read_bytes() == deep["bytes"]
    assert content["images"][0]["image_key"] == "../../../etc/passwd"
    assert {path.name for path in (tmp_path / "out").rglob("*.*")} <= {
        *("instances_default.json", "export.json", "faults.jsonl"),
        *(annotation["alpha"], content["images"][0]["file_name"]),
    }


def test_objects_without_a_label_and_with_an_empty_one_share_a_category(tmp_path):
    (tmp_path / "a.png").write_bytes(originals()["plain.png"])
    uri = f"{tmp_path}/a.png"
    run_of(tmp_path / "run", [record(uri, "a", "one", label=""), record(uri, "a", "two", label=None)])
    export_accepted(decide(tmp_path / "d", tmp_path / "run"), str(tmp_path / "out"), "coco")
    content = json.loads((tmp_path / "out" / "annotations" / "instances_default.json").read_text())
    assert [row["name"] for row in content["categories"]] == ["object"]
    assert [row["category_id"] for row in content["annotations"]] == [content["categories"][0]["id"]] * 2
