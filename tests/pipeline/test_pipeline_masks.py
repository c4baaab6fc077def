import base64
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from pipeline.errors import BadInputError
from pipeline.frames import Frame
from pipeline.masks import MAX_VERTICES, decode_mask, decode_png, encode_mask
from support.auditing import HEIGHT, WIDTH, audited, blob, no_masks, pixels_of, png, refused


@pytest.mark.parametrize(
    "data",
    [
        png(blob()),
        png(blob().astype(np.uint8)),
        png(blob().astype(np.uint8) * 255),
        png(blob().astype(np.uint16) * 65535),
        png(np.where(blob(), 200, 100).astype(np.uint8)),
        png(np.repeat(blob().astype(np.uint8)[..., None] * 255, 3, axis=2)),
        png(blob().astype(np.uint8) * 255, "P"),
        png(np.dstack([np.full((HEIGHT, WIDTH, 3), 9, np.uint8), blob().astype(np.uint8) * 255])),
        png(
            np.dstack(
                [np.repeat(blob().astype(np.uint8)[..., None] * 255, 3, 2), np.full((HEIGHT, WIDTH), 255, np.uint8)]
            )
        ),
    ],
    ids=["1", "L01", "L", "I;16", "gray", "RGB", "P", "alpha", "opaque"],
)
def test_png_masks(data):
    for value in ({"png": base64.b64encode(data).decode()}, {"png": data}, data, "m.png"):
        prompt = audited({"mask": value}, load_mask=lambda name: data)
        assert prompt["error_code"] is None
        np.testing.assert_array_equal(pixels_of(prompt), blob())


def test_mask_files_are_asked_for_by_name():
    assert refused({"mask": "m.png"}) == ("prompt_malformed", "a.jsonl line 7: no m.png")


def test_run_lengths_are_those_of_pycocotools():
    inside = blob()
    encoded = coco.encode(np.asfortranarray(inside.astype(np.uint8)))
    flat = inside.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    for value in (encoded["counts"].decode(), encoded["counts"], counts):
        prompt = audited({"mask": {"size": [HEIGHT, WIDTH], "counts": value}})
        assert prompt["error_code"] is None, prompt
        np.testing.assert_array_equal(pixels_of(prompt), inside)


