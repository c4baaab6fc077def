"""Prompts held against their image before they cost GPU time: brought into its frame, repaired, noted or refused.

What is looked at, and what becomes of it, is described in docs/prompts.md; ``prompts.audit`` chooses between
repairing, keeping and refusing. Nothing here raises for a bad prompt.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import PromptsConfig
from pipeline.errors import BadInputError, ErrorCode, TransientError
from pipeline.frames import Affine, Frame
from pipeline.masks import MAX_PIXELS, ROUNDING, MaskLoader, decode_mask, encode_mask
from pipeline.placing import Placer, corners
from pipeline.prompts import RawPrompt, fail_prompt, parse_prompt
from sdmatte.errors import PromptError
from sdmatte.images import ImageInfo
from sdmatte.prompts import Box, Points

NOTES: Mapping[str, str] = MappingProxyType(
    {
        "frame_rotated": "Made for the image before its EXIF orientation was applied; turned along with it",
        "frame_scaled": "Made for a copy of the image of another size; scaled",
        "box_swapped": "Corners in the wrong order; sorted",
        "box_clipped": "Partly outside the image; cut at its edges",
        "box_grown": "A side below prompts.audit.min_side; grown about its centre",
        "points_dropped": "Some points outside the image, or not finite; left out",
        "mask_rotated": "Of the image before its EXIF orientation was applied; turned along with it",
        "mask_scaled": "Of another size than the image; scaled",
        "mask_clipped": "Polygon partly outside the image; cut at its edges",
        "several_subjects": "Several separate parts of similar size; kept",
        "largest_part_kept": "Several separate parts of similar size; the largest was kept",
        "prompt_tiny": "A side below prompts.audit.min_side; kept",
        "prompt_duplicate": "An earlier prompt of the image says the same; kept",
    }
)
"""All that `prompt_repairs` can say. Stable: add, never rename."""

SIMILAR = 0.25
"""Parts of a mask with at least this share of the largest one's pixels are subjects of their own. Parts that are not
more than two pixels apart are one."""

_ROUNDED = 1e-6  # pixels


def without_image(prompt: dict[str, Any], raw: RawPrompt, config: PromptsConfig) -> None:
    """Take out of a parsed prompt, whose image can't be used, what would need it: coordinates of another frame.

    Args:
        prompt: From :func:`pipeline.prompts.parse_prompt`; changed in place.
        raw: What it was parsed from.
        config: Of the prompts.
    """
    content = raw.content
    elsewhere = config.orientation == "stored" or "image_size" in content
    if elsewhere or content.get("units", config.units) != "pixel":
        prompt |= {"box": None, "points": None}
    if prompt["box"] is not None:
        box = corners(prompt["box"], config.box)
        prompt["box"] = box if all(map(math.isfinite, box)) else None
    if prompt["points"] is not None and not all(math.isfinite(part) for pair in prompt["points"] for part in pair):
        prompt["points"] = None


class ImageAudit:
    """Audits the prompts of one image; call it with all of them, in the order of their source.

    Args:
        config: Of the prompts.
        image: What their image's header says.
        load_mask: Fetches the mask files that they name.
        max_pixels: Limit on the size of masks that are larger than the image.
    """

    def __init__(
        self, config: PromptsConfig, image: ImageInfo, load_mask: MaskLoader, max_pixels: int = MAX_PIXELS
    ) -> None:
        self._config = config
        self._policy = config.audit
        self._frame = Frame(image.width, image.height, image.orientation, config.orientation == "stored")
        self._placer = Placer(config, self._frame)
        self._size = (image.width, image.height)
        self._load_mask = load_mask
        self._max_pixels = max(max_pixels, image.width * image.height)
        self._count = 0
        self._known: set[object] = set()

    def __call__(self, raw: RawPrompt, record_id: int) -> dict[str, Any]:
        """Return a prompt struct (:data:`pipeline.schema.PROMPT`).

        It lies inside the image, in pixels of the upright one, and ``repairs`` names what was changed or noted
        (:data:`NOTES`); or it carries an error, and is shown as far as it could be brought to the image.
        """
        self._count += 1
        prompt = parse_prompt(raw, record_id)
        if self._count > self._config.max_per_image:
            self._refuse_more(prompt, raw)
        elif prompt["error_code"] is None:
            self._audit(prompt, raw)
        return prompt

    def _refuse_more(self, prompt: dict[str, Any], raw: RawPrompt) -> None:
        without_image(prompt, raw, self._config)
        most = self._config.max_per_image
        message = (
            f"prompt {self._count} of its image, of which at most {most} are labelled; "
            "raise prompts.max_per_image, or choose with prompts.top_k or prompts.min_score"
        )
        fail_prompt(prompt, BadInputError(ErrorCode.PROMPT_TOO_MANY, message), raw.where)

    def _audit(self, prompt: dict[str, Any], raw: RawPrompt) -> None:
        try:
            match prompt["kind"]:
                case "box":
                    self._box(prompt, raw.content)
                case "points":
                    self._points(prompt, raw.content)
                case _:
                    self._mask(prompt, raw.content)
            self._duplicate(prompt)
        except BadInputError as error:
            fail_prompt(prompt, error, raw.where)
        except PromptError as error:
            fail_prompt(prompt, BadInputError(ErrorCode(error.code), str(error)), raw.where)
        except TransientError as error:
            unavailable = f"its mask can't be read for now: {error}"
            fail_prompt(prompt, BadInputError(ErrorCode.PROMPT_UNAVAILABLE, unavailable), raw.where)

    # --- kinds -------------------------------------------------------------------------------------------------------

    def _box(self, prompt: dict[str, Any], content: dict[str, Any]) -> None:
        form = "xyxy" if content.get("units") == "normalised" else self._config.box
        box = corners(prompt["box"], form)
        prompt["box"] = None
        if not all(map(math.isfinite, box)):
            raise _not_finite("box", content["box"])
        x0, y0, x1, y1 = box
        flat = x0 == x1 or y0 == y1
        if not flat:
            self._placer.check_units(min(box), max(box), content)
        placing = self._placer(content)
        prompt["repairs"] = repairs = list(placing.repairs)
        swapped = x1 < x0 or y1 < y0
        if placing.affine is not None:
            x0, y0 = placing.affine.point(x0, y0)
            x1, y1 = placing.affine.point(x1, y1)
            if not all(map(math.isfinite, (x0, y0, x1, y1))):
                raise _not_finite("box", content["box"])
        left, top, right, bottom = placed = [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]
        prompt["box"] = [x0, y0, x1, y1] if swapped else placed
        if swapped and not flat:
            if self._policy.swapped == "error":
                raise BadInputError(
                    ErrorCode.PROMPT_SWAPPED,
                    f"box {content['box']} has its corners in the wrong order, expected x0 < x1 and y0 < y1 "
                    f"(prompts.box is {self._config.box}); correct it, or allow sorting them by prompts.audit.swapped",
                )
            prompt["box"] = placed
            repairs.append("box_swapped")
        width, height = self._size
        Box(left, top, right, bottom).validate(width, height)
        clipped = [max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))]
        if clipped != placed:
            if max(abs(there - here) for there, here in zip(placed, clipped, strict=True)) > ROUNDING:
                self._partly_outside("box", placed)
                repairs.append("box_clipped")
            prompt["box"] = clipped
        if self._is_tiny(clipped[2] - clipped[0], clipped[3] - clipped[1]):
            self._tiny_box(prompt)

    def _points(self, prompt: dict[str, Any], content: dict[str, Any]) -> None:
        given: list[list[float]] = prompt["points"]
        prompt["points"] = None
        points = [pair for pair in given if _is_finite(pair)]
        if not points or (len(points) < len(given) and self._policy.not_finite == "error"):
            raise _not_finite("points", next(pair for pair in given if not _is_finite(pair)))
        numbers = [part for pair in points for part in pair]
        self._placer.check_units(min(numbers), max(numbers), content)
        placing = self._placer(content)
        width, height = self._size
        if placing.affine is not None:
            points = [self._placed_point(placing.affine, x, y) for x, y in points]
        prompt["points"] = points if all(map(_is_finite, points)) else None
        kept = [[x, y] for x, y in points if 0 <= x < width and 0 <= y < height]
        if not kept:
            raise BadInputError(
                ErrorCode.PROMPT_OUT_OF_FRAME,
                f"all points lie outside the upright image of {width} x {height} pixels; check the image they belong "
                "to, and whether they were taken before EXIF rotation (prompts.orientation)",
            )
        if len(kept) < len(points):
            self._partly_outside("some of the points", None)
        Points(kept).validate(width, height)
        prompt["points"] = kept
        prompt["repairs"] = [*placing.repairs, *(["points_dropped"] if len(kept) < len(given) else [])]

    def _placed_point(self, affine: Affine, x: float, y: float) -> list[float]:
        """Return a point of the upright image; on its right and lower edge, which a turn leads to, just inside."""
        x, y = affine.point(x, y)
        width, height = self._size
        return [_nudged(x, width), _nudged(y, height)]

    def _mask(self, prompt: dict[str, Any], content: dict[str, Any]) -> None:
        notes: list[str] = []
        inside, repairs = decode_mask(
            content["mask"],
            self._frame,
            self._load_mask,
            place=partial(self._place_vertices, content, notes),
            may_fit=self._policy.mask_size == "repair",
            max_pixels=self._max_pixels,
        )
        if "mask_clipped" in repairs:
            self._partly_outside("polygon", None)
        prompt["repairs"] = [*notes, *repairs]
        crop = _crop(inside)
        if (parts := _parts(inside[crop])) is not None:
            inside = self._several(prompt, inside, crop, parts)
            crop = _crop(inside)
        prompt["mask"] = encode_mask(inside)
        rows, columns = crop
        if self._is_tiny(columns.stop - columns.start, rows.stop - rows.start):
            self._tiny(columns.stop - columns.start, rows.stop - rows.start)
            prompt["repairs"].append("prompt_tiny")

    def _place_vertices(
        self, content: dict[str, Any], notes: list[str], vertices: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        self._placer.check_units(float(vertices.min()), float(vertices.max()), content)
        placing = self._placer(content)
        notes += placing.repairs
        return vertices if placing.affine is None else placing.affine.points(vertices)

    # --- findings ----------------------------------------------------------------------------------------------------

    def _partly_outside(self, what: str, example: object) -> None:
        if self._policy.out_of_frame == "error":
            width, height = self._size
            raise BadInputError(
                ErrorCode.PROMPT_OUT_OF_FRAME,
                f"{what}{'' if example is None else f' {example}'} partly outside the upright image of "
                f"{width} x {height} pixels; correct it, or allow cutting it by prompts.audit.out_of_frame",
            )

    def _is_tiny(self, width: float, height: float) -> bool:
        return min(width, height) < self._policy.min_side - _ROUNDED

    def _tiny(self, width: float, height: float) -> None:
        if self._policy.tiny == "error":
            raise BadInputError(
                ErrorCode.PROMPT_TINY,
                f"has {width:g} x {height:g} pixels, a side below prompts.audit.min_side={self._policy.min_side:g}",
            )

    def _tiny_box(self, prompt: dict[str, Any]) -> None:
        x0, y0, x1, y1 = prompt["box"]
        self._tiny(x1 - x0, y1 - y0)
        note = "prompt_tiny"
        if self._policy.tiny == "repair":
            width, height = self._size
            (x0, x1), (y0, y1) = self._grown(x0, x1, width), self._grown(y0, y1, height)
            if [x0, y0, x1, y1] != prompt["box"]:  # else it has all of the image already
                note = "box_grown"
                prompt["box"] = [x0, y0, x1, y1]
        prompt["repairs"].append(note)

    def _grown(self, start: float, stop: float, limit: int) -> tuple[float, float]:
        """Return a side of at least `min_side` about the same centre, moved as far as it must be to stay inside."""
        side = min(self._policy.min_side, float(limit))
        if stop - start >= side:
            return start, stop
        start = min(max((start + stop - side) / 2, 0.0), limit - side)
        return start, min(start + side, float(limit))

    def _several(
        self,
        prompt: dict[str, Any],
        inside: NDArray[np.bool_],
        crop: tuple[slice, slice],
        parts: tuple[NDArray[np.int32], int, int],
    ) -> NDArray[np.bool_]:
        labels, largest, count = parts
        match self._policy.several_subjects:
            case "error":
                prompt["mask"] = encode_mask(inside)
                raise BadInputError(
                    ErrorCode.PROMPT_SEVERAL_SUBJECTS,
                    f"the mask has {count} separate parts of similar size; give each subject a prompt of its own, or "
                    "allow them by prompts.audit.several_subjects",
                )
            case "repair":
                inside = np.zeros_like(inside)
                inside[crop] = labels == largest
                prompt["repairs"].append("largest_part_kept")
            case "keep":
                prompt["repairs"].append("several_subjects")
        return inside

    def _duplicate(self, prompt: dict[str, Any]) -> None:
        """Compare a usable prompt with the earlier ones, as the model would see them."""
        geometry: object
        match prompt["kind"]:
            case "box":
                geometry = tuple(round(edge, 3) for edge in prompt["box"])
            case "points":
                geometry = tuple(sorted((round(x, 3), round(y, 3)) for x, y in prompt["points"]))
            case _:
                geometry = hashlib.blake2b(prompt["mask"], digest_size=16).digest()
        key = (prompt["kind"], prompt["transparent"], geometry)
        if key not in self._known:
            self._known.add(key)
        elif self._policy.duplicate == "keep":
            prompt["repairs"].append("prompt_duplicate")
        else:
            raise BadInputError(
                ErrorCode.PROMPT_DUPLICATE,
                f"an earlier prompt of the image has the same {prompt['kind']}; drop one of them, or keep both by "
                "prompts.audit.duplicate",
            )


def _is_finite(pair: list[float]) -> bool:
    return math.isfinite(pair[0]) and math.isfinite(pair[1])


def _nudged(value: float, limit: int) -> float:
    if limit <= value <= limit + ROUNDING:
        return math.nextafter(limit, 0)
    return 0.0 if -ROUNDING <= value < 0 else value


def _not_finite(what: str, value: object) -> BadInputError:
    return BadInputError(
        ErrorCode.PROMPT_NOT_FINITE, f"{what} {value!s:.100} with a number that is not finite; correct or drop it"
    )


def _crop(inside: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the rows and columns of the part that holds all of a mask that isn't empty."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _parts(inside: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int, int] | None:
    """Return the labels of a mask's parts (0 outside), the largest one's label, and how many are of similar size.

    Returns:
        None where it is one subject, whatever specks there are beside it.
    """
    pixels = np.ascontiguousarray(inside).view(np.uint8)
    joined = cv2.dilate(pixels, np.ones((3, 3), np.uint8))  # over cracks of one or two pixels
    count, labels = cv2.connectedComponents(joined, connectivity=8)
    if count == 2:  # the outside is one
        return None
    labels *= pixels
    areas = np.bincount(labels.ravel(), minlength=count)[1:]
    largest = int(areas.argmax())
    similar = int(np.count_nonzero(areas >= SIMILAR * areas[largest]))
    return (np.asarray(labels, np.int32), largest + 1, similar) if similar > 1 else None
