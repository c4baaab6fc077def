"""Trimaps: surely background (0), unknown (128) and surely foreground (255), derived from alphas."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.curation.exports.base import Subject
from pipeline.curation.exports.indexed import Indexed


class Trimaps(Indexed):
    """`trimaps/<record id>.png`; the photos stay where they are, and are not read."""

    needs: ClassVar[Literal["file", "pixels", "nothing"]] = "nothing"
    folder = "trimaps"

    def draw(self, subject: Subject) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Return the trimap, and `radius`, by which its band was dilated (pixels)."""
        settings, alpha = self.settings, subject.alpha()
        radius = radius_of(alpha.shape, settings.trimap_radius)
        return trimap(alpha, settings.trimap_low, settings.trimap_high, radius), {"radius": radius}


def radius_of(shape: tuple[int, ...], share: float) -> int:
    """Return a radius in pixels, at least 1 unless the share is 0.

    Args:
        shape: Height and width of the image.
        share: Of its longer side.
    """
    return max(1, round(share * max(shape))) if share else 0


def trimap(alpha: NDArray[np.float32], low: float, high: float, radius: int) -> NDArray[np.uint8]:
    """Derive a trimap from an alpha.

    Foreground and background, by the thresholds, are eroded by a disc. Between what is left all is unknown: that
    dilates the band to both sides, and gives hard edges one, too. The frame erodes nothing.

    Args:
        alpha: ``(H, W)`` floats in [0, 1].
        low: Background is alpha <= low.
        high: Foreground is alpha >= high.
        radius: Of the disc (unit: pixel).

    Returns:
        ``(H, W)`` uint8 of 0, 128 and 255.
    """
    result = np.full(alpha.shape, 128, np.uint8)
    for sure, value in ((alpha <= np.float32(low), 0), (alpha >= np.float32(high), 255)):
        # The distance to the next pixel that isn't sure: exact, and as fast for a large disc as for a small one.
        inside = cv2.distanceTransform(sure.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        result[inside > radius] = value
    return result
