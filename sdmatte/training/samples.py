"""From foregrounds and backgrounds to training samples: composition, augmentation, prompt, trimap.

Sample ``index`` of a run follows from the run's seed and ``index`` alone: loaders may have any number of processes,
and a run that stops continues with the samples that it would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from sdmatte.errors import SDMatteError
from sdmatte.prompt_maps import PromptMap, prompt_map
from sdmatte.prompt_sampling import derive_box, derive_mask, derive_points
from sdmatte.prompts import TRAINED_POINTS, Box, Prompt
from sdmatte.synthetic import camera
from sdmatte.synthetic.backgrounds import photo_crop, soften
from sdmatte.synthetic.layers import Layer, composite, place, visible
from sdmatte.synthetic.scenes import lay
from sdmatte.training.sources import Backgrounds, Foregrounds

Picture = NDArray[np.float32]
PromptChoice = Literal["box", "mask", "points"]

_LEAST_SHARE = 0.4  # of an object that has to be visible for it to be prompted
_LEAST_AREA = 0.003  # of the frame
_TRIES = 8
_BAND = (15, 30)  # diameter of the trimap's erosion and dilation, pixels at 512 px


@dataclass(frozen=True)
class Augmentation:
    """How samples vary; every value is a probability unless it says otherwise.

    The paper's recipe is ``Augmentation.paper()``; the defaults vary more, for models that train from scratch.

    Attributes:
        prompts: Weights of box, mask and points prompts.
        twice: The foreground twice, side by side, and only one of the two is prompted.
        others: Further objects in the picture.
        most_others: Greatest number of them.
        blurred_background: Out of focus.
        blurred_object: Out of focus, or in motion.
        shadows: The objects throw shadows, and the picture gets a camera's tone, noise and JPEG damage.
        grayscale: Without colour.
        box_jitter: Greatest shift of a box's edges, as a share of its sides.
        fewer_points: Fewer than ten points.
        aspects: Frames that are not square and get squeezed into the model's square input.
        side: Least and greatest side of the prompted object, as a share of the frame.
    """

    prompts: dict[PromptChoice, float] = field(default_factory=lambda: {"box": 0.5, "mask": 0.27, "points": 0.23})
    twice: float = 0.2
    others: float = 0.55
    most_others: int = 3
    blurred_background: float = 0.3
    blurred_object: float = 0.2
    shadows: float = 0.8
    grayscale: float = 0.08
    box_jitter: float = 0.02
    fewer_points: float = 0.4
    aspects: float = 0.5
    side: tuple[float, float] = (0.25, 1.05)

    @classmethod
    def paper(cls) -> Augmentation:
        """Return the recipe of the paper's public configurations."""
        return cls(
            prompts={"box": 1.0, "mask": 1.0, "points": 1.0},
            twice=0.5,
            others=0.0,
            blurred_background=0.5,
            blurred_object=0.0,
            shadows=0.0,
            grayscale=0.2,
            box_jitter=0.01,
            fewer_points=0.0,
            aspects=0.0,
            side=(0.5, 1.0),
        )


@dataclass(frozen=True)
class Sample:
    """One picture, one prompt, one matte.

    Attributes:
        image: ``(size, size, 3)`` float32 RGB in [0, 1].
        alpha: ``(size, size)`` float32: of the prompted object, as far as it is visible.
        unknown: ``(size, size)`` float32: 1 in the trimap's unknown region.
        prompt: In pixels of the picture.
        map: The prompt on the model's grid.
        transparent: Of the object.
    """

    image: Picture
    alpha: NDArray[np.float32]
    unknown: NDArray[np.float32]
    prompt: Prompt
    map: PromptMap
    transparent: bool


