import math
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from sdmatte.errors import SDMatteError
from sdmatte.geometry import from_grid, model_grid, nearest, quantise, to_grid
from support.models import photo

sides = st.integers(1, 20_000)


@given(sides, sides)
def test_square_grids_are_square(width: int, height: int) -> None:
    assert model_grid(width, height, 1024, "square", 64) == (1024, 1024)


@given(sides, sides, st.sampled_from([128, 512, 1024]))
def test_aspect_grids_are_multiples_of_the_stride_and_bounded(width: int, height: int, size: int) -> None:
    rows, columns = grid = model_grid(width, height, size, "aspect", 64)
    assert rows % 64 == columns % 64 == 0
    assert min(grid) >= 64
    # Rounding adds most where the shorter side is one and a half strides: a third, and a little for the longer side.
    assert math.prod(grid) <= 1.5 * size**2
    assert model_grid(height, width, size, "aspect", 64) == (columns, rows)


@given(st.integers(100, 4000), st.floats(0.25, 4))
def test_aspect_grids_keep_area_and_ratio(width: int, ratio: float) -> None:
    height = round(width * ratio)
    rows, columns = model_grid(width, height, 1024, "aspect", 64)
    # Half a stride on either side: of 512 px at least, as the ratio is 4 at most.
    assert math.prod((rows, columns)) == pytest.approx(1024**2, rel=0.1)
    assert math.log(rows / columns) == pytest.approx(math.log(height / width), abs=0.1)


@pytest.mark.parametrize(
    ("width", "height", "grid"),
    [
        (100, 100, (1024, 1024)),
        (1920, 1080, (768, 1344)),
        (1080, 1920, (1344, 768)),
        (4000, 1000, (512, 2048)),
        (100_000, 1, (64, 16384)),
    ],
)
def test_aspect_grids_of_common_images(width: int, height: int, grid: tuple[int, int]) -> None:
    assert model_grid(width, height, 1024, "aspect", 64) == grid


