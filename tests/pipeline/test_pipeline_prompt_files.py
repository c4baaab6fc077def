import json
import pickle

import boto3
import numpy as np
import pyarrow as pa
import pytest

from pipeline import prompt_files
from pipeline.errors import ConfigurationError
from pipeline.ids import key_hash
from pipeline.prompt_files import PromptIndex, load_prompt_index
from pipeline.prompts import Entry
from support.corpora import BOX, lines, reading_config
from support.prompt_files import contents, load

# --- the native form -------------------------------------------------------------------------------------------------


def test_prompts_are_found_by_key_in_the_order_of_the_file(tmp_path):
    index = load(
        tmp_path,
        b"\xef\xbb\xbf"
        + lines(BOX | {"image": "b.jpg", "label": "1"}, BOX | {"image": "a.jpg", "label": "2"})
        + b"\r\n\r\n"
        + lines(BOX | {"image": "b.jpg", "label": "3"}, BOX | {"image": "b.jpg", "label": "1"}),
    )
    assert len(index) == 2
    found = index.lookup("b.jpg")
    assert contents(found) == [BOX | {"label": label} for label in "131"]
    assert [raw.where for raw in found.prompts] == [f"{tmp_path}/prompts.json line {n}" for n in (1, 5, 6)]
    assert found.hash == key_hash("b.jpg")
    assert index.lookup("c.jpg") is None


def test_an_image_may_be_called_by_key_path_or_file_name(tmp_path):
    index = load(
        tmp_path,
        lines(
            BOX | {"image": "dir/a.jpg", "label": "path"},
            BOX | {"image": "a.jpg", "label": "name"},
            BOX | {"image": "b", "label": "stem"},
            BOX | {"image": "dir/c", "label": "no ending"},
        ),
    )

    def label(*names):
        found = index.lookup(*names)
        return found and found.prompts[0].content["label"]

    assert label("dir/a.jpg") == "path"
    assert label("dir/a", "dir/a.jpg") == "path"  # a tar's key, and the member
    assert label("other/a.jpg") == "name"
    assert label("other/a", "other/a.jpg") == "name"
    assert label("x/y/b.png") == "stem"
    assert label("dir/c.jpg") == "no ending"
    assert label("other/c.jpg") is None
    assert label("17", "s3://bucket/x/a.jpg") == "name"


def test_malformed_lines_become_nameless_and_keep_their_line(tmp_path):
    index = load(
        tmp_path,
        lines(BOX | {"image": "a.jpg"})
        + b"{broken\n[1]\n"
        + lines(BOX, BOX | {"image": 7}, BOX | {"image": ""}, {"image": "b.jpg", "box": "wrong"}),
    )
    assert [raw.where.rpartition(" ")[2] for raw in index.nameless] == ["2", "3", "4", "5", "6"]
    assert [raw.fault[:10] for raw in index.nameless[:2]] == ["not valid ", "a prompt m"]
    assert 'no "image"' in index.nameless[2].fault
    assert contents(index.lookup("b.jpg")) == [{"box": "wrong"}]  # its image is known: the audit says the rest


def test_unmatched_prompts_are_listed_in_the_order_of_the_file(tmp_path):
    names = [f"{n}.jpg" for n in range(12)]
    index = load(tmp_path, lines(*[BOX | {"image": name} for name in names for _ in range(2)]) + b"{broken\n")
    matched = {index.lookup(name).hash for name in names[3:9]}
    unmatched = list(index.unmatched(matched))
    assert [key for key, _ in unmatched] == ["", *names[:3], *names[9:]]
    assert [len(prompts) for _, prompts in unmatched] == [1] + [2] * 6
    assert list(index.unmatched({key_hash(name) for name in names})) == [("", index.nameless)]


def test_unmatched_prompts_do_not_all_stand_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_files, "_BATCH", 4)
    names = [f"{n % 5}.jpg" for n in range(23)]
    index = load(tmp_path, lines(*[BOX | {"image": name, "id": n} for n, name in enumerate(names)]))
    unmatched = list(index.unmatched({key_hash("2.jpg")}))
    assert [key for key, _ in unmatched] == ["0.jpg", "1.jpg", "3.jpg", "4.jpg"]
    assert [raw.content["id"] for raw in unmatched[2][1]] == [3, 8, 13, 18]


