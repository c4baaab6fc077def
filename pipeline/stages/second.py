"""A second, cheap matte of the same prompt: how far two answers differ tells how far either can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import LabelConfig
from sdmatte.errors import PromptError
from sdmatte.prompts import Box, Mask, Points, Prompt

if TYPE_CHECKING:
    from pipeline.stages.records import Object
    from sdmatte.model import SDMatte

JITTER = 0.03
"""How far `jitter` moves a prompt, as a share of its own extent; boxes and masks grow by that, points move."""


class SecondPass:
    """Makes the second mattes of a run (`quality.second`).

    Args:
        config: Of the run.
        model: That of the first pass; it is shared, except for `quality.second: model`.

    Raises:
        SDMatteError: The second model can't be loaded, or `quality.second_size` can't be its input.
    """

    def __init__(self, config: LabelConfig, model: SDMatte) -> None:
        self._kind = config.quality.second
        self._model = _second_model(config, model)

    @property
    def weights_sha256(self) -> str | None:
        """SHA-256 of the second model's weights, hexadecimal; None where it is the first one's."""
        return self._model.weights_sha256 if self._kind == "model" else None

    @property
    def input_size(self) -> int:
        """Side of its square input (unit: pixel)."""
        return self._model.input_size

    def matte(self, objects: Sequence[Object]) -> list[NDArray[np.float32] | None]:
        """Matte objects a second time, in one batch; what was encoded for it is kept with the image.

        Args:
            objects: Each with a prompt, of decoded and encoded images.

        Returns:
            ``(H, W)`` float32 alphas in [0, 1] at the size of the upright images. None for objects whose prompt the
            second model does not take, and where its alpha is not finite.
        """
        prompts = [self._prompt(each) for each in objects]
        wanted = [at for at, prompt in enumerate(prompts) if prompt is not None]
        self._encode([objects[at] for at in wanted])
        pairs = [(objects[at].work.encoded_again, prompts[at]) for at in wanted]
        alphas: list[NDArray[np.float32] | None] = [None] * len(objects)
        mattes = self._model.matte([(image, prompt) for image, prompt in pairs if image and prompt]) if pairs else []
        for at, alpha in zip(wanted, mattes, strict=True):
            if np.isfinite(alpha).all():
                alphas[at] = np.ascontiguousarray(alpha[:, ::-1]) if self._kind == "flip" else alpha
        return alphas

    def _prompt(self, each: Object) -> Prompt | None:
        assert each.prompt is not None
        assert each.work.encoded is not None
        width, height = each.work.encoded.width, each.work.encoded.height  # pixels may have been decoded smaller
        prompt = each.prompt
        if self._kind == "flip":
            prompt = mirrored(prompt, width)
        elif self._kind == "jitter":
            prompt = jittered(prompt, width, height)
        try:
            self._model.check(prompt, width, height)
        except PromptError:
            return None  # the first model's check has passed: the second one takes fewer kinds
        return prompt

    def _encode(self, objects: Sequence[Object]) -> None:
        if self._kind == "jitter":
            for each in objects:
                each.work.encoded_again = each.work.encoded
            return
        works = list({id(each.work): each.work for each in objects if each.work.encoded_again is None}.values())
        pixels = [work.pixels for work in works if work.pixels is not None]
        sizes = [(work.encoded.width, work.encoded.height) for work in works if work.encoded is not None]
        if self._kind == "flip":
            pixels = [np.ascontiguousarray(image[:, ::-1]) for image in pixels]
        for work, encoded in zip(works, self._model.encode(pixels, sizes) if pixels else [], strict=True):
            work.encoded_again = encoded


def second_size(config: LabelConfig, input_size: int) -> int:
    """Return the side of the second pass's input for `quality.second: resolution` (unit: pixel)."""
    return config.quality.second_size or max(64, round(input_size * 2 / 3 / 64) * 64)


def mirrored(prompt: Prompt, width: int) -> Prompt:
    """Return a box, points or mask as it lies in the mirrored image of that width (unit: pixel)."""
    if isinstance(prompt, Box):
        return Box(width - prompt.x1, prompt.y0, width - prompt.x0, prompt.y1, prompt.transparent)
    if isinstance(prompt, Points):
        right = math.nextafter(width, 0)  # x = 0 would come to lie outside
        return Points([(min(width - x, right), y) for x, y in prompt.xy], prompt.transparent)
    if isinstance(prompt, Mask):
        return Mask(np.ascontiguousarray(prompt.pixels[:, ::-1]), prompt.transparent)
    return prompt


def jittered(prompt: Prompt, width: int, height: int) -> Prompt:
    """Return a box or mask grown by :data:`JITTER` on each side, or points moved by as much of their extent.

    The same prompt is always moved in the same way.

    Args:
        prompt: In pixels of the upright image.
        width: Of the upright image (unit: pixel).
        height: Of the upright image (unit: pixel).
    """
    if isinstance(prompt, Box):
        dx, dy = JITTER * (prompt.x1 - prompt.x0), JITTER * (prompt.y1 - prompt.y0)
        return Box(
            max(prompt.x0 - dx, min(prompt.x0, 0)),
            max(prompt.y0 - dy, min(prompt.y0, 0)),
            min(prompt.x1 + dx, max(prompt.x1, width)),
            min(prompt.y1 + dy, max(prompt.y1, height)),
            prompt.transparent,
        )
    if isinstance(prompt, Points):
        xs, ys = zip(*prompt.xy, strict=True)
        extent = max(max(xs) - min(xs), max(ys) - min(ys), 0.1 * min(width, height))
        step = JITTER * extent
        limits = math.nextafter(width, 0), math.nextafter(height, 0)
        moved = [
            (min(max(x + step * (-1) ** at, 0), limits[0]), min(max(y + step * (-1) ** (at // 2), 0), limits[1]))
            for at, (x, y) in enumerate(prompt.xy)
        ]
        return Points(moved, prompt.transparent)
    if isinstance(prompt, Mask):
        inside = prompt.binary()
        radius = max(1, round(JITTER * math.sqrt(np.count_nonzero(inside))))
        kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)  # a rectangle: fast at any size
        return Mask(cv2.dilate(inside.astype(np.uint8), kernel) > 0, prompt.transparent)
    return prompt


def _second_model(config: LabelConfig, model: SDMatte) -> SDMatte:
    if config.quality.second == "resolution":
        return model.resized(second_size(config, model.input_size))
    if config.quality.second == "model":
        from sdmatte.model import SDMatte

        assert config.quality.second_model is not None  # the configuration's own check
        return SDMatte.from_pretrained(
            config.quality.second_model, device=str(model.device), precision=config.model.precision
        )
    return model
