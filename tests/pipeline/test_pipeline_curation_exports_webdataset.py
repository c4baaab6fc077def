"""WebDataset shards, read by `webdataset` itself and by this pipeline."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from pipeline.curation.export import export_accepted
from pipeline.curation.exports.base import ExportSettings
from pipeline.masks import from_png
from pipeline.sources import make_source
from support.image_bytes import encode
from support.run_rows import label_config
from support.selections import HEIGHT, WIDTH, awkward, decide, fits, photo, record, run_of, soft_alpha


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("webdataset")
    export_accepted(awkward(folder), str(folder / "out"), "webdataset")
    return folder / "out"


def test_webdataset_reads_its_samples(exported):
    import webdataset

    samples = list(webdataset.WebDataset(str(exported / "000000.tar"), shardshuffle=False))
    assert len(samples) == len({sample["__key__"] for sample in samples}) == 12
    for sample in samples:
        assert len(sample["__key__"]) == 16
        int(sample["__key__"], 16)
        about = json.loads(sample["json"])
        assert about["record_id"] == sample["__key__"]
        (suffix,) = {"jpg", "png", "webp"} & set(sample)
        photograph = Image.open(io.BytesIO(sample[suffix]))
        alpha = np.asarray(Image.open(io.BytesIO(sample["alpha.png"])))
        np.testing.assert_array_equal(alpha, soft_alpha() if about["label"] else soft_alpha(200))
        assert fits(photograph, alpha)
        assert (about["width"], about["height"]) == photograph.size == (WIDTH, HEIGHT)
        assert about["image_key"].startswith("../../")  # a name, never a path


def test_this_pipeline_labels_them_again_with_alphas_as_prompts(exported, tmp_path):
    config = label_config(tmp_path / "run", input={"kind": "webdataset", "path": str(exported / "*.tar")})
    source = make_source(config)
    samples = [sample for shard in source.shards() for sample in source.read(shard)]
    assert len(samples) == 12
    for sample in samples:
        assert sample.error is None
        (prompt,) = sample.prompts
        assert prompt.fault is None
        mask = from_png(sample.load_mask(prompt.content["mask"]), lambda *size: None)
        np.testing.assert_array_equal(mask, (soft_alpha() if "label" in prompt.content else soft_alpha(200)) >= 128)


def test_shards_stay_below_their_size(tmp_path):
    rng = np.random.default_rng(1)
    (tmp_path / "a.png").write_bytes(encode(np.kron(photo(), np.ones((5, 5, 1), np.uint8)), "PNG"))
    noise = [rng.integers(0, 256, (HEIGHT * 5, WIDTH * 5), dtype=np.uint8) for _ in range(30)]
    size = {"image_width": WIDTH * 5, "image_height": HEIGHT * 5}
    records = [record(f"{tmp_path}/a.png", "a", str(number), alpha, **size) for number, alpha in enumerate(noise)]
    run_of(tmp_path / "run", records)
    decisions = decide(tmp_path / "d", tmp_path / "run")
    done = export_accepted(decisions, str(tmp_path / "out"), "webdataset", settings=ExportSettings(shard_mb=1))
    files = sorted((tmp_path / "out").glob("*.tar"))
    assert done.files["shards"] == len(files) > 2
    assert all(file.stat().st_size <= 2**20 + 10240 for file in files)  # tars end in blocks of zeros
    assert min(file.stat().st_size for file in files[:-1]) > 0.85 * 2**20
    members = []
    for file in files:
        with tarfile.open(file) as tar:
            members += tar.getnames()
    assert len(members) == len(set(members)) == 4 * 30
