import base64
import json
import math
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from pipeline.errors import BadInputError, ErrorCode
from pipeline.masks import decode_mask, decode_png, encode_mask
from pipeline.prompts import RawPrompt, audit_prompt, parse_line, parse_lines, parse_list, parse_prompt, raw_prompt

WIDTH, HEIGHT = 40, 30


def no_masks(name):
    raise BadInputError(ErrorCode.PROMPT_MALFORMED, f"no {name}")


def audited(content, load_mask=no_masks, size=(WIDTH, HEIGHT)):
    raw = raw_prompt(content, "a.jsonl line 7")
    prompt = parse_prompt(raw, 5)
    if prompt["error_code"] is None:
        audit_prompt(prompt, raw, *size, load_mask)
    return prompt


def refused(content, **options):
    prompt = audited(content, **options)
    assert prompt["error_message"].startswith("a.jsonl line 7: ")
    return prompt["error_code"], prompt["error_message"]


def png(pixels, mode=None):
    from io import BytesIO

    file = BytesIO()
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(file, "PNG")
    return file.getvalue()


def blob():
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[5:12, 7:30] = True
    inside[20, 3] = True
    return inside


def pixels_of(prompt):
    from io import BytesIO

    with Image.open(BytesIO(prompt["mask"])) as picture:
        assert picture.mode == "1"
        return np.asarray(picture)


# --- files -----------------------------------------------------------------------------------------------------------


def test_json_lines_of_any_dialect():
    data = b'\xef\xbb\xbf{"box": [1, 2, 3, 4]}\r\n\r\n  \n{"label": "caf\xc3\xa9\xe2\x80\xa8", "points": [[1, 2]]}'
    first, second = parse_lines(data, "a.jsonl")
    assert first == RawPrompt({"box": [1, 2, 3, 4]}, "a.jsonl line 1")
    assert second == RawPrompt({"label": "café\u2028", "points": [[1, 2]]}, "a.jsonl line 4")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"box": [1, 2, 3', "not valid JSON"),
        (b"[1, 2, 3, 4]", "must be an object"),
        (b"null", "must be an object"),
        (b'"\xff"', "not UTF-8"),
        (b'{"box": [' + b"1" * 5000 + b", 2, 3, 4]}", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"mask": ' + b"[" * 40 + b"1" + b"]" * 40 + b"}", "nested too deeply"),
    ],
)
def test_malformed_lines_keep_their_place(line, reason):
    good = b'{"box": [1, 2, 3, 4]}'
    first, bad, last = parse_lines(b"\n".join([good, line, good]), "a.jsonl")
    assert first.fault is None
    assert last == RawPrompt({"box": [1, 2, 3, 4]}, "a.jsonl line 3")
    assert reason in bad.fault
    assert bad.content == parse_line(line, "elsewhere").content  # its id depends on the text alone
    prompt = parse_prompt(bad, 1)
    assert (prompt["kind"], prompt["error_code"]) == (None, "prompt_malformed")
    assert prompt["error_message"].startswith("a.jsonl line 2: ")
    json.dumps(prompt).encode()


def test_lists():
    assert [raw.content for raw in parse_list(b'[{"box": [1, 2, 3, 4]}, {}]', "a")] == [{"box": [1, 2, 3, 4]}, {}]
    assert parse_list(b"[]", "a") == []
    assert "expected a list" in parse_list(b'{"box": [1, 2, 3, 4]}', "a")[0].fault
    assert "not valid JSON" in parse_list(b"[", "a")[0].fault
    assert parse_list("[7]", "a")[0].where == "a prompt 1"


def test_nulls_are_as_good_as_nothing():
    raw = raw_prompt({"box": [1, 2, 3, 4], "points": None, "mask": None, "label": None}, "")
    assert raw.content == {"box": [1, 2, 3, 4]}
    assert raw_prompt({"mask": {"png": b"x", "size": None}}, "").content == {"mask": {"png": b"x"}}


