"""Pictures of several objects, with the exact matte of each.

A scene is drawn as a photograph comes about: a background, objects from back to front that throw shadows on what lies
behind them, some of them out of focus or in motion, and a camera that damages the picture but not the mattes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdmatte.errors import SDMatteError
from sdmatte.synthetic import camera
from sdmatte.synthetic.backgrounds import background, photo_crop
from sdmatte.synthetic.families import render_object
from sdmatte.synthetic.layers import Layer, composite, place, shadow
from sdmatte.synthetic.textures import texture

Picture = NDArray[np.float32]  # (h, w, 3) RGB in [0, 1]
Paint = Callable[[np.random.Generator, int, int], Picture]

LEAST_SHARE = 0.6  # of an object has to stay visible behind the others
LEAST_AREA = 0.005  # of the frame has to be covered by what is visible of it
LEAST_CONTRAST = 0.04  # mean difference of its colour from what lies behind it
_LEAST_INSIDE = 0.5  # of an object has to lie within the frame
_TRIES = 4  # at finding a place for an object before it is left out
_PATIENCE = 64  # objects tried for one scene; far more than ever needed unless a family draws nothing
_SMALLEST, _LARGEST = 0.2, 0.9  # side of an object, relative to the shorter side of the frame
_DRAWN = 48, 1024  # pixels: fewer show nothing of an object, more cost much and show little more


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene.

    Attributes:
        alpha: ``(h, w)`` float32 in [0, 1]: how much of the light at a pixel comes from this object, after what lies
            in front of it.
        transparent: It lets light through itself.
        family: What drew it.
    """

    alpha: NDArray[np.float32]
    transparent: bool
    family: str


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it.

    Attributes:
        image: ``(h, w, 3)`` uint8 RGB.
        objects: From back to front; at least one.
    """

    image: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]


def render_scene(
    seed: int,
    height: int,
    width: int,
    *,
    families: Sequence[str],
    count: tuple[int, int] = (1, 4),
    photos: Sequence[NDArray[np.uint8]] = (),
) -> Scene:
    """Draw a scene.

    Args:
        seed: Equal seeds (and other arguments) give equal scenes.
        height: Pixels, at least 32.
        width: Pixels, at least 32.
        families: Names of ``families.FAMILIES`` to choose objects from.
        count: Least and greatest number of objects to try; those that find no room are left out.
        photos: Pictures to cut backgrounds and surfaces from, each ``(h, w, 3)`` uint8 RGB. Drawn ones without.

    Returns:
        The scene. It depends on the version of this package and of its libraries, too.
    """
    rng = np.random.default_rng(seed)
    behind = background(rng, height, width, photos)
    layers = arrange(rng, behind, families=families, count=count, paint=_painter(rng, behind, photos))
    _, alphas = composite(behind, layers)
    image = camera.damage(lay(rng, behind, layers), rng)
    objects = tuple(
        SceneObject(alpha, layer.transparent, layer.family) for layer, alpha in zip(layers, alphas, strict=True)
    )
    return Scene(np.rint(image * 255).astype(np.uint8), objects)


def arrange(
    rng: np.random.Generator,
    behind: Picture,
    *,
    families: Sequence[str],
    count: tuple[int, int],
    paint: Paint = texture,
) -> list[Layer]:
    """Draw objects and find places for them where enough of each stays visible.

    Args:
        rng: Source of chance.
        behind: The background ``(h, w, 3)`` that the objects have to stand out from.
        families: Names to choose from; one object in four is of the same kind as the one before.
        count: Least and greatest number to try.
        paint: Gives an object its surface.

    Returns:
        Layers of the frame's size, from back to front: at least one, of which at least ``LEAST_SHARE`` is visible
        behind the others, which covers at least ``LEAST_AREA`` of the frame and differs from what lies behind it by
        ``LEAST_CONTRAST``.

    Raises:
        SDMatteError: Not one object could be placed; its families draw next to nothing at this size.
    """
    layers: list[Layer] = []
    wanted = int(rng.integers(count[0], count[1], endpoint=True))
    family = ""
    for tried in range(max(wanted, _PATIENCE)):
        if tried >= wanted and layers:
            return layers
        if not family or rng.random() > 0.25:
            family = families[int(rng.integers(len(families)))]
        layers = _add(rng, behind, layers, family, paint) or layers
    if layers:
        return layers
    height, width = behind.shape[:2]
    raise SDMatteError(
        f"No object of {', '.join(families)} covers {LEAST_AREA:.1%} of a frame of {width} x {height} pixels after "
        f"{_PATIENCE} tries; use a larger frame or other families."
    )


def _add(
    rng: np.random.Generator, behind: Picture, layers: list[Layer], family: str, paint: Paint
) -> list[Layer] | None:
    """Put one more object in front; None if it, or one behind it, would then show too little of itself."""
    height, width = behind.shape[:2]
    # The first object is the subject and tends to fill the frame; the others come in all sizes.
    share = math.exp(rng.uniform(math.log(_SMALLEST), math.log(0.7 * _LARGEST)))
    if not layers:
        share = rng.uniform(_SMALLEST, _LARGEST)
    side = share * min(height, width)
    drawn = render_object(family, rng, round(min(max(side, _DRAWN[0]), _DRAWN[1])), paint)
    whole = float(drawn.alpha.sum()) * (side / max(drawn.alpha.shape)) ** 2
    angle = rng.normal(0, 15) if rng.random() < 0.7 else rng.uniform(0, 360)
    flip = bool(rng.random() < 0.5)
    canvas, _ = composite(behind, layers)
    for _ in range(_TRIES):
        spread = 0.12 if not layers else 0.3
        centre = (width * rng.normal(0.5, spread), height * rng.normal(0.5, spread))
        placed = place(drawn, height, width, centre=centre, side=side, angle=angle, flip=flip)
        inside = float(placed.alpha.sum())
        if inside < _LEAST_INSIDE * whole:
            continue
        if rng.random() < 0.2:
            placed = camera.blur_layer(placed, rng, strength=(0.7, max(1.0, 0.03 * side)))
        together = [*layers, placed]
        if _all_visible(together) and _stands_out(canvas, placed):
            return together
    return None


def _all_visible(layers: list[Layer]) -> bool:
    through = np.ones_like(layers[0].alpha)
    for layer in reversed(layers):
        seen, whole = float((layer.alpha * through).sum()), float(layer.alpha.sum())
        if seen < LEAST_SHARE * whole or seen < LEAST_AREA * layer.alpha.size:
            return False
        through = through * (1.0 - layer.alpha)
    return True


def _stands_out(behind: Picture, layer: Layer) -> bool:
    difference = np.abs(layer.colour - behind).mean(axis=-1)
    return float((layer.alpha * difference).sum()) >= LEAST_CONTRAST * float(layer.alpha.sum())


def lay(rng: np.random.Generator, behind: Picture, layers: Sequence[Layer]) -> Picture:
    """Put layers over a background one by one, most of them with a soft shadow on all that is already there.

    Args:
        rng: Source of chance.
        behind: The background, ``(h, w, 3)`` RGB in [0, 1].
        layers: Of the same size, from back to front.

    Returns:
        The picture before the camera, ``(h, w, 3)``. Every pixel is a mixture with the weights that ``composite``
        returns: shadows change colours, never alphas.
    """
    size = max(behind.shape[:2])
    light = rng.uniform(0, 2 * math.pi)  # all shadows fall the same way
    for layer in layers:
        if rng.random() < 0.6:
            reach = size * rng.uniform(0.0, 0.08)
            behind = shadow(
                behind,
                layer,
                offset=(reach * math.cos(light), reach * abs(math.sin(light))),
                blur=size * math.exp(rng.uniform(math.log(0.004), math.log(0.05))),
                strength=rng.uniform(0.1, 0.6),
            )
        behind, _ = composite(behind, [layer])
    return behind


def _painter(rng: np.random.Generator, behind: Picture, photos: Sequence[NDArray[np.uint8]]) -> Paint:
    """How the objects of one scene get their surfaces.

    Some from photographs, and in one scene in eight from the background itself: then only outline and light tell the
    objects from what lies behind them.
    """
    sources, share = list(photos), 0.4 if photos else 0.0
    if rng.random() < 1 / 8:
        sources, share = [np.rint(behind * 255).astype(np.uint8)], 0.7

    def paint(rng: np.random.Generator, height: int, width: int) -> Picture:
        if rng.random() >= share:
            return texture(rng, height, width)
        picture = photo_crop(rng, height, width, sources, closest=0.15)
        return camera.grade(picture, rng) if rng.random() < 0.3 else picture

    return paint
