import base64
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as pycoco

from pipeline.prompt_formats.label_files import LabelFiles
from support.corpora import reading_config


def shape(points, kind="polygon", label="cat", group=None, **keys):
    """A shape as LabelMe 5.5 saves it."""
    return {
        "label": label,
        "points": points,
        "group_id": group,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
        **keys,
    }


def document(*shapes, **keys):
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": "..\\images\\a.jpg",
        "imageData": "aGVsbG8=",
        "imageHeight": 40,
        "imageWidth": 60,
        **keys,
    }


def parse(data, max_pixels=10**6):
    config = reading_config("folder", ".", prompts={"kind": "labelme"}, input={"max_pixels": max_pixels})
    return LabelFiles(config).parse(data if isinstance(data, bytes) else json.dumps(data).encode(), "a.json")


def contents(*shapes, **keys):
    return [raw.content for raw in parse(document(*shapes, **keys))]


ABOUT = {"label": "cat", "image_size": [60, 40]}


def test_shapes_number_by_number():
    raws = parse(
        document(
            shape([[1.5, 2], [9, 2], [9, 8.25]]),
            shape([[50, 30.5], [10, 4]], "rectangle"),
            shape([[30, 20], [33, 24]], "circle"),
            shape([[5, 6]], "point"),
            shape([[5, 6], [7, 8]], "points", score=0.5),
            shape([[1, 1], [2, 2], [1, 3]], "linestrip"),
            shape([[1, 1], [2, 2]], "line"),
            shape([[1, 1], [9, 1], [9, 4], [1, 4]], "rectangle", label="dog"),
        )
    )
    assert [raw.content for raw in raws] == [
        ABOUT | {"mask": {"polygon": [[1.5, 2.0, 9.0, 2.0, 9.0, 8.25]]}},
        ABOUT | {"box": [10.0, 4.0, 50.0, 30.5]},  # drawn from any corner
        ABOUT | {"box": [25.0, 15.0, 35.0, 25.0]},
        ABOUT | {"points": [[5.0, 6.0]]},
        ABOUT | {"points": [[5.0, 6.0], [7.0, 8.0]], "score": 0.5},
        ABOUT | {"box": [1.0, 1.0, 9.0, 4.0], "label": "dog"},
    ]
    assert [raw.where for raw in raws] == [f"a.json shape {n}" for n in (1, 2, 3, 4, 5, 8)]


def test_shapes_of_a_group_and_label_are_one_object():
    triangle, other = [[1, 1], [5, 1], [5, 5]], [[10, 1], [15, 1], [15, 5]]
    found = contents(
        shape(triangle, group=1),
        shape([[2, 2]], "point", group=1),
        shape(other, group=1),
        shape(other, group=2),
        shape(other, group=1, label="dog"),
        shape([[3, 3]], "point", group=1),
        shape([[1, 1], [9, 9]], "rectangle", group=1),
        shape([[1, 1], [8, 8]], "rectangle", group=1),
    )
    flat = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0], [10.0, 1.0, 15.0, 1.0, 15.0, 5.0]]
    assert found == [
        ABOUT | {"mask": {"polygon": flat}},
        ABOUT | {"points": [[2.0, 2.0], [3.0, 3.0]]},
        ABOUT | {"mask": {"polygon": flat[1:]}},
        ABOUT | {"mask": {"polygon": flat[1:]}, "label": "dog"},
        ABOUT | {"box": [1.0, 1.0, 9.0, 9.0]},
        ABOUT | {"box": [1.0, 1.0, 8.0, 8.0]},
    ]


def png(part):
    file = io.BytesIO()
    Image.fromarray(part).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("level", [1, 255])
def test_a_mask_is_a_part_of_the_image(level):
    part = np.zeros((3, 4), np.uint8)
    part[1, 1:] = part[2, 0] = level
    (content,) = contents(shape([[50.0, 30.0], [53.0, 32.0]], "mask", mask=png(part)))
    inside = np.zeros((40, 60), bool)
    inside[30:33, 50:54] = part > 0
    np.testing.assert_array_equal(pycoco.decode(content["mask"]), inside)
    assert content == ABOUT | {"mask": content["mask"]}


