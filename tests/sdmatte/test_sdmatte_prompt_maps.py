from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.ndimage import gaussian_filter

from sdmatte.prompt_maps import point_sigma, prompt_map
from sdmatte.prompts import Auto, Box, Mask, Points, Trimap
from support.parity import FIXTURES

REFERENCES = ("sdmatte_tiny", "litesdmatte_tiny", "sdmatte_full")


@cache
def reference(name: str) -> dict[str, NDArray[np.float32]]:
    return dict(load_file(FIXTURES / name / "expected.safetensors"))


SAMPLES = [(name, index) for name in REFERENCES for index in range(1 if name == "sdmatte_full" else 2)]


# --- against the reference implementation's own maps


@pytest.mark.parametrize(("name", "index"), SAMPLES)
def test_boxes_are_drawn_as_in_the_reference(name: str, index: int) -> None:
    expected = reference(name)
    coordinates, drawn = expected["bbox_coords"][index], expected["bbox_mask"][index, 0]
    width, height = 1000, 700  # the box in pixels of some image
    x0, y0, x1, y1 = coordinates.astype(np.float64)
    result = prompt_map(Box(x0 * width, y0 * height, x1 * width, y1 * height), width, height, drawn.shape)
    np.testing.assert_array_equal(result.pixels, drawn)
    np.testing.assert_allclose(result.coordinates, coordinates, atol=1e-7)
    assert (result.is_points, result.masks_attention) == (False, True)


@pytest.mark.parametrize(("name", "index"), SAMPLES)
def test_points_are_drawn_as_in_the_reference(name: str, index: int) -> None:
    expected = reference(name)
    coordinates, drawn = expected["point_coords"][index], expected["point_mask"][index, 0]
    side = drawn.shape[0]
    pairs = (coordinates.reshape(-1, 2) * side).tolist()
    points = Points([pair for pair in pairs if pair != [0.0, 0.0]])
    result = prompt_map(points, side, side, drawn.shape, sigma=35)  # the references were all made with 35 px
    np.testing.assert_allclose(result.pixels, drawn, atol=1e-6)
    np.testing.assert_array_equal(result.coordinates, coordinates)
    assert (result.is_points, result.masks_attention) == (True, True)


@pytest.mark.parametrize(("name", "index"), SAMPLES)
def test_masks_and_their_boxes_are_as_in_the_reference(name: str, index: int) -> None:
    expected = reference(name)
    coordinates, drawn = expected["mask_coords"][index], expected["mask"][index, 0]
    side = drawn.shape[0]
    result = prompt_map(Mask(drawn > 0), side, side, drawn.shape)
    np.testing.assert_array_equal(result.pixels, drawn)
    np.testing.assert_array_equal(result.coordinates, coordinates)
    assert (result.is_points, result.masks_attention) == (False, True)


# --- points


@pytest.mark.parametrize(("side", "sigma"), [(1024, 35.0), (512, 25.0)])
def test_sigma_of_the_released_models(side: int, sigma: float) -> None:
    assert point_sigma((side, side)) == pytest.approx(sigma, rel=1e-12)


def test_sigma_grows_with_the_area() -> None:
    sigmas = [point_sigma((side, side)) for side in range(64, 2049, 64)]
    assert sigmas == sorted(sigmas)
    assert point_sigma((512, 2048)) == point_sigma((2048, 512)) == point_sigma((1024, 1024))


def test_sigma_by_default_is_that_of_the_grid() -> None:
    points = Points([(5, 9)])
    default, explicit = (prompt_map(points, 20, 20, (512, 512), sigma=sigma).pixels for sigma in (None, 25.0))
    np.testing.assert_allclose(default, explicit, atol=1e-6)


@given(
    st.integers(1, 100),
    st.integers(1, 100),
    st.floats(0.5, 30),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)), min_size=1, max_size=3),
)
def test_points_equal_a_two_dimensional_filter(
    height: int, width: int, sigma: float, fractions: list[tuple[float, float]]
) -> None:
    expected = np.zeros((height, width))
    for x, y in fractions:
        impulse = np.zeros((height, width), np.float32)
        impulse[int(y * height), int(x * width)] = 1
        blurred = gaussian_filter(impulse, sigma)  # borders and cut-off are SciPy's defaults, as in the reference
        expected = np.maximum(expected, blurred / blurred.max())
    result = prompt_map(Points(fractions), 1, 1, (height, width), sigma=sigma).pixels
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, 2 * expected - 1, atol=4e-6)


def test_a_point_near_a_border_is_not_a_plain_gaussian() -> None:
    result = prompt_map(Points([(2, 64)]), 128, 128, (128, 128), sigma=20).pixels
    y, x = np.mgrid[0:128, 0:128]
    plain = 2 * np.exp(-((x - 2.0) ** 2 + (y - 64.0) ** 2) / (2 * 20**2)) - 1
    assert np.abs(result - plain).max() > 0.05


def test_points_keep_their_place_on_a_grid_that_is_not_square() -> None:
    result = prompt_map(Points([(75, 10)]), 100, 40, (64, 192), sigma=4)
    assert np.unravel_index(result.pixels.argmax(), (64, 192)) == (16, 144)
    np.testing.assert_allclose(result.coordinates[:4], [0.75, 0.25, 0, 0])


@pytest.mark.parametrize(("count", "numbers"), [(1, 20), (10, 20), (11, 22)])
def test_points_are_padded_to_the_trained_count(count: int, numbers: int) -> None:
    coordinates = prompt_map(Points([(5, 5)] * count), 10, 10, (64, 64)).coordinates
    assert coordinates.tolist() == [0.5] * (2 * count) + [0.0] * (numbers - 2 * count)


