"""Small pictures of one object: the photograph around it, its cut-out, and its prompt as lines over both."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import BadInputError
from pipeline.sheet_rows import gray

SIDE = 320
"""Longest side of a small picture (unit: pixel)."""

_MARGIN = 0.35  # of the object's longer side is shown around it
_LEAST = 96  # pixels of the photograph that are shown, along its shorter side at least
_MOST = 0.6  # of the photograph; objects that need more get all of it
_SEEN = 13  # of 255: an alpha above counts as part of the object
_POLYGONS, _VERTICES, _POINTS = 12, 160, 200  # of a prompt's overlay
_GAP = 2  # pixels around each picture on a sheet, so that no neighbour shines through when it is scaled
_COLUMNS = 4
_QUALITY = 80
_FILL = 128  # gray, where there is no photograph

Pixels = NDArray[np.uint8]


@dataclass
class Picture:
    """One object on the page.

    Attributes:
        record: Its record, without `alpha` and `prompt_mask`.
        why: Why it was chosen, a key of :data:`pipeline.report.choose.WHY`.
        crop: `(x, y, width, height)` of what is shown of the upright image; None where its size is unknown (unit:
            pixel).
        size: Width and height of the small picture.
        mask: Outlines of a mask prompt in the small picture: flat lists of x, y.
        box: Corners of a box prompt in it.
        points: Points of a points prompt in it.
        fault: Why there is no photograph; empty where there is one.
        place: `(x, y)` on its sheet.
    """

    record: dict[str, Any]
    why: str = ""
    crop: tuple[int, int, int, int] | None = None
    size: tuple[int, int] = (SIDE, SIDE * 3 // 4)
    mask: list[list[float]] = field(default_factory=list)
    box: list[float] | None = None
    points: list[list[float]] = field(default_factory=list)
    fault: str = ""
    place: tuple[int, int] = (0, 0)
    has_alpha: bool = False
    _alpha: bytes = b""  # PNG
    _photo: bytes = b""  # JPEG

    def add_photo(self, pixels: Pixels) -> None:
        """Take what is shown of the photograph: ``(H, W, 3)`` RGB, upright, of its full size."""
        height, width = pixels.shape[:2]
        expected = self.record["image_width"] or width, self.record["image_height"] or height
        if expected != (width, height):
            self.fault = f"the image has {width} x {height} pixels now; it had {expected[0]} x {expected[1]}"
            return
        if self.crop is None:
            self.crop = (0, 0, width, height)
            self.size = _fitted(width, height)
        x, y, across, down = self.crop
        small = _resized(pixels[y : y + down, x : x + across], self.size)
        self._photo = _encoded(Image.fromarray(small), "JPEG", quality=95, subsampling=0)

    def alpha(self) -> Pixels | None:
        """Return the alpha of the small picture, ``(h, w)``."""
        return np.asarray(Image.open(io.BytesIO(self._alpha))) if self._alpha else None

    def photo(self) -> Pixels | None:
        """Return the photograph of the small picture, ``(h, w, 3)`` RGB."""
        return np.asarray(Image.open(io.BytesIO(self._photo))) if self._photo else None

    def forget_pixels(self) -> None:
        """Free what is on a sheet by now."""
        self._alpha = self._photo = b""


@dataclass
class Sheet:
    """Small pictures in one file per layer.

    Attributes:
        size: Width and height (unit: pixel).
        photo: Path of the photographs, relative to the page; empty where there is none.
        cut: Path of the cut-outs, which hold the alphas; empty where there is none.
    """

    size: tuple[int, int]
    photo: str = ""
    cut: str = ""


def prepare(record: dict[str, Any], max_pixels: int) -> Picture:
    """Reduce a record to what the page shows; its photograph is added later.

    Args:
        record: With the columns :data:`pipeline.report.pictures.SHOWN`; loses `alpha` and `prompt_mask`.
        max_pixels: Limit on the size of alphas and masks.
    """
    alpha = _gray((record.pop("alpha") or {}).get("bytes"), max_pixels)
    mask = _gray(record.pop("prompt_mask"), max_pixels)
    picture = Picture(record)
    width, height = record["image_width"] or 0, record["image_height"] or 0
    if alpha is not None and not (width and height):
        height, width = alpha.shape
    if not (width and height):
        return picture
    parts = [_extent(layer) for layer in (alpha, mask) if layer is not None and layer.shape == (height, width)]
    points = [[x, y] for x, y in record["prompt_points"] or []][:_POINTS]
    if record["prompt_box"]:
        parts.append(tuple(record["prompt_box"]))
    parts += [(x, y, x, y) for x, y in points]
    picture.crop = _crop([part for part in parts if part], width, height)
    picture.size = _fitted(*picture.crop[2:])
    _add_overlay(picture, mask, points)
    if alpha is not None:
        x, y, across, down = picture.crop
        small = _resized(alpha[y : y + down, x : x + across], picture.size)
        picture.has_alpha, picture._alpha = True, _encoded(Image.fromarray(small), "PNG", compress_level=1)  # noqa: SLF001
    return picture


def draw_sheet(pictures: Sequence[Picture]) -> tuple[Sheet, bytes, bytes]:
    """Put small pictures on one sheet, and note their places.

    Args:
        pictures: At most :data:`pipeline.report.pictures.PER_SHEET`.

    Returns:
        The sheet without paths, and the WebP files of photographs and cut-outs; empty where there are none.
    """
    width, height = _COLUMNS * (SIDE + 2 * _GAP), 0
    for at in range(0, len(pictures), _COLUMNS):
        row = pictures[at : at + _COLUMNS]
        for column, picture in enumerate(row):
            picture.place = (column * (SIDE + 2 * _GAP) + _GAP, height + _GAP)
        height += max(picture.size[1] for picture in row) + 2 * _GAP
    photos = np.full((height, width, 3), _FILL, np.uint8)
    cuts = np.zeros((height, width, 4), np.uint8)
    has_photo = has_cut = False
    for picture in pictures:
        photo, alpha = picture.photo(), picture.alpha()
        x, y = picture.place[0] - _GAP, picture.place[1] - _GAP
        down, across = picture.size[1] + 2 * _GAP, picture.size[0] + 2 * _GAP
        if photo is not None:
            photos[y : y + down, x : x + across] = np.pad(photo, ((_GAP, _GAP), (_GAP, _GAP), (0, 0)), "edge")
            has_photo = True
        if alpha is not None:
            colours = np.full((*alpha.shape, 3), _FILL, np.uint8) if photo is None else _foreground(photo, alpha)
            cut = np.dstack([colours, alpha])
            cuts[y : y + down, x : x + across] = np.pad(cut, ((_GAP, _GAP), (_GAP, _GAP), (0, 0)), "edge")
            has_cut = True
    # Alphas are kept without loss, which is what takes time: the fastest method for them.
    return (
        Sheet((width, height)),
        _encoded(Image.fromarray(photos), "WEBP", quality=_QUALITY, method=1) if has_photo else b"",
        _encoded(Image.fromarray(cuts), "WEBP", quality=_QUALITY, method=0) if has_cut else b"",
    )


def _foreground(photo: Pixels, alpha: Pixels) -> Pixels:
    """Estimate the object's own colours, so that no fringe of the old background mars the composite.

    Blur fusion (Forte and Pitié 2021, "Approximate Fast Foreground Colour Estimation", ICIP): once over a wide and
    once over a narrow neighbourhood. At this size it takes milliseconds, and nothing need be compiled for it, as for
    :func:`sdmatte.cutout.estimate_foreground`.
    """
    image = photo.astype(np.float32)
    weight = (alpha.astype(np.float32) / np.float32(255))[..., None]
    front = back = image
    for radius in (90, 6):
        front, back = _blur_fusion(image, front, back, weight, radius)
    return np.clip(np.rint(front), 0, 255).astype(np.uint8)


def _blur_fusion(
    image: NDArray[np.float32],
    front: NDArray[np.float32],
    back: NDArray[np.float32],
    weight: NDArray[np.float32],
    radius: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    near = cv2.blur(weight, (radius, radius))[..., None]
    front = cv2.blur(front * weight, (radius, radius)) / (near + 1e-5)
    back = cv2.blur(back * (1 - weight), (radius, radius)) / (1 - near + 1e-5)
    front = front + weight * (image - weight * front - (1 - weight) * back)
    return np.clip(front, 0, 255), back


def _add_overlay(picture: Picture, mask: Pixels | None, points: list[list[float]]) -> None:
    assert picture.crop is not None
    x, y, across, down = picture.crop
    scale = np.array([picture.size[0] / across, picture.size[1] / down])
    offset = np.array([x, y])

    def placed(xy: Sequence[Sequence[float]] | NDArray[Any]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.round((np.asarray(xy, np.float64) - offset) * scale, 1)
        return found

    if box := picture.record["prompt_box"]:
        picture.box = placed([box[:2], box[2:]]).ravel().tolist()
    if points:
        picture.points = placed(points).tolist()
    if mask is not None:
        inside = (mask[y : y + down, x : x + across] > 127).astype(np.uint8)
        inside = (_resized(inside * np.uint8(255), picture.size) > 127).astype(np.uint8)
        picture.mask = _outlines(inside)


def _outlines(inside: Pixels) -> list[list[float]]:
    """Return the outlines of a mask, holes as outlines of their own, with few vertices: flat lists of x, y."""
    found, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    largest = sorted(found, key=cv2.contourArea, reverse=True)[:_POLYGONS]
    tolerance = 0.7
    while True:
        outlines = [cv2.approxPolyDP(contour, tolerance, closed=True) for contour in largest]
        if sum(map(len, outlines)) <= _VERTICES:
            # Vertices are centres of pixels; the picture's coordinates count from its corner.
            return [(outline.reshape(-1, 2) + 0.5).ravel().tolist() for outline in outlines]
        tolerance *= 1.5


def _extent(layer: Pixels) -> tuple[float, float, float, float] | None:
    rows, columns = (np.flatnonzero((layer > _SEEN).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _crop(parts: Sequence[tuple[float, ...]], width: int, height: int) -> tuple[int, int, int, int]:
    """Return what of the image to show: the object with its surroundings, or all where the object is large."""
    finite = [part for part in parts if np.isfinite(part).all()]
    if not finite:
        return 0, 0, width, height
    lows, highs = np.array(finite)[:, :2].min(axis=0), np.array(finite)[:, 2:].max(axis=0)
    limit = np.array([width, height], np.float64)
    lows, highs = np.clip(lows, 0, limit), np.clip(highs, 0, limit)
    margin = max(_MARGIN * float((highs - lows).max()), (_LEAST - float((highs - lows).min())) / 2)
    lows, highs = np.floor(np.clip(lows - margin, 0, limit)), np.ceil(np.clip(highs + margin, 0, limit))
    x, y = (int(low) for low in lows)
    across, down = max(1, int(highs[0]) - x), max(1, int(highs[1]) - y)
    if across * down > _MOST * width * height:
        return 0, 0, width, height
    return min(x, width - 1), min(y, height - 1), across, down


def _fitted(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    if pixels.shape[1::-1] == size:
        return np.ascontiguousarray(pixels)
    return np.asarray(cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA), np.uint8)


def _gray(png: bytes | None, max_pixels: int) -> Pixels | None:
    try:
        return np.asarray(gray(png, max_pixels)) if png else None
    except BadInputError:
        return None


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