@given(st.integers(1, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_compressed_run_lengths_round_trip(seed, width, height):
    inside = np.random.default_rng(seed).random((height, width)) < 0.3
    inside[0, 0] |= seed % 2 == 0
    inside[-1, -1] = True
    encoded = coco.encode(np.asfortranarray(inside.astype(np.uint8)))
    found, _ = decode_mask(
        {"size": [height, width], "counts": encoded["counts"].decode()}, Frame(width, height), no_masks
    )
    np.testing.assert_array_equal(found, inside)


@given(st.binary(max_size=30))
def test_damaged_run_lengths_never_crash(counts):
    try:
        found, _ = decode_mask({"size": [3, 4], "counts": counts}, Frame(4, 3), no_masks)
    except BadInputError:
        return
    assert found.shape == (3, 4)


def test_polygons_cover_the_pixels_whose_centres_they_cover():
    prompt = audited({"mask": {"polygon": [[10, 5, 20, 5, 20, 15, 10, 15], [30.4, 20, 33.6, 20, 33.6, 22, 30.4, 22]]}})
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[5:15, 10:20] = True
    inside[20:22, 30:34] = True
    np.testing.assert_array_equal(pixels_of(prompt), inside)
    assert prompt["repairs"] == []


def test_polygons_agree_with_an_exact_test_of_every_pixel_centre():
    ring = [(3.2, 4.1), (36.0, 2.5), (20.3, 14.9), (38.1, 28.2), (5.5, 25.0), (15.7, 13.3)]
    found, _ = decode_mask({"polygon": [[v for point in ring for v in point]]}, Frame(WIDTH, HEIGHT), no_masks)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            odd = False
            for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
                if (y0 <= y + 0.5) != (y1 <= y + 0.5):
                    odd ^= x + 0.5 >= x0 + (y + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            assert found[y, x] == odd


@given(
    st.lists(
        st.lists(st.tuples(st.integers(-60, 100), st.integers(-60, 100)), min_size=3, max_size=7),
        min_size=1,
        max_size=4,
    )
)
def test_polygons_are_united_each_by_the_even_odd_rule(rings):
    """Vertices lie on pixel corners and halves, where the rule is decided by a hair."""
    expected = np.zeros((HEIGHT, WIDTH), bool)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    for ring in (np.array(ring) / 2 for ring in rings):
        odd = np.zeros((HEIGHT, WIDTH), bool)
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y0 != y1:
                odd ^= ((y0 <= y) != (y1 <= y)) & (x >= x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        expected |= odd
    polygons = [[float(part) / 2 for point in ring for part in point] for ring in rings]
    if expected.any():
        found, _ = decode_mask({"polygon": polygons}, Frame(WIDTH, HEIGHT), no_masks)
        np.testing.assert_array_equal(found, expected)
    else:
        with pytest.raises(BadInputError, match=r"no pixel inside|don't touch"):
            decode_mask({"polygon": polygons}, Frame(WIDTH, HEIGHT), no_masks)


def test_polygons_larger_than_a_band_are_filled_throughout():
    frame = Frame(3000, 2500)
    found, repairs = decode_mask({"polygon": [[100, 50, 2900, 50, 2900, 2450, 100, 2450]]}, frame, no_masks)
    expected = np.zeros((2500, 3000), bool)
    expected[50:2450, 100:2900] = True
    np.testing.assert_array_equal(found, expected)
    assert repairs == ()


def test_no_polygon_takes_more_than_moments():
    frame = Frame(4000, 3000)
    rng = np.random.default_rng(0)
    zigzag = (rng.random((MAX_VERTICES, 2)) * (4000, 3000)).ravel().tolist()
    triangles = [[0, n % 3000, 4000, n % 3000, 4000, n % 3000 + 1] for n in range(MAX_VERTICES // 3)]
    start = time.process_time()
    with pytest.raises(BadInputError, match="simplify") as caught:
        decode_mask({"polygon": [zigzag]}, frame, no_masks)
    assert caught.value.code == "prompt_malformed"
    decode_mask({"polygon": triangles}, frame, no_masks)
    assert time.process_time() - start < 5


def test_polygons_at_the_edge():
    prompt = audited({"mask": {"polygon": [[-10, -10, 5, -10, 5, 5, -10, 5]]}})
    assert prompt["repairs"] == ["mask_clipped"]
    assert pixels_of(prompt).sum() == 25
    assert refused({"mask": {"polygon": [[50, 50, 60, 50, 60, 60]]}})[0] == "prompt_out_of_frame"
    assert refused({"mask": {"polygon": [[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]]}})[0] == "prompt_empty_mask"


def test_empty_masks():
    assert refused({"mask": png(np.zeros((HEIGHT, WIDTH), np.uint8))})[0] == "prompt_empty_mask"
    assert refused({"mask": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}})[0] == "prompt_empty_mask"


def test_masks_of_another_size_are_not_decoded():
    code, message = refused({"mask": png(np.ones((WIDTH, HEIGHT), np.uint8))})
    assert code == "prompt_size_mismatch"
    assert "30 x 40" in message
    assert "no EXIF orientation" in message
    assert refused({"mask": bomb(60_000, 60_000)})[0] == "prompt_size_mismatch"
    assert refused({"mask": {"size": [10**6, 10**6], "counts": [10**12]}})[0] == "prompt_size_mismatch"
    assert refused({"mask": {"size": [10**400, 10**399], "counts": [10**12]}})[0] == "prompt_size_mismatch"
    assert refused({"mask": {"size": [0, 0], "counts": []}})[0] == "prompt_size_mismatch"
    assert refused({"mask": {"size": [-HEIGHT, -WIDTH], "counts": []}})[0] == "prompt_size_mismatch"
    code, message = refused({"mask": bomb(WIDTH * 100, HEIGHT * 100)})  # of the same shape, but too large
    assert code == "prompt_size_mismatch"
    assert "input.max_pixels" in message


def bomb(width, height):
    """Return a PNG whose header promises so many pixels."""
    header = png(np.ones((1, 1), np.uint8))
    chunk = header[12:16] + struct.pack(">II", width, height) + header[24:29]
    return header[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + header[33:]


@pytest.mark.parametrize(
    "data", [b"", b"no png", bomb(60_000, 60_000), bomb(100, 100), bomb(0, 5), png(blob())[:60], bomb(3_000, 3_000)]
)
def test_pngs_that_cannot_be_decoded_raise_one_kind_of_error(data):
    with pytest.raises(BadInputError) as caught:
        decode_png(data)
    assert caught.value.code == "prompt_malformed"


def test_pngs_keep_their_depth_and_have_a_limit_on_their_size(monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10)  # Pillow's own limit says nothing here
    for dtype in (bool, np.uint8, np.uint16):
        array = blob().astype(dtype)
        found = decode_png(png(array), max_pixels=WIDTH * HEIGHT)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, array)
    with pytest.raises(BadInputError, match="more than the 1199 allowed"):
        decode_png(png(blob()), max_pixels=WIDTH * HEIGHT - 1)


def test_masks_are_stored_in_one_bit_per_pixel():
    data = encode_mask(np.ones((1000, 1000), bool))
    assert len(data) < 1000
