"""Contact sheets of what `make eval-nano` measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.nano_set import KINDS, Picture
from pipeline.contact_sheet import SheetRow, contact_sheet, fit
from sdmatte.prompts import Box, Mask, Points

if TYPE_CHECKING:
    from benchmarks.nano import Row

EACH = 3  # worst, middle and best mattes per kind of prompt


def write_sheets(rows: Sequence[Row], pictures: Sequence[Picture], folder: Path) -> None:
    """Write `scenes.png` and `photographs.png`.

    Args:
        rows: The model's mattes.
        pictures: What they were made from.
        folder: Where to write; made where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {picture.name: picture for picture in pictures}
    tiles = []
    for kind in KINDS:
        ranked = sorted((row for row in rows if (row.set, row.kind) == ("scenes", kind)), key=lambda row: -row.mad)
        middle = max(0, (len(ranked) - EACH) // 2)
        for title, part in (("worst", ranked[:EACH]), ("median", ranked[middle:][:EACH]), ("best", ranked[-EACH:])):
            for row in part:
                tiles += [_tile(row, found[row.picture], title), _truth(row, found[row.picture])]
    sheet = contact_sheet(tiles, title="Held-out scenes", subtitle="left: the model's matte, right: the true alpha")
    sheet.save(folder / "scenes.png")

    shown = sorted((row for row in rows if row.set == "photographs"), key=lambda row: row.thing)
    tiles = [_tile(row, found[row.picture], "") for row in shown]
    contact_sheet(
        tiles, title="Photographs", subtitle="MAD against reference mattes, not ground truth", columns=len(KINDS)
    ).save(folder / "photographs.png")


def _tile(row: Row, picture: Picture, rank: str) -> SheetRow:
    """Return the picture with its prompt, and the model's matte."""
    height, width = row.alpha.shape
    tile = SheetRow(
        key=row.picture,
        kind=row.kind,
        label=row.thing,
        width=width,
        height=height,
        photo=fit(Image.fromarray(picture.image), Image.Resampling.LANCZOS),
        alpha=fit(Image.fromarray(row.alpha)),
        notes=tuple(note for note in (f"MAD {row.mad:.4f}", rank, "transparent" * row.transparent) if note),
    )
    match picture.things[row.index].prompts[row.kind]:
        case Box(x0, y0, x1, y1):
            return replace(tile, box=(x0, y0, x1, y1))
        case Points(xy):
            return replace(tile, points=xy)
        case Mask() as mask:
            return replace(tile, mask=fit(Image.fromarray(mask.binary().astype(np.uint8) * 255)))


def _truth(row: Row, picture: Picture) -> SheetRow:
    alpha = fit(Image.fromarray(picture.things[row.index].alpha))
    return replace(_tile(row, picture, ""), label="truth", alpha=alpha, notes=())
