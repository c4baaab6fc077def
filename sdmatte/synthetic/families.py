"""The families of procedural objects, by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sdmatte.errors import SDMatteError
from sdmatte.synthetic.canvas import Paint
from sdmatte.synthetic.creatures import creature, insect
from sdmatte.synthetic.hair import furry, portrait
from sdmatte.synthetic.held_out import bubble, dandelion, fish, jellyfish, longhair, tree, vase, web
from sdmatte.synthetic.lattices import fence, net, rings, wire
from sdmatte.synthetic.layers import Layer
from sdmatte.synthetic.people import figure
from sdmatte.synthetic.plants import feather, plant, tuft
from sdmatte.synthetic.shapes import blob, everyday, star
from sdmatte.synthetic.signs import glyphs
from sdmatte.synthetic.translucent import glass, smoke, veil

Family = Callable[[np.random.Generator, int, Paint], Layer]
"""``draw(rng, side, paint)`` gives a layer of ``(side, side)``."""

FAMILIES: dict[str, Family] = {
    "blob": blob,
    "star": star,
    "everyday": everyday,
    "creature": creature,
    "insect": insect,
    "furry": furry,
    "portrait": portrait,
    "figure": figure,
    "feather": feather,
    "plant": plant,
    "tuft": tuft,
    "glyphs": glyphs,
    "net": net,
    "fence": fence,
    "rings": rings,
    "wire": wire,
    "glass": glass,
    "smoke": smoke,
    "veil": veil,
    "tree": tree,
    "dandelion": dandelion,
    "web": web,
    "vase": vase,
    "fish": fish,
    "longhair": longhair,
    "jellyfish": jellyfish,
    "bubble": bubble,
}
"""All families; everything in one is drawn from the generator that is passed in."""

HELD_OUT: frozenset[str] = frozenset(("tree", "dandelion", "web", "vase", "fish", "longhair", "jellyfish", "bubble"))
"""Families that nothing trains on: they measure how far what was learnt carries."""

TRAINING: tuple[str, ...] = tuple(name for name in FAMILIES if name not in HELD_OUT)
"""Families to train on."""


def render_object(family: str, rng: np.random.Generator, side: int, paint: Paint | None = None) -> Layer:
    """Draw one object.

    Args:
        family: A key of :data:`FAMILIES`.
        rng: Everything random comes from here: the same state gives the same object.
        side: Of the layer, pixels.
        paint: Makes surface textures; :func:`sdmatte.synthetic.textures.texture` by default.

    Returns:
        A layer of ``(side, side)``. The object's longer side fills it up to two free pixels at each end.

    Raises:
        SDMatteError: There is no such family.
    """
    if family not in FAMILIES:
        raise SDMatteError(f"no family of synthetic objects is called {family!r}; there are {', '.join(FAMILIES)}")
    if paint is None:
        from sdmatte.synthetic.textures import texture

        paint = texture
    layer = FAMILIES[family](rng, side, paint)
    return Layer(layer.colour, layer.alpha, layer.transparent, family)