def test_the_size_of_what_workers_share(tmp_path):
    one = load(tmp_path, lines(BOX | {"image": "a.jpg"})).nbytes
    assert 0 < one < 1000
    assert load(tmp_path, lines(*[BOX | {"image": f"{n}.jpg"} for n in range(1000)])).nbytes > 50 * one


def test_keys_whose_hashes_collide_stay_apart():
    class Colliding(PromptIndex):
        pass

    entries = [Entry("a", 1, {"box": [1]}), Entry("b", 2, {"box": [2]}), Entry("a", 3, {"box": [3]})]
    index = PromptIndex.build("p line", entries)
    table = index._table.set_column(0, "hash", pa.array(np.full(3, key_hash("a"))))
    index = Colliding("p line", table.take([0, 1, 2]).combine_chunks(), table[:0])
    assert contents(index.lookup("a")) == [{"box": [1]}, {"box": [3]}]
    assert index.lookup("b") is None
    assert [key for key, _ in index.unmatched(set())] == ["a", "b"]


def test_pickling_shares_the_table(tmp_path):
    index = load(tmp_path, lines(*[BOX | {"image": f"{n}.jpg"} for n in range(1000)]))
    buffers = []
    data = pickle.dumps(index, protocol=5, buffer_callback=buffers.append)
    assert len(data) < 5000  # the rest travels beside, and is shared
    again = pickle.loads(data, buffers=buffers)
    assert len(again) == 1000
    assert again.lookup("77.jpg") == index.lookup("77.jpg")
    assert again.folder == index.folder == str(tmp_path)


def test_odd_keys(tmp_path):
    index = load(tmp_path, lines(BOX | {"image": "caf\udce9.jpg"}, BOX | {"image": "日本.jpg"}, BOX | {"image": "17"}))
    assert contents(index.lookup("caf\\udce9.jpg")) == [BOX]
    assert contents(index.lookup("日本", "日本.jpg")) == [BOX]
    assert contents(index.lookup("17.jpg")) == [BOX]


def test_files_that_are_no_prompts(tmp_path):
    config = reading_config("folder", tmp_path)
    assert load_prompt_index(config) is None
    with pytest.raises(ConfigurationError, match=r"prompts\.path .*line 1.*not valid JSON"):
        load(tmp_path, b"image,box\na.jpg,1\n")
    with pytest.raises(ConfigurationError, match="empty"):
        load(tmp_path, b"\n")
    with pytest.raises(ConfigurationError, match=r"correct prompts\.path"):
        load_prompt_index(reading_config("folder", tmp_path, prompts={"kind": "jsonl", "path": str(tmp_path / "x")}))


def test_sharing_keeps_what_belongs_to_the_table(tmp_path):
    xml = '<annotations><image name="x/{}.jpg"><points points="1,2"/><points points="3,4"/></image></annotations>'
    index = load(tmp_path, xml.format("a").encode(), "cvat", top_k=1)
    again = pickle.loads(pickle.dumps(index))
    assert contents(again.lookup("a.jpg")) == [{"points": [[1.0, 2.0]]}]
    assert again.version == index.version
    assert load(tmp_path, xml.format("bc").encode(), "cvat").version != index.version


def test_nameless_prompts_become_objects_as_they_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_files, "_BATCH", 3)
    index = load(tmp_path, lines(BOX | {"image": "a.jpg"}) + b"{broken\n[1]\n{}\n" * 3)
    assert len(index.nameless) == 9
    assert [raw.where.rpartition(" ")[2] for raw in index.nameless] == [str(n) for n in range(2, 11)]
    assert index.nameless[-1] == index.nameless[6:][2] == list(index.nameless)[8]
    assert len(pickle.loads(pickle.dumps(index)).nameless) == 9


def test_the_keys_that_found_their_image_may_come_as_an_array(tmp_path):
    index = load(tmp_path, lines(*[BOX | {"image": f"{n}.jpg"} for n in range(5)]))
    matched = np.array([key_hash("3.jpg"), key_hash("1.jpg")])
    assert [key for key, _ in index.unmatched(matched)] == ["0.jpg", "2.jpg", "4.jpg"]


