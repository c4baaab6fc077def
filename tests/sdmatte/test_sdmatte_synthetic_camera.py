"""The camera: blur is exact for colour and alpha together, damage touches the picture only."""

import cv2
import numpy as np
import pytest

from sdmatte.errors import SDMatteError
from sdmatte.synthetic import camera
from sdmatte.synthetic.layers import Layer, composite


@pytest.fixture
def picture() -> np.ndarray:
    rng = np.random.default_rng(1)
    return cv2.resize(rng.random((6, 8, 3), np.float32), (64, 48), interpolation=cv2.INTER_LINEAR)


@pytest.fixture
def layer(picture: np.ndarray) -> Layer:
    alpha = np.zeros((48, 64), np.float32)
    alpha[18:30, 20:44] = 1.0
    alpha[24, 30:36] = 0.3
    return Layer(picture, alpha, transparent=True, family="plate")


KERNELS = [camera.disc(0.7), camera.disc(3.2), camera.streak(7.0, 30.0), camera.streak(1.0, 90.0)]


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_are_odd_symmetric_and_keep_the_light(kernel: np.ndarray) -> None:
    assert kernel.shape[0] == kernel.shape[1]
    assert kernel.shape[0] % 2 == 1
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    assert kernel.min() >= 0
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-7)


def test_kernels_are_as_large_as_asked() -> None:
    np.testing.assert_array_equal(camera.disc(0.5), [[1.0]])
    np.testing.assert_array_equal(camera.streak(0.0, 45.0), [[1.0]])
    x = np.mgrid[-6:7, -6:7][1]
    disc = camera.disc(6.4)
    assert disc.shape == (13, 13)
    assert (disc * x**2).sum() == pytest.approx(6.4**2 / 4, rel=0.05)  # of an even disc
    level = camera.streak(9.0, 0.0)
    assert level[level.shape[0] // 2].sum() == pytest.approx(1, abs=1e-6)
    rising = camera.streak(9.0, 45.0)
    size = rising.shape[0] // 2
    assert rising[size - 2, size + 2] > 0  # right and up
    assert rising[size + 2, size + 2] == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_blurring_a_layer_is_blurring_its_light(layer: Layer, kernel: np.ndarray) -> None:
    black = np.zeros_like(layer.colour)
    blurred = camera.blur(layer, kernel)

    before, _ = composite(black, [layer])
    after, _ = composite(black, [blurred])

    np.testing.assert_allclose(after, cv2.filter2D(before, -1, kernel), atol=2e-3)
    np.testing.assert_allclose(blurred.alpha, cv2.filter2D(layer.alpha, -1, kernel), atol=1e-5)
    assert blurred.alpha.sum() == pytest.approx(layer.alpha.sum(), rel=1e-4)  # nothing leaves the frame
    assert (blurred.transparent, blurred.family) == (True, "plate")
    assert (blurred.alpha.dtype, blurred.colour.dtype) == (np.float32, np.float32)


def test_what_the_frame_cuts_off_goes_on_beyond_it() -> None:
    full = Layer(np.full((20, 20, 3), 0.4, np.float32), np.ones((20, 20), np.float32))
    blurred = camera.blur(full, camera.disc(4))
    np.testing.assert_allclose(blurred.alpha, 1.0, atol=1e-5)
    np.testing.assert_allclose(blurred.colour, 0.4, atol=1e-5)


def test_random_blur_follows_from_the_seed_and_makes_outlines_soft(layer: Layer) -> None:
    for seed in range(6):
        one, two = (camera.blur_layer(layer, np.random.default_rng(seed), strength=(1.0, 3.0)) for _ in range(2))
        np.testing.assert_array_equal(one.alpha, two.alpha)
        np.testing.assert_array_equal(one.colour, two.colour)
        assert ((one.alpha > 0.02) & (one.alpha < 0.98)).sum() > ((layer.alpha > 0) & (layer.alpha < 1)).sum()


def test_neutral_settings_change_nothing(picture: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    for same in (
        camera.expose(picture),
        camera.white_balance(picture, gains=(1, 1, 1)),
        camera.saturate(picture, amount=1),
        camera.vignette(picture, strength=0),
        camera.add_noise(picture, rng, shot=0, read=0),
        camera.sharpen(picture, amount=0, radius=1),
    ):
        np.testing.assert_allclose(same, picture, atol=1e-6)


def test_exposure_and_white_balance_multiply(picture: np.ndarray) -> None:
    np.testing.assert_allclose(camera.expose(picture, stops=-1), picture / 2, atol=1e-6)
    np.testing.assert_allclose(camera.expose(picture, stops=1), (picture * 2).clip(0, 1), atol=1e-6)
    np.testing.assert_allclose(camera.expose(picture, gamma=2), picture**2, atol=1e-6)
    flat = camera.expose(picture, contrast=0.5)
    np.testing.assert_allclose(flat - 0.5, (picture - 0.5) / 2, atol=1e-6)
    warm = camera.white_balance(picture, gains=(0.9, 0.5, 0.1))
    np.testing.assert_allclose(warm, picture * [0.9, 0.5, 0.1], atol=1e-6)


def test_no_saturation_is_grey_of_the_same_luma(picture: np.ndarray) -> None:
    grey = camera.saturate(picture, amount=0)
    np.testing.assert_allclose(grey[..., 0], picture @ [0.299, 0.587, 0.114], atol=1e-6)
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])


