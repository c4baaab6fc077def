"""What a matte tells about itself, without ground truth: cheap features of one forward pass.

They are raw material: a calibrated prediction of the error comes from them later, in the columns ``predicted_mad`` and
``quality``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.quality.agreement import prompt_agreement, second_agreement, second_difference
from pipeline.quality.colours import colour_overlap
from pipeline.quality.edges import edge_alignment
from pipeline.quality.image_terms import CORE, OPAQUE, VISIBLE, ImageTerms, band, prepare, reduced, sampled
from pipeline.quality.laplacian import laplacian_energy
from pipeline.quality.shape import fragments, frame_contact, holes
from sdmatte.prompts import Prompt


@dataclass(frozen=True)
class Features:
    """Features of one matte; None where one is not defined.

    The attributes are columns of :data:`pipeline.schema.RECORDS`, where they are described.
    """

    coverage: float
    definiteness: float | None
    semi_transparent: float | None = None
    softness: float | None = None
    fragments: int | None = None
    fragment_share: float | None = None
    holes: int | None = None
    hole_share: float | None = None
    frame_contact: float | None = None
    prompt_outside: float | None = None
    prompt_iou: float | None = None
    prompt_point_alpha: float | None = None
    prompt_area: float | None = None
    edge_alignment: float | None = None
    laplacian_energy: float | None = None
    colour_overlap: float | None = None
    second_difference: float | None = None
    second_agreement: float | None = None


def features(
    alpha: NDArray[np.float32],
    prompt: Prompt,
    image: NDArray[np.uint8] | ImageTerms,
    second: NDArray[np.float32] | None = None,
) -> Features:
    """Compute the features of a matte, in about 5 ms.

    Coverage is of all pixels; the agreement with the prompt is that of at most 1,536 rows and columns; everything else
    is computed at the working size (:data:`pipeline.quality.image_terms.WORKING_SIDE`).

    Args:
        alpha: ``(H, W)`` float32 in [0, 1], at the size of the upright image.
        prompt: What it was made from, in pixels of the upright image.
        image: ``(H, W, 3)`` uint8 RGB, upright; or, where an image has several objects, what
            :func:`pipeline.quality.image_terms.prepare` made of it once.
        second: ``(H, W)`` float32 in [0, 1]: the matte of a second pass.

    Returns:
        Finite values; None for those that are not defined.
    """
    terms = image if isinstance(image, ImageTerms) else prepare(image)
    seen = sampled(alpha)
    small = reduced(seen)
    core = small > CORE
    visible, opaque = int(np.count_nonzero(small > VISIBLE)), int(np.count_nonzero(small > OPAQUE))
    fragment_count, fragment_share = fragments(core)
    hole_count, hole_share = holes(core)
    other = None if second is None else reduced(sampled(second))
    return Features(
        coverage=min(cv2.mean(alpha)[0], 1.0),
        definiteness=opaque / visible if visible else None,
        semi_transparent=(visible - opaque) / small.size,
        softness=_softness(small),
        fragments=fragment_count,
        fragment_share=fragment_share,
        holes=hole_count,
        hole_share=hole_share,
        frame_contact=frame_contact(core),
        **asdict(prompt_agreement(alpha, seen, prompt)),
        edge_alignment=edge_alignment(small, terms.edges),
        laplacian_energy=laplacian_energy(small, terms.local, band(small)),
        colour_overlap=colour_overlap(small, terms.colours, OPAQUE, VISIBLE),
        second_difference=None if other is None else second_difference(small, other),
        second_agreement=None if other is None else second_agreement(small, other),
    )


def _softness(alpha: NDArray[np.float32]) -> float:
    mixed = cv2.mean(alpha)[0] - cv2.norm(alpha, cv2.NORM_L2SQR) / alpha.size  # the mean of alpha (1 - alpha)
    return min(max(4 * mixed, 0.0), 1.0)  # against rounding