# --- fields ----------------------------------------------------------------------------------------------------------


def test_all_fields():
    prompt = audited({"id": 17, "label": "cat\ud800", "score": 1, "transparent": True, "box": [1, 2.5, 30, 20]})
    assert prompt == {
        "record_id": 5,
        "kind": "box",
        "id": "17",
        "label": "cat\\ud800",
        "score": 1.0,
        "transparent": True,
        "box": [1.0, 2.5, 30.0, 20.0],
        "points": None,
        "mask": None,
        "repairs": [],
        "error_code": None,
        "error_message": None,
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "neither"),
        ({"box": [1, 2, 3, 4], "mask": "a.png"}, "box and mask"),
        ({"box": [1, 2, 3, 4], "bbox": [1, 2, 3, 4]}, "unknown key 'bbox'"),
        ({"box": [1, 2, 3, 4], "image": "a.jpg"}, "separate prompt files only"),
        ({"box": "1,2,3,4"}, "four numbers"),
        ({"box": ["1", "2", "3", "4"]}, "four numbers"),
        ({"box": [1, 2, 3]}, "four numbers"),
        ({"box": [1, None, 3, 4]}, "four numbers"),
        ({"box": [True, 2, 3, 4]}, "four numbers"),
        ({"box": [math.nan, 2, 3, 4]}, "finite"),
        ({"box": [1, 2, math.inf, 4]}, "finite"),
        ({"box": [1, 2, 10**400, 4]}, "finite"),
        ({"box": {"x": 1}}, "four numbers"),
        ({"points": []}, "pairs"),
        ({"points": [1, 2]}, "pairs"),
        ({"points": [[1, 2, 3]]}, "pairs"),
        ({"points": [[1, "2"]]}, "pairs"),
        ({"points": [[1, 2], [math.nan, 2]]}, "finite"),
        ({"points": "1 2"}, "pairs"),
        ({"points": [[1, 1]] * 1000}, "more than"),
        ({"box": [1, 2, 3, 4], "score": 1.5}, "from 0 to 1"),
        ({"box": [1, 2, 3, 4], "score": "0.5"}, "from 0 to 1"),
        ({"box": [1, 2, 3, 4], "score": math.nan}, "from 0 to 1"),
        ({"box": [1, 2, 3, 4], "label": ["a"]}, "label must be a string"),
        ({"box": [1, 2, 3, 4], "id": True}, "id must be a string"),
        ({"box": [1, 2, 3, 4], "transparent": 1}, "true or false"),
        ({"mask": 7}, "must be a file name"),
        ({"mask": {"rle": "x"}}, "must be a file name"),
        ({"mask": {"png": "x", "size": [1, 2]}}, "must be a file name"),
        ({"mask": {"png": "no base64!"}}, "base64"),
        ({"mask": {"png": base64.b64encode(b"no png").decode()}}, "not a PNG"),
        ({"mask": {"png": base64.b64encode(png(np.zeros((HEIGHT, WIDTH), np.uint8))[:-30]).decode()}}, "damaged"),
        ({"mask": {"size": "30x40", "counts": [1200]}}, r"[height, width]"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": [100]}}, "don't add up"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": [10**30]}}, "don't add up"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": [-5, 1205]}}, "don't add up"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": ["1200"]}}, "don't add up"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": "\u00ff\u00ff"}}, "damaged"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": "o" * 100_000}}, "damaged"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": "oo"}}, "middle of a number"),
        ({"mask": {"size": [HEIGHT, WIDTH], "counts": ""}}, "don't add up"),
        ({"mask": {"polygon": []}}, "empty"),
        ({"mask": {"polygon": [[1, 1, 5, 5]]}}, "three points"),
        ({"mask": {"polygon": [[1, 1, 5, 5, 3]]}}, "three points"),
        ({"mask": {"polygon": [1, 1, 5, 5, 3, 3]}}, "three points"),
        ({"mask": {"polygon": [[1, 1, 5, math.nan, 3, 3]]}}, "three points"),
        ({"mask": {"polygon": [[1, 1, 5, 10**400, 3, 3]]}}, "three points"),
        ({"mask": {"polygon": [[1.0, 1.0] * 100_001]}}, "vertices"),
    ],
)
def test_what_is_malformed_says_so(content, words):
    code, message = refused(content)
    assert code == "prompt_malformed"
    assert words in message
    assert len(message) < 500


