import base64
import json

import numpy as np
import pytest
from pycocotools import mask as pycoco

from pipeline.errors import ConfigurationError
from pipeline.ids import key_hash
from pipeline.prompt_formats.label_studio import image_key
from support.brush import packed, rgba
from support.prompt_files import contents, faults, load


def result(kind="rectanglelabels", value=None, **keys):
    """A result as Label Studio 1.13 exports it."""
    value = {"x": 5, "y": 25, "width": 30, "height": 50, "rotation": 0} if value is None else value
    return {
        "original_width": 600,
        "original_height": 400,
        "image_rotation": 0,
        "value": {**value, **({kind: ["Airplane"]} if kind.endswith("labels") else {})},
        "id": "Dx_aB3ccd1",
        "from_name": "label",
        "to_name": "image",
        "type": kind,
        "origin": "manual",
        **keys,
    }


def task(*results, image="/data/upload/3/5f1e0c2a-plane.jpg", number=17, **keys):
    """A task of the JSON export."""
    return {
        "id": number,
        "annotations": [
            {
                "id": 41,
                "completed_by": 1,
                "result": list(results),
                "was_cancelled": False,
                "ground_truth": False,
                "created_at": "2024-05-04T10:11:12.123456Z",
                "lead_time": 12.3,
                "unique_id": "0a4c5d3e-1b2c-4d5e-8f90-123456789abc",
            }
        ],
        "file_upload": "5f1e0c2a-plane.jpg",
        "drafts": [],
        "predictions": [],
        "data": {"image": image},
        "meta": {},
        "inner_id": 1,
        "total_annotations": 1,
        "project": 3,
        **keys,
    }


def prompts(tmp_path, *results, **keys):
    return load(tmp_path, [task(*results)], "label_studio", **keys).lookup("plane.jpg")


ABOUT = {"id": "Dx_aB3ccd1", "label": "Airplane", "image_size": [600, 400]}


def test_a_rectangle(tmp_path):
    found = prompts(tmp_path, result())
    assert contents(found) == [ABOUT | {"units": "normalised", "box": [0.05, 0.25, 0.35, 0.75]}]
    assert found.prompts[0].where == f"{tmp_path}/prompts.json task 17"


def test_a_turned_rectangle_becomes_the_box_around_its_corners(tmp_path):
    # 300 x 100 pixels, a quarter turn about the top left corner at (200, 100): x from 100 to 200, y from 100 to 400.
    value = {"x": 20, "y": 20, "width": 30, "height": 20, "rotation": 90}
    (content,) = contents(prompts(tmp_path, result(value=value, original_width=1000, original_height=500)))
    assert content["box"] == pytest.approx([0.1, 0.2, 0.2, 0.8])
    found = prompts(tmp_path, result(value=value, original_width=None))
    assert "original_width" in faults(found)[0]


def test_ellipses_polygons_and_keypoints(tmp_path):
    ellipse = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 25, "rotation": 0}
    turned = ellipse | {"rotation": 90}  # 60 x 100 pixels become 100 x 60
    polygon = {"points": [[10, 20], [30, 20], [30, 60.5]], "closed": True}
    found = prompts(
        tmp_path,
        result("ellipselabels", ellipse),
        result("ellipselabels", turned),
        result("polygonlabels", polygon),
        result("keypointlabels", {"x": 12.5, "y": 80, "width": 0.5}),
    )
    flat, upright, outline, point = contents(found)
    assert flat["box"] == pytest.approx([0.4, 0.25, 0.6, 0.75])
    assert upright["box"] == pytest.approx([0.5 - 100 / 600, 0.5 - 60 / 400, 0.5 + 100 / 600, 0.5 + 60 / 400])
    assert outline == ABOUT | {"units": "normalised", "mask": {"polygon": [[0.1, 0.2, 0.3, 0.2, 0.3, 0.605]]}}
    assert point == ABOUT | {"units": "normalised", "points": [[0.125, 0.8]]}


def test_keypoints_of_one_region_are_one_prompt(tmp_path):
    def point(x, **keys):
        return result("keypointlabels", {"x": x, "y": 50, "width": 1}, **keys)

    found = prompts(tmp_path, point(1, parentID="r1"), point(2), point(3, parentID="r2"), point(4, parentID="r1"))
    assert [content["points"] for content in contents(found)] == [
        [[0.02, 0.5]],
        [[0.01, 0.5], [0.04, 0.5]],
        [[0.03, 0.5]],
    ]


