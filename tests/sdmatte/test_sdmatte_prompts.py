import pickle
from collections.abc import Callable

import numpy as np
import pytest

from sdmatte import Auto, Box, Mask, Points, Prompt, PromptError, Trimap
from sdmatte.prompts import MAX_POINTS

WIDTH, HEIGHT = 40, 30
NAN, INFINITY = float("nan"), float("inf")


def frame(value: int = 0, dtype: type = np.uint8) -> np.ndarray:
    return np.full((HEIGHT, WIDTH), value, dtype)


@pytest.mark.parametrize(
    "prompt",
    [
        Box(0, 0, WIDTH, HEIGHT),
        Box(-5, -5, 0.5, 0.5),
        Box(39.9, 29.9, 100, 100),
        Points([(0, 0)]),
        Points([(39.99, 29.99), (3, 4)]),
        Points(np.zeros((MAX_POINTS, 2))),
        Mask(frame(255)),
        Mask(frame(1, bool)),
        Auto(),
        Trimap(frame(128)),
        Trimap(frame(0)),
    ],
    ids=repr,
)
def test_good_prompts_pass(prompt: Prompt) -> None:
    prompt.validate(WIDTH, HEIGHT)


BAD = [
    (Box(NAN, 0, 5, 5), "prompt_malformed", "not a finite number"),
    (Box(0, 0, INFINITY, 5), "prompt_malformed", "not a finite number"),
    (Box(5, 0, 5, 5), "prompt_degenerate", "x0 < x1"),
    (Box(5, 9, 8, 2), "prompt_degenerate", "xyxy, not xywh"),
    (Box(-9, 0, 0, 5), "prompt_out_of_frame", "40 x 30"),
    (Box(0, 30, 5, 35), "prompt_out_of_frame", "EXIF"),
    (Points([]), "prompt_malformed", "at least one point"),
    (Points([(1, NAN)]), "prompt_malformed", "finite"),
    (Points([(1, 1)] * (MAX_POINTS + 1)), "prompt_malformed", f"{MAX_POINTS + 1} points"),
    (Points([(1, 1), (WIDTH, 3)]), "prompt_out_of_frame", r"\(40.0, 3.0\)"),
    (Points([(1, -0.5)]), "prompt_out_of_frame", "40 x 30"),
    (Mask(np.zeros((HEIGHT, WIDTH, 3), np.uint8)), "prompt_malformed", "2-D"),
    (Mask(np.full((HEIGHT, WIDTH), "x")), "prompt_malformed", "<U1"),
    (Mask(frame(255, np.int64)), "prompt_malformed", "convert it to bool"),
    (Mask(np.ones((WIDTH, HEIGHT), bool)), "prompt_size_mismatch", "30 x 40"),
    (Mask(frame(0)), "prompt_empty_mask", "no pixel inside"),
    (Mask(frame(127)), "prompt_empty_mask", "no pixel inside"),
    (Trimap(frame(0, np.float32)), "prompt_malformed", "float32"),
    (Trimap(np.zeros((3, 3), np.uint8)), "prompt_size_mismatch", "3 x 3"),
]


@pytest.mark.parametrize(("prompt", "code", "message"), BAD)
def test_bad_prompts_are_refused_with_their_code(prompt: Prompt, code: str, message: str) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        prompt.validate(WIDTH, HEIGHT)
    assert caught.value.code == code


@pytest.mark.parametrize("xy", [(3, 4), [(1, 2, 3)], [(1,)], [("a", 2)], [None], 5], ids=repr)
def test_points_that_are_no_pairs_are_refused_at_once(xy: object) -> None:
    with pytest.raises(PromptError, match=r"list of \(x, y\) pairs") as caught:
        Points(xy)  # type: ignore[arg-type]
    assert caught.value.code == "prompt_malformed"


def test_points_take_any_iterable_of_pairs() -> None:
    expected = Points([(1.0, 2.0), (3.0, 4.0)])
    assert Points(np.array([[1, 2], [3, 4]])) == expected
    assert Points(iter([[1, 2], [3, 4]])) == expected
    assert {type(value) for pair in Points(np.array([[1, 2]])).xy for value in pair} == {float}


@pytest.mark.parametrize(
    ("values", "inside"),
    [
        (np.array([[False, True]]), [False, True]),
        (np.array([[0, 1]], np.uint8), [False, True]),
        (np.array([[0, 1]], np.int64), [False, True]),
        (np.array([[-1, 1]], np.int32), [False, True]),
        (np.array([[0, 127, 128, 255]], np.uint8), [False, False, True, True]),
        (np.array([[1, 32767, 32768, 65535]], np.uint16), [False, False, True, True]),
        (np.array([[0.0, 0.49, 0.5, 1.0]], np.float32), [False, False, True, True]),
    ],
)
def test_what_counts_as_inside_a_mask(values: np.ndarray, inside: list[bool]) -> None:
    binary = Mask(values).binary()
    assert binary.dtype == bool
    assert binary.tolist() == [inside]


@pytest.mark.parametrize(
    "prompt", [Box(1, 2, 3, 4, transparent=True), Points([(1, 2)], transparent=True), Auto(transparent=True)]
)
def test_prompts_survive_pickling(prompt: Prompt) -> None:
    copy = pickle.loads(pickle.dumps(prompt))
    assert copy == prompt
    assert copy.transparent
    assert copy.kind == prompt.kind


@pytest.mark.parametrize("make", [Mask, Trimap])
def test_pixel_prompts_survive_pickling(make: Callable[[np.ndarray], Mask | Trimap]) -> None:
    copy = pickle.loads(pickle.dumps(make(frame(255))))
    np.testing.assert_array_equal(copy.pixels, frame(255))


def test_errors_keep_their_code_across_processes() -> None:
    error = pickle.loads(pickle.dumps(PromptError("prompt_degenerate", "no area")))
    assert (error.code, str(error)) == ("prompt_degenerate", "no area")
