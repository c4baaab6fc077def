import base64
import io
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigurationError
from pipeline.masks import encode_mask
from pipeline.prompt_formats import parquet
from support.prompt_files import contents, faults, load

PNG = encode_mask(np.eye(4, dtype=bool))


def written(columns, **keys):
    file = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), file, **keys)
    return file.getvalue()


def test_nested_columns(tmp_path):
    mask = pa.struct([("png", pa.binary()), ("size", pa.list_(pa.int32())), ("counts", pa.string())])
    table = pa.table(
        {
            "image": ["a.jpg", "a.jpg", "b.jpg", "b.jpg", "a.jpg"],
            "box": pa.array([[1, 2, 3.5, 4], None, None, None, [9, 9, 10, 10]], pa.list_(pa.float32(), 4)),
            "points": [None, [[1.0, 2.0], [3.0, 4.0]], None, None, None],
            "mask": pa.array([None, None, {"png": PNG}, {"size": [4, 4], "counts": "04500"}, None], mask),
            "id": [7, 8, None, None, 9],
            "label": pa.array(["cat", None, "dog", None, "cat"]).dictionary_encode(),
            "score": pa.array([0.5, None, None, None, None], pa.float32()),
            "transparent": [None, True, None, None, False],
        }
    )
    index = load(tmp_path, written(table, row_group_size=2), "parquet")
    assert contents(index.lookup("a.jpg")) == [
        {"box": [1, 2, 3.5, 4], "id": 7, "label": "cat", "score": 0.5},
        {"points": [[1, 2], [3, 4]], "id": 8, "transparent": True},
        {"box": [9, 9, 10, 10], "id": 9, "label": "cat", "transparent": False},
    ]
    assert contents(index.lookup("b.jpg")) == [
        {"mask": {"png": base64.b64encode(PNG).decode()}, "label": "dog"},
        {"mask": {"size": [4, 4], "counts": "04500"}},
    ]
    assert [raw.where for raw in index.lookup("b.jpg").prompts] == [f"{tmp_path}/prompts.json row {n}" for n in (2, 3)]
    assert index.folder == str(tmp_path)


def test_json_text_bytes_and_file_names(tmp_path):
    table = {
        "image": ["a.jpg"] * 5,
        "box": ["[1, 2, 3, 4]", None, None, None, "1 2 3 4"],
        "mask": [None, '{"polygon": [[1, 2, 3, 4, 5, 6]]}', "masks/a.png", None, None],
        "points": [None, None, None, " [[1, 2]]", None],
    }
    assert contents(load(tmp_path, written(table), "parquet").lookup("a.jpg")) == [
        {"box": [1, 2, 3, 4]},
        {"mask": {"polygon": [[1, 2, 3, 4, 5, 6]]}},
        {"mask": "masks/a.png"},
        {"points": [[1, 2]]},
        {"box": "1 2 3 4"},  # the audit says what is wrong with it
    ]
    found = load(tmp_path, written({"image": ["a.jpg"], "mask": [PNG]}), "parquet").lookup("a.jpg")
    assert contents(found) == [{"mask": {"png": base64.b64encode(PNG).decode()}}]


def test_rows_that_can_not_be_used(tmp_path):
    deep = "[" * 50 + "]" * 50
    table = {"image": ["a.jpg", "a.jpg", "", None, "a.jpg"], "box": ["[1, 2", deep, "[1]", "[1]", "[1, 2, 3, 4]"]}
    index = load(tmp_path, written(table), "parquet")
    broken, nested, good = faults(index.lookup("a.jpg"))
    assert "box: not valid JSON" in broken
    assert "box: nested too deeply" in nested
    assert good is None
    assert [raw.where.rpartition(" ")[2] for raw in index.nameless] == ["2", "3"]


def test_keys_may_be_numbers_and_other_columns_are_left_alone(tmp_path, caplog):
    table = {
        "image": [1, 2],
        "box": [[1, 2, 3, 4]] * 2,
        "score": [Decimal("0.5"), Decimal("0.25")],
        "seen": pa.array([0, 1], pa.timestamp("s")),
        "lable": ["cat", "dog"],
    }
    index = load(tmp_path, written(table), "parquet")
    assert contents(index.lookup("2.jpg")) == [{"box": [1, 2, 3, 4], "score": 0.25}]
    assert "lable, seen" in caplog.text


def test_types_that_json_has_not(tmp_path):
    table = {
        "image": ["a.jpg"],
        "id": pa.array([0], pa.timestamp("s")),
        "label": [b"\xff"],
        "box": [[float("nan")] * 4],
    }
    (content,) = contents(load(tmp_path, written(table), "parquet").lookup("a.jpg"))
    assert content["id"].startswith("1970-01-01")
    assert content["label"] == "\\xff"


def test_rows_do_not_all_stand_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_ROWS", 10)
    sizes = []
    monkeypatch.setattr(
        parquet, "_entry", lambda row, number, of=parquet._entry: (sizes.append(number), of(row, number))[1]
    )
    table = {"image": [f"{n % 7}.jpg" for n in range(100)], "box": [[n, 0, n + 1, 1] for n in range(100)]}
    index = load(tmp_path, written(table, row_group_size=30), "parquet")
    assert sizes == list(range(100))
    assert [content["box"][0] for content in contents(index.lookup("3.jpg"))] == list(range(3, 100, 7))


@pytest.mark.parametrize("data", [b"", b"PAR1", b'{"image": "a.jpg"}\n', written({"image": ["a.jpg"]})[:-20]])
def test_files_that_are_no_parquet(tmp_path, data):
    with pytest.raises(ConfigurationError, match=r"can't be read as Parquet"):
        load(tmp_path, data, "parquet")


def test_files_without_the_column(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no column image.*, but key, box"):
        load(tmp_path, written({"key": ["a"], "box": ["[]"]}), "parquet")
    with pytest.raises(ConfigurationError, match="has no prompt that names an image"):
        load(tmp_path, written({"image": pa.array([], pa.string())}), "parquet")


def test_damage_in_the_middle_is_named(tmp_path):
    rng = np.random.default_rng(0)
    table = {"image": [f"{n}.jpg" for n in range(5000)], "label": rng.bytes(5000 * 16).hex(" ", 16).split()}
    data = bytearray(written(table, row_group_size=1000, compression="zstd"))
    data[len(data) // 2 : len(data) // 2 + 2000] = b"\xff" * 2000
    with pytest.raises(ConfigurationError, match="can't be read as Parquet after row"):
        load(tmp_path, bytes(data), "parquet")