def test_a_vignette_darkens_the_corners_by_its_strength_and_not_the_centre() -> None:
    dark = camera.vignette(np.ones((41, 61, 3), np.float32), strength=0.4)
    np.testing.assert_allclose(dark[0, 0], 0.6, atol=1e-6)
    np.testing.assert_allclose(dark[20, 30], 1.0, atol=1e-6)


@pytest.mark.parametrize("size", [0.0, 0.6, 1.5])
def test_noise_has_the_strength_asked_for(size: float) -> None:
    for level, shot, read in ((0.5, 0.0, 0.05), (0.25, 0.1, 0.0), (0.5, 0.05, 0.03)):
        noisy = camera.add_noise(
            np.full((128, 128, 3), level, np.float32), np.random.default_rng(0), shot=shot, read=read, size=size
        )
        assert noisy.std() == pytest.approx(np.sqrt(shot**2 * level + read**2), rel=0.05)
        assert noisy.mean() == pytest.approx(level, abs=0.003)


def test_sharpening_overshoots_at_edges_only() -> None:
    step = np.full((16, 32, 3), 0.3, np.float32)
    step[:, 16:] = 0.6
    sharp = camera.sharpen(step, amount=1.0, radius=1.0)
    np.testing.assert_allclose(sharp[:, :8], 0.3, atol=1e-5)
    assert sharp.max() > 0.65
    assert sharp.min() < 0.25


def test_jpeg_loses_more_at_lower_quality_and_with_fewer_colours(picture: np.ndarray) -> None:
    def loss(**settings: int) -> float:
        return float(np.abs(camera.jpeg(picture, **settings) - picture).mean())

    assert loss(quality=98, subsampled=False) < 0.01
    assert loss(quality=10) > 2 * loss(quality=95)
    assert loss(quality=98, subsampled=True) > loss(quality=98, subsampled=False)


def test_a_picture_too_large_for_jpeg_is_refused() -> None:
    with pytest.raises(SDMatteError, match="70000 x 1"):
        camera.jpeg(np.zeros((1, 70_000, 3), np.float32), quality=90)


def test_grey_pictures_come_about_now_and_then(picture: np.ndarray) -> None:
    grey = [np.ptp(camera.grade(picture, np.random.default_rng(seed)), axis=-1).max() < 1e-6 for seed in range(200)]
    assert 2 <= sum(grey) <= 25


def test_damage_follows_from_the_seed_stays_in_range_and_keeps_its_input(picture: np.ndarray) -> None:
    original = picture.copy()
    changed = 0
    for seed in range(40):
        one, two = (camera.damage(picture, np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(one, two)
        assert one.shape == picture.shape
        assert one.dtype == np.float32
        assert one.min() >= 0
        assert one.max() <= 1
        changed += not np.array_equal(one, picture)
    assert changed > 35
    np.testing.assert_array_equal(picture, original)
