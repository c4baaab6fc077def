"""Corpora and stand-in models of the pipeline's benchmarks."""

import io

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.pipeline_set import boxes, corpus, ellipse, stand_in
from benchmarks.scores import run_config
from pipeline.masks import decode_png
from pipeline.schema import IMAGE_ROWS
from pipeline.stages.matte import MatteImages

SIZES = [(64, 48), (48, 64), (96, 96), (64, 48), (200, 50)]


def test_a_corpus_holds_images_of_the_sizes_asked_for_with_boxes_inside() -> None:
    made = corpus(SIZES, 2)
    assert sorted(made.shards) == ["00000.tar", "00001.tar", "00002.tar"]
    pairs = [pair for name in sorted(made.shards) for pair in boxes(made.shards[name])]
    assert [Image.open(io.BytesIO(image)).size for image, _ in pairs] == SIZES
    assert made.images == len(SIZES)
    assert made.bytes == sum(len(image) for image, _ in pairs)
    for (width, height), (_, (x0, y0, x1, y1)) in zip(SIZES, pairs, strict=True):
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height


def test_the_seed_decides() -> None:
    assert corpus(SIZES, 2).shards == corpus(SIZES, 2).shards
    assert corpus(SIZES, 2).shards != corpus(SIZES, 2, seed=1).shards


def test_the_stand_in_goes_through_the_stage_as_a_model_does() -> None:
    ((image, box),) = boxes(corpus([(64, 48)], 1).shards["00000.tar"])
    prompt = {"record_id": 7, "kind": "box", "box": box, "transparent": False, "repairs": []}
    row = {"shard": "a", "image_key": "0", "image_uri": "0", "image_id": 1, "image": image, "prompts": [prompt]}
    rows = pa.Table.from_pylist([row | {"image_width": 64, "image_height": 48}], IMAGE_ROWS)
    (record,) = MatteImages(run_config("none"), "run", model=stand_in()).label(rows).to_pylist()
    assert (record["status"], record["model"]) == ("ok", "stand-in")
    alpha = decode_png(record["alpha"]["bytes"])
    np.testing.assert_allclose(alpha / 255, ellipse(64, 48), atol=0.5 / 255 + 1e-6)


def test_its_alpha_has_a_soft_edge() -> None:
    alpha = ellipse(200, 100)
    assert alpha.shape == (100, 200)
    assert (alpha[50, 100], alpha[0, 0]) == (1.0, 0.0)
    assert 0.005 < ((alpha > 0) & (alpha < 1)).mean() < 0.2
