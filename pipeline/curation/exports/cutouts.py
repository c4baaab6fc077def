"""Cut-outs: RGBA PNGs with the object's own colours, without a fringe of the old background."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.curation.exports.base import Subject
from pipeline.curation.exports.indexed import Indexed
from sdmatte.cutout import cutout

VISIBLE = 0.05
"""Alpha from which on a pixel counts for the box: models leave faint traces far from the object."""


class Cutouts(Indexed):
    """`cutouts/<record id>.png`, alpha not premultiplied, 8 bits."""

    needs: ClassVar[Literal["file", "pixels", "nothing"]] = "pixels"
    folder = "cutouts"

    def draw(self, subject: Subject) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Return the cut-out, and `crop`: its place in the upright photo, x0, y0, x1, y1 in pixels."""
        pixels, alpha = subject.photo.pixels, subject.alpha()
        assert pixels is not None
        x0, y0, x1, y1 = crop_box(alpha, self.settings.crop_margin)
        # Estimated over the whole photo: colours of the object are continued from wherever it is opaque.
        rgba = cutout(pixels, alpha)
        return np.ascontiguousarray(rgba[y0:y1, x0:x1]), {"crop": [x0, y0, x1, y1]}


def crop_box(alpha: NDArray[np.float32], margin: float | None) -> tuple[int, int, int, int]:
    """Return the box around an object (alpha of at least :data:`VISIBLE`), widened, and cut at the frame.

    Args:
        alpha: ``(H, W)`` floats in [0, 1].
        margin: By how much each side is moved out, as a share of the box's longer side; None: the whole frame.

    Returns:
        x0, y0, x1, y1 (pixels, the latter two exclusive); the whole frame where nothing is visible.
    """
    height, width = alpha.shape
    visible = alpha >= VISIBLE
    if margin is None or not visible.any():
        return 0, 0, width, height
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    x0, x1, y0, y1 = int(columns[0]), int(columns[-1]) + 1, int(rows[0]), int(rows[-1]) + 1
    more = round(margin * max(x1 - x0, y1 - y0))
    return max(0, x0 - more), max(0, y0 - more), min(width, x1 + more), min(height, y1 + more)