def test_old_files():
    old = document(shape([[1, 1], [5, 1], [5, 5]]))
    for key in ("imageHeight", "imageWidth", "version"):
        del old[key]
    for key in ("shape_type", "group_id", "mask", "flags"):
        del old["shapes"][0][key]
    (raw,) = parse(b"\xef\xbb\xbf" + json.dumps(old, indent=2).replace("\n", "\r\n").encode())
    assert raw.content == {"label": "cat", "mask": {"polygon": [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]}}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (7, "must be an object"),
        (None, "must be an object"),
        (shape("1,2"), "list of points"),
        (shape([]), "list of points"),
        (shape([[1, 2], [3]]), "list of points"),
        (shape([[1, 2], ["3", 4]]), "must be a number"),
        (shape([[1, 2], [True, 4]]), "must be a number"),
        (shape([[1, 2]], "rectangle"), "type 'rectangle' with 1 points"),
        (shape([[1, 2]], "circle"), "type 'circle' with 1 points"),
        (shape([[1, 2]], "cuboid"), "type 'cuboid'"),
        (shape([[1, 2]], ["x"]), r"type ['x']"),
        (shape([[1, 2], [3, 4]], "mask"), "PNG in base64"),
        (shape([[1, 2], [3, 4]], "mask", mask="???"), "not valid base64"),
        (shape([[1, 2], [3, 4]], "mask", mask="aGVsbG8="), "not a PNG"),
        (shape([[59, 2], [60, 3]], "mask", mask=png(np.ones((2, 2), np.uint8))), "leaves its image"),
        (shape([[math.nan, 2], [60, 3]], "mask", mask=png(np.ones((2, 2), np.uint8))), "leaves its image"),
        (shape([[1, 2], [60, 3]], "mask", mask=png(np.ones((99, 99), np.uint8))), "9801 pixels|99 x 99"),
    ],
)
def test_bad_shapes_do_not_stop_the_others(bad, words):
    good = shape([[1, 1], [5, 1], [5, 5]])
    first, raw, last = parse(document(good, bad, good))
    assert first.fault is last.fault is None
    assert any(word in raw.fault for word in words.split("|"))


def test_masks_of_images_of_unknown_or_forbidden_size():
    mask = shape([[1, 2], [2, 3]], "mask", mask=png(np.ones((2, 2), np.uint8)))
    for data in (document(mask, imageWidth=None), document(mask, imageWidth=-3), document(mask, imageWidth=10**9)):
        assert "imageWidth" in parse(data)[0].fault
    assert "max_pixels" in parse(document(mask), max_pixels=2000)[0].fault


def test_numbers_that_are_none_are_left_to_the_audit():
    data = json.dumps(document(shape([[1, math.nan], [1e999, 5]], "rectangle"), shape([[1, 1], [5, 1], [5, 777]])))
    box, polygon = parse(data.replace("777", "7" * 6000).encode())
    assert all(map(math.isnan, box.content["box"]))
    assert polygon.content["mask"]["polygon"][0][-1] == math.inf


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a":' * 100_000, "not valid JSON"),
        (b"[]", "no LabelMe file"),
        (b'{"shapes": {}}', "no LabelMe file"),
        (b'{"images": []}', "no LabelMe file"),
    ],
)
def test_files_that_are_none_are_one_malformed_prompt(data, words):
    (raw,) = parse(data)
    assert words in raw.fault


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KINDS = st.sampled_from(["polygon", "rectangle", "circle", "point", "points", "mask", "line", None, 7, ["x"]])
PARTS = dict.fromkeys(("points", "label", "group_id", "mask", "score"), JSON) | {"shape_type": KINDS}


@settings(max_examples=40)
@given(st.lists(JSON | st.fixed_dictionaries({}, optional=PARTS), max_size=4), JSON)
def test_no_values_do_harm(shapes, size):
    for raw in parse(document(*shapes, imageWidth=size)):
        assert raw.fault or {"box", "points", "mask"} & raw.content.keys()


def test_deep_values_do_no_harm():
    deep = "[" * 900 + "]" * 900
    data = json.dumps(document(shape("deep"), shape([[1, 1]], "point", label="deep", group="deep")))
    for raw in parse(data.replace('"deep"', deep).encode()):
        json.dumps(raw.content)