def test_the_best_prompts_of_each_image(tmp_path):
    rows = [BOX | {"image": f"{n % 2}.jpg", "score": score} for n, score in enumerate([0.1, 0.2, 0.3, 0.4, 0.5, 0.0])]
    index = load(tmp_path, lines(*rows), top_k=2, min_score=0.2)
    assert [content["score"] for content in contents(index.lookup("0.jpg"))] == [0.3, 0.5]
    assert [[raw.content["score"] for raw in prompts] for _, prompts in index.unmatched(set())] == [
        [0.2, 0.4],
        [0.3, 0.5],
    ]


def test_control_characters_in_keys_stand_as_in_the_keys_of_images(tmp_path):
    index = load(tmp_path, lines(BOX | {"image": "a\x1b[31m.jpg"}))
    assert contents(index.lookup("a\\x1b[31m.jpg")) == [BOX]


# --- COCO ------------------------------------------------------------------------------------------------------------

TRUTH = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}, {"id": "x", "file_name": "c.jpg"}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
}


def detection(image=1, category=3, score=0.9, **more):
    return {"image_id": image, "category_id": category, "bbox": [10, 20, 30, 40.5], "score": score, **more}


def load_coco(tmp_path, content, truth=None, **keys):
    if truth is not None:
        (tmp_path / "images.json").write_text(json.dumps(truth))
        keys["coco_images"] = str(tmp_path / "images.json")
    return load(tmp_path, content, "coco", **keys)


def test_results_with_their_images(tmp_path):
    index = load_coco(tmp_path, [detection(), detection(2, 4, 0.5, id=77), detection("x")], TRUTH)
    assert contents(index.lookup("a.jpg")) == [{"label": "cat", "score": 0.9, "box": [10, 20, 40, 60.5]}]
    assert contents(index.lookup("b", "val/b.jpg")) == [
        {"id": 77, "label": "dog", "score": 0.5, "box": [10, 20, 40, 60.5]}
    ]
    assert contents(index.lookup("c.jpg"))
    assert index.lookup("a.jpg").prompts[0].where == f"{tmp_path}/prompts.json annotation 0"


def test_results_by_numeric_file_stems(tmp_path):
    index = load_coco(tmp_path, [detection(139), detection("000285"), detection("seven")])
    assert contents(index.lookup("000000000139.jpg")) == [{"label": 3, "score": 0.9, "box": [10, 20, 40, 60.5]}]
    assert index.lookup("val/139", "val/139.png")
    assert index.lookup("285.jpg")
    assert index.lookup("1390.jpg") is None
    assert index.lookup("a139.jpg") is None
    assert [key for key, _ in index.unmatched({key_hash("139")})] == ["285", "image_id seven"]


def test_ground_truth(tmp_path):
    polygon = [[1, 1, 9, 1, 9, 9]]
    runs = {"size": [30, 40], "counts": [0, 1200]}
    annotations = [
        {"id": 5, "image_id": 1, "category_id": 3, "bbox": [1, 1, 8, 8], "segmentation": polygon, "iscrowd": 0},
        {"id": 6, "image_id": 1, "category_id": 3, "segmentation": polygon},
        {"id": 7, "image_id": 1, "category_id": 4, "segmentation": runs},
        {"id": 8, "image_id": 1, "category_id": 4, "segmentation": runs, "iscrowd": 1},
        {"id": 9, "image_id": 1, "category_id": 4, "bbox": [], "segmentation": runs},
    ]
    index = load_coco(tmp_path, TRUTH | {"annotations": annotations})
    assert contents(index.lookup("a.jpg")) == [
        {"id": 5, "label": "cat", "box": [1, 1, 9, 9]},
        {"id": 6, "label": "cat", "mask": {"polygon": polygon}},
        {"id": 7, "label": "dog", "mask": runs},
        {"id": 9, "label": "dog", "mask": runs},
    ]