class Composer:
    """Makes samples.

    Args:
        foregrounds: Sources with their weights.
        backgrounds: Sources with their weights.
        seed: Of the run.
        augmentation: How samples vary.
    """

    def __init__(
        self,
        foregrounds: Sequence[tuple[Foregrounds, float]],
        backgrounds: Sequence[tuple[Backgrounds, float]],
        *,
        seed: int = 0,
        augmentation: Augmentation | None = None,
    ) -> None:
        self._foregrounds, self._backgrounds, self._seed = foregrounds, backgrounds, seed
        self._how = augmentation or Augmentation()

    def sample(self, index: int, size: int) -> Sample:
        """Compose sample ``index`` at ``size`` x ``size`` pixels.

        Raises:
            SDMatteError: No object could be placed visibly; the foregrounds are empty or nearly so.
        """
        rng = np.random.default_rng([self._seed, index])
        height, width = self._frame(rng, size)
        for _ in range(_TRIES):
            layers = self._layers(rng, height, width)
            alphas = visible(layers)
            shown = [i for i, alpha in enumerate(alphas) if _shows(alpha, layers[i])]
            if shown:
                break
        else:
            raise SDMatteError(f"sample {index}: none of {_TRIES} foregrounds is visible; look at the foregrounds")
        chosen = int(rng.choice(shown))
        behind = self._background(rng, height, width)
        if rng.random() < self._how.shadows:
            image = camera.damage(lay(rng, behind, layers), rng)
        else:
            image, _ = composite(behind, layers)
        if rng.random() < self._how.grayscale:
            image = camera.saturate(image, amount=0.0)
        alpha = alphas[chosen]
        if (height, width) != (size, size):
            image = np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)
            alpha = np.asarray(cv2.resize(alpha, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)
        alpha = alpha.clip(0.0, 1.0)
        prompt = self._prompt(rng, alpha, transparent=layers[chosen].transparent)
        drawn = prompt_map(prompt, size, size, (size, size))
        return Sample(image, alpha, unknown_region(alpha, rng), prompt, drawn, layers[chosen].transparent)

    def mirrored(self, sample: Sample, index: int) -> Sample:
        """Return a sample's mirror image, with another prompt drawn for sample number ``index``."""
        rng = np.random.default_rng([self._seed, index])
        image = np.ascontiguousarray(sample.image[:, ::-1])
        if rng.random() < self._how.shadows / 2:
            image = camera.grade(image, rng)
        alpha = np.ascontiguousarray(sample.alpha[:, ::-1])
        prompt = self._prompt(rng, alpha, transparent=sample.transparent)
        size = alpha.shape[0]
        drawn = prompt_map(prompt, size, size, (size, size))
        return Sample(image, alpha, unknown_region(alpha, rng), prompt, drawn, sample.transparent)

    def _frame(self, rng: np.random.Generator, size: int) -> tuple[int, int]:
        if rng.random() >= self._how.aspects:
            return size, size
        aspect = math.exp(rng.uniform(-0.5, 0.5))
        return round(size * math.sqrt(aspect)), round(size / math.sqrt(aspect))

    def _background(self, rng: np.random.Generator, height: int, width: int) -> Picture:
        picture = photo_crop(rng, height, width, [_pick(rng, self._backgrounds)])
        if rng.random() < self._how.shadows / 2:
            picture = camera.grade(picture, rng)
        if rng.random() < self._how.blurred_background:
            picture = soften(picture, math.exp(rng.uniform(math.log(0.003), math.log(0.04))) * max(height, width))
        return picture

    def _layers(self, rng: np.random.Generator, height: int, width: int) -> list[Layer]:
        """Return layers of the frame's size, from back to front."""
        how, frame = self._how, math.sqrt(height * width)
        subject: Layer = _pick(rng, self._foregrounds)
        if rng.random() < 0.5:
            subject = subject.replaced(camera.grade(subject.colour, rng), subject.alpha)
        if rng.random() < how.twice:
            side = rng.uniform(0.35, 0.6) * frame
            level = height * rng.normal(0.5, 0.08)
            layers = [
                self._placed(rng, subject, (height, width), (width * at, level), side, flip=bool(rng.random() < 0.5))
                for at in (rng.uniform(0.2, 0.32), rng.uniform(0.68, 0.8))
            ]
        else:
            side = rng.uniform(*how.side) * frame
            spread = 0.05 + 0.2 * max(0.0, 1 - side / frame)
            centre = (width * rng.normal(0.5, spread), height * rng.normal(0.5, spread))
            layers = [self._placed(rng, subject, (height, width), centre, side, flip=bool(rng.random() < 0.5))]
        if rng.random() < how.others:
            for _ in range(int(rng.integers(1, how.most_others, endpoint=True))):
                other: Layer = _pick(rng, self._foregrounds)
                side = math.exp(rng.uniform(math.log(0.12), math.log(0.7))) * frame
                centre = (width * rng.uniform(0, 1), height * rng.uniform(0, 1))
                layers.append(self._placed(rng, other, (height, width), centre, side, flip=False))
            rng.shuffle(layers)
        return layers

    def _placed(
        self,
        rng: np.random.Generator,
        layer: Layer,
        frame: tuple[int, int],
        centre: tuple[float, float],
        side: float,
        *,
        flip: bool,
    ) -> Layer:
        angle = rng.normal(0, 12) if rng.random() < 0.8 else rng.uniform(0, 360)
        placed = place(layer, *frame, centre=centre, side=side, angle=angle, flip=flip)
        if rng.random() < self._how.blurred_object:
            placed = camera.blur_layer(placed, rng, strength=(0.5, max(0.8, 0.025 * side)))
        return placed

    def _prompt(self, rng: np.random.Generator, alpha: NDArray[np.float32], *, transparent: bool) -> Prompt:
        kinds = list(self._how.prompts)
        weights = np.array([self._how.prompts[kind] for kind in kinds])
        kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
        if kind == "box":
            return jittered(derive_box(alpha, transparent=transparent), rng, self._how.box_jitter, alpha.shape)
        if kind == "mask":
            return derive_mask(alpha, rng, transparent=transparent)
        fewer = rng.random() < self._how.fewer_points
        count = int(rng.integers(1, TRAINED_POINTS)) if fewer else TRAINED_POINTS
        return derive_points(alpha, rng, count=count, transparent=transparent)


def jittered(box: Box, rng: np.random.Generator, share: float, shape: tuple[int, ...]) -> Box:
    """Shift each edge of a box by up to ``share`` of the box's side, within a frame of ``shape`` (height, width)."""
    shift = rng.uniform(-share, share, 4)
    high, wide = box.y1 - box.y0, box.x1 - box.x0
    x0, x1 = max(box.x0 + shift[0] * wide, 0.0), min(box.x1 + shift[1] * wide, float(shape[1]))
    y0, y1 = max(box.y0 + shift[2] * high, 0.0), min(box.y1 + shift[3] * high, float(shape[0]))
    return Box(x0, y0, x1, y1, transparent=box.transparent)


def unknown_region(alpha: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the unknown region of a trimap made from an alpha.

    Args:
        alpha: ``(H, W)`` in [0, 1].
        rng: Draws the width of the band.

    Returns:
        ``(H, W)``: 1 where a disc of the drawn diameter (15 to 30 px at 512 px) reaches a pixel that is neither all
        foreground nor all background, or reaches both; else 0.
    """
    diameter = rng.uniform(*_BAND) * max(alpha.shape) / 512
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (max(3, round(diameter)),) * 2)
    some = cv2.dilate((alpha > 0.5 / 255).astype(np.uint8), kernel)
    full = cv2.erode((alpha > 254.5 / 255).astype(np.uint8), kernel)
    return np.asarray((some > 0) & (full == 0), np.float32)


def _pick(rng: np.random.Generator, sources: Sequence[tuple[Any, float]]) -> Any:
    """Return a random item of a random source."""
    weights = np.array([weight for _, weight in sources])
    source = sources[int(rng.choice(len(sources), p=weights / weights.sum()))][0]
    return source[int(rng.integers(len(source)))]


def _shows(alpha: NDArray[np.float32], layer: Layer) -> bool:
    seen = float(alpha.sum())
    return seen >= _LEAST_AREA * alpha.size and seen >= _LEAST_SHARE * float(layer.alpha.sum())
