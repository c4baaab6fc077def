import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipeline.frames import Fit, Frame, scale_mask, turn_mask, turning

ORIENTATIONS = range(1, 9)
BACK = {6: 8, 8: 6}
"""Orientations that undo others; the rest undo themselves."""


def turned_by_pillow(pixels, orientation):
    """What viewers show of a stored picture."""
    picture = Image.fromarray(pixels)
    picture.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(picture))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_points_go_where_their_pixels_go(orientation):
    width, height = 5, 3
    for x in range(width):
        for y in range(height):
            stored = np.zeros((height, width), np.uint8)
            stored[y, x] = 255
            ((row, column),) = np.argwhere(turned_by_pillow(stored, orientation))
            assert turning(orientation, width, height).point(x + 0.5, y + 0.5) == (column + 0.5, row + 0.5)
            assert turn_mask(stored > 0, orientation)[row, column]


sides = st.integers(1, 10_000)
numbers = st.integers(-(2**20), 2**20).map(lambda number: number / 16)


@given(st.sampled_from(ORIENTATIONS), sides, sides, numbers, numbers)
def test_turning_upright_and_back_changes_nothing(orientation, width, height, x, y):
    there = turning(orientation, width, height)
    upright = (height, width) if orientation >= 5 else (width, height)
    back = turning(BACK.get(orientation, orientation), *upright)
    assert back.point(*there.point(x, y)) == (x, y)
    np.testing.assert_array_equal(back.points(there.points(np.array([[x, y]]))), [[x, y]])


@given(st.sampled_from(ORIENTATIONS), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32))
def test_masks_turned_upright_and_back_are_the_same(orientation, width, height, seed):
    inside = np.random.default_rng(seed).random((height, width)) < 0.5
    back = turn_mask(turn_mask(inside, orientation), BACK.get(orientation, orientation))
    np.testing.assert_array_equal(back, inside)


# --- sizes -----------------------------------------------------------------------------------------------------------

USUAL = Fit(1, rotated=False, scaled=False)
TURNED = Fit(6, rotated=True, scaled=False)


@pytest.mark.parametrize(
    ("frame", "size", "fit"),
    [
        (Frame(400, 300), (400, 300), USUAL),
        (Frame(400, 300), (800, 600), USUAL._replace(scaled=True)),
        (Frame(400, 300), (100, 75), USUAL._replace(scaled=True)),
        (Frame(400, 300), (404, 300), USUAL._replace(scaled=True)),  # 1 %
        (Frame(400, 300), (408, 300), None),
        (Frame(4000, 2667), (40, 26), USUAL._replace(scaled=True)),  # 26.67 rows, rounded down: 2.5 %
        (Frame(4000, 2667), (40, 25), None),
        (Frame(40, 26), (4000, 2667), USUAL._replace(scaled=True)),
        (Frame(4000, 2667), (3, 2), USUAL._replace(scaled=True)),
        (Frame(400, 300), (2, 1), None),  # so few pixels tell nothing
        (Frame(400, 300), (300, 400), None),
        (Frame(400, 300, 6), (300, 400), TURNED),
        (Frame(400, 300, 6), (150, 200), TURNED._replace(scaled=True)),
        (Frame(400, 300, 8), (300, 400), TURNED._replace(orientation=8)),
        (Frame(400, 300, 3), (300, 400), None),  # turned upside down, which leaves the sides as they are
        (Frame(400, 300, 3), (400, 300), USUAL),
        (Frame(400, 300, 6, stored=True), (300, 400), Fit(6, rotated=False, scaled=False)),
        (Frame(400, 300, 6, stored=True), (400, 300), Fit(1, rotated=True, scaled=False)),
        (Frame(400, 300, 2, stored=True), (200, 150), Fit(2, rotated=False, scaled=True)),
        (Frame(300, 300, 6), (300, 300), USUAL),  # squares tell nothing: as was said
        (Frame(300, 300, 6, stored=True), (300, 300), Fit(6, rotated=False, scaled=False)),
        (Frame(1000, 1001, 6), (1001, 1000), TURNED),  # both would do within the tolerance: the closer one
        (Frame(1000, 1001, 6), (500, 501), USUAL._replace(scaled=True)),
        (Frame(400, 300), (0, 0), None),
        (Frame(400, 300), (-400, -300), None),
        (Frame(400, 300), (4 * 10**400, 3 * 10**400), None),
    ],
)
def test_what_fits_an_image(frame, size, fit):
    assert frame.fit(*size) == fit


@given(st.sampled_from(ORIENTATIONS), sides, sides, st.booleans(), sides, sides)
def test_what_fits_is_placed_onto_the_whole_image(orientation, width, height, stored, across, down):
    frame = Frame(width, height, orientation, stored)
    for size in (frame.size, (across, down)):
        fit = frame.fit(*size)
        if fit is None:
            assert size != frame.size
            continue
        placing = frame.placing(fit, *size)
        corners = [placing.point(0, 0), placing.point(*size)]
        found = [min(x for x, _ in corners), min(y for _, y in corners)]
        found += [max(x for x, _ in corners), max(y for _, y in corners)]
        assert found == pytest.approx([0, 0, width, height])


def test_masks_are_enlarged_by_nearest_neighbours():
    inside = np.random.default_rng(0).random((3, 5)) < 0.5
    np.testing.assert_array_equal(scale_mask(inside, 20, 9), inside.repeat(3, axis=0).repeat(4, axis=1))


def test_masks_are_reduced_to_what_they_cover_by_half():
    inside = np.zeros((4, 8), bool)
    inside[0, :2] = True  # two of four
    inside[2, 4] = True  # one of four
    np.testing.assert_array_equal(scale_mask(inside, 4, 2), [[True, False, False, False], [False] * 4])


def test_masks_thinner_than_a_pixel_are_not_lost():
    inside = np.zeros((4000, 4000), bool)
    inside[3999, 17] = True
    expected = np.zeros((10, 10), bool)
    expected[9, 0] = True
    np.testing.assert_array_equal(scale_mask(inside, 10, 10), expected)


@pytest.mark.parametrize("size", [(65_000, 6), (6, 65_000)])
def test_long_strips_are_scaled(size):
    width, height = size
    inside = np.ones((height // 2, width // 2), bool)
    assert scale_mask(inside, width, height).all()
    assert scale_mask(scale_mask(inside, width, height), width // 2, height // 2).shape == inside.shape
