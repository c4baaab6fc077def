"""Small pictures of objects."""

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.report.pictures import SHOWN
from pipeline.report.thumbnails import SIDE, Picture, draw_sheet, prepare
from support.demo_run import png

MAX = 10**8


def record(**columns: Any) -> dict[str, Any]:
    return {**dict.fromkeys(SHOWN), "record_id": 1, "image_width": 400, "image_height": 200, "status": "ok", **columns}


def alpha(box: tuple[int, int, int, int], size: tuple[int, int] = (400, 200), value: int = 255) -> dict[str, bytes]:
    pixels = np.zeros(size[::-1], np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = value
    return {"bytes": png(Image.fromarray(pixels))}


def test_a_small_object_is_shown_with_its_surroundings_only() -> None:
    picture = prepare(record(alpha=alpha((200, 60, 240, 100)), prompt_box=[195, 55, 245, 105]), MAX)
    assert picture.crop is not None
    x, y, width, height = picture.crop
    assert (x, y) < (195, 55)
    assert (x + width, y + height) > (245, 105)
    assert width * height < 400 * 200 / 4
    assert picture.size == (width, height), "small pictures are not blown up"
    assert picture.box == [195 - x, 55 - y, 245 - x, 105 - y]


def test_of_a_large_object_all_is_shown() -> None:
    picture = prepare(record(alpha=alpha((20, 10, 380, 190))), MAX)
    assert picture.crop == (0, 0, 400, 200)
    assert picture.size == (SIDE, SIDE // 2)


def test_what_the_matte_holds_far_from_the_prompt_is_shown() -> None:
    picture = prepare(record(alpha=alpha((380, 180, 398, 198)), prompt_points=[[10, 10]]), MAX)
    assert picture.crop == (0, 0, 400, 200)
    assert picture.points == [[8.0, 8.0]]


@pytest.mark.parametrize("box", [[-50, -50, -10, -10], [500, 300, 600, 400], [1e9, 0, 2e9, 1], [10, 10, 10, 10]])
def test_prompts_outside_the_image_do_no_harm(box: list[float]) -> None:
    picture = prepare(record(prompt_box=box, status="error"), MAX)
    assert picture.crop is not None
    x, y, width, height = picture.crop
    assert x >= 0
    assert y >= 0
    assert width >= 1
    assert height >= 1
    assert x + width <= 400
    assert y + height <= 200
    picture.add_photo(np.zeros((200, 400, 3), np.uint8))
    assert picture.photo() is not None


def test_a_mask_becomes_outlines_with_few_vertices() -> None:
    dice = np.random.default_rng(0)
    inside = np.zeros((200, 400), np.uint8)
    cv2.circle(inside, (200, 100), 80, 255, -1)
    cv2.circle(inside, (200, 100), 30, 0, -1)
    inside[dice.random((200, 400)) > 0.97] ^= 255  # ragged, with specks
    picture = prepare(record(prompt_mask=png(Image.fromarray(inside).convert("1"))), MAX)
    assert 2 <= len(picture.mask) <= 12
    assert sum(map(len, picture.mask)) <= 2 * 160
    drawn = np.zeros(picture.size[::-1], np.uint8)
    outlines = [np.rint(np.reshape(outline, (-1, 2)) - 0.5).astype(np.int32) for outline in picture.mask]
    cv2.fillPoly(drawn, outlines, 255)  # even-odd, as the page fills them
    expected = cv2.resize(inside, picture.size, interpolation=cv2.INTER_AREA) > 127
    both, either = ((drawn > 0) & expected).sum(), ((drawn > 0) | expected).sum()
    assert both / either > 0.9


def test_a_damaged_alpha_is_left_out() -> None:
    picture = prepare(record(alpha={"bytes": b"no png"}, prompt_mask=b"none either"), MAX)
    assert not picture.has_alpha
    assert picture.mask == []


def test_sixteen_bit_alphas_are_shown() -> None:
    pixels = np.full((200, 400), 0x8000, np.uint16)
    picture = prepare(record(alpha={"bytes": png(Image.fromarray(pixels))}), MAX)
    shown = picture.alpha()
    assert shown is not None
    assert set(np.unique(shown)) == {128}


def test_a_photograph_of_another_size_is_not_shown() -> None:
    picture = prepare(record(alpha=alpha((0, 0, 400, 200))), MAX)
    picture.add_photo(np.zeros((100, 100, 3), np.uint8))
    assert picture.fault == "the image has 100 x 100 pixels now; it had 400 x 200"
    assert picture.photo() is None


def test_the_photograph_shows_the_same_part_as_the_alpha() -> None:
    photo = np.zeros((200, 400, 3), np.uint8)
    photo[60:100, 200:240] = (200, 40, 40)
    picture = prepare(record(alpha=alpha((200, 60, 240, 100))), MAX)
    picture.add_photo(photo)
    shown, opaque = picture.photo(), picture.alpha()
    assert shown is not None
    assert opaque is not None
    assert np.array_equal(shown[..., 0] > 100, opaque > 127)


def sheet_of(*pictures: Picture) -> tuple[np.ndarray, np.ndarray]:
    _, photo, cut = draw_sheet(pictures)
    return tuple(np.asarray(Image.open(io.BytesIO(data))) for data in (photo, cut))  # type: ignore[return-value]


def test_alphas_on_a_sheet_are_exact_and_do_not_touch() -> None:
    dice = np.random.default_rng(0)
    pictures = []
    for _ in range(7):
        soft = dice.integers(1, 255, (90, 160), np.uint8)
        picture = prepare(record(image_width=160, image_height=90, alpha={"bytes": png(Image.fromarray(soft))}), MAX)
        picture.add_photo(dice.integers(0, 255, (90, 160, 3), np.uint8))
        pictures.append(picture)
    _, cut = sheet_of(*pictures)
    places = {picture.place for picture in pictures}
    assert len(places) == 7
    for picture in pictures:
        x, y = picture.place
        assert np.array_equal(cut[y : y + 90, x : x + 160, 3], picture.alpha())


def test_the_cut_out_keeps_no_fringe_of_the_old_background() -> None:
    ramp = np.tile(np.clip(np.linspace(-7, 8, 300), 0, 1), (120, 1))
    red, green = np.array([220, 30, 30]), np.array([20, 200, 40])
    photo = ramp[..., None] * red + (1 - ramp[..., None]) * green
    matte = np.rint(ramp * 255).astype(np.uint8)
    picture = prepare(record(image_width=300, image_height=120, alpha={"bytes": png(Image.fromarray(matte))}), MAX)
    picture.add_photo(np.rint(photo).astype(np.uint8))
    _, cut = sheet_of(picture)
    x, y = picture.place
    half = cut[y + 60, x + 150]
    assert abs(int(half[3]) - 128) <= 10
    assert np.abs(half[:3].astype(int) - red).max() < 40, "the photograph itself is 100 off there"


def test_a_sheet_without_mattes_has_no_cut_outs() -> None:
    picture = prepare(record(status="error"), MAX)
    picture.add_photo(np.zeros((200, 400, 3), np.uint8))
    _, photo, cut = draw_sheet([picture])
    assert photo
    assert not cut
