"""What `make eval-nano` measures on: drawn scenes with exact alphas, and photographs with reference mattes.

The set is fixed: seeds and families of objects here are never trained on, and everything random follows from names and
seeds. (It also follows from the code that draws the scenes: figures of different versions compare only where
:func:`fingerprint` of their scenes is equal.)
"""

from __future__ import annotations

import hashlib
import itertools
import json
import zlib
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import resources
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.evaluation.baselines import closed_form, grabcut, prompt_matte
from sdmatte.metrics import UNKNOWN, mad
from sdmatte.prompt_sampling import derive_box, derive_mask, derive_points
from sdmatte.prompts import Box, Mask, Points
from sdmatte.synthetic.families import HELD_OUT
from sdmatte.synthetic.scenes import render_scene

Kind = Literal["box", "mask", "points"]
Pixels = NDArray[np.uint8]

KINDS: tuple[Kind, ...] = ("box", "mask", "points")
SCENES = 240
FIRST_SEED = 9_000_000
"""Seeds from here on are reserved for evaluation: training draws below."""

SIZE = (384, 512)
"""Height and width of a scene, pixels."""

LEAST_BOX = 0.2
"""Share of a scene that the box of its main object covers at least."""

BASELINE_SIDE = 384
"""Longer side that GrabCut and closed-form matting work at, pixels."""

PHOTOGRAPHS = Path(__file__).parent / "photographs"

BACKGROUNDS = (
    "brick.png", "coffee.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png",
    "motorcycle_right.png", "rocket.jpg",
)  # fmt: skip
"""Pictures in scikit-image's wheel that the scenes' backgrounds are cut from."""

_SEE_THROUGH = ("bubble", "jellyfish")  # the held-out families of transparent objects


@dataclass(frozen=True, slots=True, eq=False)
class Thing:
    """One object.

    Attributes:
        name: Its family, or its name among the photographs.
        alpha: `(h, w)` uint8, the truth.
        region: `(h, w)` uint8, :data:`sdmatte.metrics.UNKNOWN` where it is known; None where it is everywhere.
        transparent: The object lets light through.
        prompts: Those that the model is to be given.
        baselines: MAD of what needs no model, by `<method> <kind>`.
    """

    name: str
    alpha: Pixels
    region: Pixels | None
    transparent: bool
    prompts: dict[Kind, Box | Mask | Points]
    baselines: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture with the objects to be matted in it.

    Attributes:
        name: Of the picture.
        set: `scenes` or `photographs`.
        image: `(h, w, 3)` uint8 RGB.
        things: The first one of a scene is prompted in every way, further ones by a box.
    """

    name: str
    set: Literal["scenes", "photographs"]
    image: Pixels
    things: tuple[Thing, ...]


def error(matte: NDArray[Any], thing: Thing) -> float:
    """Return the mean absolute difference of a matte from the truth, where that is known."""
    return mad(matte, thing.alpha, thing.region)


def build(scenes: int = SCENES, workers: int = 2) -> list[Picture]:
    """Draw the scenes, read the photographs, derive the prompts and measure the baselines.

    Args:
        scenes: How many of the scenes, from the first.
        workers: Processes to share the work.
    """
    # Not forked: the children would inherit locks of the numeric libraries' threads.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        drawn = list(pool.map(scene, range(scenes), chunksize=4))
        return drawn + list(pool.map(photograph, photographs()))


def scene(index: int) -> Picture:
    """Draw one scene: one in three with several objects, one in six with a transparent one by itself.

    The main object is the largest, and its box covers at least :data:`LEAST_BOX` of the picture: for a small object no
    matte at all would already be a good one. Seeds whose scene is not like that are passed over.
    """
    cv2.setNumThreads(1)
    photos = [_shipped(name) for name in BACKGROUNDS]
    several = index % 3 == 0
    families = _SEE_THROUGH if index % 6 == 1 else tuple(sorted(HELD_OUT))
    for seed in itertools.count(FIRST_SEED + index, SCENES):  # no two scenes try the same seed
        found = render_scene(seed, *SIZE, families=families, count=(2, 3) if several else (1, 1), photos=photos)
        drawn = sorted(found.objects, key=lambda each: -float(each.alpha.sum()))
        box = derive_box(drawn[0].alpha)
        covered = (box.x1 - box.x0) * (box.y1 - box.y0) / (SIZE[0] * SIZE[1])
        if covered >= LEAST_BOX and (len(drawn) > 1) == several:
            break
    things = [
        _thing(each.family, found.image, each.alpha, None, each.transparent, [seed, rank], main=rank == 0)
        for rank, each in enumerate(drawn)
    ]
    return Picture(f"scene {index}", "scenes", found.image, tuple(things))


def photographs() -> list[str]:
    """Return the names of the photographs' files, sorted."""
    return sorted({item["file"] for item in _trimaps().values()})


