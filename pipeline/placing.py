"""The coordinates of prompts, in whatever frame and unit they are given, brought to pixels of the upright image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pipeline.config import PromptsConfig
from pipeline.errors import BadInputError, ErrorCode
from pipeline.frames import Affine, Frame

_BEYOND = 1.5  # fractions of the image; no object reaches out of it that far
_WITHIN = (-0.05, 1.05)  # pixels; a prompt that lies in here was given in fractions
_FEW_PIXELS = 8  # of the longer side of an image in which that could still be pixels
_NATIVE = ("inline", "jsonl", "parquet")  # kinds of prompts whose form is configured


def corners(box: list[float], form: Literal["xyxy", "xywh", "cxcywh"]) -> list[float]:
    """Return the two corners of a box of any form (``prompts.box``); numbers need not be finite."""
    match form:
        case "xywh":
            x, y, width, height = box
            return [x, y, x + width, y + height]
        case "cxcywh":
            x, y, width, height = box
            return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    return box


@dataclass(frozen=True, slots=True)
class Placing:
    """How coordinates come to the upright image.

    Attributes:
        affine: What brings them there; None where they are there.
        repairs: ``frame_rotated``, ``frame_scaled``.
    """

    affine: Affine | None
    repairs: tuple[str, ...] = ()


class Placer:
    """Tells how the coordinates of the prompts of one image come to its upright frame.

    Args:
        config: Of the prompts.
        frame: The image, and whether its prompts refer to it as it is stored.
    """

    def __init__(self, config: PromptsConfig, frame: Frame) -> None:
        self._config = config
        self._frame = frame
        self._known: dict[tuple[int | None, int | None, bool], Placing] = {}

    def __call__(self, content: dict[str, Any]) -> Placing:
        """Return the placing of a prompt.

        Args:
            content: As in :class:`pipeline.prompts.RawPrompt`; parsed without an error.

        Raises:
            BadInputError: ``prompt_frame_mismatch``: it was made for another image, by its ``image_size``.
        """
        width, height = content.get("image_size") or (None, None)
        key = (width, height, self._is_normalised(content))
        if key not in self._known:
            self._known[key] = self._placing(*key)
        return self._known[key]

    def _placing(self, width: int | None, height: int | None, normalised: bool) -> Placing:
        size = self._frame.size if width is None or height is None else (width, height)
        fit = self._frame.fit(*size)
        # Fractions are the same at any size.
        repairs = {"frame_rotated": fit and fit.rotated, "frame_scaled": fit and fit.scaled and not normalised}
        if fit is None or (self._config.audit.image_size == "error" and any(repairs.values())):
            raise self._mismatch(size, fits=fit is not None)
        affine = self._frame.placing(fit, *size)
        if normalised:
            affine = affine.of_fractions(*size)
        needless = affine == (1, 0, 0, 0, 1, 0)
        return Placing(None if needless else affine, tuple(repair for repair, holds in repairs.items() if holds))

    def _mismatch(self, size: tuple[int, int], *, fits: bool) -> BadInputError:
        width, height = self._frame.size
        image = "the image as it is stored" if self._frame.stored else "the upright image"
        cure = "allow the repair by prompts.audit.image_size" if fits else "check which image it belongs to"
        return BadInputError(
            ErrorCode.PROMPT_FRAME_MISMATCH,
            f"made for an image of {size[0]} x {size[1]} pixels (image_size), but {image} has {width} x {height}; "
            f"{cure}",
        )

    def _is_normalised(self, content: dict[str, Any]) -> bool:
        return bool(content.get("units", self._config.units) == "normalised")

    def check_units(self, low: float, high: float, content: dict[str, Any]) -> None:
        """Refuse coordinates that can only have been meant in the other unit.

        Args:
            low: The lowest of all the prompt's coordinates.
            high: The highest.
            content: Of the prompt.

        Raises:
            BadInputError: ``prompt_frame_mismatch``, naming what to set.
        """
        if self._is_normalised(content):
            if max(high, -low) <= _BEYOND:
                return
            said, other, found = "normalised", "pixel", f"reach to {high if high > _BEYOND else low:g}"
        else:
            size = content.get("image_size") or self._frame.size
            if low < _WITHIN[0] or high > _WITHIN[1] or max(size) <= _FEW_PIXELS:
                return
            said, other, found = "pixel", "normalised", "all lie between 0 and 1"
        if "units" in content:
            cure = f'correct its "units", which are {said}'
        elif self._config.kind in _NATIVE:
            cure = f"set prompts.units to {other} (it is {said}), or give the prompt units of its own"
        else:
            cure = f"in the format {self._config.kind} they are always {said}: correct the file"
        raise BadInputError(ErrorCode.PROMPT_FRAME_MISMATCH, f"its coordinates {found}, so they aren't {said}; {cure}")