def bilinear(pixels: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Bilinear interpolation between pixel centres, without antialiasing, from its definition."""

    def axis(cells: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        at = ((np.arange(cells) + 0.5) * length / cells - 0.5).clip(0, length - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, length - 1), at - low

    top, bottom, down = axis(height, pixels.shape[0])
    left, right, across = axis(width, pixels.shape[1])
    down, across = down[:, None, None], across[None, :, None]
    upper = pixels[top][:, left] * (1 - across) + pixels[top][:, right] * across
    lower = pixels[bottom][:, left] * (1 - across) + pixels[bottom][:, right] * across
    return upper * (1 - down) + lower * down


@pytest.mark.parametrize("size", [(300, 200), (90, 50), (64, 128)])
def test_images_are_scaled_bilinearly_without_antialiasing(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    result = to_grid(image, (64, 128))
    assert (result.shape, result.dtype) == ((3, 64, 128), np.float32)
    expected = bilinear(image.astype(np.float64), 64, 128) / 127.5 - 1
    np.testing.assert_allclose(result.transpose(1, 2, 0), expected, atol=2e-5)


def test_images_are_scaled_as_floats() -> None:
    """OpenCV's bytes are rounded between rows; the reference resizes float32 in [0, 1]."""
    image = photo(100, 150)
    expected = cv2.resize(image.astype(np.float32) / 255, (128, 64), interpolation=cv2.INTER_LINEAR) * 2 - 1
    np.testing.assert_array_equal(to_grid(image, (64, 128)), expected.transpose(2, 0, 1))


@pytest.mark.parametrize("by", [1, 2, 4, 8])
def test_scaled_decodes_lie_where_the_original_does(by: int) -> None:
    """A ramp of half the size has the ramp's values at the same places, although its last pixels are cut."""
    height, width = 8 * 64 + 3, 8 * 128 + 7
    y, x = (np.arange(-(-side // by)) * by + (by - 1) / 2 for side in (height, width))  # centres of the pixels left
    ramp = np.stack(np.broadcast_arrays(y[:, None] / 4, x / 8, 100.0), axis=-1)
    result = to_grid(np.rint(ramp).astype(np.uint8), (64, 128), (width, height)).transpose(1, 2, 0)
    places = (np.arange(64) + 0.5) * height / 64 - 0.5, (np.arange(128) + 0.5) * width / 128 - 0.5
    found = (result + 1) * 127.5
    assert np.abs(found[1:-1, :, 0] - places[0][1:-1, None] / 4).max() < 0.51
    assert np.abs(found[:, 1:-1, 1] - places[1][1:-1] / 8).max() < 0.51


def test_what_is_no_scaled_decode_of_its_original_is_refused() -> None:
    with pytest.raises(SDMatteError, match="50 x 40 pixels are no scaled decode of an image of 101 x 80"):
        to_grid(np.zeros((40, 50, 3), np.uint8), (64, 64), (101, 80))


def test_of_large_images_no_float_copy_is_made() -> None:
    image, alpha = np.zeros((2000, 2000, 3), np.uint8), np.zeros((2000, 2000), np.float32)
    tracemalloc.start()
    try:
        to_grid(image, (64, 64))
        quantise(alpha, "uint16")
        assert tracemalloc.get_traced_memory()[1] < 10e6  # 8 MB are the result
    finally:
        tracemalloc.stop()


def test_an_alpha_on_its_grid_is_not_changed_by_leaving_it() -> None:
    alpha = np.full((4, 4), 1.5, np.float32)
    assert from_grid(alpha, 4, 4).max() == 1
    assert alpha.min() == 1.5


def test_black_and_white_reach_the_ends_of_the_range() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 255
    assert (to_grid(image, (64, 64)).min(), to_grid(image, (64, 64)).max()) == (-1, 1)


@pytest.mark.parametrize("size", [(61, 190), (64, 128), (256, 256)])
def test_a_smooth_alpha_comes_back_from_its_grid(size: tuple[int, int]) -> None:
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    alpha = (0.5 + 0.5 * np.sin(3 * (y + 0.5) / height + 2 * (x + 0.5) / width)).astype(np.float32)
    there = cv2.resize(alpha, (128, 64), interpolation=cv2.INTER_LINEAR)
    back = from_grid(there, width, height)
    assert (back.shape, back.dtype) == (size, np.float32)
    np.testing.assert_allclose(back, alpha, atol=0.02)


def test_alphas_leave_the_grid_within_bounds() -> None:
    back = from_grid(np.array([[-0.1, 1.2], [0.3, 0.9]], np.float32), 33, 17)
    assert (back.min(), back.max()) == (0, 1)


def test_labels_are_not_mixed() -> None:
    labels = np.random.default_rng(0).choice(np.array([0, 128, 255], np.uint8), (37, 53))
    assert set(np.unique(nearest(labels, (64, 128)))) == {0, 128, 255}
    assert nearest(labels, (64, 128)).shape == (64, 128)
    np.testing.assert_array_equal(nearest(labels, (74, 106)), labels.repeat(2, axis=0).repeat(2, axis=1))


alphas = npst.arrays(np.float32, npst.array_shapes(min_dims=2, max_dims=2), elements=st.floats(0, 1, width=32))


@given(alphas, st.sampled_from(["uint8", "uint16"]))
def test_alphas_are_rounded_to_the_nearest_step(alpha: NDArray[np.float32], dtype: str) -> None:
    quantised = quantise(alpha, dtype)  # type: ignore[call-overload]
    assert quantised.dtype == dtype
    top = np.iinfo(dtype).max
    assert np.abs(quantised / top - alpha.astype(np.float64)).max() <= 0.5 / top + 1e-12
    np.testing.assert_array_equal(quantise((quantised / top).astype(np.float32), dtype), quantised)  # type: ignore[call-overload]


def test_the_ends_are_exact() -> None:
    ends = np.array([[0, 1]], np.float32)
    assert quantise(ends, "uint8").tolist() == [[0, 255]]
    assert quantise(ends, "uint16").tolist() == [[0, 65535]]
    assert quantise(np.array([[254.6 / 255]], np.float32), "uint8").tolist() == [[255]], "truncated"


def test_float32_alphas_are_left_alone() -> None:
    alpha = np.array([[0.1, 0.2]], np.float32)
    assert quantise(alpha, "float32") is alpha
