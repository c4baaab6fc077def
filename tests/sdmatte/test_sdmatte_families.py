"""The procedural objects: exact layers, in many forms, the same from the same seed."""

import hashlib

import cv2
import numpy as np
import pytest

from sdmatte.errors import SDMatteError
from sdmatte.synthetic.canvas import Canvas, capsule, continued, fitted, merged, noise
from sdmatte.synthetic.families import FAMILIES, HELD_OUT, TRAINING, render_object
from sdmatte.synthetic.strands import draw, grown

TRANSPARENT = {"glass", "smoke", "veil", "jellyfish", "bubble"}


def paint(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    coarse = rng.random((5, 5, 3), np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_keep_the_contract(family):
    for seed in (1, 2, 3):
        layer = render_object(family, np.random.default_rng(seed), 64, paint)
        alpha, colour = layer.alpha, layer.colour
        assert layer.family == family
        assert layer.transparent == (family in TRANSPARENT)
        assert alpha.shape == (64, 64)
        assert colour.shape == (64, 64, 3)
        assert alpha.dtype == colour.dtype == np.float32
        for plane in (alpha, colour):
            assert plane.min() >= 0
            assert plane.max() <= 1
        edge = np.concatenate([alpha[:2].ravel(), alpha[-2:].ravel(), alpha[:, :2].ravel(), alpha[:, -2:].ravel()])
        assert not edge.any()
        rows, columns = np.nonzero(alpha > 0.01)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 >= 0.9 * 64
        seen = alpha[alpha > 0.02]
        if layer.transparent:
            assert 0.2 <= seen.mean() <= 0.8
        else:
            assert alpha.max() > 0.8  # at this size, strings of nets are thinner than a pixel
        assert ((alpha > 0.02) & (alpha < 0.98)).any()
        assert colour[alpha > 0.5].std() > 0.005 or family == "wire"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_decides_everything(family):
    first, again, other = (render_object(family, np.random.default_rng(s), 48, paint) for s in (7, 7, 8))
    np.testing.assert_array_equal(first.colour, again.colour)
    np.testing.assert_array_equal(first.alpha, again.alpha)
    assert not np.array_equal(first.alpha, other.alpha)


def test_training_and_held_out_families_are_apart():
    assert set(TRAINING) | HELD_OUT == set(FAMILIES)
    assert not set(TRAINING) & HELD_OUT
    assert len(TRAINING) >= 14
    assert len(HELD_OUT) >= 6
    assert len(HELD_OUT & TRANSPARENT) >= 2


def test_surfaces_come_from_paint():
    green = np.broadcast_to(np.float32([0, 1, 0]), (64, 64, 3))
    shown = [render_object("blob", np.random.default_rng(s), 64, lambda *_: green.copy()) for s in range(16)]
    greens = [np.median(layer.colour[layer.alpha > 0.9], axis=0) for layer in shown]
    assert sum(g[1] > 2 * max(g[0], g[2]) and g[1] > 0.1 for g in greens) >= 2


def test_the_default_paint_is_the_texture_module():
    layer = render_object("star", np.random.default_rng(3), 32)
    assert layer.alpha.any()


def test_unknown_families_are_named():
    with pytest.raises(SDMatteError, match=r"'unicorn'.*blob"):
        render_object("unicorn", np.random.default_rng(0), 32, paint)


def test_a_disc_covers_what_geometry_says():
    canvas = Canvas(np.random.default_rng(0), 128, paint)
    canvas.disc((0.0, 0.0), 0.9, (1.0, 0.0, 0.0))
    layer = canvas.layer()
    radius = (128 - 4) / 2
    assert layer.alpha.sum() == pytest.approx(np.pi * radius**2, rel=0.01)
    np.testing.assert_allclose(layer.colour[..., 0], 1, atol=0.01)
    assert layer.colour[..., 1:].max() < 0.01


def centroid(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(mask.shape)
    return np.array([(rows * (mask / 255)).sum(), (columns * (mask / 255)).sum()]) / (mask / 255).sum()


def test_masks_from_outlines_and_from_distances_agree():
    canvas = Canvas(np.random.default_rng(0), 128, paint)
    x, y = canvas.grid()
    turn = np.linspace(0, 2 * np.pi, 400)
    outline = canvas.polygon(np.stack([np.cos(turn), np.sin(turn)], axis=1) * 0.5)
    distance = canvas.inside(capsule(x, y, (0, 0), (0, 0), 0.5, 0.5))
    assert outline.mean() == pytest.approx(distance.mean(), rel=0.02)
    np.testing.assert_allclose(centroid(outline), centroid(distance), atol=0.05)


def test_over_is_porter_and_duff():
    canvas = Canvas(np.random.default_rng(0), 32, paint)
    half = np.full((canvas.size, canvas.size), 128, np.uint8)
    canvas.over(half, (1.0, 0.0, 0.0))
    canvas.over(half, (0.0, 0.0, 1.0))
    a = 128 / 255
    np.testing.assert_allclose(canvas.pixels[5, 5] / 255, [a * (1 - a), 0, a, 1 - (1 - a) ** 2], atol=0.005)


def test_fitting_keeps_proportions_and_premultiplied_colour():
    drawing = np.zeros((90, 200, 4), np.float32)
    drawing[20:60, 30:190] = (0.25, 0.0, 0.0, 0.5)
    layer = fitted(drawing, 84, transparent=True)
    rows, columns = np.nonzero(layer.alpha > 0.25)
    assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (80, 20)
    np.testing.assert_allclose(layer.alpha[rows, columns], 0.5, atol=1e-3)
    np.testing.assert_allclose(layer.colour[..., 0], 0.5, atol=0.01)
    assert layer.transparent


def test_colours_continue_where_nothing_is_visible():
    premultiplied = np.zeros((32, 32, 4), np.float32)
    premultiplied[10:20, 4:12] = (1.0, 0.5, 0.0, 1.0)
    premultiplied[10:20, 20:28] = (0.0, 0.5, 1.0, 1.0)
    filled = continued(premultiplied)
    np.testing.assert_allclose(filled[..., 1], 0.5, atol=0.01)
    assert filled[15, 1, 0] > 0.6 > 0.4 > filled[15, 30, 0]


def test_strands_stay_on_the_canvas_and_keep_their_length():
    rng = np.random.default_rng(0)
    inside = grown(rng, np.zeros((50, 2)), rng.uniform(0, 6, 50), 0.5, wander=0.5, knots=12)
    lengths = np.linalg.norm(np.diff(inside, axis=1), axis=2).sum(axis=1)
    np.testing.assert_allclose(lengths, 0.5, rtol=1e-3)
    over = grown(rng, rng.uniform(-0.9, 0.9, (50, 2)), rng.uniform(0, 6, 50), 3.0, curl=0.1, knots=12)
    assert np.abs(over).max() < 0.96
    falling = grown(rng, np.zeros((20, 2)), 0.0, 0.5, pull=(0.0, 5.0), wander=0.0)
    assert (falling[:, -1, 1] > 0.2).all()


def test_strands_taper():
    canvas = Canvas(np.random.default_rng(0), 128, paint)
    path = np.stack([np.linspace(-0.8, 0.8, 9), np.zeros(9)], axis=1)[None]
    draw(canvas, path, np.ones((1, 3), np.float32), 0.06)
    width = (canvas.pixels[..., 3] > 127).sum(axis=0)
    assert width[canvas.size // 5] > 1.3 * width[4 * canvas.size // 5] > 0


def test_merged_limbs_are_their_union_and_more():
    canvas = Canvas(np.random.default_rng(0), 64, paint)
    x, y = canvas.grid()
    limbs = [capsule(x, y, (-0.5, 0), (0.5, 0), 0.2, 0.1), capsule(x, y, (0, -0.5), (0, 0.5), 0.1, 0.1)]
    body = merged(limbs, 0.1)
    assert (body <= np.minimum(*limbs) + 1e-6).all()
    assert (body < np.minimum(*limbs) - 0.01).any()


def test_noise_covers_its_range():
    field = noise(np.random.default_rng(0), 64, 4)
    assert (field.min(), field.max()) == (0, 1)
    assert np.abs(np.diff(field, axis=1)).max() < 0.5


def test_families_look_different_from_seed_to_seed():
    pictures = {
        hashlib.sha256(render_object(f, np.random.default_rng(s), 32, paint).alpha.tobytes()).hexdigest()
        for f in ("star", "rings", "glyphs", "everyday")
        for s in range(6)
    }
    assert len(pictures) == 24
