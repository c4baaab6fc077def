"""Whole scenes: the mattes are the weights with which the objects are mixed into the picture."""

import numpy as np
import pytest

from sdmatte.errors import SDMatteError
from sdmatte.synthetic import scenes
from sdmatte.synthetic.families import FAMILIES
from sdmatte.synthetic.layers import Layer, composite
from sdmatte.synthetic.scenes import LEAST_AREA, LEAST_SHARE, arrange, lay, render_scene

SIZE = 72, 96
NAMES = tuple(sorted(FAMILIES))
PHOTO = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)


@pytest.fixture(scope="module")
def drawn() -> list[scenes.Scene]:
    return [render_scene(seed, *SIZE, families=NAMES, photos=(PHOTO,) if seed % 2 else ()) for seed in range(16)]


def test_scenes_have_the_promised_shape(drawn: list[scenes.Scene]) -> None:
    for scene in drawn:
        assert scene.image.shape == (*SIZE, 3)
        assert scene.image.dtype == np.uint8
        assert 1 <= len(scene.objects) <= 4
        for thing in scene.objects:
            assert thing.alpha.shape == SIZE
            assert thing.alpha.dtype == np.float32
            assert thing.alpha.min() >= 0
            assert thing.alpha.max() <= 1
            assert thing.alpha.mean() >= LEAST_AREA
            assert thing.family in NAMES
    assert len({len(scene.objects) for scene in drawn}) > 1
    assert len({thing.family for scene in drawn for thing in scene.objects}) > 5


def test_no_pixel_belongs_to_objects_by_more_than_all_of_it(drawn: list[scenes.Scene]) -> None:
    for scene in drawn:
        assert sum(thing.alpha for thing in scene.objects).max() <= 1 + 1e-5


def test_scenes_follow_from_the_seed(drawn: list[scenes.Scene]) -> None:
    again = render_scene(3, *SIZE, families=NAMES, photos=(PHOTO,))
    np.testing.assert_array_equal(again.image, drawn[3].image)
    for one, two in zip(again.objects, drawn[3].objects, strict=True):
        np.testing.assert_array_equal(one.alpha, two.alpha)
        assert (one.family, one.transparent) == (two.family, two.transparent)
    assert not np.array_equal(drawn[0].image, drawn[2].image)


def test_objects_stay_visible_behind_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def square(family: str, rng: np.random.Generator, side: int, paint: object) -> Layer:
        return Layer(rng.random((side, side, 3), np.float32), np.ones((side, side), np.float32), family=family)

    monkeypatch.setattr(scenes, "render_object", square)  # opaque: they hide each other wherever they can
    behind = np.full((*SIZE, 3), 0.5, np.float32)
    least, most = 1.0, 0
    for seed in range(8):
        layers = arrange(np.random.default_rng(seed), behind, families=("square",), count=(5, 5))
        most = max(most, len(layers))
        _, visible = composite(behind, layers)
        for layer, alpha in zip(layers, visible, strict=True):
            least = min(least, float(alpha.sum() / layer.alpha.sum()))
    assert most > 2
    assert 0.999 * LEAST_SHARE <= least < 0.9


def plates() -> list[Layer]:
    """Three half-transparent plates that overlap."""
    rng = np.random.default_rng(5)
    layers = []
    for left in (4, 16, 28):
        alpha = np.zeros((48, 64), np.float32)
        alpha[10:40, left : left + 24] = rng.uniform(0.3, 1.0, (30, 24))
        layers.append(Layer(rng.random((48, 64, 3), np.float32), alpha))
    return layers


@pytest.mark.parametrize("seed", range(4))
def test_a_picture_before_the_camera_mixes_colours_by_the_mattes(seed: int) -> None:
    # Shadows change what lies behind, so the weight of the front object shows as the difference between
    # the same scene with that object white and black; of those behind, shadows let only less through.
    layers, behind = plates(), np.full((48, 64, 3), 0.5, np.float32)
    _, visible = composite(behind, layers)
    for index, layer in enumerate(layers):
        pictures = []
        for level in (1.0, 0.0):
            swapped = list(layers)
            swapped[index] = Layer(np.full_like(layer.colour, level), layer.alpha)
            pictures.append(lay(np.random.default_rng(seed), behind, swapped))
        weight = (pictures[0] - pictures[1])[..., 0]
        assert (weight <= visible[index] + 1e-5).all()
        if index == len(layers) - 1:
            np.testing.assert_allclose(weight, visible[index], atol=1e-5)


def test_without_shadows_laying_is_compositing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "shadow", lambda behind, layer, **settings: behind)
    behind = np.random.default_rng(1).random((48, 64, 3), np.float32)
    expected, _ = composite(behind, plates())
    np.testing.assert_allclose(lay(np.random.default_rng(0), behind, plates()), expected, atol=1e-6)


def test_the_mattes_do_not_depend_on_shadows_or_camera(
    monkeypatch: pytest.MonkeyPatch, drawn: list[scenes.Scene]
) -> None:
    monkeypatch.setattr(scenes.camera, "damage", lambda image, rng: image)
    monkeypatch.setattr(scenes, "shadow", lambda behind, layer, **settings: behind)
    plain = render_scene(0, *SIZE, families=NAMES)
    assert not np.array_equal(plain.image, drawn[0].image)
    for one, two in zip(plain.objects, drawn[0].objects, strict=True):
        np.testing.assert_array_equal(one.alpha, two.alpha)


def test_families_that_draw_nothing_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(family: str, rng: np.random.Generator, side: int, paint: object) -> Layer:
        return Layer(np.zeros((side, side, 3), np.float32), np.zeros((side, side), np.float32), family=family)

    monkeypatch.setattr(scenes, "render_object", nothing)
    with pytest.raises(SDMatteError, match="No object of ghost"):
        render_scene(0, 40, 40, families=("ghost",))


def test_objects_that_look_like_the_background_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    tones = iter([0.5, 0.52, 0.9])

    def square(family: str, rng: np.random.Generator, side: int, paint: object) -> Layer:
        return Layer(
            np.full((side, side, 3), next(tones), np.float32), np.ones((side, side), np.float32), False, family
        )

    monkeypatch.setattr(scenes, "render_object", square)
    behind = np.full((64, 64, 3), 0.5, np.float32)
    layers = arrange(np.random.default_rng(0), behind, families=("square",), count=(1, 1))
    assert len(layers) == 1
    assert layers[0].colour.max() == pytest.approx(0.9)
