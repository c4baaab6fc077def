"""The contact sheet: objects of a run side by side, as photo with prompt, alpha, and composite over a checkerboard.

Every tile has the same size. :mod:`pipeline.sheet_rows` chooses what is shown; this module only draws, and its rows
may come from anywhere.
"""

from __future__ import annotations

import bisect
import functools
import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from sdmatte.cutout import checkerboard, composite

PANEL = (208, 164)
"""Width and height that a picture on the sheet is fitted into (unit: pixel)."""

_GAP = 6  # between the panels of a tile
_PAD = 10  # around them
_MARGIN = 20  # around the sheet
_GUTTER = 12  # between tiles
_CAPTION = 44  # height of the two lines below the panels
_HEADER = 74
_TILE = (3 * PANEL[0] + 2 * _GAP + 2 * _PAD, PANEL[1] + _CAPTION + 2 * _PAD)
_LONGEST = 2000  # characters of a text that are looked at
_SCALE = 4  # prompts are drawn so much larger, then reduced: smooth edges

_PAPER, _CARD, _WELL = "#18181b", "#27272a", "#1d1d20"
_INK, _MUTED, _FAINT = "#f4f4f5", "#a1a1aa", "#71717a"
_ERROR = "#f87171"
_KIND_COLOURS = {"box": "#fbbf24", "points": "#22d3ee", "mask": "#e879f9"}


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One object on the sheet.

    Attributes:
        key: The image's key.
        kind: `box`, `points`, `mask`, or empty where the prompt could not be parsed.
        label: The object's category, or empty.
        width: Width of the upright image, to which the prompt's coordinates refer; 0 where unknown (unit: pixel).
        height: Its height (unit: pixel).
        photo: The upright photograph, RGB, of any size; None where it can't be shown.
        photo_fault: Why not.
        box: `(x0, y0, x1, y1)` of a box prompt (unit: pixel).
        points: `(x, y)` pairs of a points prompt (unit: pixel).
        mask: Mask prompt, mode L, of any size with the image's aspect ratio.
        alpha: The matte, mode L, of any size with the image's aspect ratio; None for errors.
        definiteness: 0 to 1; None for errors.
        coverage: 0 to 1; None for errors.
        notes: Short remarks, such as `transparent` or the audit's repairs.
        error_code: Empty for objects that have a matte.
        error_message: What is wrong, where, and what to do.
    """

    key: str
    kind: str = ""
    label: str = ""
    width: int = 0
    height: int = 0
    photo: Image.Image | None = None
    photo_fault: str = ""
    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float], ...] = ()
    mask: Image.Image | None = None
    alpha: Image.Image | None = None
    definiteness: float | None = None
    coverage: float | None = None
    notes: tuple[str, ...] = field(default=())
    error_code: str = ""
    error_message: str = ""


def contact_sheet(
    rows: Sequence[SheetRow], *, title: str = "", subtitle: str = "", warning: str = "", columns: int = 2
) -> Image.Image:
    """Draw the sheet.

    Args:
        rows: The objects, in the order to show them: left to right, then downwards.
        title: First line of the header.
        subtitle: Second line of the header.
        warning: Shown beside the title in the colour of errors.
        columns: Tiles side by side; fewer where there are fewer rows.

    Returns:
        An RGB picture, 1364 pixels wide with two columns.
    """
    columns = max(1, min(columns, len(rows)))
    lines = max(1, math.ceil(len(rows) / columns))
    width = 2 * _MARGIN + columns * _TILE[0] + (columns - 1) * _GUTTER
    height = _HEADER + lines * _TILE[1] + (lines - 1) * _GUTTER + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)

    right: float = width - _MARGIN
    if warning:
        right -= _text_right(draw, (right, 18), warning, 15, _ERROR) + 2 * _PAD
    _text(draw, (_MARGIN, 16), title, 18, _INK, right - _MARGIN)
    _text(draw, (_MARGIN, 44), subtitle, 13, _MUTED, width - 2 * _MARGIN)
    if not rows:
        _text(draw, (_MARGIN, _HEADER + _PAD), "No objects to show.", 14, _MUTED, width)
    for index, row in enumerate(rows):
        line, column = divmod(index, columns)
        x = _MARGIN + column * (_TILE[0] + _GUTTER)
        y = _HEADER + line * (_TILE[1] + _GUTTER)
        sheet.paste(_tile(row), (x, y))
    return sheet


def _tile(row: SheetRow) -> Image.Image:
    tile = Image.new("RGB", _TILE, _PAPER)
    draw = ImageDraw.Draw(tile)
    border = _ERROR if row.error_code else None
    draw.rounded_rectangle((0, 0, _TILE[0] - 1, _TILE[1] - 1), 8, fill=_CARD, outline=border, width=2)

    first, second, third = (_PAD + panel * (PANEL[0] + _GAP) for panel in range(3))
    photo = fit(row.photo, Image.Resampling.LANCZOS).convert("RGB") if row.photo else None
    if photo:
        _place(tile, _with_prompt(photo, row), first)
    else:
        _say(tile, (first, _PAD, first + PANEL[0], _PAD + PANEL[1]), "photo not shown", row.photo_fault, _MUTED)
    if row.error_code:
        _say(
            tile, (second, _PAD, third + PANEL[0], _PAD + PANEL[1]), row.error_code, row.error_message, _ERROR, size=16
        )
    elif row.alpha:
        alpha = row.alpha.resize(photo.size, Image.Resampling.BOX) if photo else fit(row.alpha)
        _place(tile, alpha.convert("RGB"), second)
        if photo:
            _place(tile, _composite(photo, alpha), third)
        else:
            _say(tile, (third, _PAD, third + PANEL[0], _PAD + PANEL[1]), "no composite", "it needs the photo", _MUTED)
    _caption(draw, row)
    return tile


def fit(image: Image.Image, resample: Image.Resampling = Image.Resampling.BOX) -> Image.Image:
    """Scale a picture so that it just fits into :data:`PANEL`; its aspect ratio stays."""
    scale = min(PANEL[0] / image.width, PANEL[1] / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, resample)


def _place(tile: Image.Image, picture: Image.Image, x: int) -> None:
    """Paste a picture into the middle of the panel that begins at `x`."""
    tile.paste(picture, (x + (PANEL[0] - picture.width) // 2, _PAD + (PANEL[1] - picture.height) // 2))


def _composite(photo: Image.Image, alpha: Image.Image) -> Image.Image:
    """Lay the photo's own colours over a checkerboard; good enough at this size, and fast."""
    weight = np.asarray(alpha, np.float32) / np.float32(255)
    return Image.fromarray(composite(np.asarray(photo), weight, checkerboard(*photo.size, cell=8)))