def test_a_brush(tmp_path):
    alpha = np.zeros((40, 60), np.uint8)
    alpha[5:20, 10:50] = 255
    alpha[12, 30] = 0
    value = {"format": "rle", "rle": packed(rgba(alpha)), "brushlabels": ["Airplane"]}
    (content,) = contents(prompts(tmp_path, result("brushlabels", value, original_width=60, original_height=40)))
    assert content["mask"]["size"] == content["image_size"][::-1] == [40, 60]
    np.testing.assert_array_equal(pycoco.decode(content["mask"]), alpha == 255)
    assert "units" not in content
    found = prompts(tmp_path, result("brushlabels", value, original_width=60, original_height=40), max_pixels=2000)
    assert "max_pixels" in faults(found)[0]


def test_labels_apart_from_their_shapes(tmp_path):
    shape = result("rectangle", {"x": 10, "y": 10, "width": 10, "height": 10}, id="r1", from_name="box")
    label = result("labels", {"x": 10, "y": 10, "width": 10, "height": 10, "labels": ["Boat", "Old"]}, id="r1")
    label["value"]["labels"] = ["Boat", "Old"]
    other = result("rectangle", {"x": 20, "y": 10, "width": 10, "height": 10}, id="r2")
    found = prompts(tmp_path, shape, label, other)
    assert [content.get("label") for content in contents(found)] == ["Boat", None]


def test_answers_about_no_part_of_the_image_are_left_out(tmp_path):
    others = [
        {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
        result("choices", {"choices": ["sharp"]}),
        result("textarea", {"text": ["an airplane"]}),
        result("rating", {"rating": 4}),
        result("taxonomy", {"taxonomy": [["a", "b"]]}),
    ]
    assert len(prompts(tmp_path, *others, result(), *others).prompts) == 1


def test_predictions_count_where_nobody_has_answered(tmp_path):
    prediction = {"id": 9, "model_version": "v2", "score": 0.25, "result": [result(score=0.75), result(id="other")]}
    skipped = {"id": 1, "result": [result()], "was_cancelled": True}
    tasks = [
        task(result(), image="/data/upload/3/00000000-a.jpg", predictions=[prediction]),
        task(image="/data/upload/3/00000000-b.jpg", annotations=[], predictions=[prediction]),
        task(image="/data/upload/3/00000000-c.jpg", annotations=[skipped], predictions=[prediction]),
        task(image="/data/upload/3/00000000-d.jpg", predictions=[prediction]),
    ]
    index = load(tmp_path, tasks, "label_studio")
    assert [content.get("score") for content in contents(index.lookup("a.jpg"))] == [None]
    assert [content["score"] for content in contents(index.lookup("b.jpg"))] == [0.75, 0.25]
    assert [content["score"] for content in contents(index.lookup("c.jpg"))] == [0.75, 0.25]
    assert index.lookup("d.jpg") is None  # somebody has said that there is nothing


def test_every_annotation_of_a_task_counts(tmp_path):
    several = task(result())
    several["annotations"].append({"id": 42, "result": [result(id="second")]})
    index = load(tmp_path, [several], "label_studio")
    assert [content["id"] for content in contents(index.lookup("plane.jpg"))] == ["Dx_aB3ccd1", "second"]


@pytest.mark.parametrize(
    ("reference", "key", "image"),
    [
        ("/data/upload/3/5f1e0c2a-my%20plane.jpg", "upload/3/5f1e0c2a-my plane.jpg", "my plane.jpg"),
        (
            "http://host:8080/data/upload/3/5f1e0c2a-plane.jpg",
            "http://host:8080/data/upload/3/5f1e0c2a-plane.jpg",
            "plane.jpg",
        ),
        ("/data/local-files/?d=photos%2Fcats/1.jpg", "photos/cats/1.jpg", "cats/1.jpg"),
        ("/data/local-files/?d=C:\\photos\\cats\\1.jpg", "C:/photos/cats/1.jpg", "photos/cats/1.jpg"),
        ("s3://bucket/photos/cats/1.jpg", "s3://bucket/photos/cats/1.jpg", "photos/cats/1.jpg"),
        ("s3://bucket/100%25.jpg", "s3://bucket/100%25.jpg", "s3://bucket/100%25.jpg"),
        ("https://cdn.example/a%20b.jpg?X-Amz-Signature=abc", "https://cdn.example/a%20b.jpg", "a b.jpg"),
        (
            "/tasks/17/resolve/?fileuri=" + base64.urlsafe_b64encode(b"gs://bucket/x/y.png").decode().rstrip("="),
            "gs://bucket/x/y.png",
            "x/y.png",
        ),
        ("plane.jpg", "plane.jpg", "plane.jpg"),
    ],
)
def test_images_are_found_by_what_their_reference_ends_in(tmp_path, reference, key, image):
    assert image_key(reference).partition("?")[0] == key
    index = load(tmp_path, [task(result(), image=reference)], "label_studio")
    found = index.lookup(image)
    assert found.hash == key_hash(image_key(reference))
    assert index.lookup(f"other/{image}") is None or image == key
    assert list(index.unmatched({found.hash})) == []


def test_a_name_that_several_tasks_end_in_finds_none(tmp_path):
    tasks = [
        task(result(id="1"), image="/data/upload/3/11111111-a.jpg"),
        task(result(id="2"), image="/data/upload/3/22222222-a.jpg"),
        task(result(id="3"), image="s3://b/x/cats/c.jpg"),
        task(result(id="4"), image="s3://b/x/dogs/c.jpg"),
    ]
    index = load(tmp_path, tasks, "label_studio")
    assert index.lookup("a.jpg") is None
    assert contents(index.lookup("22222222-a.jpg"))[0]["id"] == "2"
    assert index.lookup("c.jpg") is None
    assert contents(index.lookup("dogs/c.jpg"))[0]["id"] == "4"
    assert contents(index.lookup("cats/c", "cats/c.jpg"))[0]["id"] == "3"  # a tar's key, and its member


def test_which_of_the_data_is_the_image(tmp_path):
    tasks = [
        task(result(to_name="photo"), data={"image": "no.jpg", "photo": "a.jpg"}),
        task(result(to_name="x"), data={"caption": "a plane", "url": "s3://b/b.jpg"}),
        task(result(to_name="pages", item_index=1), data={"pages": ["c.jpg", "d.jpg"]}),
        task(result(), data={"caption": "a plane"}, number=5),
        task(result(), data={"image": "data:image/png;base64,AAAA"}, number=6),
    ]
    index = load(tmp_path, tasks, "label_studio")
    assert all(index.lookup(name) for name in ("a.jpg", "b.jpg", "d.jpg"))
    assert not index.lookup("no.jpg")
    assert not index.lookup("c.jpg")
    assert [raw.where.rpartition(" ")[2] for raw in index.nameless] == ["5", "6"]
    assert "caption" in index.nameless[0].fault


NAN = float("nan")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (result(value={"x": "5", "y": 1, "width": 1, "height": 1}), "x must be a number"),
        (result(value={"y": 1, "width": 1, "height": 1}), "x must be a number"),
        (result() | {"value": [1]}, "value of a result"),
        (result("polygonlabels", {"points": []}), "list of points"),
        (result("polygonlabels", {"points": [[1, 2, 3]]}), "list of points"),
        (result("polygonlabels", {"points": "1,2"}), "list of points"),
        (result("brushlabels", {"format": "png", "rle": []}), "format 'png'"),
        (result("brushlabels", {"rle": [1, 2]}, original_width=4, original_height=4), "damaged"),
        (result("brushlabels", {"rle": [1, 2]}, original_width=-4), "original_width"),
        (result("cuboid3d", {}), "type 'cuboid3d'"),
        (result(type=None), "type None"),
    ],
)
def test_bad_results_stay_with_their_image(tmp_path, bad, words):
    found = prompts(tmp_path, result(), bad, result())
    good, fault, last = faults(found)
    assert good is last is None
    assert words in fault


