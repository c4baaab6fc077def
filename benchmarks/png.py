"""What an alpha costs as a PNG, in bytes and in time, by encoder setting.

The mattes: the reference mattes of the photographs, the bundled model's own mattes of them, both also as a large
image has them (from a grid of their own size to 8 megapixels), and drawn hair. Every setting encodes every matte, in
turn, in one process and one thread; the least processor time of some rounds counts. Each file is decoded again, and
has to hold the matte.

Prints a table per depth, settings on the Pareto front marked with `*`, and last whether the chosen setting
(:func:`pipeline.stages.records.encode_png`) holds: no other setting of OpenCV and Pillow may be both smaller and
faster by :data:`MARGIN`, and none whose files are at most :data:`SIZE_SLACK` larger may take less than 1 /
:data:`TIME_SLACK` of the time. Exits with 0 if it holds for both depths, else 1.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))  # for `benchmarks`, when run as a script

from benchmarks.nano_set import photograph, photographs
from pipeline.stages.records import encode_png
from sdmatte.geometry import from_grid, quantise

Alpha = NDArray[Any]
Encoder = Callable[[Alpha], bytes]

LARGE = 8_000_000
"""Pixels of the large mattes."""

MARGIN = 1.03
"""Settings that differ by less are alike."""

SIZE_SLACK, TIME_SLACK = 1.1, 1.3

CHOSEN = "chosen"

_STRATEGIES = {
    "default": cv2.IMWRITE_PNG_STRATEGY_DEFAULT,
    "filtered": cv2.IMWRITE_PNG_STRATEGY_FILTERED,
    "huffman": cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY,
    "rle": cv2.IMWRITE_PNG_STRATEGY_RLE,
    "fixed": cv2.IMWRITE_PNG_STRATEGY_FIXED,
}
_FILTERS = {
    "none": cv2.IMWRITE_PNG_FILTER_NONE,
    "sub": cv2.IMWRITE_PNG_FILTER_SUB,
    "up": cv2.IMWRITE_PNG_FILTER_UP,
    "avg": cv2.IMWRITE_PNG_FILTER_AVG,
    "paeth": cv2.IMWRITE_PNG_FILTER_PAETH,
    "fast": cv2.IMWRITE_PNG_FAST_FILTERS,
    "all": cv2.IMWRITE_PNG_ALL_FILTERS,
}


@dataclass(frozen=True)
class Cost:
    """What a setting costs over all mattes.

    Attributes:
        name: Of the setting.
        bytes: Per pixel.
        ms: Milliseconds of one processor per megapixel.
    """

    name: str
    bytes: float
    ms: float

    def beats(self, other: Cost, margin: float = 1.0) -> bool:
        """Tell whether it is both smaller and faster than another one, by a factor."""
        return self.bytes * margin <= other.bytes and self.ms * margin <= other.ms and self != other


def opencv(level: int, strategy: int | None = None, filters: int | None = None) -> Encoder:
    """Return OpenCV's encoder with a zlib level, a zlib strategy, and the filters to choose from for each row."""
    options = [cv2.IMWRITE_PNG_COMPRESSION, level]
    options += [] if strategy is None else [cv2.IMWRITE_PNG_STRATEGY, strategy]
    options += [] if filters is None else [cv2.IMWRITE_PNG_FILTER, filters]
    return lambda alpha: bytes(cv2.imencode(".png", alpha, options)[1])


def pillow(level: int) -> Encoder:
    """Return Pillow's encoder with a zlib level."""

    def encode(alpha: Alpha) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(alpha).save(buffer, "PNG", compress_level=level)
        return buffer.getvalue()

    return encode


def encoders() -> dict[str, Encoder]:
    """Return the settings to compare, by name; the pipeline's own is :data:`CHOSEN`."""
    found: dict[str, Encoder] = {CHOSEN: encode_png}
    found |= {f"opencv {level}": opencv(level) for level in (1, 3, 6, 9)}
    found |= {f"pillow {level}": pillow(level) for level in (1, 3, 6)}
    for name, strategy in _STRATEGIES.items():
        for level in (1, 3) if name in ("default", "filtered") else (1,):  # the others have no levels
            found |= {
                f"opencv {level} {name} {filter_name}": opencv(level, strategy, filters)
                for filter_name, filters in _FILTERS.items()
            }
    return found


