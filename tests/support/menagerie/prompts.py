"""Prompts that are wrong or unusual, each on a good image.

What becomes of them under the default `prompts.audit` is described in docs/prompts.md.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from support.image_bytes import encode, png
from support.menagerie.animal import (
    BOX,
    EVERYWHERE,
    FILES,
    HEIGHT,
    MAX_PER_IMAGE,
    OK,
    WIDTH,
    Animal,
    Fate,
    Home,
    jpeg,
    lines,
    repaired,
)

MALFORMED, NOT_FINITE, OUTSIDE = Fate("prompt_malformed"), Fate("prompt_not_finite"), Fate("prompt_out_of_frame")
MISMATCH, NO_MASK = Fate("prompt_size_mismatch"), Fate("prompt_empty_mask")
DEEP = 10_000


def _animal(
    name: str,
    about: str,
    fates: Fate | Sequence[Fate],
    prompts: Sequence[Any] | bytes | None,
    files: Mapping[str, bytes] | None = None,
    homes: tuple[Home, ...] = EVERYWHERE,
) -> Animal:
    fates = (fates,) if isinstance(fates, Fate) else tuple(fates)
    return Animal(f"{name}.jpg", about, fates, jpeg(), prompts, files or {}, (WIDTH, HEIGHT), homes)


def _one(name: str, about: str, fate: Fate, prompt: Any) -> Animal:
    return _animal(name, about, fate, (prompt,))


def boxes() -> list[Animal]:
    """Boxes."""
    nan, infinite = math.nan, math.inf
    return [
        _one("box-nan", "box with NaN", NOT_FINITE, {"box": [20, nan, 90, 70]}),
        _one("box-infinity", "box with Infinity", NOT_FINITE, {"box": [-infinite, 10, infinite, 70]}),
        _animal("box-1e999", "box with 1e999, which is more than a double holds", NOT_FINITE,
                b'{"box": [20, 10, 1e999, 70]}\n', homes=FILES),
        _animal("box-huge-integer", "box with an integer of 400 digits", NOT_FINITE,
                b'{"box": [20, 10, 1' + b"0" * 400 + b", 70]}\n", homes=FILES),
        _animal("box-endless-integer", "box with an integer of 10,000 digits", MALFORMED,
                b'{"box": [20, 10, ' + b"9" * 10_000 + b", 70]}\n", homes=FILES),
        _one("box-strings", "strings for numbers", MALFORMED, {"box": ["20", "10", "90", "70"]}),
        _one("box-booleans", "true and false for numbers", MALFORMED, {"box": [False, False, True, True]}),
        _one("box-three", "box of three numbers", MALFORMED, {"box": [20, 10, 90]}),
        _one("box-nested", "box in a list too many", MALFORMED, {"box": [[20, 10, 90, 70]]}),
        _one("box-object", "box as an object with names", MALFORMED, {"box": {"x": 20, "y": 10, "w": 70, "h": 60}}),
        _one("box-null", "box that is null", MALFORMED, {"box": None}),
        _one("box-swapped", "corners in the wrong order", repaired("box_swapped"), {"box": [90, 70, 20, 10]}),
        _one("box-swapped-x", "left and right exchanged", repaired("box_swapped"), {"box": [90, 10, 20, 70]}),
        _one("box-xywh", "x, y, width, height where corners belong: like corners in the wrong order",
             repaired("box_swapped"), {"box": [60, 45, 50, 30]}),
        _one("box-flat", "box without height", Fate("prompt_degenerate"), {"box": [20, 40, 90, 40]}),
        _one("box-dot", "box without width and height", Fate("prompt_degenerate"), {"box": [20, 10, 20, 10]}),
        _one("box-tiny", "box of 2 x 2 pixels", repaired("prompt_tiny"), {"box": [50, 40, 52, 42]}),
        _one("box-whole", "box as large as the image", OK, {"box": [0, 0, WIDTH, HEIGHT]}),
        _one("box-clipped", "box partly outside the image", repaired("box_clipped"), {"box": [-5, 10, 90, 200]}),
        _one("box-outside", "box outside the image", OUTSIDE, {"box": [500, 500, 600, 600]}),
        _one("box-touching", "box that touches the image's edge from outside", OUTSIDE, {"box": [120, 10, 180, 70]}),
        _one("box-far", "box a googol pixels away", OUTSIDE, {"box": [1e100, 1e100, 2e100, 2e100]}),
        _animal("twice", "the same box twice", (OK, repaired("prompt_duplicate")), (BOX, BOX)),
        _animal("too-many", f"{MAX_PER_IMAGE + 3} boxes where {MAX_PER_IMAGE} are allowed",
                [OK] * MAX_PER_IMAGE + [Fate("prompt_too_many")] * 3,
                [{"box": [20 + n, 10, 90, 70 - n]} for n in range(MAX_PER_IMAGE + 3)]),
    ]  # fmt: skip


def points() -> list[Animal]:
    """Clicked points."""
    nan = math.nan
    return [
        _one("points-nan", "one point of three is NaN", repaired("points_dropped"),
             {"points": [[55, 40], [nan, nan], [60, 45]]}),
        _one("points-all-nan", "all points are NaN", NOT_FINITE, {"points": [[nan, nan]]}),
        _one("points-none", "no point", MALFORMED, {"points": []}),
        _one("points-bare", "x, y without a list around", MALFORMED, {"points": [55, 40]}),
        _one("points-triple", "x, y, label as some tools write it", MALFORMED, {"points": [[55, 40, 1]]}),
        _one("points-dropped", "one point of two is outside", repaired("points_dropped"),
             {"points": [[55, 40], [500, 40]]}),
        _one("points-outside", "all points are outside", OUTSIDE, {"points": [[500, 40], [-1, 3]]}),
        _one("points-many", "100,000 points", MALFORMED, {"points": [[55, 40]] * 100_000}),
    ]  # fmt: skip


def masks() -> list[Animal]:
    """Rough masks: run lengths, PNG, polygons."""
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[15:65, 30:80] = True
    total = WIDTH * HEIGHT
    size = [HEIGHT, WIDTH]

    def lengths(counts: Any, shape: Any = size) -> dict[str, Any]:
        return {"mask": {"size": shape, "counts": counts}}

    good = [total // 4, total // 2, total - total // 4 - total // 2]
    return [
        _one("rle-overrun", "run lengths of more pixels than the image has", MALFORMED, lengths([100, total])),
        _one("rle-underrun", "run lengths of fewer pixels than the image has", MALFORMED, lengths([100, 200])),
        _one("rle-negative", "run lengths with a negative count that add up", MALFORMED,
             lengths([total + 100, 100, -200])),
        _one("rle-fractions", "run lengths with fractions", MALFORMED, lengths([total / 2 - 0.5, total / 2 + 0.5])),
        _one("rle-garbage", "compressed run lengths of random characters", MALFORMED, lengths("~~~\x01\x02")),
        _one("rle-cut", "compressed run lengths that break off in a number", MALFORMED, lengths("PPY")),
        _one("rle-huge", "run lengths of a billion pixels a side", MISMATCH, lengths([10**18], [10**9, 10**9])),
        _one("rle-size-string", "size as strings", MALFORMED, lengths(good, ["80", "120"])),
        _one("rle-empty", "run lengths without a pixel inside", NO_MASK, lengths([total])),
        _one("rle-full", "run lengths with all pixels inside", OK, lengths([0, total])),
        _one("rle-zeros", "run lengths with 1,000 empty runs between", OK,
             lengths([total // 4, *[0] * 1000, total - total // 4 * 2, *[0] * 999, total // 4])),
        _one("polygon-two", "polygon of two points", MALFORMED, {"mask": {"polygon": [[10, 10, 90, 60]]}}),
        _one("polygon-odd", "polygon of seven numbers", MALFORMED,
             {"mask": {"polygon": [[10, 10, 90, 10, 90, 60, 5]]}}),
        _one("polygon-none", "no polygon", MALFORMED, {"mask": {"polygon": []}}),
        _one("polygon-flat", "polygon on a line", NO_MASK, {"mask": {"polygon": [[10, 10, 50, 10, 90, 10]]}}),
        _one("polygon-crossing", "polygon that crosses itself in many places: by the even-odd rule", OK,
             {"mask": {"polygon": [[20, 10, 90, 60, 90, 30, 20, 70, 60, 5]]}}),
        _one("polygon-nan", "polygon with NaN", NOT_FINITE, {"mask": {"polygon": [[10, 10, math.nan, 10, 90, 60]]}}),
        _one("polygon-clipped", "polygon partly outside", repaired("mask_clipped"),
             {"mask": {"polygon": [[30, 10, 300, 10, 300, 60, 30, 60]]}}),
        _one("polygon-outside", "polygon outside", OUTSIDE, {"mask": {"polygon": [[300, 10, 400, 10, 400, 60]]}}),
        _one("polygon-endless", "polygon of 150,000 points", MALFORMED,
             {"mask": {"polygon": [[10, 10, 90, 10, 90, 60] * 50_000]}}),
        _one("polygon-several", "two separate parts of one size", repaired("several_subjects"),
             {"mask": {"polygon": [[5, 5, 40, 5, 40, 70, 5, 70], [75, 5, 110, 5, 110, 70, 75, 70]]}}),
        _one("mask-number", "a number for a mask", MALFORMED, {"mask": 7}),
        _one("mask-base64", "PNG in broken base64", MALFORMED, {"mask": {"png": "!!not base64!!"}}),
        _one("mask-inline", "PNG in base64", OK, {"mask": {"png": base64.b64encode(_png(inside)).decode()}}),
    ]  # fmt: skip


def mask_files() -> list[Animal]:
    """Masks in files of their own."""
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[15:65, 30:80] = True
    whole = _png(inside)
    bomb = png(30_000, 30_000, 1, 0, [b""])
    named: list[tuple[str, str, Fate, bytes | None]] = [
        ("mask-good", "a good mask", OK, whole),
        ("mask-doubled", "a mask of twice the image's size", repaired("mask_scaled"),
         _png(np.kron(inside, np.ones((2, 2), bool)))),
        ("mask-other-size", "a mask of 100 x 100 pixels", MISMATCH, _png(np.ones((100, 100), bool))),
        ("mask-turned", "a mask of 80 x 120 for an image that has no EXIF orientation", MISMATCH, _png(inside.T)),
        ("mask-empty", "a mask without a pixel inside", NO_MASK, _png(np.zeros((HEIGHT, WIDTH), bool))),
        ("mask-tiny", "a mask of 2 x 2 pixels inside", repaired("prompt_tiny"), _png(_dot())),
        ("mask-jpeg", "a JPEG under a mask's name", MALFORMED, jpeg()),
        ("mask-cut", "half of a mask", MALFORMED, _noisy()[: len(_noisy()) // 2]),
        ("mask-no-bytes", "a mask file of zero bytes", MALFORMED, b""),
        ("mask-bomb", "a mask of 30,000 x 30,000 pixels", MISMATCH, bomb),
        ("mask-missing", "a mask file that isn't there", MALFORMED, None),
    ]  # fmt: skip
    found = [
        _animal(name, about, fate, ({"mask": "mask.png"},), {} if data is None else {"mask.png": data})
        for name, about, fate, data in named
    ]
    escapes = {
        "mask-escape": ("mask path that climbs out: ../../../../etc/passwd", "../../../../../../../../etc/passwd"),
        "mask-absolute": ("absolute mask path: /etc/passwd", "/etc/passwd"),
        "mask-url": ("mask at a URL of a scheme that isn't allowed", "gopher://127.0.0.1/mask.png"),
        "mask-chain": ("mask at a chain of URLs", "simplecache::file:///etc/passwd"),
        "mask-nul": ("mask path with a NUL in it", "mask\0.png"),
        "mask-long-name": ("mask path of 10,000 characters", "m" * 10_000 + ".png"),
    }
    return [*found, *(_one(name, about, MALFORMED, {"mask": path}) for name, (about, path) in escapes.items())]


def _png(inside: np.ndarray) -> bytes:
    return encode(Image.fromarray(inside), "PNG")


def _dot() -> np.ndarray:
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[40:42, 50:52] = True
    return inside


def _noisy() -> bytes:
    return _png(np.random.default_rng(5).random((HEIGHT, WIDTH)) > 0.5)


def objects() -> list[Animal]:
    """Prompts as a whole, and what stands beside their coordinates."""
    return [
        _one("number", "a number instead of a prompt", MALFORMED, 5),
        _one("string", "a string instead of a prompt", MALFORMED, "box"),
        _one("bare-list", "four numbers instead of a prompt", MALFORMED, [20, 10, 90, 70]),
        _one("nothing", "an empty object", MALFORMED, {}),
        _one("both", "box and points in one prompt", MALFORMED, BOX | {"points": [[55, 40]]}),
        _one("unknown-key", "a key that nobody knows", MALFORMED, BOX | {"boxes": []}),
        _one("named-beside", "the name of an image, which belongs into a file of its own", MALFORMED,
             BOX | {"image": "other.jpg"}),
        _one("score-high", "score of 87", MALFORMED, BOX | {"score": 87}),
        _one("score-nan", "score of NaN", MALFORMED, BOX | {"score": math.nan}),
        _one("label-object", "label that is an object", MALFORMED, BOX | {"label": {"name": "cat"}}),
        _one("label-number", "label that is a number", OK, BOX | {"label": 17}),
        _one("label-surrogate", "label with half of a surrogate pair", OK, BOX | {"label": "\ud83d"}),
        _one("label-long", "label of 100,000 characters", OK, BOX | {"label": "x" * 100_000}),
        _one("transparent-word", 'transparent: "yes"', MALFORMED, BOX | {"transparent": "yes"}),
        _animal("mixed", "five prompts, every other one bad", (OK, MALFORMED, OK, OUTSIDE, OK),
                (BOX, {"box": "all"}, {"points": [[55, 40]]}, {"box": [500, 500, 600, 600]},
                 {"box": [25, 15, 85, 65]})),
        _animal("no-prompts", "image without prompts", Fate("prompt_missing"), None),
        _animal("empty-list", "image with an empty list of prompts", Fate("prompt_missing"), ()),
    ]  # fmt: skip


def texts() -> list[Animal]:
    """Files of prompts that are no clean JSON Lines."""
    box = json.dumps(BOX).encode()
    samples: list[tuple[str, str, Fate | tuple[Fate, ...], bytes]] = [
        ("text-deep", f"JSON nested {DEEP:,} levels deep", MALFORMED, b"[" * DEEP + b"]" * DEEP),
        ("text-deep-key", f"a box nested {DEEP:,} levels deep", MALFORMED, b'{"box": ' * DEEP + b"1" + b"}" * DEEP),
        ("text-long", "one line of 10 MB", MALFORMED, b'{"box": [' + b"1, " * 3_500_000 + b"2]}"),
        ("text-spaces", "one line of 10 MB, nearly all of it spaces", OK, b'{"box":' + b" " * 10**7 + box[8:]),
        ("text-latin", "a label in Latin-1, not UTF-8", MALFORMED, b'{"box": [20, 10, 90, 70], "label": "caf\xe9"}'),
        ("text-utf16", "UTF-16", MALFORMED, box.decode().encode("utf-16")),
        ("text-cut", "JSON that breaks off", MALFORMED, box[:-4]),
        ("text-one-line", "two prompts on one line", MALFORMED, box + box),
        ("text-key-twice", "one key twice: as JSON is read everywhere, the last counts", OK,
         b'{"box": [500, 500, 600, 600], "box": [20, 10, 90, 70]}'),
        ("text-python", "Python's notation: quotes, True", MALFORMED,
         b"{'box': [20, 10, 90, 70], 'transparent': True}"),
        ("text-comment", "a comment line before a prompt", (MALFORMED, OK), b"# prompts\n" + box),
        ("text-mark", "byte order mark, CRLF and empty lines", (OK, OK),
         b"\xef\xbb\xbf" + box + b"\r\n\r\n \t\r\n" + lines([{"points": [[55, 40]]}])),
        ("text-nothing", "prompts file of zero bytes", Fate("prompt_missing"), b""),
        ("text-blank", "prompts file of spaces and line ends", Fate("prompt_missing"), b"\n  \n\r\n"),
        ("text-zeros", "prompts file of zero bytes, 4 KB", MALFORMED, bytes(4096)),
    ]  # fmt: skip
    return [_animal(name, about, fates, text, homes=FILES) for name, about, fates, text in samples]
