import json
import pickle

import boto3
import pytest

from pipeline import prompt_folders, storage
from pipeline.errors import ConfigurationError, TransientError
from pipeline.ids import key_hash
from pipeline.prompt_files import load_prompt_index
from pipeline.stages.read import unmatched_rows
from support.corpora import image, read_rows, reading_config
from support.prompt_files import contents, faults

LINE = "0 0.5 0.5 0.25 0.5"


def write(folder, **files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def config(tmp_path, kind="yolo", images="in", path="labels", **keys):
    prompts = {"kind": kind, "path": str(tmp_path / path), **keys}
    return reading_config("folder", tmp_path / images, prompts=prompts)


def index(tmp_path, *args, **keys):
    return load_prompt_index(config(tmp_path, *args, **keys))


def label(found):
    return found and found.prompts[0].content["label"]


def test_the_file_of_an_image_is_read_when_it_is_asked_for(tmp_path, monkeypatch):
    write(tmp_path, **{"labels/a.txt": LINE, "labels/cats/b.txt": f"1{LINE[1:]}\n2{LINE[1:]} 0.5", "labels/c.txt": ""})
    read = []
    whole = storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda uri, **keys: (read.append(uri), whole(uri, **keys))[1])
    labels = index(tmp_path)
    assert len(labels) == 3
    assert read == []
    found = labels.lookup("cats/b.jpg")
    assert read == [f"{tmp_path}/labels/cats/b.txt"]
    assert found.hash == key_hash("cats/b")
    assert [raw.content["label"] for raw in found.prompts] == [1, 2]
    assert found.prompts[1].where == f"{tmp_path}/labels/cats/b.txt line 2"
    assert labels.lookup("x/y", "x/y/a.png").hash == key_hash("a")
    assert labels.lookup("c.jpg").prompts == []
    assert labels.lookup("d.jpg") is None
    assert labels.nbytes < 1000


def test_images_beside_labels(tmp_path):
    write(tmp_path, **{f"set/labels/train/{n}.txt": f"{n}{LINE[1:]}" for n in range(3)})
    for path, key in [
        ("set/labels", "train/1.jpg"),
        ("set", "images/train/1.jpg"),
        ("set/labels", "images/train/1.jpg"),
        ("set", "train/1.jpg"),
        ("set/labels/train", "images/train/1.jpg"),
        ("set/labels/train", "1.jpg"),
        (".", "set/images/train/1.jpg"),
    ]:
        assert label(index(tmp_path, path=path).lookup(key)) == 1
    assert index(tmp_path, path="set").lookup("images/val/1.jpg") is None
    write(tmp_path, **{"rf/train/labels/7.txt": f"7{LINE[1:]}"})
    assert label(index(tmp_path, path="rf").lookup("train/images/7.jpg")) == 7
    deep = index(tmp_path, path="set")
    assert label(deep.lookup("images/x/images/train/1.jpg")) is None


def test_labelme(tmp_path):
    shapes = [{"label": "cat", "points": [[1, 2], [30, 20]], "shape_type": "rectangle"}]
    text = json.dumps({"shapes": shapes, "imageWidth": 40, "imageHeight": 30})
    write(tmp_path, **{"labels/a.json": text, "labels/a.txt": LINE, "labels/b.json": "{"})
    labels = index(tmp_path, "labelme")
    assert contents(labels.lookup("a.png")) == [{"label": "cat", "image_size": [40, 30], "box": [1, 2, 30, 20]}]
    assert "not valid JSON" in faults(labels.lookup("b.png"))[0]
    assert len(labels) == 2


def test_other_files_are_no_labels(tmp_path):
    names = ["classes.txt", "README.roboflow.txt", ".a.txt", "._b.txt", ".git/x.txt", "own.txt", "a.jpg", "c.TXT"]
    write(tmp_path, **{f"labels/{name}": LINE for name in names})
    (tmp_path / "labels/own.txt").write_text("cat\n")
    labels = index(tmp_path, class_names=str(tmp_path / "labels/own.txt"))
    assert [key for key, _ in labels.unmatched(set())] == ["c.TXT"]
    assert label(labels.lookup("c.jpg")) == "cat"


def test_choice_by_score_and_label(tmp_path):
    rows = [(0, 0.9), (1, 0.8), (0, 0.7), (0, 0.2), (0, 0.75)]
    write(tmp_path, **{"labels/a.txt": "\n".join(f"{n}{LINE[1:]} {score}" for n, score in rows), "n": "cat\ndog"})
    keys = {"class_names": str(tmp_path / "n"), "min_score": 0.5, "top_k": 2}

    def kept(**more):
        return [raw.content["score"] for raw in index(tmp_path, **keys, **more).lookup("a.jpg").prompts]

    assert kept() == [0.9, 0.8]
    assert kept(categories=["cat"]) == kept(categories=["0"]) == [0.9, 0.75]
    with pytest.raises(ConfigurationError, match=r"unknown \['bird'\]"):
        index(tmp_path, **keys, categories=["bird"])