def photograph(file: str) -> Picture:
    """Read one photograph and the reference mattes of its objects."""
    cv2.setNumThreads(1)
    image = _shipped(file)
    things = []
    for name, item in _trimaps().items():
        if item["file"] == file:
            with Image.open(PHOTOGRAPHS / f"{name}.png") as opened:
                alpha, counted = np.moveaxis(np.asarray(opened), -1, 0)
            region = np.where(counted > 0, np.uint8(UNKNOWN), np.uint8(0))
            levels = alpha.astype(np.float32) / np.float32(255)
            things.append(_thing(name, image, levels, region, False, [zlib.crc32(name.encode())], main=True))
    return Picture(file, "photographs", image, tuple(things))


def fingerprint(picture: Picture) -> str:
    """Return a hash of a picture's prompts, as a hexadecimal string of 16 digits."""
    digest = hashlib.sha256()
    for thing in picture.things:
        for kind, prompt in thing.prompts.items():
            match prompt:
                case Box(x0, y0, x1, y1):
                    said = repr((round(x0), round(y0), round(x1), round(y1))).encode()
                case Points(xy):
                    said = repr([(round(x), round(y)) for x, y in xy]).encode()
                case Mask():
                    said = np.packbits(prompt.binary()).tobytes()
            digest.update(kind.encode() + said)
    return digest.hexdigest()[:16]


def _thing(
    name: str,
    image: Pixels,
    levels: NDArray[np.float32],
    region: Pixels | None,
    transparent: bool,
    seed: list[int],
    *,
    main: bool,
) -> Thing:
    """Derive prompts, of the main object every kind, and measure what they are worth without a model."""
    prompts: dict[Kind, Box | Mask | Points] = {"box": derive_box(levels, transparent=transparent)}
    if main:
        prompts["mask"] = derive_mask(levels, np.random.default_rng([*seed, 1]), transparent=transparent)
        prompts["points"] = derive_points(levels, np.random.default_rng([*seed, 2]), transparent=transparent)
    alpha = np.rint(levels * 255).astype(np.uint8)
    thing = Thing(name, alpha, region, transparent, prompts, {})
    if main:
        mattes = {f"prompt {kind}": prompt_matte(image, prompt) for kind, prompt in prompts.items()}
        segment = grabcut(image, prompts["box"], BASELINE_SIDE)
        with redirect_stdout(None):  # where pymatting prints warnings about its preconditioner
            solved = closed_form(image, prompts["mask"], BASELINE_SIDE)
        assert segment is not None
        assert solved is not None  # they can use these kinds of prompt
        mattes |= {"grabcut box": segment, "closed form mask": solved}
        thing.baselines.update({method: error(matte, thing) for method, matte in mattes.items()})
        thing.baselines["nothing"] = error(np.zeros_like(alpha), thing)
    return thing


def _trimaps() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PHOTOGRAPHS / "trimaps.json").read_text(encoding="utf-8"))
    return found


def _shipped(name: str) -> Pixels:
    """Return a picture of scikit-image's wheel as RGB."""
    with (resources.files("skimage") / "data" / name).open("rb") as file, Image.open(file) as opened:
        return np.asarray(opened.convert("RGB"))