def test_numbers_that_are_none_are_left_to_the_audit(tmp_path):
    values = [{"x": x, "y": 1, "width": 1, "height": 1} for x in (NAN, 10**400, 1e308)]
    found = prompts(tmp_path, *(result(value=value) for value in values), result(value=values[0] | {"rotation": 4}))
    assert faults(found) == [None] * 4
    text = json.dumps([{"id": 1, "annotations": [], "data": {}}])[:-1] + "," + json.dumps(task(result())) + "]"
    huge = text.replace('"lead_time": 12.3', f'"lead_time": {"9" * 5000}').encode()
    assert load(tmp_path, huge, "label_studio").lookup("plane.jpg")


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"7",
        b"[" * 100_000,
        b"\xff",
        [1, None],
        [{"image": "/data/upload/a.jpg", "label": [{"x": 1, "y": 2}]}],  # JSON-MIN
        {"annotations": [], "images": []},
    ],
)
def test_files_that_are_no_export(tmp_path, content):
    with pytest.raises(ConfigurationError, match=r"prompts\.json"):
        load(tmp_path, content, "label_studio")


def test_tasks_that_are_none_do_not_stop_the_others(tmp_path):
    index = load(tmp_path, [None, 7, {"data": 1}, task(9, result(), "x")], "label_studio")
    assert [raw.where.rpartition(" ")[2] for raw in index.nameless] == ["1", "2", "3"]
    first, good, last = faults(index.lookup("plane.jpg"))
    assert good is None
    assert "must be an object" in first
    assert "must be an object" in last