def _with_prompt(photo: Image.Image, row: SheetRow) -> Image.Image:
    """Return the photo with the prompt drawn over it."""
    colour = _KIND_COLOURS.get(row.kind, _INK)
    if row.mask:
        return _with_mask(photo, row.mask, colour)
    if not (row.width and row.height):
        return photo
    size = photo.width * _SCALE, photo.height * _SCALE
    overlay = Image.new("RGBA", size)
    draw = ImageDraw.Draw(overlay)
    sx, sy = size[0] / row.width, size[1] / row.height
    if row.box:
        x0, y0, x1, y1 = row.box
        edges = (x0 * sx, y0 * sy, max(x1 * sx - 1, x0 * sx), max(y1 * sy - 1, y0 * sy))
        grown = (edges[0] - _SCALE, edges[1] - _SCALE, edges[2] + _SCALE, edges[3] + _SCALE)
        draw.rectangle(grown, outline=(0, 0, 0, 150), width=4 * _SCALE)  # a dark seam: seen on bright photos too
        draw.rectangle(edges, outline=colour, width=2 * _SCALE)
    for x, y in row.points:
        for radius, fill in ((5.5, (0, 0, 0, 150)), (4.5, _INK), (3.2, colour)):
            reach = radius * _SCALE
            draw.ellipse((x * sx - reach, y * sy - reach, x * sx + reach, y * sy + reach), fill=fill)
    overlay = overlay.resize(photo.size, Image.Resampling.LANCZOS)
    return Image.alpha_composite(photo.convert("RGBA"), overlay).convert("RGB")


