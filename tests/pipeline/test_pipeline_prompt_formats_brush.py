import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.errors import BadInputError
from pipeline.prompt_formats.brush import decode_brush, decode_levels, encode_levels
from support.brush import packed, rgba


@given(
    alpha=arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 255])),
    sizes=st.tuples(*[st.integers(1, 8)] * 3, st.integers(4, 16)).map(lambda sizes: tuple(sorted(sizes))),
    literals=st.sets(st.integers(0, 600)),
)
def test_strokes_come_back_whatever_the_mixture_of_runs(alpha, sizes, literals):
    rle = packed(rgba(alpha), sizes, literals.__contains__)
    np.testing.assert_array_equal(decode_brush(rle, alpha.shape[1], alpha.shape[0]), alpha == 255)


def test_only_alpha_counts_and_half_covered_is_inside():
    alpha = np.array([[0, 127, 128], [255, 0, 254]], np.uint8)
    for colour in ((0, 0, 0), (255, 255, 255), (255, 0, 1)):
        inside = decode_brush(packed(rgba(alpha, colour)), 3, 2)
        np.testing.assert_array_equal(inside, [[False, False, True], [True, False, True]])


def test_a_stream_written_by_hand():
    # 4 values of 8 bits, lengths of 1, 2, 3 or 4 bits; one run: repeats, size 1 (2 bits), length 4, value 255.
    bits = f"{4:032b}{7:05b}{0:04b}{1:04b}{2:04b}{3:04b}" + "1" + "01" + "11" + "11111111"
    data = [int(f"{bits:0<72}"[n : n + 8], 2) for n in range(0, 72, 8)]
    assert decode_brush(data, 1, 1).tolist() == [[True]]


GOOD = packed(rgba(np.full((4, 5), 255, np.uint8)), literal=lambda at: at % 3 == 0)


@pytest.mark.parametrize(
    ("rle", "words"),
    [
        (None, "list of numbers"),
        ("AAAA", "list of numbers"),
        ([1.5], "list of numbers"),
        ([256], "list of numbers"),
        ([-1], "list of numbers"),
        ([10**30], "list of numbers"),
        ([["1"]], "list of numbers"),
        ([], "end too early"),
        (GOOD[:20], "end too early"),
        ([0, 0, 0, 84, *GOOD[4:]], "stand for 84 values"),
        ([255, 255, 255, 255, *GOOD[4:]], "stand for 4294967295 values"),
        ([*GOOD[:4], 255, *GOOD[5:]], "of 32 bits"),
        ([*GOOD[:7], *[255] * 40], "beyond the image"),
    ],
)
def test_damage_is_named(rle, words):
    with pytest.raises(BadInputError, match=words):
        decode_brush(rle, 5, 4)


@given(st.lists(st.integers(0, 255), max_size=60), st.booleans())
def test_no_bytes_do_harm(rle, headed):
    try:
        inside = decode_brush(GOOD[:7] + rle if headed else rle, 5, 4)
    except BadInputError:
        return
    assert inside.shape == (4, 5)


@given(
    mask=arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    sizes=st.tuples(*[st.integers(1, 8)] * 3, st.integers(4, 16)).map(lambda sizes: tuple(sorted(sizes))),
    literals=st.sets(st.integers(0, 600)),
)
def test_all_levels_come_back_whoever_wrote_them(mask, sizes, literals):
    height, width = mask.shape
    np.testing.assert_array_equal(decode_levels(encode_levels(mask), width, height), mask)
    np.testing.assert_array_equal(decode_levels(packed(rgba(mask), sizes, literals.__contains__), width, height), mask)


def test_masks_are_written_as_the_sdk_writes_them():
    # label_studio_sdk 2.1.2: mask2rle(np.uint8([[7, 7, 9], [0, 255, 255]])); the integration test compares more.
    by_sdk = [0, 0, 0, 24, 57, 27, 252, 224, 241, 132, 198, 1, 63, 248]
    assert encode_levels(np.array([[7, 7, 9], [0, 255, 255]], np.uint8)) == by_sdk


@pytest.mark.parametrize("pixels", [1, 2, 4, 5, 64, 65, 2**14, 2**14 + 1, 3 * 2**14, 100_000])
def test_long_runs_are_cut_where_their_length_can_not_be_counted(pixels):
    mask = np.full((1, pixels + 1), 3, np.uint8)
    mask[0, -1] = 200
    np.testing.assert_array_equal(decode_levels(encode_levels(mask), pixels + 1, 1), mask)


def test_a_large_soft_mask_is_written_and_read_in_moments():
    down, across = np.mgrid[:1500, :2000]
    mask = np.clip((600 - np.hypot(down - 750, across - 1000)) * 2, 0, 255).astype(np.uint8)
    begin = time.process_time()
    np.testing.assert_array_equal(decode_levels(encode_levels(mask), 2000, 1500), mask)
    assert time.process_time() - begin < 4
