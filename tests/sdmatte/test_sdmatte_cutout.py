"""Cut-outs, judged on a scene whose true foreground is known."""

import subprocess
import sys
import types

import cv2
import numpy as np
import pytest

from sdmatte import cutout as module
from sdmatte.cutout import checkerboard, composite, cutout, estimate_foreground, is_compiled, preview
from sdmatte.errors import SDMatteError

HAIR, BACKDROP = np.array([120, 60, 20]), np.array([30, 200, 60])


def hair(height=160, width=200):
    """A dark head with fine strands before a green screen: photo, alpha, and the object's true colours."""
    rng = np.random.default_rng(3)
    scale = 8
    large = np.zeros((height * scale, width * scale), np.uint8)
    centre = np.array([width, height * 1.1]) * scale / 2
    cv2.circle(large, centre.astype(int).tolist(), int(height * scale * 0.25), 255, -1)
    for angle in rng.uniform(0, 2 * np.pi, 160):
        bend, length = rng.uniform(-0.5, 0.5), rng.uniform(0.3, 0.48) * height * scale
        steps = np.linspace(0, 1, 30)[:, None]
        direction = np.stack([np.cos(angle + bend * steps[:, 0]), np.sin(angle + bend * steps[:, 0])], -1)
        cv2.polylines(large, [(centre + direction * steps * length).astype(np.int32)], False, 255, 6)
    alpha = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    shade = rng.normal(0, 6, (height, width, 1))
    colours = np.clip(HAIR + cv2.GaussianBlur(shade, (5, 5), 2)[..., None], 0, 255).astype(np.uint8)
    gradient = np.linspace(0.7, 1.2, width)[None, :, None]
    backdrop = np.clip(BACKDROP * np.repeat(gradient, height, 0), 0, 255).astype(np.uint8)
    return composite(colours, alpha, backdrop), alpha, colours


@pytest.fixture(scope="module")
def scene():
    photo, alpha, colours = hair()
    return photo, alpha, colours, estimate_foreground(photo, alpha)


def greenness(pixels):
    return pixels[..., 1].astype(int) - pixels[..., 0]


def test_no_fringe_of_the_old_background(scene):
    photo, alpha, colours, estimated = scene
    assert estimated.dtype == np.uint8
    assert estimated.shape == photo.shape
    mixed = (alpha > 0.1) & (alpha < 0.9)
    assert mixed.sum() > 2000
    naive = np.abs(photo.astype(int) - colours)[mixed].mean()
    ours = np.abs(estimated.astype(int) - colours)[mixed].mean()
    assert naive > 30
    assert ours < 8
    # Over white, nothing may look greener than hair itself does, as it would with the photo's own colours.
    white = np.array([255, 255, 255], np.uint8)
    assert np.percentile(greenness(composite(photo, alpha, white))[mixed], 99) > 30
    assert np.percentile(greenness(composite(estimated, alpha, white))[mixed], 99) < 10


def test_opaque_pixels_keep_the_photos_colour(scene):
    photo, alpha, _, estimated = scene
    opaque = np.rint(alpha * 255) == 255
    np.testing.assert_array_equal(estimated[opaque], photo[opaque])


def test_transparent_pixels_keep_a_colour_of_the_object_so_that_resizing_leaves_no_border(scene):
    photo, alpha, _, estimated = scene
    rgba = cutout(photo, alpha, foreground=estimated)
    assert rgba.shape == (*alpha.shape, 4)
    assert rgba.dtype == np.uint8
    np.testing.assert_array_equal(rgba[..., 3], np.rint(alpha * 255))
    np.testing.assert_array_equal(rgba[..., :3], estimated)
    clear = (alpha == 0) & (cv2.dilate((alpha > 0).astype(np.uint8), np.ones((3, 3))) > 0)
    assert np.abs(rgba[..., :3][clear] - HAIR).mean() < 25
    half = cv2.resize(rgba, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert greenness(half)[half[..., 3] > 25].max() < 30


def test_cutout_estimates_by_itself(scene):
    photo, alpha, _, estimated = scene
    np.testing.assert_array_equal(cutout(photo, alpha)[..., :3], estimated)
    np.testing.assert_array_equal(preview(photo, alpha), preview(photo, alpha, foreground=estimated))


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (30, 1)])
def test_alphas_of_one_value_and_tiny_images(shape, value):
    photo = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    rgba = cutout(photo, np.full(shape, value, np.float32))
    assert (rgba[..., 3] == np.rint(value * 255)).all()
    if value == 1:
        np.testing.assert_array_equal(rgba[..., :3], photo)


