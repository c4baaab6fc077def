"""What lies behind the objects: crops of photographs, or drawn scenes where there are none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sdmatte.synthetic import camera, textures

Picture = NDArray[np.float32]  # (h, w, 3) RGB in [0, 1]
Mask = NDArray[np.float32]  # (h, w) in [0, 1]

_PHOTO_SHARE = 0.8  # how often a photograph is used where there are some


def background(rng: np.random.Generator, height: int, width: int, photos: Sequence[NDArray[np.uint8]] = ()) -> Picture:
    """Draw what lies behind the objects.

    Args:
        rng: Everything random comes from here.
        height: Pixels.
        width: Pixels.
        photos: Pictures to crop, each ``(h, w, 3)`` uint8 RGB of any size. Without any, or one time in five, the
            background is procedural.

    Returns:
        ``(height, width, 3)`` float32 RGB in [0, 1].
    """
    if photos and rng.random() < _PHOTO_SHARE:
        picture = photo_crop(rng, height, width, photos)
        if rng.random() < 0.4:
            picture = camera.grade(picture, rng)
    else:
        picture = _SCENES[rng.choice(len(_SCENES), p=_WEIGHTS)](rng, height, width)
    if rng.random() < 0.3:
        picture = soften(picture, math.exp(rng.uniform(math.log(0.003), math.log(0.03))) * max(height, width))
    return picture


def photo_crop(
    rng: np.random.Generator, height: int, width: int, photos: Sequence[NDArray[np.uint8]], *, closest: float = 0.35
) -> Picture:
    """Cut a random piece out of a random photograph and bring it to a size.

    Args:
        rng: Source of chance.
        height: Of the result, pixels.
        width: Of the result, pixels.
        photos: At least one, each ``(h, w, 3)`` uint8 RGB.
        closest: Side of the smallest piece, relative to the largest that fits.

    Returns:
        ``(height, width, 3)`` float32 RGB in [0, 1].
    """
    photo = photos[int(rng.integers(len(photos)))]
    rows, columns = photo.shape[:2]
    scale = min(rows / height, columns / width) * rng.uniform(closest, 1.0)
    high = min(rows, max(1, round(height * scale * rng.uniform(0.85, 1.0))))
    wide = min(columns, max(1, round(width * scale * rng.uniform(0.85, 1.0))))
    top, left = rng.integers(0, rows - high + 1), rng.integers(0, columns - wide + 1)
    piece = photo[top : top + high, left : left + wide]
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    shrinks = high > height and wide > width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(np.ascontiguousarray(piece), (width, height), interpolation=method)
    return np.asarray(resized, np.float32) * np.float32(1 / 255)


def soften(picture: Picture, radius: float) -> Picture:
    """Put a picture without alpha out of focus.

    Args:
        picture: ``(h, w, 3)``.
        radius: Of the circle of confusion, pixels. Above 4 the picture is reduced first: nobody sees the difference.
    """
    step = max(1.0, radius / 4)
    height, width = picture.shape[:2]
    smaller = max(1, round(width / step)), max(1, round(height / step))
    if step > 1:
        picture = np.asarray(cv2.resize(picture, smaller, interpolation=cv2.INTER_AREA), np.float32)
    blurred = cv2.filter2D(picture, -1, camera.disc(radius / step), borderType=cv2.BORDER_REFLECT)
    if step > 1:
        blurred = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(blurred, np.float32).clip(0.0, 1.0)


def _mix(below: Picture, above: Picture, mask: Mask) -> Picture:
    return below + textures.in_channels(mask) * (above - below)


def _surfaces(rng: np.random.Generator, height: int, width: int) -> Picture:
    """One surface, or two that share the frame along a ragged line or in patches."""
    picture = textures.texture(rng, height, width)
    if rng.random() < 0.6:
        field = textures.clouds(rng, height, width, cells=rng.uniform(1.5, 5), octaves=4)
        mask = ((field - np.float32(rng.uniform(0.4, 0.6))) * np.float32(rng.choice([4.0, 40.0])) + 0.5).clip(0, 1)
        picture = _mix(picture, textures.texture(rng, height, width), mask.astype(np.float32))
    return picture


def _skyline(rng: np.random.Generator, width: int, roughness: float) -> NDArray[np.float32]:
    """A ragged line from left to right, heights relative to the frame, mean about 0."""
    profile = textures.clouds(rng, 1, width, cells=rng.uniform(2, 8), octaves=5, roughness=0.55)[0]
    return np.asarray(roughness * (2 * profile - 1), np.float32)


def _horizon(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Sky or wall above, ridges one behind the other, ground below."""
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None] * np.ones((1, width), np.float32)
    picture = textures.paint(y, textures.palette(rng, 2))
    if rng.random() < 0.6:
        sky = textures.clouds(rng, height, width, cells=rng.uniform(2, 5), octaves=5, stretch=rng.uniform(1, 4))
        cover = ((sky - 0.45) * 3).clip(0, 1) * np.float32(rng.uniform(0.3, 1.0))
        picture = _mix(picture, np.full_like(picture, rng.uniform(0.6, 1.0)), cover.astype(np.float32))
    line = rng.uniform(0.2, 0.6)
    for _ in range(rng.integers(1, 4)):
        edge = np.float32(line) + _skyline(rng, width, rng.choice([0.0, rng.uniform(0, 0.25)]))
        ground = textures.texture(rng, height, width)
        if rng.random() < 0.5:  # seen at a slant: finer towards the horizon
            ground = _slanted(ground, line)
        picture = _mix(picture, ground, ((y - edge[None]) * np.float32(height) + 0.5).clip(0, 1).astype(np.float32))
        line += rng.uniform(0.1, 0.3)
    return picture


