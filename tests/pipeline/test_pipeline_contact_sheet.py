"""How the contact sheet is drawn."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

from pipeline.contact_sheet import PANEL, SheetRow, contact_sheet

BLUE = (20, 40, 200)
WIDTH, HEIGHT = 2 * PANEL[0], 2 * PANEL[1]  # fills a panel, at half its size
TILE = (656, 228)
LEFT, TOP = 20 + 10, 74 + 10  # of the first tile's panels


def disc() -> Image.Image:
    alpha = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(alpha).ellipse((100, 50, 300, 250), fill=255)
    return alpha


def row(**columns: object) -> SheetRow:
    plain = SheetRow(
        key="a.jpg", kind="box", label="cat", width=WIDTH, height=HEIGHT, photo=Image.new("RGB", (WIDTH, HEIGHT), BLUE)
    )
    return replace(plain, **columns)  # type: ignore[arg-type]


def draw(shown: SheetRow) -> NDArray[np.int16]:
    sheet = contact_sheet([shown])
    assert sheet.size == (TILE[0] + 40, 74 + TILE[1] + 20)
    return np.asarray(sheet).astype(np.int16)


def at(sheet: NDArray[np.int16], x: float, y: float, panel: int = 0) -> tuple[int, ...]:
    """Colour at a place of the photo, alpha or composite, in pixels of the original image."""
    left = LEFT + panel * (PANEL[0] + 6)
    return tuple(int(value) for value in sheet[TOP + int(y / 2), left + int(x / 2)])


def near(colour: tuple[int, ...], expected: str | tuple[int, ...], tolerance: int = 12) -> bool:
    wanted = ImageColor.getrgb(expected) if isinstance(expected, str) else expected
    return max(abs(a - b) for a, b in zip(colour, wanted, strict=True)) <= tolerance


def reds(sheet: NDArray[np.int16]) -> int:
    return int((np.abs(sheet - np.array(ImageColor.getrgb("#f87171"))).max(axis=-1) < 8).sum())


@pytest.mark.parametrize(
    ("objects", "columns", "size"), [(0, 2, (1, 1)), (1, 2, (1, 1)), (5, 2, (2, 3)), (3, 3, (3, 1))]
)
def test_the_sheet_is_a_grid_of_equal_tiles(objects: int, columns: int, size: tuple[int, int]) -> None:
    sheet = contact_sheet([row()] * objects, title="Run 7", columns=columns)
    wide, high = size
    assert sheet.mode == "RGB"
    assert sheet.size == (40 + wide * TILE[0] + (wide - 1) * 12, 94 + high * TILE[1] + (high - 1) * 12)
    pixels = np.asarray(sheet)
    if objects == 5:
        first, last_on_line = (pixels[74 : 74 + TILE[1], x : x + TILE[0]] for x in (20, 20 + TILE[0] + 12))
        assert np.array_equal(first, last_on_line)
        assert (pixels[-150:, -600:] == pixels[-1, -1]).all(), "the sixth place is empty"


def test_a_box_is_drawn_where_it_is() -> None:
    sheet = draw(row(box=(100.0, 90.0, 300.0, 210.0)))
    for x, y in ((101, 150), (298, 150), (200, 91), (200, 208)):
        assert near(at(sheet, x, y), "#fbbf24", 60), (x, y)
    assert near(at(sheet, 200, 150), BLUE)
    assert near(at(sheet, 50, 150), BLUE)


def test_points_are_drawn_where_they_are() -> None:
    sheet = draw(row(kind="points", points=((60.0, 60.0), (330.0, 200.0))))
    assert near(at(sheet, 60, 60), "#22d3ee")
    assert near(at(sheet, 330, 200), "#22d3ee")
    assert near(at(sheet, 200, 150), BLUE)


def test_a_mask_is_tinted_and_outlined() -> None:
    mask = Image.new("L", (WIDTH // 4, HEIGHT // 4))  # of any size
    ImageDraw.Draw(mask).rectangle((25, 15, 74, 59), fill=255)  # 100, 60, 300, 240 of the photo
    sheet = draw(row(kind="mask", mask=mask))
    inside, edge, outside = at(sheet, 200, 150), at(sheet, 102, 150), at(sheet, 60, 150)
    assert near(outside, BLUE)
    assert near(edge, "#e879f9", 90)
    blend = tuple(round(0.6 * b + 0.4 * c) for b, c in zip(BLUE, ImageColor.getrgb("#e879f9"), strict=True))
    assert near(inside, blend)


def test_alpha_and_composite_show_the_matte() -> None:
    sheet = draw(row(alpha=disc()))
    assert at(sheet, 200, 150, panel=1) == (255, 255, 255)
    assert at(sheet, 20, 20, panel=1) == (0, 0, 0)
    assert near(at(sheet, 200, 150, panel=2), BLUE)
    board = {at(sheet, x, 10, panel=2) for x in range(0, 400, 10)}
    assert board == {(204, 204, 204), (255, 255, 255)}


def test_an_error_has_a_red_border_and_its_code() -> None:
    fine, failed = draw(row(alpha=disc())), draw(row(error_code="prompt_out_of_frame", error_message="box outside"))
    assert reds(fine) == 0
    assert tuple(failed[74 + TILE[1] // 2, 20]) == ImageColor.getrgb("#f87171")
    code_area = failed[TOP : TOP + 40, LEFT + PANEL[0] + 6 :]
    assert reds(code_area) > 100, "the code is written in the tile"


def test_a_missing_photo_leaves_its_reason_and_the_alpha() -> None:
    sheet = draw(row(photo=None, photo_fault="s3://bucket/a.tar#a.jpg is not there any more", alpha=disc()))
    assert at(sheet, 200, 150, panel=1) == (255, 255, 255)
    reason = sheet[TOP : TOP + PANEL[1], LEFT : LEFT + PANEL[0]]
    assert len(np.unique(reason)) > 20, "text is drawn where the photo would be"
    assert not near(at(sheet, 200, 150), BLUE)


def test_the_header_stands_above_the_tiles() -> None:
    blank, full = (
        np.asarray(contact_sheet([row()] * 2, **texts))
        for texts in ({}, {"title": "Run 7", "subtitle": "sdmatte-mini", "warning": "Untrained model"})
    )
    assert (blank[:74] == blank[0, 0]).all()
    assert (full[:74, :400] != full[0, 0]).any()
    assert reds(full[:74, 800:].astype(np.int16)) > 20
    assert np.array_equal(blank[74:], full[74:])


@pytest.mark.parametrize(
    "text",
    ["", "x" * 5000, "many words " * 400, "line\nbreak\ttab\x00\x1b[31m", "Käfer 猫 🐈 שלום", "\u202eright to left"],
)
def test_no_text_breaks_the_sheet_or_leaves_its_tile(text: str) -> None:
    shown = row(key=text, label=text, kind="box", notes=(text[:40],), photo=None, photo_fault=text, error_message=text)
    sheet = contact_sheet([replace(shown, error_code="image_corrupt"), row()], title=text, subtitle=text)
    pixels = np.asarray(sheet)
    gutter = pixels[74 : 74 + TILE[1], 20 + TILE[0] : 20 + TILE[0] + 12]
    assert (gutter == pixels[-1, -1]).all()


@pytest.mark.parametrize("size", [(1, 1), (9000, 1), (1, 9000), (3, 2000)])
def test_any_aspect_ratio_fits(size: tuple[int, int]) -> None:
    photo = Image.new("RGB", size, BLUE)
    extreme = SheetRow(
        key="a", kind="box", width=size[0], height=size[1], photo=photo, box=(0, 0, *size), alpha=photo.convert("L")
    )
    assert contact_sheet([extreme]).size == contact_sheet([row()]).size
