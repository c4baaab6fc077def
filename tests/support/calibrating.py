"""Records whose true error follows from their features, to fit calibrations to."""

from functools import cache
from typing import Any

import numpy as np

from pipeline.quality.calibration_file import Origin, Second
from pipeline.quality.fit import Fitted, Samples, fit
from pipeline.quality.inputs import SECOND, SINGLE

ORIGIN = Origin(name="mine", weights_sha256="ab" * 32, input_size=192, resize="square")


def records(count: int, seed: int = 0) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Rows, and errors that grow with softness and with what lies outside the prompt, and are noisy."""
    rng = np.random.default_rng(seed)
    kinds = ["box", "points", "mask"]
    rows = []
    for index in range(count):
        row: dict[str, Any] = {name: float(rng.random()) for name in (*SINGLE, *SECOND)}
        row |= {"prompt_kind": kinds[index % 3], "transparent": index % 5 == 0, "fragments": int(rng.integers(4))}
        if row["prompt_kind"] == "points":
            row |= {"prompt_outside": None, "prompt_iou": None, "prompt_area": None}
        else:
            row["prompt_point_alpha"] = None
        rows.append(row)
    soft = np.array([row["softness"] for row in rows])
    outside = np.array([row["prompt_outside"] or 0.0 for row in rows])
    return rows, 0.05 * soft**2 * np.exp(outside) * rng.uniform(0.7, 1.3, count)


def samples(count: int = 600, damaged: int = 0, seed: int = 0) -> Samples:
    """Three records for each image; the last ones damaged."""
    rows, mad = records(count, seed)
    images = np.array([f"image {index // 3}" for index in range(count)])
    return Samples(rows, mad, images, np.array([""] * (count - damaged) + ["blur"] * damaged))


@cache
def fitted(second: str = "none") -> Fitted:
    return fit(samples(), ORIGIN, Second.model_validate({"kind": second}), {"sets": []})