def test_inputs_stay_as_they_were(scene):
    photo, alpha, _, _ = scene
    before = photo.copy(), alpha.copy()
    preview(photo, alpha)
    np.testing.assert_array_equal(photo, before[0])
    np.testing.assert_array_equal(alpha, before[1])


def test_composite_rounds():
    alpha = (np.arange(256, dtype=np.float32) / 255)[None]
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    over = composite(ramp, alpha, np.array([255, 7, 0], np.uint8))
    exact = np.arange(256) ** 2 / 255
    np.testing.assert_array_equal(over[0, :, 2], np.floor(exact + 0.5))
    assert tuple(over[0, 0]) == (255, 7, 0)
    np.testing.assert_array_equal(over[0, -1], ramp[0, -1])
    np.testing.assert_array_equal(composite(ramp, alpha, np.broadcast_to(over[0, 0], ramp.shape)), over)
    same = np.full((1, 256, 3), 201, np.uint8)
    np.testing.assert_array_equal(composite(same, alpha, same), same)


def test_alphas_round_to_the_nearest_of_256():
    alpha = np.array([[0, 0.4999 / 255, 0.5001 / 255, 1 - 0.5001 / 255, 1 - 0.4999 / 255, 1]], np.float32)
    photo = np.zeros((1, 6, 3), np.uint8)
    np.testing.assert_array_equal(cutout(photo, alpha, foreground=photo)[0, :, 3], [0, 0, 1, 254, 255, 255])


def test_checkerboard():
    board = checkerboard(5, 4, 2)
    assert board.shape == (4, 5, 3)
    assert board.dtype == np.uint8
    expected = np.array([[255, 255, 204, 204, 255]] * 2 + [[204, 204, 255, 255, 204]] * 2)
    np.testing.assert_array_equal(board, np.stack([expected] * 3, -1))


def test_preview_shows_the_board_through(scene):
    photo, alpha, _, estimated = scene
    shown = preview(photo, alpha, foreground=estimated)
    assert shown.shape == photo.shape
    clear = alpha == 0
    assert set(np.unique(shown[clear])) == {204, 255}
    opaque = np.rint(alpha * 255) == 255
    np.testing.assert_array_equal(shown[opaque], photo[opaque])


@pytest.mark.parametrize(
    ("pixels", "alpha", "words"),
    [
        (np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), np.float32), "shape"),
        (np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5), np.float32), "uint8 RGB"),
        (np.zeros((4, 5, 3), np.float32), np.zeros((4, 5), np.float32), "uint8 RGB"),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8), "divide 8-bit"),
        (np.zeros((4, 5, 3), np.uint8), np.full((4, 5), 255.0), "in \\[0, 1\\]"),
        (np.zeros((4, 5, 3), np.uint8), np.full((4, 5), np.nan), "in \\[0, 1\\]"),
    ],
)
def test_arrays_that_do_not_fit(pixels, alpha, words):
    with pytest.raises(SDMatteError, match=words):
        cutout(pixels, alpha)


def test_pymatting_is_imported_when_it_is_needed_only():
    script = "import sys, sdmatte.cutout; assert not {'torch', 'numba', 'pymatting'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_compiled_code_is_looked_for_where_numba_keeps_it(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert not is_compiled()
    (tmp_path / "foreground_1a2b").mkdir()
    (tmp_path / "foreground_1a2b/estimate_foreground_ml._estimate_fb_ml-61.py27.nbi").touch()  # of another Python
    assert not is_compiled()
    photo = np.full((3, 3, 3), 9, np.uint8)
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    estimate_foreground(photo, np.ones((3, 3), np.float32))
    assert is_compiled()  # in the folder that numba chose


def test_nowhere_to_cache_compiled_code(monkeypatch):
    """A read-only installation and home: numba refuses to define a cached function at all."""
    numba = types.SimpleNamespace(config=types.SimpleNamespace(CACHE_DIR=""))
    calls = []

    def importer(name):
        calls.append((name, numba.config.CACHE_DIR))
        if len(calls) == 1:
            raise RuntimeError("cannot cache function 'f': no locator available for file 'x.py'")
        return types.SimpleNamespace(estimate_foreground_ml=lambda image, alpha: image)

    monkeypatch.setitem(sys.modules, "numba", numba)
    monkeypatch.setattr(module, "import_module", importer)
    photo = np.full((3, 3, 3), 9, np.uint8)
    np.testing.assert_array_equal(estimate_foreground(photo, np.ones((3, 3), np.float32)), photo)
    assert [name for name, _ in calls] == ["pymatting", "pymatting"]
    assert calls[0][1] == ""
    assert "sdmatte-numba" in calls[1][1]
