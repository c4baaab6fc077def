"""The published figures that an evaluation stands beside: the SDMatte paper (arXiv 2508.00443), Table 1.

Over the whole image at its original size, mean over the set; SAD, Grad and Conn in thousands. The paper's Conn is that
of its own evaluation code, :func:`sdmatte.metrics.conn_sdmatte`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """A row of the paper's table.

    Attributes:
        dataset: Title of the set, as in :data:`pipeline.evaluation.datasets.LAYOUTS`.
        prompt: `box`, `points` or `mask`.
        method: As the paper calls it.
        figures: `mse`, `mad`, `sad`, `grad`, `conn_sdmatte`; other methods' rows have the first alone.
    """

    dataset: str
    prompt: str
    method: str
    figures: dict[str, float]


_FIGURES = ("mse", "mad", "sad", "grad", "conn_sdmatte")
_FULL, _LITE, _STAR = "SDMatte", "LiteSDMatte", "SDMatte*"

_TABLE: dict[tuple[str, str], dict[str, tuple[float, ...]]] = {
    ("AIM-500", "points"): {
        _FULL: (0.0109, 0.0189, 31.80, 26.84, 17.51),
        _LITE: (0.0115, 0.0207, 34.43, 24.32, 19.97),
        "MAM": (0.0752,),
        "MatAny": (0.0425,),
        "SmartMatting": (0.0302,),
    },
    ("AIM-500", "box"): {
        _FULL: (0.0049, 0.0116, 19.45, 20.63, 12.58),
        _LITE: (0.0056, 0.0124, 20.83, 20.94, 12.90),
        _STAR: (0.0036, 0.0097, 16.42, 14.89, 11.00),
        "MAM": (0.0116,),
        "MatAny": (0.0545,),
        "SmartMatting": (0.0077,),
        "SEMat (SAM2)": (0.0071,),
    },
    ("AIM-500", "mask"): {
        _FULL: (0.0027, 0.0087, 14.53, 16.94, 10.95),
        _LITE: (0.0030, 0.0094, 15.83, 19.17, 11.29),
    },
    ("AM-2K", "points"): {
        _FULL: (0.0060, 0.0104, 17.54, 13.17, 10.86),
        _LITE: (0.0095, 0.0161, 27.51, 13.59, 17.74),
    },
    ("AM-2K", "box"): {
        _FULL: (0.0029, 0.0065, 11.04, 10.09, 6.99),
        _LITE: (0.0033, 0.0073, 12.54, 11.08, 8.49),
        _STAR: (0.0020, 0.0054, 9.23, 8.69, 6.41),
    },
    ("AM-2K", "mask"): {
        _FULL: (0.0012, 0.0043, 7.30, 6.96, 5.78),
        _LITE: (0.0014, 0.0049, 8.45, 9.55, 6.57),
    },
    ("P3M-500-NP", "box"): {
        _FULL: (0.0020, 0.0046, 7.90, 9.32, 6.31),
        _LITE: (0.0025, 0.0054, 9.31, 12.56, 6.83),
        _STAR: (0.0016, 0.0044, 7.58, 10.87, 5.85),
    },
    ("RefMatte-RW-100", "box"): {
        _FULL: (0.0047, 0.0062, 10.92, 11.41, 2.80),
        _LITE: (0.0060, 0.0082, 14.39, 12.85, 3.58),
        _STAR: (0.0041, 0.0059, 10.33, 10.54, 2.41),
    },
}


def published(dataset: str, prompt: str) -> Iterator[Published]:
    """Yield the paper's rows for a set and a kind of prompt; none for sets that it doesn't have."""
    for method, figures in _TABLE.get((dataset, prompt), {}).items():
        yield Published(dataset, prompt, method, dict(zip(_FIGURES, figures, strict=False)))
