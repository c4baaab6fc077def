"""Features of the shape of a matte alone."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SPECK = 1 / 5000
"""Share of the picture below which a part or a hole is not counted: about 5 x 5 pixels at the working size."""


def fragments(core: NDArray[np.bool_]) -> tuple[int, float | None]:
    """Count the connected parts of an object (diagonal neighbours are connected), specks left out.

    Args:
        core: ``(h, w)``.

    Returns:
        Their number, and the share of the object's area, specks included, outside the largest; None without any.
    """
    areas = cv2.connectedComponentsWithStats(core.view(np.uint8), connectivity=8)[2][1:, cv2.CC_STAT_AREA]
    if not areas.size:
        return 0, None
    return _counted(areas, core.size), 1 - float(areas.max() / areas.sum())


def holes(core: NDArray[np.bool_]) -> tuple[int, float | None]:
    """Count the parts of the surroundings that an object encloses, specks left out.

    Args:
        core: ``(h, w)``. What touches the picture's border is not enclosed.

    Returns:
        Their number, and their area, specks included, as a share of the object's with them; None without an object.
    """
    area = int(np.count_nonzero(core))
    if not area:
        return 0, None
    stats = cv2.connectedComponentsWithStats((~core).view(np.uint8), connectivity=4)[2][1:]
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    enclosed = (left > 0) & (top > 0) & (right < core.shape[1]) & (bottom < core.shape[0])
    areas = stats[enclosed, cv2.CC_STAT_AREA]
    hole_area = int(areas.sum())
    return _counted(areas, core.size), hole_area / (area + hole_area)


def frame_contact(core: NDArray[np.bool_]) -> float:
    """Return the share of the picture's border pixels that belong to an object, ``(h, w)``."""
    height, width = core.shape
    if min(height, width) <= 2:
        return float(core.mean())  # every pixel lies at the border
    return float(np.concatenate([core[0], core[-1], core[1:-1, 0], core[1:-1, -1]]).mean())


def _counted(areas: NDArray[Any], pixels: int) -> int:
    return int(np.count_nonzero(areas >= SPECK * pixels))