def _with_mask(photo: Image.Image, mask: Image.Image, colour: str) -> Image.Image:
    size = photo.width * _SCALE, photo.height * _SCALE
    large = mask.convert("L").resize(size, Image.Resampling.BILINEAR).point(lambda value: 255 * (value > 127))
    # The border lies inside; the frame around the picture counts as outside.
    framed = Image.new("L", (size[0] + 2, size[1] + 2))
    framed.paste(large, (1, 1))
    inner = framed.filter(ImageFilter.MinFilter(2 * _SCALE - 1)).filter(ImageFilter.MinFilter(2 * _SCALE - 1))
    inner = inner.crop((1, 1, size[0] + 1, size[1] + 1))
    line = ImageChops.subtract(large, inner).resize(photo.size, Image.Resampling.BOX)
    tint = large.resize(photo.size, Image.Resampling.BOX).point(lambda value: value * 2 // 5)
    solid = Image.new("RGB", photo.size, colour)
    return Image.composite(solid, Image.composite(solid, photo, tint), line)


def _caption(draw: ImageDraw.ImageDraw, row: SheetRow) -> None:
    top = _PAD + PANEL[1]
    left, right = _PAD, _TILE[0] - _PAD
    x = left
    if row.kind:
        font = _font(11)
        width = round(font.getlength(row.kind)) + 14
        colour = _KIND_COLOURS.get(row.kind, _MUTED)
        draw.rounded_rectangle((x, top + 8, x + width, top + 25), 8, fill=colour)
        draw.text((x + 7, top + 16), row.kind, fill=_PAPER, font=font, anchor="lm")
        x += width + 8
    figures = [
        f"{name} {value:.2f}"
        for name, value in (("definiteness", row.definiteness), ("coverage", row.coverage))
        if value is not None
    ]
    taken = _text_right(draw, (right, top + 10), " · ".join(figures), 12, _MUTED)
    _text(draw, (x, top + 8), row.label or "(no label)", 14, _INK if row.label else _FAINT, right - x - taken - _PAD)
    taken = _text_right(draw, (right, top + 29), " · ".join(row.notes), 12, _MUTED)
    _text(draw, (left, top + 29), row.key or "(no key)", 12, _MUTED, right - left - taken - _PAD)


def _say(
    tile: Image.Image, area: tuple[int, int, int, int], head: str, body: str, colour: str, *, size: int = 13
) -> None:
    """Write a heading and wrapped text into an area of a tile."""
    draw = ImageDraw.Draw(tile)
    x0, y0, x1, y1 = area
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=_WELL)
    _text(draw, (x0 + 12, y0 + 12), head, size, colour, x1 - x0 - 24)
    y = y0 + 12 + size + 9
    for line in _wrap(_plain(body), _font(12), x1 - x0 - 24, most=(y1 - y - 4) // 17):
        _text(draw, (x0 + 12, y), line, 12, _MUTED, x1 - x0 - 24)
        y += 17


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float, most: int) -> list[str]:
    """Break text into lines no wider than `width` pixels, at spaces or else anywhere; at most `most` of them."""
    lines: list[str] = []
    line = ""
    words = text.split()
    while words and len(lines) < most:
        longer = f"{line} {words[0]}".strip()
        if font.getlength(longer) <= width:
            line = longer
            words.pop(0)
        elif line:
            lines.append(line)
            line = ""
        else:  # a word that is wider than a line
            fitting = max(1, _longest(words[0], lambda kept: words[0][:kept], font, width))
            lines.append(words[0][:fitting])
            words[0] = words[0][fitting:]
    if line and len(lines) < most:
        return [*lines, line]
    return [*lines[:-1], lines[-1] + " ..."] if lines and (line or words) else lines


def _longest(
    text: str, cut: Callable[[int], str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float
) -> int:
    """Return how many characters of a text may be kept so that what `cut` makes of them fits into `width` pixels."""
    return bisect.bisect_right(range(len(text) + 1), width, key=lambda kept: font.getlength(cut(kept))) - 1


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _plain(text: str) -> str:
    """Return text that the bundled font can draw on one line: no accents, no control characters."""
    bare = (c for c in unicodedata.normalize("NFKD", text[:_LONGEST]) if not unicodedata.combining(c))
    return " ".join("".join(c if c.isprintable() else " " for c in bare).split())


def _text(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, fill: str, width: float) -> None:
    """Write one line, cut to `width` pixels in its middle, where keys and paths differ least."""
    font = _font(size)
    text = _plain(text)
    if font.getlength(text) > width:
        text = _middle_cut(text, _longest(text, lambda kept: _middle_cut(text, kept), font, width))
    draw.text(at, text, fill=fill, font=font)


def _middle_cut(text: str, kept: int) -> str:
    kept = max(0, kept)
    return f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"


def _text_right(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, fill: str) -> float:
    """Write one line that ends at `at`; return its width in pixels."""
    font = _font(size)
    draw.text(at, _plain(text), fill=fill, font=font, anchor="ra")
    return font.getlength(_plain(text))