def mattes(large: int) -> dict[str, NDArray[np.float32]]:
    """Return the mattes, `(h, w)` float32 in [0, 1], by name.

    Args:
        large: Pixels of the large ones.
    """
    from sdmatte import SDMatte
    from sdmatte.synthetic.scenes import render_scene

    model = SDMatte.from_pretrained(device="cpu")
    found: dict[str, NDArray[np.float32]] = {}
    for file in photographs():
        picture = photograph(file)
        thing = picture.things[0]
        height, width = picture.image.shape[:2]
        found[f"reference {thing.name}"] = thing.alpha.astype(np.float32) / np.float32(255)
        found[f"model {thing.name}"] = model(picture.image, thing.prompts["box"])
    by = (large / (height * width)) ** 0.5
    for name in (f"reference {thing.name}", f"model {thing.name}"):  # of the last photograph
        found[f"{name}, large"] = from_grid(found[name], round(width * by), round(height * by))
    for family in ("longhair", "tree"):
        drawn = render_scene(77, 384, 512, families=(family,), count=(1, 1), photos=[picture.image])
        found[f"drawn {family}"] = drawn.objects[0].alpha.astype(np.float32)
    return found


def measure(alphas: Sequence[Alpha], rounds: int) -> list[Cost]:
    """Encode every matte with every setting, in turn.

    Raises:
        AssertionError: A file does not hold its matte.
    """
    settings = encoders()
    best = {name: [float("inf")] * len(alphas) for name in settings}
    sizes = dict.fromkeys(settings, 0)
    for number in range(rounds):
        for at, alpha in enumerate(alphas):
            for name, encode in settings.items():
                start = time.process_time()
                data = encode(alpha)
                best[name][at] = min(best[name][at], time.process_time() - start)
                if not number:
                    sizes[name] += len(data)
                    back = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
                    assert back.dtype == alpha.dtype, name
                    assert np.array_equal(back, alpha), name
    pixels = sum(alpha.size for alpha in alphas)
    return [Cost(name, sizes[name] / pixels, sum(best[name]) * 1e9 / pixels) for name in settings]


def table(costs: Sequence[Cost]) -> str:
    """Lay out what settings cost, the fastest first; those that none beats are marked."""
    lines = [f"{'':2}{'setting':28}{'bytes/pixel':>12}{'ms/megapixel':>14}"]
    for each in sorted(costs, key=lambda cost: cost.ms):
        mark = "" if any(other.beats(each) for other in costs) else "*"
        lines.append(f"{mark:2}{each.name:28}{each.bytes:12.4f}{each.ms:14.2f}")
    return "\n".join(lines)


def verdict(costs: Sequence[Cost]) -> str | None:
    """Return what speaks against the chosen setting, None if nothing does."""
    chosen = next(each for each in costs if each.name == CHOSEN)
    for each in costs:
        if each.beats(chosen, MARGIN):
            return f"{each.name} is smaller and faster"
        if each.bytes <= chosen.bytes * SIZE_SLACK and each.ms * TIME_SLACK < chosen.ms:
            size, time_taken = each.bytes / chosen.bytes, each.ms / chosen.ms
            return f"{each.name} takes {time_taken:.2f} of the time for {size:.2f} of the bytes"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of which the fastest counts")
    parser.add_argument("--large", type=int, default=LARGE, help="pixels of the large mattes")
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    found = mattes(arguments.large)
    missed = 0
    for dtype in ("uint8", "uint16"):
        costs = measure([quantise(alpha, dtype) for alpha in found.values()], arguments.rounds)
        objection = verdict(costs)
        missed += objection is not None
        print(f"{dtype}, {len(found)} mattes\n{table(costs)}\n", flush=True)
        print(f"{dtype}: the chosen setting {'holds: met' if objection is None else f'MISSED: {objection}'}\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
