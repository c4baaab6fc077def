import json

import pytest

from pipeline.errors import ConfigurationError
from pipeline.prompt_files import load_prompt_index, prompt_choice
from support.corpora import codes, image, lines, read_rows, reading_config, samples, tar

LINE = b"0 0.5 0.5 0.25 0.5\n"
RECTANGLE = {"label": "cat", "points": [[1, 2], [30, 20]], "shape_type": "rectangle"}
LABELME = json.dumps({"shapes": [RECTANGLE], "imageWidth": 40, "imageHeight": 30}).encode()


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def beside(kind, path, prompts="yolo", **keys):
    return reading_config(kind, path, prompts={"kind": prompts, **keys})


def prompts(config):
    return {sample.key: [raw.content.get("label") for raw in sample.prompts] for sample in samples(config)}


def test_labels_beside_the_images_of_a_folder(tmp_path):
    files = {"a.jpg": image(), "a.txt": LINE * 2, "x/b.v2.png": image(), "x/b.v2.TXT": LINE, "c.png": image()}
    files |= {"d.jpg": image(), "d.txt": b"", "classes.txt": b"cat\n", "c.prompts.jsonl": lines({"box": [1, 2, 3, 4]})}
    write(tmp_path, files)
    assert load_prompt_index(beside("folder", tmp_path)) is None
    assert prompts(beside("folder", tmp_path)) == {"a.jpg": [0, 0], "c.png": [], "d.jpg": [], "x/b.v2.png": [0]}


def test_folders_for_images_and_labels(tmp_path):
    files = {"train/images/a.jpg": image(), "train/labels/a.txt": LINE, "images/val/b.jpg": image()}
    files |= {"labels/val/b.txt": LINE * 3, "images/c.jpg": image(), "images/c.txt": LINE, "labels/c.txt": LINE}
    write(tmp_path, files)
    found = prompts(beside("folder", tmp_path))
    assert found == {"train/images/a.jpg": [0], "images/val/b.jpg": [0] * 3, "images/c.jpg": [0], "labels/c": [0]}


def test_labels_without_image(tmp_path):
    write(tmp_path, {"a.jpg": image(), "b.txt": LINE})
    assert codes(samples(beside("folder", tmp_path))) == [("a.jpg", None), ("b", "image_missing")]
    (tmp_path / "t.tar").write_bytes(tar([("a.jpg", image()), ("b.txt", LINE)]))
    assert codes(samples(beside("webdataset", tmp_path / "t.tar"))) == [("a", None), ("b", "image_missing")]


def test_labels_in_tars(tmp_path):
    members = [("a.jpg", image()), ("a.txt", LINE * 2), ("a.json", LABELME), ("b.x.jpg", image()), ("b.x.txt", LINE)]
    members += [("c.txt", LINE), ("c.jpg", image()), ("classes.txt", b"cat")]
    (tmp_path / "t.tar").write_bytes(tar(members))
    assert prompts(beside("webdataset", tmp_path / "t.tar")) == {"a": [0, 0], "b.x": [0], "c": [0]}
    assert prompts(beside("webdataset", tmp_path / "t.tar", "labelme")) == {"a": ["cat"], "b.x": [], "c": []}


def test_the_same_prompts_from_a_folder_and_from_tars(tmp_path):
    files = {"a.jpg": image(), "a.json": LABELME, "b.jpg": image(), "b.json": b"{"}
    write(tmp_path / "in", files)
    (tmp_path / "t.tar").write_bytes(tar(files.items()))
    found = []
    for kind, path in (("folder", "in"), ("webdataset", "t.tar")):
        rows = [row for row in read_rows(beside(kind, tmp_path / path, "labelme")) if not row["ledger"]]
        found.append([(row["image_key"][:1], len(row["prompts"])) for row in rows])
        assert [row["prompts"][0]["label"] for row in rows] == ["cat", None]
        message = rows[1]["prompts"][0]["error_message"]
        assert "b.json: not valid JSON" in message
    assert found[0] == found[1]


def test_class_names_and_choice(tmp_path):
    scored = b"".join(LINE.replace(b"0 ", b"%d " % n, 1).strip() + b" 0.%d\n" % s for n, s in ((0, 5), (1, 9), (1, 8)))
    write(tmp_path / "in", {"a.jpg": image(), "a.txt": scored, "b.jpg": image()})
    (tmp_path / "data.yaml").write_text("names: [cat, dog]")
    keys = {"class_names": str(tmp_path / "data.yaml")}

    def labels(**more):
        rows = read_rows(beside("folder", tmp_path / "in", **keys, **more))
        return [[prompt["label"] for prompt in row["prompts"]] for row in rows if not row["ledger"]]

    assert labels() == [["cat", "dog", "dog"], [None]]
    assert labels(top_k=1) == labels(categories=["dog"], min_score=0.85) == [["dog"], [None]]
    assert labels(categories=["0"]) == [["cat"], [None]]
    with pytest.raises(ConfigurationError, match="bird"):
        load_prompt_index(beside("folder", tmp_path, **keys, categories=["bird"]))
    with pytest.raises(ConfigurationError, match=r"set prompts\.class_names"):
        prompt_choice(beside("folder", tmp_path, categories=["dog"]))
    with pytest.raises(ConfigurationError, match="nowhere"):
        load_prompt_index(beside("folder", tmp_path, class_names="nowhere"))


def test_images_without_labels_say_where_they_were_looked_for(tmp_path):
    write(tmp_path, {"a.jpg": image(), "a.prompts.jsonl": lines({"box": [1, 2, 3, 4]})})
    row = read_rows(beside("folder", tmp_path))[0]
    assert row["prompts"][0]["error_code"] == "prompt_missing"
    assert ".txt" in row["prompts"][0]["error_message"]


def test_manifests_have_nothing_beside_their_rows(tmp_path):
    with pytest.raises(ConfigurationError, match=r"set prompts\.path"):
        load_prompt_index(beside("manifest", tmp_path / "m.jsonl"))


def test_choice_holds_for_prompts_in_the_native_form_too(tmp_path):
    found = [{"box": [1, 2, 30, 20], "score": score} for score in (0.1, 0.9, 0.5)]
    write(tmp_path, {"a.jpg": image(), "a.prompts.jsonl": lines(*found)})
    row = read_rows(reading_config("folder", tmp_path, prompts={"min_score": 0.3, "top_k": 1}))[0]
    assert [prompt["score"] for prompt in row["prompts"]] == [0.9]