def test_a_malformed_prompt_keeps_what_could_be_read():
    prompt = audited({"id": "7", "label": "cat", "box": "wrong"})
    assert (prompt["kind"], prompt["id"], prompt["label"], prompt["box"]) == ("box", "7", "cat", None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["box", "points", "mask", "id", "label", "score", "transparent", "x"]), json_values, max_size=3
    )
)
def test_no_prompt_raises(content):
    prompt = audited(content)
    if prompt["error_code"] is None:
        assert prompt["kind"] in content
    else:
        assert prompt["error_code"] in set(ErrorCode)
        prompt["error_message"].encode()


# --- frame -----------------------------------------------------------------------------------------------------------


def test_boxes_are_clipped_and_say_so():
    prompt = audited({"box": [-5, 2, 100, 20.5]})
    assert (prompt["box"], prompt["repairs"]) == ([0, 2, WIDTH, 20.5], ["box_clipped"])
    prompt = audited({"box": [0, 0, WIDTH, HEIGHT]})
    assert (prompt["box"], prompt["repairs"]) == ([0, 0, WIDTH, HEIGHT], [])


def test_boxes_that_cannot_be_repaired():
    code, message = refused({"box": [100, 100, 120, 120]})
    assert code == "prompt_out_of_frame"
    assert "40 x 30" in message
    assert refused({"box": [WIDTH, 0, WIDTH + 5, 5]})[0] == "prompt_out_of_frame"
    assert refused({"box": [10, 10, 5, 20]})[0] == "prompt_degenerate"
    assert refused({"box": [10, 10, 10, 20]})[0] == "prompt_degenerate"
    assert audited({"box": [100, 100, 120, 120]})["box"] == [100, 100, 120, 120]  # shown as it was


def test_points_outside_are_dropped():
    prompt = audited({"points": [[0, 0], [WIDTH, 5], [39.9, 29.9], [-1, 3]]})
    assert (prompt["points"], prompt["repairs"]) == ([[0, 0], [39.9, 29.9]], ["points_dropped"])
    assert refused({"points": [[WIDTH, 5], [-1, 3]]})[0] == "prompt_out_of_frame"


# --- masks -----------------------------------------------------------------------------------------------------------


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
    found, _ = decode_mask({"size": [height, width], "counts": encoded["counts"].decode()}, width, height, no_masks)
    np.testing.assert_array_equal(found, inside)


@given(st.binary(max_size=30))
def test_damaged_run_lengths_never_crash(counts):
    try:
        found, _ = decode_mask({"size": [3, 4], "counts": counts}, 4, 3, no_masks)
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
    found, _ = decode_mask({"polygon": [[v for point in ring for v in point]]}, WIDTH, HEIGHT, no_masks)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            odd = False
            for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
                if (y0 <= y + 0.5) != (y1 <= y + 0.5):
                    odd ^= x + 0.5 >= x0 + (y + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            assert found[y, x] == odd


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
    assert "EXIF" in message
    header = png(np.ones((1, 1), np.uint8))
    bomb = header[:16] + (60_000).to_bytes(4, "big") * 2 + header[24:]
    assert refused({"mask": bomb})[0] == "prompt_size_mismatch"
    assert refused({"mask": {"size": [10**6, 10**6], "counts": [10**12]}})[0] == "prompt_size_mismatch"


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
