"""Placing and compositing: what a matte means rests on these being exact."""

import math

import numpy as np
import pytest

from sdmatte.synthetic.layers import Layer, composite, place, shadow, unpremultiply


def random_layer(seed: int, height: int = 24, width: int = 32) -> Layer:
    rng = np.random.default_rng(seed)
    return Layer(
        rng.random((height, width, 3), np.float32), rng.random((height, width), np.float32), family=f"noise {seed}"
    )


def bar(height: int = 40, width: int = 40) -> Layer:
    """A red block left of the centre, blue everywhere else though invisible there."""
    alpha = np.zeros((height, width), np.float32)
    alpha[14:26, 6:16] = 1.0
    colour = np.zeros((height, width, 3), np.float32)
    colour[..., 2] = 1.0
    colour[14:26, 6:16] = 1.0, 0.0, 0.0
    return Layer(colour, alpha, transparent=True, family="bar")


def centre_of(alpha: np.ndarray) -> tuple[float, float]:
    y, x = np.mgrid[: alpha.shape[0], : alpha.shape[1]]
    return float((x * alpha).sum() / alpha.sum()), float((y * alpha).sum() / alpha.sum())


def test_composite_is_porter_and_duffs_over() -> None:
    background = np.random.default_rng(0).random((24, 32, 3), np.float32)
    layers = [random_layer(seed) for seed in (1, 2, 3)]

    image, _ = composite(background, layers)

    expected = background.astype(np.float64)
    for layer in layers:
        a = layer.alpha.astype(np.float64)[..., None]
        expected = layer.colour * a + expected * (1 - a)
    np.testing.assert_allclose(image, expected, atol=1e-6)
    assert image.dtype == np.float32


def test_the_visible_alphas_are_the_weights_of_the_colours_in_the_picture() -> None:
    background = np.random.default_rng(0).random((24, 32, 3), np.float32)
    layers = [random_layer(seed) for seed in (1, 2, 3)]

    image, visible = composite(background, layers)

    rest = 1 - sum(visible)
    mixture = rest[..., None] * background
    for layer, alpha in zip(layers, visible, strict=True):
        mixture = mixture + alpha[..., None] * layer.colour
    np.testing.assert_allclose(image, mixture, atol=1e-6)
    assert rest.min() >= -1e-6
    np.testing.assert_array_equal(visible[-1], layers[-1].alpha)  # nothing in front of it


def test_compositing_nothing_changes_nothing() -> None:
    background = np.random.default_rng(0).random((8, 9, 3), np.float32)
    image, visible = composite(background, [])
    np.testing.assert_array_equal(image, background)
    assert visible == []


def test_placing_a_layer_where_it_is_returns_it() -> None:
    layer = bar()
    placed = place(layer, 40, 40, centre=(19.5, 19.5), side=40)
    np.testing.assert_allclose(placed.alpha, layer.alpha, atol=1e-6)
    np.testing.assert_allclose(placed.colour[layer.alpha > 0], layer.colour[layer.alpha > 0], atol=1e-6)
    assert (placed.transparent, placed.family) == (True, "bar")


@pytest.mark.parametrize(("side", "angle"), [(20, 0), (33, 25), (80, 0), (60, -70)])
def test_placing_scales_the_area_by_the_square_of_the_side(side: float, angle: float) -> None:
    layer = bar()
    placed = place(layer, 96, 128, centre=(64, 48), side=side, angle=angle)
    assert placed.alpha.shape == (96, 128)
    assert placed.alpha.sum() == pytest.approx(layer.alpha.sum() * (side / 40) ** 2, rel=0.03)


def test_placing_puts_the_centre_of_the_layer_where_asked() -> None:
    alpha = np.zeros((30, 30), np.float32)
    alpha[10:20, 10:20] = 1.0
    layer = Layer(np.ones((30, 30, 3), np.float32), alpha)
    for side in (15.0, 30.0, 45.0):
        x, y = centre_of(place(layer, 64, 80, centre=(50.0, 20.0), side=side, angle=30).alpha)
        assert (x, y) == pytest.approx((50.0, 20.0), abs=0.3)


def test_placing_turns_counter_clockwise_after_mirroring() -> None:
    x, y = centre_of(place(bar(), 40, 40, centre=(19.5, 19.5), side=40, flip=True).alpha)
    assert x > 25
    assert y == pytest.approx(19.5, abs=0.1)
    x, y = centre_of(place(bar(), 40, 40, centre=(19.5, 19.5), side=40, flip=True, angle=90).alpha)
    assert x == pytest.approx(19.5, abs=0.1)
    assert y < 15  # right became up


@pytest.mark.parametrize("side", [17, 40, 90])
def test_colours_of_invisible_pixels_do_not_bleed_in(side: float) -> None:
    placed = place(bar(), 64, 64, centre=(31.5, 31.5), side=side, angle=33)
    seen = placed.alpha > 0.01
    assert placed.colour[seen, 0].min() > 0.98
    assert placed.colour[seen, 2].max() < 0.02


def test_a_layer_may_reach_out_of_the_frame_or_lie_outside() -> None:
    layer = Layer(np.ones((10, 10, 3), np.float32), np.ones((10, 10), np.float32))
    assert place(layer, 32, 32, centre=(0, 16), side=20).alpha.sum() == pytest.approx(200, rel=0.1)
    assert place(layer, 32, 32, centre=(-100, 16), side=20).alpha.sum() == 0


def test_a_thin_strand_gets_fainter_when_it_shrinks_but_does_not_break() -> None:
    alpha = np.zeros((128, 128), np.float32)
    alpha[:, 63] = 1.0
    placed = place(Layer(np.ones((128, 128, 3), np.float32), alpha), 32, 32, centre=(15.5, 15.5), side=32)
    rows = placed.alpha.sum(axis=1)
    np.testing.assert_allclose(rows[2:-2], 0.25, atol=0.02)


def test_unpremultiply_undoes_multiplication_where_something_is_visible() -> None:
    layer = random_layer(4)
    straight, alpha = unpremultiply(layer.colour * layer.alpha[..., None], layer.alpha)
    seen = layer.alpha > 0.01
    np.testing.assert_allclose(straight[seen], layer.colour[seen], atol=1e-5)
    np.testing.assert_array_equal(alpha, layer.alpha)


def test_a_shadow_only_darkens_and_is_as_large_as_what_throws_it() -> None:
    background = np.full((40, 40, 3), 0.8, np.float32)
    dark = shadow(background, bar(), offset=(12, 3), blur=0.0, strength=0.5)
    lost = 1 - dark[..., 0] / background[..., 0]
    assert lost.min() >= -1e-6
    np.testing.assert_allclose(lost[17:29, 18:28], 0.5, atol=1e-6)
    assert lost.sum() == pytest.approx(0.5 * bar().alpha.sum(), rel=1e-4)
    soft = shadow(background, bar(), offset=(12, 3), blur=1.5, strength=0.5)
    assert (1 - soft / background)[..., 0].sum() == pytest.approx(lost.sum(), rel=0.01)
    assert math.isclose(soft.max(), 0.8, rel_tol=1e-4)
