"""Trimaps: what is sure, and what is not."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from pipeline.curation.export import export_accepted
from pipeline.curation.exports.base import ExportSettings
from pipeline.curation.exports.trimaps import radius_of, trimap
from support.selections import BOX, HEIGHT, WIDTH, awkward

ALPHAS = arrays.arrays(np.float32, (12, 15), elements=st.floats(0, 1, width=32))


def distance_to(mask):
    """Of each pixel the distance to the next one of a mask, by trying them all."""
    points = np.argwhere(mask)
    grid = np.argwhere(np.ones(mask.shape, bool))
    if not len(points):
        return np.full(mask.shape, np.inf)
    return np.sqrt(((grid[:, None] - points[None]) ** 2).sum(-1).min(1)).reshape(mask.shape)


@given(ALPHAS)
def test_without_a_radius_only_thresholds_count(alpha):
    made = trimap(alpha, 0.05, 0.95, 0)
    np.testing.assert_array_equal(made == 0, alpha <= np.float32(0.05))
    np.testing.assert_array_equal(made == 255, alpha >= np.float32(0.95))
    assert set(np.unique(made)) <= {0, 128, 255}


@given(ALPHAS.map(np.rint), st.integers(1, 3))
def test_sure_pixels_have_only_their_kind_within_the_radius(alpha, radius):
    made = trimap(alpha.astype(np.float32), 0.05, 0.95, radius)
    for value, other in ((255, alpha < 0.5), (0, alpha > 0.5)):
        # The disc of pixels is a little smaller or larger than the true one.
        assert (distance_to(other)[made == value] > radius - 0.5).all()
        certain = (distance_to(other) > radius * np.sqrt(2) + 0.5) & ~other
        assert (made[certain] == value).all()


def test_a_hard_edge_gets_a_band_on_both_sides_and_the_frame_none():
    alpha = np.zeros((20, 40), np.float32)
    alpha[:, 20:] = 1
    made = trimap(alpha, 0.05, 0.95, 3)
    np.testing.assert_array_equal(made[0], [0] * 17 + [128] * 6 + [255] * 17)
    assert (made == made[0]).all()


@pytest.mark.parametrize(("shape", "share", "radius"), [((100, 2000), 0.005, 10), ((9, 9), 0.005, 1), ((9, 9), 0, 0)])
def test_the_radius_follows_the_image(shape, share, radius):
    assert radius_of(shape, share) == radius


def test_the_index_says_which_is_which(tmp_path):
    settings = ExportSettings(trimap_low=0.1, trimap_high=0.75, trimap_radius=0)
    export_accepted(awkward(tmp_path), str(tmp_path / "out"), "trimaps", settings=settings)
    lines = [json.loads(line) for line in (tmp_path / "out" / "index.jsonl").read_text().splitlines()]
    assert len({line["file"] for line in lines}) == 12
    x0, y0, x1, y1 = BOX
    for line in lines:
        made = np.asarray(Image.open(tmp_path / "out" / line["file"]))
        assert made.shape == (HEIGHT, WIDTH) == (line["height"], line["width"])
        assert (made == 255).sum() == (x1 - x0 - 2) * (y1 - y0 - 2)
        assert (made == 128).sum() == 2 * (x1 - x0 + y1 - y0 - 2)
        assert line["file"] == f"trimaps/{line['record_id']}.png"
        assert line["radius"] == 0
        assert "image_uri" in line