@given(st.integers(1, 5000), st.sampled_from([64, 192, 1024, 1088]), st.floats(0, 1, exclude_max=True))
def test_the_last_point_inside_the_image_is_inside_the_grid(width: int, cells: int, fraction: float) -> None:
    for x in (np.nextafter(width, 0), fraction * np.nextafter(width, 0)):
        points = Points([(x, 0)])
        points.validate(width, 1)
        assert prompt_map(points, width, 1, (1, cells), sigma=1).coordinates[0] < 1


# --- boxes


@given(st.data())
def test_a_box_covers_its_pixels_and_nothing_else(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 3000)), data.draw(st.integers(1, 3000))
    x0, x1 = sorted(data.draw(st.tuples(st.floats(-50, width - 0.01), st.floats(0.01, width + 50))))
    y0, y1 = sorted(data.draw(st.tuples(st.floats(-50, height - 0.01), st.floats(0.01, height + 50))))
    box = Box(x0, y0, max(x1, x0 + 0.01), max(y1, y0 + 0.01))
    box.validate(width, height)
    grid = data.draw(st.sampled_from([(64, 64), (64, 192), (128, 64)]))
    result = prompt_map(box, width, height, grid)
    rows, columns = np.flatnonzero(result.pixels.max(1) > 0), np.flatnonzero(result.pixels.max(0) > 0)
    assert rows.size, "a box inside the image may be tiny, but never vanishes"
    assert columns.size
    filled = result.pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert (filled == 1).all()
    assert (result.pixels == 1).sum() == filled.size
    assert (result.pixels == -1).sum() == result.pixels.size - filled.size
    left, top, right, bottom = result.coordinates
    assert 0 <= left <= right <= 1
    assert 0 <= top <= bottom <= 1
    for first, last, start, stop, cells in (
        (columns[0], columns[-1] + 1, left, right, grid[1]),
        (rows[0], rows[-1] + 1, top, bottom, grid[0]),
    ):
        assert abs(first - start * cells) <= 1
        assert abs(last - stop * cells) <= (1.5 if last == first + 1 else 1)


def test_a_box_partly_outside_is_clipped() -> None:
    result = prompt_map(Box(-30, 20, 50, 900), 100, 40, (64, 128))
    assert result.coordinates.tolist() == [0, 0.5, 0.5, 1]
    expected = np.full((64, 128), -1.0)
    expected[32:, :64] = 1
    np.testing.assert_array_equal(result.pixels, expected)


@pytest.mark.parametrize("box", [Box(500.2, 500.2, 500.3, 500.3), Box(999.5, 999.5, 1000, 1000), Box(0, 0, 0.1, 0.1)])
def test_a_tiny_box_keeps_one_pixel(box: Box) -> None:
    assert (prompt_map(box, 1000, 1000, (64, 64)).pixels == 1).sum() == 1


# --- masks and the rest


def test_masks_are_resized_without_mixing() -> None:
    mask = np.random.default_rng(0).random((90, 150)) > 0.5
    result = prompt_map(Mask(mask), 150, 90, (64, 128))
    # Nearest as OpenCV means it: the pixel under the cell's top left corner.
    rows, columns = np.arange(64) * 90 // 64, np.arange(128) * 150 // 128
    np.testing.assert_array_equal(result.pixels, np.where(mask[rows][:, columns], 1, -1))


def test_a_masks_box_ends_at_its_last_pixel_inside() -> None:
    mask = np.zeros((64, 128), np.uint8)
    mask[16:33, 32:97] = 255
    result = prompt_map(Mask(mask), 128, 64, (64, 128))
    assert result.coordinates.tolist() == [0.25, 0.25, 0.75, 0.5]


def test_a_mask_too_thin_for_the_grid_sets_the_cells_it_touches() -> None:
    speck = np.zeros((1000, 1000), bool)
    speck[999, 7] = True
    result = prompt_map(Mask(speck), 1000, 1000, (64, 64))
    assert np.argwhere(result.pixels == 1).tolist() == [[63, 0]]
    assert result.coordinates.tolist() == [0, 63 / 64, 0, 63 / 64]

    wire = np.zeros((1000, 500), np.uint8)
    wire[1, 100:400] = 255  # nearest neighbours look at rows 0, 15, 31, ...
    result = prompt_map(Mask(wire), 500, 1000, (64, 128))
    assert np.flatnonzero((result.pixels == 1).any(axis=1)).tolist() == [0]
    assert np.flatnonzero(result.pixels[0] == 1).tolist() == list(range(100 * 128 // 500, 399 * 128 // 500 + 1))


def test_an_empty_mask_is_the_whole_frame_without_anything_inside() -> None:
    result = prompt_map(Mask(np.zeros((100, 100), bool)), 100, 100, (64, 64))
    assert (result.pixels == -1).all()
    assert result.coordinates.tolist() == [0, 0, 1, 1]


def test_auto_is_the_whole_frame() -> None:
    result = prompt_map(Auto(), 10, 20, (64, 128))
    assert (result.pixels == 1).all()
    assert result.coordinates.tolist() == [0, 0, 1, 1]
    assert not result.masks_attention


def test_a_trimap_keeps_its_three_values() -> None:
    pixels = np.zeros((64, 64), np.uint8)
    pixels[:, 20:40], pixels[:, 40:] = 128, 255
    result = prompt_map(Trimap(pixels), 64, 64, (64, 64))
    assert np.unique(result.pixels).tolist() == pytest.approx([-1, 128 / 127.5 - 1, 1], abs=1e-6)
    assert result.pixels[0].tolist() == sorted(result.pixels[0].tolist())
    assert result.coordinates.tolist() == [0, 0, 1, 1]
    assert not result.masks_attention