def _slanted(surface: Picture, line: float) -> Picture:
    """Tilt a surface away from the viewer about a horizontal axis; it meets the horizon at ``line`` of the height."""
    height, width = surface.shape[:2]
    squeeze = width * 0.35
    source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    target = np.array([[squeeze, line * height], [width - squeeze, line * height],
                       [width * 1.6, height], [-width * 0.6, height]], np.float32)  # fmt: skip
    turn = cv2.getPerspectiveTransform(source, target)
    tilted = cv2.warpPerspective(surface, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(tilted, np.float32)


def _clutter(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Many simple shapes over each other, some in focus and some not."""
    picture = textures.texture(rng, height, width)
    size = max(height, width)
    for _ in range(rng.integers(2, 4)):  # planes, from far to near
        surface = textures.texture(rng, height, width)
        mask = np.zeros((height, width), np.uint8)
        shades = np.zeros((height, width), np.float32)
        for _ in range(rng.integers(2, 14)):
            outline = _outline(rng, height, width, size * math.exp(rng.uniform(math.log(0.04), math.log(0.35))))
            cv2.fillPoly(mask, [outline], 255, cv2.LINE_AA)
            cv2.fillPoly(shades, [outline], float(rng.uniform(-0.35, 0.35)))
        soft = size * rng.choice([0.001, rng.uniform(0.002, 0.02)])
        edges = np.asarray(cv2.GaussianBlur(mask, (0, 0), max(0.4, soft)), np.float32) * np.float32(1 / 255)
        picture = _mix(picture, (surface * textures.in_channels(1 + shades)).clip(0, 1), edges)
    return picture


def _outline(rng: np.random.Generator, height: int, width: int, radius: float) -> NDArray[np.int32]:
    """A box, an ellipse or an irregular polygon somewhere in the frame, ``(n, 2)`` int32 pixels."""
    centre = rng.uniform(0, width), rng.uniform(0, height)
    corners = int(rng.choice([4, 4, 24, int(rng.integers(3, 9))]))
    angles = (np.arange(corners) + 0.5) * (2 * math.pi / corners)
    if rng.random() < 0.3:
        angles += rng.uniform(-0.4, 0.4, corners)
    points = radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    points[:, 0] *= math.exp(rng.uniform(-1, 1))
    turn = rng.choice([0.0, rng.uniform(0, math.pi)])
    cos, sin = math.cos(turn), math.sin(turn)
    return np.asarray(np.rint(points @ np.array([[cos, sin], [-sin, cos]]) + centre), np.int32)


def _bokeh(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Lights far out of focus, in front of something dim."""
    size = max(height, width)
    picture = soften(textures.texture(rng, height, width), 0.02 * size) * np.float32(rng.uniform(0.1, 0.7))
    radius = size * rng.uniform(0.015, 0.07)
    colours = textures.palette(rng, 6)[0]
    lights = np.zeros_like(picture)
    for _ in range(rng.integers(8, 60)):
        disc = np.zeros((height, width), np.uint8)
        centre = int(rng.integers(0, width)), int(rng.integers(0, height))
        cv2.circle(disc, centre, max(1, round(radius * rng.uniform(0.7, 1.2))), 255, -1, cv2.LINE_AA)
        left, top, wide, high = cv2.boundingRect(disc)
        window = (slice(top, top + high), slice(left, left + wide))
        glow = np.asarray(disc[window], np.float32)[..., None] * np.float32(rng.uniform(0.2, 0.9) / 255)
        lights[window] += glow * colours[rng.integers(6)]
    return np.asarray((picture + lights).clip(0, 1), np.float32)


def _room(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Two walls and a floor that meet in a corner, each with its own surface and light."""
    corner = rng.uniform(0.1, 0.9), rng.uniform(0.45, 0.85)
    x = np.linspace(0, 1, width, dtype=np.float32)[None]
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    walls = textures.texture(rng, height, width)
    other = walls if rng.random() < 0.6 else textures.texture(rng, height, width)
    right = ((x - np.float32(corner[0])) * width + 0.5).clip(0, 1) * np.ones_like(y)
    picture = _mix(walls * np.float32(rng.uniform(0.5, 1)), other * np.float32(rng.uniform(0.5, 1)), right)
    slope = np.where(x < corner[0], rng.uniform(-0.5, 0), rng.uniform(0, 0.5)).astype(np.float32)
    edge = np.float32(corner[1]) + slope * (x - np.float32(corner[0]))
    floor = _slanted(textures.texture(rng, height, width), corner[1] * 0.8)
    picture = _mix(picture, floor, ((y - edge) * height + 0.5).clip(0, 1).astype(np.float32))
    depth = np.abs(x - np.float32(corner[0])) + np.abs(y - edge)  # corners get less light
    return picture * textures.in_channels(1 - np.float32(rng.uniform(0, 0.5)) * np.exp(-depth * 8))


_KINDS: dict[Callable[[np.random.Generator, int, int], Picture], float] = {
    _surfaces: 3.0,
    _horizon: 3.0,
    _clutter: 4.0,
    _bokeh: 1.0,
    _room: 2.0,
}
_SCENES = tuple(_KINDS)
_WEIGHTS = np.array(list(_KINDS.values())) / sum(_KINDS.values())