def test_filters(tmp_path):
    results = [detection(score=0.2), detection(score=0.5), detection(category=4), detection(score=float("nan"))]
    index = load_coco(tmp_path, results, TRUTH, min_score=0.5)
    assert [raw.content["label"] for raw in index.lookup("a.jpg").prompts] == ["cat", "dog", "cat"]
    for wanted in (["dog"], ["4"]):
        index = load_coco(tmp_path, results, TRUTH, categories=wanted)
        assert [raw.content["label"] for raw in index.lookup("a.jpg").prompts] == ["dog"]
    index = load_coco(tmp_path, results, categories=["4"])
    assert len(index.lookup("1.jpg").prompts) == 1
    with pytest.raises(ConfigurationError, match=r"unknown \['bird'\].*'cat', 'dog'"):
        load_coco(tmp_path, results, TRUTH, categories=["bird"])
    with pytest.raises(ConfigurationError, match="coco_images"):
        load(tmp_path, results, "coco", categories=["cat"])
    with pytest.raises(ConfigurationError, match="filtered out"):
        load_coco(tmp_path, [detection(score=0.1)], TRUTH, min_score=0.5)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ({"bbox": [1, 2, 3]}, "four numbers"),
        ({"bbox": "1 2 3 4 5"}, "four numbers"),
        ({"bbox": 7}, "four numbers"),
        ({"bbox": []}, "four numbers"),
        ({"bbox": [1, 2, None, 4]}, "four numbers"),
        ({"bbox": [10**400, 2, 1.5, 4]}, "four numbers"),
        ({"bbox": None}, "neither bbox nor segmentation"),
        ({"keypoints": [1, 2, 3]}, "neither bbox nor segmentation"),
    ],
)
def test_bad_annotations_stay_with_their_image(tmp_path, annotation, words):
    index = load_coco(tmp_path, [detection(), {"image_id": 1, "category_id": 3, **annotation}], TRUTH)
    good, bad = index.lookup("a.jpg").prompts
    assert good.fault is None
    assert words in bad.fault


def test_annotations_of_no_image(tmp_path):
    bad = [detection(None), detection(True), detection([1]), "text", None]
    index = load_coco(tmp_path, [detection(), detection(99), *bad], TRUTH)
    assert [raw.where.rpartition(" ")[2] for raw in index.nameless] == ["2", "3", "4", "5", "6"]
    assert "image_id must be" in index.nameless[0].fault
    assert [key for key, _ in index.unmatched({key_hash("a.jpg")})] == ["", "image_id 99"]


def test_sizes_of_images(tmp_path):
    images = [
        {"id": 1, "file_name": "a.jpg", "width": 640, "height": 480},
        {"id": 2, "file_name": "b.jpg", "width": 640.0, "height": "480"},
        {"id": 3, "file_name": "c.jpg", "width": 0, "height": 480},
        {"id": 4, "file_name": "d.jpg", "width": [640], "height": None},
    ]
    index = load_coco(tmp_path, [detection(n) for n in (1, 2, 3, 4)], {"images": images})
    assert [contents(index.lookup(name))[0].get("image_size") for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg")] == [
        [640, 480],
        [640, 480],
        None,
        None,
    ]
    truth = {"images": images, "annotations": [detection(1)]}
    assert contents(load_coco(tmp_path, truth).lookup("a.jpg"))[0]["image_size"] == [640, 480]


def test_one_bad_number_does_not_cost_the_others(tmp_path):
    text = json.dumps([detection(7), detection(8), detection(9, id="deep")]).replace("30", "9" * 5000, 1)
    text = text.replace('"deep"', "[" * 900 + "]" * 900)
    index = load_coco(tmp_path, text.encode())
    assert index.lookup("7.jpg").prompts[0].content["box"][2] == float("inf")
    assert contents(index.lookup("8.jpg"))[0]["box"] == [10, 20, 40, 60.5]
    assert len(index.lookup("9.jpg").prompts) == 1


@pytest.mark.parametrize("content", [b"{", b"7", b'{"images": []}', b"[" * 100_000, b"\xff"])
def test_files_that_are_no_coco(tmp_path, content):
    with pytest.raises(ConfigurationError, match=r"prompts\.json"):
        load_coco(tmp_path, content)
    with pytest.raises(ConfigurationError, match=r"images\.json"):
        load_coco(tmp_path, [detection()], {"annotations": []})


def test_s3(s3_server):
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="prompt-file-tests")
    client.put_object(Bucket="prompt-file-tests", Key="p/prompts.jsonl", Body=lines(BOX | {"image": "a.jpg"}))
    path = "s3://prompt-file-tests/p/prompts.jsonl"
    index = load_prompt_index(reading_config("folder", "x", prompts={"kind": "jsonl", "path": path}))
    assert contents(index.lookup("a.jpg")) == [BOX]
    assert index.folder == "s3://prompt-file-tests/p"
