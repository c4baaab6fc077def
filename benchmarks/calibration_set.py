"""What the bundled calibrations are fitted on: drawn scenes with exact alphas, as a folder for jobs/calibrate.py.

    python benchmarks/calibration_set.py --out runs/calibration/scenes

Nothing here is in the evaluation set (benchmarks/nano_set.py): seeds are from a range of their own, and backgrounds
are cut from other pictures. Objects of the first half of the scenes have any size; in the other half the main one is
at least as large as in the evaluation set. Two scenes in three hold objects of the families that the bundled model was
never trained on; these are also those of the evaluation set, so docs/quality.md says what a calibration is worth for
families that it has not seen.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from importlib import resources
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))  # for `benchmarks`, when run as a script

from benchmarks.nano_set import FIRST_SEED as EVALUATION_SEED
from benchmarks.nano_set import LEAST_BOX
from benchmarks.nano_set import SCENES as EVALUATION_SCENES
from sdmatte.prompt_sampling import derive_box
from sdmatte.synthetic.families import FAMILIES, HELD_OUT
from sdmatte.synthetic.scenes import Scene, render_scene

Pixels = NDArray[np.uint8]

SCENES = 1600
FIRST_SEED = 12_000_000
"""Seed of the first scene; the evaluation set tries a few thousand seeds from 9,000,000 on."""

SIZES = ((384, 512), (384, 512), (512, 384), (448, 448))
"""Height and width of the scenes, in turn (unit: pixel)."""

PICTURES = (
    ("sklearn.datasets", "images/china.jpg"),
    ("sklearn.datasets", "images/flower.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ("skimage", "data/cell.png"),
    ("skimage", "data/clock_motion.png"),
    ("skimage", "data/page.png"),
    ("skimage", "data/retina.jpg"),
)
"""Pictures in wheels that backgrounds and surfaces are cut from; none of them is in the evaluation set."""

INDEX = "objects.json"
"""File in the set's folder that tells the family of each object; nothing but research reads it."""

_LEAST = 0.5 / 255  # an alpha that is below that everywhere has no prompt

assert FIRST_SEED > EVALUATION_SEED + 1000 * EVALUATION_SCENES


def write(out: Path, scenes: int = SCENES, workers: int = 1) -> int:
    """Draw scenes into `image/`, `alpha/` and `transparent.txt` (layout `folder` of jobs/evaluate.py).

    Args:
        out: Folder to write to; must not hold another set.
        scenes: How many.
        workers: Processes to share the work.

    Returns:
        The number of objects.
    """
    for name in ("image", "alpha"):
        (out / name).mkdir(parents=True, exist_ok=True)
    # Not forked: the children would inherit locks of the numeric libraries' threads.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        drawn = pool.map(partial(draw, out, scenes), range(scenes), chunksize=4)
        found = [each for objects in drawn for each in objects]
    (out / "transparent.txt").write_text("".join(f"{key}\n" for key, _, transparent in found if transparent))
    (out / INDEX).write_text(json.dumps({key: family for key, family, _ in found}, indent=0) + "\n")
    return len(found)


def draw(out: Path, scenes: int, index: int) -> list[tuple[str, str, bool]]:
    """Draw one scene into files: half of them with one object, others with up to three.

    Args:
        out: Folder with `image/` and `alpha/`.
        scenes: How many the set has.
        index: Of the scene.

    Returns:
        Key, family and transparency of each object.
    """
    cv2.setNumThreads(1)
    height, width = SIZES[index // 2 % len(SIZES)]
    families = tuple(sorted(FAMILIES if index % 3 == 2 else HELD_OUT))
    count = (1, 1) if index % 2 else (1, 3)
    for seed in itertools.count(FIRST_SEED + index, scenes):  # no two scenes try the same seed
        scene = render_scene(seed, height, width, families=families, count=count, photos=_photos())
        if index < scenes // 2 or _main_box(scene) >= LEAST_BOX * height * width:
            break
    stem = f"scene-{index:04}"
    _save(out / "image" / f"{stem}.png", scene.image)
    found = []
    for rank, each in enumerate(scene.objects):
        if float(each.alpha.max()) >= _LEAST:
            key = f"{stem}_{rank}"
            _save(out / "alpha" / f"{key}.png", np.rint(each.alpha * 255).astype(np.uint8))
            found.append((key, each.family, each.transparent))
    return found


def _main_box(scene: Scene) -> float:
    """Return the area of the box around the largest object (unit: pixel)."""
    box = derive_box(max((each.alpha for each in scene.objects), key=lambda alpha: float(alpha.sum())))
    return (box.x1 - box.x0) * (box.y1 - box.y0)


def _save(path: Path, pixels: Pixels) -> None:
    Image.fromarray(pixels).save(path, compress_level=3)


@cache
def _photos() -> tuple[Pixels, ...]:
    photos = []
    for package, name in PICTURES:
        with resources.files(package).joinpath(name).open("rb") as file, Image.open(file) as opened:
            photos.append(np.asarray(opened.convert("RGB")))
    return tuple(photos)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the set, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write")
    parser.add_argument("--scenes", type=int, default=SCENES, help="how many (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that draw")
    arguments = parser.parse_args(argv)
    objects = write(arguments.out, arguments.scenes, arguments.workers)
    print(f"{objects} objects in {arguments.scenes} scenes: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
