import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigurationError
from pipeline.prompt_formats import LABELS
from pipeline.prompt_formats.label_files import LabelFiles
from pipeline.prompt_formats.yolo import read_class_names
from support.corpora import reading_config


def files(folder, **keys):
    return LabelFiles(reading_config("folder", folder, prompts={"kind": "yolo", **keys}))


def contents(folder, data, **keys):
    return [raw.content for raw in files(folder, **keys).parse(data, "a.txt")]


def test_boxes_and_their_confidence(tmp_path):
    data = b"0 0.5 0.25 0.5 0.125\n\n2 0.716797 0.395833 0.216406 0.147222 0.93\r\n"
    first, second = files(tmp_path).parse(b"\xef\xbb\xbf" + data, "a.txt")
    assert first.content == {"label": 0, "units": "normalised", "box": [0.25, 0.1875, 0.75, 0.3125]}
    assert second.content["box"] == pytest.approx([0.608594, 0.322222, 0.825, 0.469444])
    assert second.content["score"] == 0.93
    assert [first.where, second.where] == ["a.txt line 1", "a.txt line 3"]


def test_outlines(tmp_path):
    plain, scored = contents(tmp_path, b"1 0.1 0.2 0.3 0.2 0.3 0.6\n1\t0.1 0.2 0.3 0.2 0.3 0.6 0.75")
    assert plain == {"label": 1, "units": "normalised", "mask": {"polygon": [[0.1, 0.2, 0.3, 0.2, 0.3, 0.6]]}}
    assert scored == plain | {"score": 0.75}


NAMES = {
    "data.yaml": "path: ../data\ntrain: images/train\nnc: 3\nnames: [cat, no, 7]\n",
    "by_number.yml": "names:\n  0: cat\n  1: no\n  2: 7\n",
    "classes.txt": "cat\r\nno\n7\n\n",
    "obj.names": "\ufeffcat\nno\n7",
}


@pytest.mark.parametrize("name", NAMES)
def test_class_names(tmp_path, name):
    path = tmp_path / name
    path.write_text(NAMES[name], encoding="utf-8")
    labels = [
        content["label"]
        for content in contents(
            tmp_path, b"0 .5 .5 .1 .1\n1 .5 .5 .1 .1\n2.0 .5 .5 .1 .1\n3 .5 .5 .1 .1", class_names=str(path)
        )
    ]
    assert labels == ["cat", "no", "7", 3]


def test_keypoints_after_a_box_are_left_out_where_the_data_set_has_them(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text("kpt_shape: [2, 3]\nnames: {0: person}\n")
    line = b"0 0.5 0.5 0.5 0.5 0.4 0.4 2 0.6 0.6 1"
    assert contents(tmp_path, line, class_names=str(path)) == [
        {"label": "person", "units": "normalised", "box": [0.25, 0.25, 0.75, 0.75]}
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"cat 0.5 0.5 0.1 0.1", "field must be a number, got 'cat'"),
        (b"0 0.5 0.5 0.1", "has 4 fields"),
        (b"0", "has 1 fields"),
        (b"0 0.5 0.5 0,1 0.1", "must be a number"),
        (b"1.5 0.5 0.5 0.1 0.1", "whole number"),
        (b"-1 0.5 0.5 0.1 0.1", "whole number"),
        (b"nan 0.5 0.5 0.1 0.1", "whole number"),
        (b"1e99 0.5 0.5 0.1 0.1", "whole number"),
        (b"{", "must be a number"),
    ],
)
def test_bad_lines_do_not_stop_the_others(tmp_path, line, words):
    good = b"0 0.5 0.5 0.1 0.1"
    raws = files(tmp_path).parse(b"\n".join([good, line, good]), "a.txt")
    assert [raw.fault for raw in raws if raw.fault is None] == [None, None]
    assert words in raws[1].fault
    assert raws[1].where == "a.txt line 2"


def test_numbers_that_are_none_are_left_to_the_audit(tmp_path):
    (content,) = contents(tmp_path, b"0 nan 0.5 1e999 0.1")
    assert math.isnan(content["box"][0])


def test_what_is_no_text_is_one_malformed_prompt(tmp_path):
    (raw,) = files(tmp_path).parse(b"0 0.5 0.5 0.1 0.1\n\xff\xfe", "a.txt")
    assert "not UTF-8 (byte 18)" in raw.fault
    assert files(tmp_path).parse(b"", "a.txt") == []


@given(data=st.binary(max_size=200) | st.text(alphabet="0123456789. -enaif\n\r\t", max_size=200).map(str.encode))
def test_no_bytes_do_harm(data):
    for raw in files(".").parse(data, "a.txt"):
        assert raw.fault or raw.content["units"] == "normalised"


def test_which_files_are_labels(tmp_path):
    yolo = LABELS["yolo"]
    assert all(map(yolo.holds_prompts, ["a.txt", "x/y.z.TXT"]))
    assert not any(map(yolo.holds_prompts, ["a.jpg", "x/classes.txt", "README.roboflow.txt", "txt"]))
    own = files(tmp_path, class_names="s3://b/x/names.txt")
    assert not any(map(own.holds_prompts, ["names.txt", ".hidden.txt", ".git/a.txt", "x/._a.txt"]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "names: 5"),
        ("a.yaml", "nc: 3"),
        ("a.yaml", "- cat"),
        ("a.yaml", "names: [cat"),
        ("a.yaml", "names: [[cat], dog]"),
        ("a.yaml", "names: {x: cat}"),
        ("a.yaml", "!!python/object/apply:os.system ['true']"),
        ("a.yaml", "[" * 500),
        ("a.txt", b"\xff"),
    ],
)
def test_class_names_that_can_not_be_used(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError, match=r"class_names.*a\.(yaml|txt)"):
        read_class_names(reading_config("folder", tmp_path, prompts={"kind": "yolo", "class_names": str(path)}))


def test_class_names_that_are_not_there(tmp_path):
    with pytest.raises(ConfigurationError, match=r"class_names: .*nowhere"):
        read_class_names(reading_config("folder", tmp_path, prompts={"kind": "yolo", "class_names": "nowhere"}))
