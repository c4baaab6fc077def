"""Cut-outs: colours of the object, in its place."""

import json

import numpy as np
import pytest
from PIL import Image

from pipeline.curation.export import export_accepted
from pipeline.curation.exports import cutouts
from pipeline.curation.exports.base import ExportSettings
from pipeline.curation.exports.cutouts import crop_box
from support.selections import BOX, HEIGHT, WIDTH, awkward, fits, soft_alpha


@pytest.mark.parametrize(
    ("margin", "expected"),
    [
        (None, (0, 0, WIDTH, HEIGHT)),
        (0.0, BOX),
        (0.1, (BOX[0] - 2, BOX[1] - 2, BOX[2] + 2, BOX[3] + 2)),
        (9.0, (0, 0, WIDTH, HEIGHT)),
    ],
)
def test_the_box_around_an_object(margin, expected):
    assert crop_box(soft_alpha().astype(np.float32) / 255, margin) == expected


def test_faint_traces_do_not_count_and_nothing_visible_crops_nothing():
    alpha = soft_alpha().astype(np.float32) / 255
    alpha[-1, -1] = 0.03
    assert crop_box(alpha, 0) == BOX
    assert crop_box(np.full((4, 6), 0.03, np.float32), 0) == (0, 0, 6, 4)


@pytest.mark.parametrize("margin", [None, 0.1])
def test_the_index_says_where_each_is_from(tmp_path, margin, monkeypatch):
    def simple(pixels, alpha):  # estimated foregrounds are tested below
        return np.dstack([pixels, np.rint(alpha * 255).astype(np.uint8)])

    monkeypatch.setattr(cutouts, "cutout", simple)
    settings = ExportSettings(crop_margin=margin)
    done = export_accepted(awkward(tmp_path), str(tmp_path / "out"), "cutouts", settings=settings)
    assert done.complete
    lines = [json.loads(line) for line in (tmp_path / "out" / "index.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    for line in lines:
        assert line["file"] == f"cutouts/{line['record_id']}.png"
        x0, y0, x1, y1 = line["crop"]
        assert ((x0, y0, x1, y1) == (0, 0, WIDTH, HEIGHT)) == (margin is None)
        with Image.open(tmp_path / "out" / line["file"]) as made:
            assert made.mode == "RGBA"
            assert made.size == (x1 - x0, y1 - y0)
            expected = soft_alpha() if line["label"] else soft_alpha(200)
            np.testing.assert_array_equal(np.asarray(made)[..., 3], expected[y0:y1, x0:x1])
            assert fits(made.convert("RGBA"), expected[y0:y1, x0:x1])


@pytest.mark.slow  # pymatting compiles its code, unless that is cached
def test_colours_of_the_old_background_are_gone(tmp_path):
    decisions = awkward(tmp_path)
    export_accepted(decisions, str(tmp_path / "out"), "cutouts")
    for line in map(json.loads, (tmp_path / "out" / "index.jsonl").read_text().splitlines()):
        rgba = np.asarray(Image.open(tmp_path / "out" / line["file"])).astype(int)
        seen = rgba[rgba[..., 3] > 0]
        assert (seen[:, 0] > seen[:, 2]).mean() > 0.97  # red, at the half transparent border as well
