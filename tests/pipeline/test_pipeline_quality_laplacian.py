import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatting import cf_laplacian

from pipeline.quality.image_terms import band
from pipeline.quality.laplacian import LEAST, LocalColours, laplacian_energy, matting_energy
from support.composites import composite


def reference(alpha: np.ndarray, pixels: np.ndarray) -> float:
    matrix = cf_laplacian(pixels / 255.0)
    flat = alpha.astype(np.float64).ravel()
    return float(flat @ (matrix @ flat))


def energy(alpha: np.ndarray, pixels: np.ndarray) -> float:
    return matting_energy(alpha, LocalColours.of(pixels), np.ones(alpha.shape, bool))


@given(st.integers(3, 24), st.integers(3, 24), st.integers(0, 10_000), st.sampled_from([1, 8, 255]))
@settings(max_examples=40, deadline=None)
def test_the_energy_is_that_of_pymattings_matrix(height: int, width: int, seed: int, contrast: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, contrast + 1, (height, width, 3), np.uint8)
    alpha = rng.random((height, width), np.float32)
    assert energy(alpha, pixels) == pytest.approx(reference(alpha, pixels), rel=1e-4)


def test_it_is_so_on_photographs_too() -> None:
    pixels, alpha = composite(48, 64)
    for matte in (alpha, np.roll(alpha, 5, axis=0), alpha.round()):
        assert energy(matte, pixels) == pytest.approx(reference(matte, pixels), rel=1e-4)


def test_it_is_so_where_the_picture_is_plain() -> None:
    pixels = np.full((20, 30, 3), 77, np.uint8)
    alpha = np.random.default_rng(0).random((20, 30), np.float32)
    assert energy(alpha, pixels) == pytest.approx(reference(alpha, pixels), rel=1e-4)


def test_a_matte_linear_in_the_colours_costs_nothing() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    alpha = (pixels @ np.array([0.5, 0.3, 0.2]) / 255).astype(np.float32)
    found = laplacian_energy(alpha, LocalColours.of(pixels), np.ones(alpha.shape, bool))
    assert np.log10(LEAST) <= found < -6
    assert laplacian_energy(1 - alpha**2, LocalColours.of(pixels), np.ones(alpha.shape, bool)) > -3


def test_the_energy_is_per_pixel_of_the_band() -> None:
    pixels, alpha = composite(96, 128)
    twice, both = np.hstack([pixels, pixels]), np.hstack([alpha, alpha])
    once = laplacian_energy(alpha, LocalColours.of(pixels), band(alpha))
    assert laplacian_energy(both, LocalColours.of(twice), band(both)) == pytest.approx(once, abs=1e-6)


def test_noise_outside_the_band_does_not_count() -> None:
    pixels, alpha = composite(96, 128)
    noisy = alpha.copy()
    noisy[:5] = np.random.default_rng(0).random((5, 128)) * 0.05
    local = LocalColours.of(pixels)
    quiet = laplacian_energy(alpha, local, band(alpha))
    assert laplacian_energy(noisy, local, band(noisy)) == pytest.approx(quiet, abs=1e-9)
    everywhere = np.ones(alpha.shape, bool)
    assert matting_energy(noisy, local, everywhere) > matting_energy(alpha, local, everywhere)


@pytest.mark.parametrize("shape", [(1, 1), (2, 30), (30, 2)])
def test_pictures_without_a_window_have_no_energy(shape: tuple[int, int]) -> None:
    alpha = np.full(shape, 0.5, np.float32)
    pixels = np.zeros((*shape, 3), np.uint8)
    assert laplacian_energy(alpha, LocalColours.of(pixels), band(alpha)) is None


def test_without_a_band_there_is_none() -> None:
    alpha = np.ones((9, 9), np.float32)
    assert laplacian_energy(alpha, LocalColours.of(np.zeros((9, 9, 3), np.uint8)), band(alpha)) is None