def test_files_without_image(tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_folders, "_AT_ONCE", 2)
    files = {f"labels/{n}.txt": f"{n}{LINE[1:]}\n" * (n % 3) for n in range(20)}
    write(tmp_path, **files, **{"labels/bad.txt": b"\xff"})
    labels = index(tmp_path)
    found = dict(labels.unmatched({key_hash(str(n)) for n in range(10)}))
    assert {key: len(prompts) for key, prompts in found.items()} == {
        "bad.txt": 1,
        **{f"{n}.txt": n % 3 for n in range(10, 20) if n % 3},
    }
    (table,) = unmatched_rows(labels, {key_hash(str(n)) for n in range(10)})
    *rows, ledger = table.to_pylist()
    assert ledger["ledger"]["records"] == len(rows) == len({row["prompts"][0]["record_id"] for row in rows}) == 11
    assert {row["prompts"][0]["error_code"] for row in rows} == {"image_missing"}
    assert f"{tmp_path}/labels/11.txt line 1" in "".join(row["prompts"][0]["error_message"] for row in rows)


def test_faults_of_the_store(tmp_path, monkeypatch):
    write(tmp_path, **{f"labels/{name}.txt": LINE for name in ("gone", "refused", "fails", "large")})
    labels = index(tmp_path)
    (tmp_path / "labels/gone.txt").unlink()
    assert labels.lookup("gone.jpg").prompts == []
    (tmp_path / "labels/refused.txt").unlink()
    (tmp_path / "labels/refused.txt").mkdir()
    assert faults(labels.lookup("refused.jpg")) or labels.lookup("refused.jpg").prompts == []

    def failing(uri, **_):
        raise TransientError(f"can't read {uri}: 503") if "fails" in uri else storage.RefusedError("403")

    monkeypatch.setattr(storage, "read_bytes", failing)
    with pytest.raises(TransientError, match="503"):
        labels.lookup("fails.jpg")
    with pytest.raises(TransientError, match="503"):
        list(labels.unmatched(set()))
    assert faults(labels.lookup("refused.jpg")) == ["403"]
    monkeypatch.setattr(prompt_folders, "MAX_BYTES", 5)
    assert "too many to be read" in faults(labels.lookup("large.jpg"))[0]


def test_an_image_whose_labels_the_store_keeps_back_is_left_for_the_next_job(tmp_path, monkeypatch):
    write(tmp_path, **{f"in/{n}.png": image() for n in "abc"}, **{f"labels/{n}.txt": LINE for n in "abc"})
    whole = storage.read_bytes

    def failing(uri, **keys):
        if uri.endswith("b.txt"):
            raise TransientError("503")
        return whole(uri, **keys)

    monkeypatch.setattr(storage, "read_bytes", failing)
    settings = config(tmp_path).model_copy()
    rows = read_rows(settings)
    assert {row["image_key"] for row in rows if not row["ledger"]} == {"a.png", "c.png"}
    monkeypatch.undo()
    assert {row["image_key"] for row in read_rows(settings) if not row["ledger"]} == {"a.png", "b.png", "c.png"}


def test_workers_unpickle_it(tmp_path):
    write(tmp_path, **{f"labels/{n}.txt": LINE for n in range(100)}, n="cat")
    labels = index(tmp_path, class_names=str(tmp_path / "n"))
    (tmp_path / "n").unlink()  # read on the driver
    buffers = []
    again = pickle.loads(pickle.dumps(labels, protocol=5, buffer_callback=buffers.append), buffers=buffers)
    assert label(again.lookup("77.jpg")) == "cat"
    assert again.version == labels.version


def test_versions_tell_changes(tmp_path):
    write(tmp_path, **{"labels/a.txt": LINE, "labels/b.txt": LINE, "n": "cat"})
    names = {"class_names": str(tmp_path / "n")}
    first = index(tmp_path).version
    assert index(tmp_path).version == first != index(tmp_path, **names).version
    write(tmp_path, **{"labels/b.txt": f"{LINE}\n{LINE}"})
    assert index(tmp_path).version != first


def test_odd_names(tmp_path):
    write(tmp_path, **{"labels/日本.txt": LINE, "labels/a b#c.txt": LINE, "labels/caf\udce9.txt": LINE})
    labels = index(tmp_path)
    assert all(labels.lookup(key) for key in ("日本.jpg", "a b#c.png", "caf\\udce9.jpg"))


def test_folders_without_labels(tmp_path):
    (tmp_path / "labels").mkdir()
    for path in ("labels", "nowhere"):
        with pytest.raises(ConfigurationError, match=rf"prompts\.path .*{path} is no folder with files \*\.txt"):
            index(tmp_path, path=path)


def test_s3(s3_server):
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="prompt-folder-tests")
    for name in ("a", "x/b"):
        client.put_object(Bucket="prompt-folder-tests", Key=f"set/labels/{name}.txt", Body=LINE.encode())
    prompts = {"kind": "yolo", "path": "s3://prompt-folder-tests/set/labels"}
    labels = load_prompt_index(reading_config("folder", "x", prompts=prompts))
    assert label(labels.lookup("x/b.jpg")) == 0
    client.delete_object(Bucket="prompt-folder-tests", Key="set/labels/a.txt")
    assert labels.lookup("a.jpg").prompts == []
