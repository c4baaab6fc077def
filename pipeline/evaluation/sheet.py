"""The contact sheet of a method's worst mattes, each beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.contact_sheet import SheetRow, contact_sheet, fit
from pipeline.errors import BadInputError
from pipeline.evaluation.protocol import as_prompt
from pipeline.evaluation.scoring import ScoreTask, predict
from pipeline.evaluation.truth import read_alpha
from sdmatte.images import decode_image
from sdmatte.prompts import Box, Mask, Points


def worst_sheet(tasks: Sequence[tuple[ScoreTask, dict[str, Any]]], title: str) -> Image.Image:
    """Draw mattes on the left, the true alphas on the right.

    Args:
        tasks: The mattes and their rows of :data:`pipeline.evaluation.scoring.SCORES`, in the order to show them.
        title: Of the sheet.
    """
    rows = [row for task, scores in tasks for row in _pair(task, scores)]
    subtitle = "by mean absolute difference (MAD) over the whole image; left: the matte, right: the true alpha"
    return contact_sheet(rows, title=title, subtitle=subtitle)


def _pair(task: ScoreTask, scores: dict[str, Any]) -> tuple[SheetRow, SheetRow]:
    pixels = decode_image(task.case.image).pixels
    truth = SheetRow(
        key=f"{task.case.dataset}: {task.case.key}",
        kind=task.kind,
        label="truth",
        width=pixels.shape[1],
        height=pixels.shape[0],
        photo=fit(Image.fromarray(pixels), Image.Resampling.LANCZOS),
        alpha=_picture(read_alpha(task.case.alpha)),
        notes=("transparent",) if task.case.transparent else (),
    )
    match as_prompt(task.prompt):
        case Box(x0, y0, x1, y1):
            truth = replace(truth, box=(x0, y0, x1, y1))
        case Points(xy):
            truth = replace(truth, points=xy)
        case Mask() as mask:
            truth = replace(truth, mask=_picture(mask.binary()))
    matte = replace(truth, label=task.method, notes=(f"MAD {scores['mad_whole']:.4f}",))
    try:
        predicted = predict(task)
    except BadInputError as error:
        return replace(matte, alpha=None, error_code=str(error.code), error_message=str(error)), truth
    assert predicted is not None  # it was measured
    return replace(matte, alpha=_picture(predicted)), truth


def _picture(levels: NDArray[Any]) -> Image.Image:
    """Return an alpha or mask of any type as a small picture of mode L."""
    if levels.dtype.kind == "u":
        levels = levels / np.float32(np.iinfo(levels.dtype).max)
    return fit(Image.fromarray(np.rint(levels.astype(np.float32) * 255).astype(np.uint8)))
