"""What a calibration looks at: columns of records, ratios of them, and the kind of the prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLAGS = ("box", "points", "mask", "transparent")
"""Inputs that are not columns: whether the prompt is of this kind, or says that the object is transparent."""

SINGLE = (
    "coverage",
    "definiteness",
    "semi_transparent",
    "softness",
    "fragments",
    "fragment_share",
    "holes",
    "hole_share",
    "frame_contact",
    "prompt_outside",
    "prompt_iou",
    "prompt_point_alpha",
    "prompt_area",
    "edge_alignment",
    "laplacian_energy",
    "colour_overlap",
)
"""Features of the matte alone: columns of :data:`pipeline.schema.RECORDS`."""

SECOND = ("second_difference", "second_agreement")
"""Features of the second pass."""

RATIOS = {"softness_share": ("softness", "coverage"), "second_share": ("second_difference", "coverage")}
"""Inputs that are one feature divided by another: what relates to the object rather than to the image."""

INPUTS = (*SINGLE, *SECOND, *RATIOS, *FLAGS)
"""All inputs that a calibration may use."""

_TINY = 1e-4  # added to what is divided by: an empty matte has a coverage of 0


def inputs(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> NDArray[np.float64]:
    """Return the inputs of records as `(N, F)`; NaN where a record lacks one.

    Args:
        rows: See :meth:`Calibration.predict`.
        names: Of :data:`INPUTS`.
    """
    return np.array([[_input(row, name) for name in names] for row in rows], np.float64).reshape(-1, len(names))


def _input(row: Mapping[str, Any], name: str) -> float:
    if name == "transparent":
        return float(bool(row.get("transparent")))
    if name in FLAGS:
        return float(row.get("prompt_kind") == name)
    if name in RATIOS:
        above, below = (_input(row, part) for part in RATIOS[name])
        return above / (below + _TINY)
    value = row.get(name)
    if value is None:
        return math.nan
    number = float(value)
    return number if math.isfinite(number) else math.nan
