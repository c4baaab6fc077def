"""Parquet shards, read by Hugging Face `datasets` itself."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.curation.export import export_accepted
from pipeline.curation.exports import huggingface
from pipeline.curation.exports.base import FIELDS, ExportSettings
from support.image_bytes import encode
from support.selections import BOX, HEIGHT, WIDTH, awkward, decide, fits, photo, record, run_of, soft_alpha

HOSTILE = "```\n---\nlicense: mit\n<script>alert(1)</script>"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("huggingface")
    decisions = awkward(folder)
    (folder / "decisions" / "curation.json").write_text(json.dumps({"accepted": 12, "labels": {HOSTILE: 1}}))
    export_accepted(decisions, str(folder / "out"), "huggingface")
    return folder / "out"


@pytest.fixture(scope="module")
def rows(exported, tmp_path_factory):
    from datasets import load_dataset

    files = str(exported / "data" / "*.parquet")
    cache = str(tmp_path_factory.mktemp("cache"))
    return load_dataset("parquet", data_files=files, split="train", cache_dir=cache)


def test_photos_and_alphas_are_pictures_that_fit(rows):
    assert len(rows) == 12
    for row in rows:
        assert row["image"].size == row["alpha"].size == (WIDTH, HEIGHT)
        assert row["image"].mode == "RGB"
        expected = soft_alpha() if row["label"] == "cat" else soft_alpha(200)
        np.testing.assert_array_equal(np.asarray(row["alpha"]), expected)
        assert fits(row["image"], row["alpha"])


def test_columns_tell_what_an_object_is(rows):
    first = rows[0]
    assert first["prompt_box"] == [float(edge) for edge in BOX]
    assert (first["decision"], first["reviewed"], first["label"]) == ("accept", False, "cat")
    assert first["quality"] == 0.75
    assert rows.column_names == ["image", "alpha", *FIELDS, "image_notes", "decision", "reviewed"]
    notes = {note for row in rows for note in row["image_notes"]}
    assert {"exif_rotated", "converted_cmyk", "reduced_16bit", "first_frame", "reencoded_png"} <= notes
    assert all(field.metadata[b"description"] for field in huggingface.SCHEMA)


def test_the_folder_loads_by_its_card(exported, rows, tmp_path):
    from datasets import load_dataset

    loaded = load_dataset(str(exported), split="train", cache_dir=str(tmp_path))
    assert loaded.features == rows.features
    assert len(loaded) == 12


def test_the_card_is_honest_and_nothing_breaks_out_of_it(exported):
    text = (exported / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "unknown"
    assert front["dataset_info"]["splits"][0]["num_examples"] == 12
    assert front["size_categories"] == ["n<1K"]
    assert "Licence\n\nUknown".replace("Uk", "Unk") in text
    block = text.split("```json\n")[1]
    assert block.count("```") == 1
    content, rest = block.split("```")
    assert rest.strip() == ""
    assert json.loads(content)["labels"] == {HOSTILE: 1}


def test_shards_are_cut_by_size_and_row_groups_stay_small(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "_ROW_GROUP_BYTES", 200_000)
    rng = np.random.default_rng(1)
    noise = [rng.integers(0, 256, (HEIGHT * 5, WIDTH * 5), dtype=np.uint8) for _ in range(30)]
    (tmp_path / "a.png").write_bytes(encode(np.kron(photo(), np.ones((5, 5, 1), np.uint8)), "PNG"))
    size = {"image_width": WIDTH * 5, "image_height": HEIGHT * 5}
    records = [record(f"{tmp_path}/a.png", "a", str(number), alpha, **size) for number, alpha in enumerate(noise)]
    run_of(tmp_path / "run", records)
    decisions = decide(tmp_path / "d", tmp_path / "run")
    done = export_accepted(decisions, str(tmp_path / "out"), "huggingface", settings=ExportSettings(shard_mb=1))
    files = sorted((tmp_path / "out" / "data").iterdir())
    assert [file.name for file in files] == [f"train-{n:05d}.parquet" for n in range(len(files))]
    assert done.files["shards"] == len(files) > 2
    assert sum(file.stat().st_size for file in files) == done.files["bytes"]
    assert all(file.stat().st_size < 1.05 * 2**20 for file in files)
    assert all(pq.ParquetFile(file).num_row_groups > 1 for file in files[:-1])
    ids = [number for file in files for number in pq.read_table(file)["record_id"].to_pylist()]
    assert ids == [row["record_id"] for row in records]
