"""The report in a real browser, opened from disk."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page

from pipeline import storage
from pipeline.report import write_report
from pipeline.runs import RunDirectory
from support.browser import Tab, browser_page
from support.demo_run import add_records, demo_run, error_record

HOSTILE = [
    "<img src=x onerror=\"document.title='owned'\">",
    "</script><script>document.title='owned'</script>",
    "\"'><svg onload=document.title='owned'>&quot;&lt;",
    "\u202egnp.drawkcab\u202c \u05e2\u05d1\u05e8\u05d9\u05ea",
    "🦔 \u2028\u2029 e\u0301 \x07 {{ 7 * 7 }} ${1}",
    "x" * 2000,
]
"""Labels, keys and messages as an input may have them."""

SHARDS = ["demo-00000.tar", "demo-00001.tar", "demo-00002.tar"]


def scored_run(folder: Path) -> RunDirectory:
    """The demo's objects with scores, two errors, and objects with hostile names."""
    run = demo_run(str(folder / "run"), folder / "corpus", sheet=1)
    rows = run.dataset().to_table().to_pylist()
    made: list[dict[str, Any]] = []
    for at, row in enumerate(rows):
        mad = (at + 1) / 400
        scores = {"predicted_mad": mad, "quality": 2 ** (-mad / 0.02), "calibration": "c", "calibration_matches": True}
        names = {"record_id": 1000 + at, "shard": "scored.tar", "label": f"scored {row['label']}"}
        made.append({**row, **scores, **names})
    for at, text in enumerate(HOSTILE):
        bad = {"predicted_mad": 0.5 + at / 100, "quality": 0.0}
        made.append({**made[at], **bad, "record_id": 2000 + at, "label": text, "image_key": text})
    made += [
        error_record("scored.tar", HOSTILE[0], "image_corrupt", HOSTILE[1], label=HOSTILE[2], image_uri=HOSTILE[0]),
        error_record("scored.tar", "late.jpg", "prompt_missing", "the image has no prompt"),
    ]
    add_records(run, "scored", "scored.tar", made)
    return run


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tab, str]]:
    folder = tmp_path_factory.mktemp("browser")
    run = scored_run(folder)
    uri = write_report(run.path, run.reconcile([*SHARDS, "scored.tar"]))
    with browser_page() as opened:
        yield opened, Path(uri).as_uri()


@pytest.fixture
def page(tab: tuple[Tab, str]) -> Iterator[Page]:
    """The part with the objects; at the end nothing may have gone wrong in it."""
    opened, url = tab
    opened.errors.clear()
    opened.page.goto("about:blank")
    opened.page.goto(f"{url}#objects")
    opened.page.wait_for_selector("html[data-ready]")
    yield opened.page
    assert opened.errors == []
    assert opened.refused == []


def shown(page: Page, what: str = ".name") -> list[str]:
    return [text or "" for text in page.locator(f"#grid {what}").all_text_contents()]


def colour_at(page: Page, x: float, y: float, selector: str = "#grid .tile .frame") -> tuple[int, int, int]:
    """Colour on the screen at fractions of the first such element's width and height."""
    box = page.locator(selector).first.bounding_box()
    assert box
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    found = shot.getpixel((int(box["x"] + x * box["width"]), int(box["y"] + y * box["height"])))
    assert isinstance(found, tuple)
    return found  # type: ignore[return-value]


def only(page: Page, text: str) -> None:
    page.fill("#search", text)


def test_the_overview_opens_with_the_worst_and_the_best(tab: tuple[Tab, str]) -> None:
    opened, url = tab
    opened.errors.clear()
    opened.page.goto("about:blank")
    opened.page.goto(url)
    page = opened.page
    assert page.locator("#overview").is_visible()
    assert not page.locator("#objects").is_visible()
    assert not page.locator("#errors").is_visible()
    worst = [float(text) for text in page.locator("#worst .score").all_text_contents()]
    best = [float(text) for text in page.locator("#best .score").all_text_contents()]
    assert worst == sorted(worst, reverse=True)
    assert best == sorted(best)
    assert min(worst) > max(best)
    page.get_by_role("link", name="Errors").click()
    assert page.locator("#errors").is_visible()
    assert not page.locator("#overview").is_visible()
    assert opened.errors == []


def test_hostile_texts_are_shown_as_text(page: Page) -> None:
    assert page.title().startswith("Run ")
    names = shown(page)
    seen = [re.sub("[\u202a-\u202e]", lambda sign: f"\\u{ord(sign[0]):04x}", text) for text in HOSTILE]
    assert {text[:200] for text in seen} <= set(names)
    assert page.locator("img[src=x], #grid script, svg[onload]").count() == 0
    for text in seen:
        only(page, text.split()[0][:40])
        tile = page.locator("#grid .open").first
        tile.click()
        assert text in page.locator("#viewer-label").text_content()  # type: ignore[operator]
        page.keyboard.press("Escape")
    assert page.title().startswith("Run ")


def test_the_worst_come_first_and_errors_last(page: Page) -> None:
    scores = shown(page, ".score")
    numbers = [float(text) for text in scores if re.fullmatch(r"[\d.]+", text)]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == 20 + len(HOSTILE)
    assert scores[-2:] == ["image_corrupt", "prompt_missing"]


@pytest.mark.parametrize(
    ("order", "what", "expected"),
    [
        ("best", ".score", lambda found: found[:2] == ["0.0025", "0.0050"]),
        ("label", ".name", lambda found: found.index("cat") < found.index("clock") < found.index("scored cat")),
        ("key", ".key", lambda found: found.index("astronaut") < found.index("camera") < found.index("coffee")),
    ],
)
def test_sorting(page: Page, order: str, what: str, expected: Any) -> None:
    page.select_option("#sort", order)
    assert expected(shown(page, what))


def test_filters_meet(page: Page) -> None:
    page.select_option("#status", "error")
    assert shown(page, ".score") == ["image_corrupt", "prompt_missing"]
    page.select_option("#code", "prompt_missing")
    assert shown(page, ".key") == ["late.jpg"]
    assert page.text_content("#count") == "1 of 48"
    page.select_option("#kind", "mask")
    assert shown(page) == []
    assert page.locator("#nothing").is_visible()
    page.click("#reset")
    assert page.text_content("#count") == "48 of 48"
    page.select_option("#label", label="scored cat")
    assert shown(page) == ["scored cat", "scored cat"]
    page.click("#reset")
    page.fill("#quality-low", "0.8")
    assert shown(page, ".score") == ["0.0050", "0.0025"]
    page.fill("#quality-high", "0.9")
    assert shown(page, ".score") == ["0.0050"]
    page.click("#reset")
    only(page, "SCORED helmet")
    assert shown(page) == ["scored helmet"]


def test_a_label_of_the_slices_leads_to_its_objects(page: Page) -> None:
    page.get_by_role("link", name="Overview").click()
    page.get_by_role("button", name="scored cat", exact=True).click()
    assert page.locator("#objects").is_visible()
    assert shown(page) == ["scored cat", "scored cat"]


def test_the_views_show_different_layers(page: Page) -> None:
    only(page, "scored clock")
    tile = page.locator("#grid .tile").first

    def layers() -> list[bool]:
        return [tile.locator(name).is_visible() for name in (".photo", ".prompt-lines", ".cut")]

    assert layers() == [False, False, True]
    for key, expected in (("1", [True, False, False]), ("2", [True, True, False]), ("3", [False, False, True])):
        page.locator("#reset").focus()
        page.keyboard.press(key)
        assert layers() == expected, key
        assert page.locator("#views [aria-pressed=true]").text_content().endswith(key)  # type: ignore[union-attr]


def test_alpha_is_white_on_black_whatever_is_behind(page: Page) -> None:
    only(page, "scored coin")
    page.click("#views [data-view=alpha]")
    page.click("#swatches [data-value='#00b140']")
    page.wait_for_timeout(200)
    colours = {colour_at(page, x / 10, 0.5) for x in range(1, 10)}
    assert {(0, 0, 0), (255, 255, 255)} <= colours
    assert all(red == green == blue for red, green, blue in colours)


def test_any_colour_is_behind_the_composite(page: Page) -> None:
    only(page, "scored clock")
    box = page.locator("#grid .pic").bounding_box()
    assert box
    corner = (0.02, 0.03)
    for value, expected in (("#00b140", (0, 0xB1, 0x40)), ("#ffffff", (255, 255, 255)), ("#000000", (0, 0, 0))):
        page.click(f"#swatches [data-value='{value}']")
        page.mouse.move(0, 0)
        assert colour_at(page, *corner, "#grid .pic") == expected
    page.fill("#swatches input[type=color]", "#123456")
    assert colour_at(page, *corner, "#grid .pic") == (0x12, 0x34, 0x56)
    middle = colour_at(page, 0.5, 0.5, "#grid .pic")
    page.click("#swatches [data-value=checker]")
    assert colour_at(page, 0.5, 0.5, "#grid .pic") == middle, "where the object is opaque nothing shines through"
    assert {colour_at(page, 0.02 + x / 40, 0.03, "#grid .pic") for x in range(6)} >= {(255, 255, 255), (200, 200, 204)}


def test_one_tile_can_show_another_view(page: Page) -> None:
    tiles = page.locator("#grid .tile")
    tiles.nth(1).hover()
    tiles.nth(1).locator(".peek [data-view=prompt]").click()
    views = [tiles.nth(at).get_attribute("data-view") for at in range(3)]
    assert views == ["composite", "prompt", "composite"]
    tiles.nth(2).locator(".open").focus()
    page.keyboard.press("Shift+Digit3")
    assert tiles.nth(2).get_attribute("data-view") == "alpha"


def focused(page: Page) -> int:
    found = page.evaluate("[...document.querySelectorAll('#grid .open')].indexOf(document.activeElement)")
    return int(found)


def test_keys_move_open_and_close(page: Page) -> None:
    page.keyboard.press("j")
    assert focused(page) == 0
    page.keyboard.press("j")
    page.keyboard.press("ArrowRight")
    assert focused(page) == 2
    page.keyboard.press("ArrowDown")
    columns = focused(page) - 2
    assert columns >= 4, "the one below"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("k")
    assert focused(page) == 1
    page.keyboard.press("Enter")
    assert page.locator("#viewer").is_visible()
    assert page.text_content("#viewer-place") == "2 of 48"
    page.keyboard.press("ArrowRight")
    assert page.text_content("#viewer-place") == "3 of 48"
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    assert focused(page) == 2, "the one that was seen last"
    page.keyboard.press("End")
    assert focused(page) == 47
    page.keyboard.press("Home")
    assert focused(page) == 0


def test_only_one_object_is_a_stop_of_the_tab_key(page: Page) -> None:
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.locator("#grid .open[tabindex='0']").count() == 1
    assert page.locator("#grid [tabindex='0'], #grid button:not([tabindex])").count() == 1


def test_slash_searches_and_question_mark_helps(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("1/j?")
    assert page.input_value("#search") == "1/j?", "keys are letters while one types"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()


def test_the_large_view_compares_and_zooms(page: Page) -> None:
    only(page, "scored clock")
    page.locator("#grid .open").click()
    captions = page.locator("#stage figcaption")
    assert captions.all_text_contents() == ["prompt", "alpha", "composite"]
    page.keyboard.press("+")
    page.keyboard.press("+")
    zoomed = page.eval_on_selector_all("#stage .pic", "all => all.map(one => getComputedStyle(one).transform)")
    assert [one.startswith("matrix(2.25, 0, 0, 2.25, -") for one in zoomed] == [True] * 3, "all of them alike"
    page.keyboard.press("0")
    page.keyboard.press("1")
    assert captions.all_text_contents() == ["photo"]
    assert "predicted_mad" in (page.text_content("#viewer-facts") or "")


def test_the_pictures_are_those_of_the_objects(page: Page) -> None:
    only(page, "scored cup")
    page.click("#views [data-view=photo]")
    for _ in range(50):
        page.wait_for_timeout(100)
        red, _, blue = colour_at(page, 0.5, 0.45, "#grid .pic")
        if red > blue + 40:
            return
    pytest.fail("coffee is brown")


def test_nothing_can_be_run_that_is_not_the_pages_own(page: Page, tab: tuple[Tab, str]) -> None:
    page.evaluate(
        """() => { const made = document.createElement("script"); made.textContent = "document.title = 'owned'";
        document.body.append(made); }"""
    )
    assert page.title().startswith("Run ")
    (error,) = tab[0].errors
    assert "Content Security Policy" in error
    tab[0].errors.clear()


def test_a_page_without_objects_opens(tmp_path: Path, tab: tuple[Tab, str]) -> None:
    opened, _ = tab
    run = demo_run(str(tmp_path / "run"), tmp_path / "corpus", sheet=0, objects=0)
    write_report(run.path, run.reconcile(SHARDS))
    opened.errors.clear()
    opened.page.goto((Path(run.path) / "report" / "index.html").as_uri() + "#objects")
    opened.page.wait_for_selector("html[data-ready]")
    assert opened.page.locator("#nothing").is_visible()
    assert opened.errors == []


def test_without_scores_the_page_shows_some_objects(tmp_path: Path, tab: tuple[Tab, str]) -> None:
    opened, _ = tab
    run = demo_run(str(tmp_path / "run"), tmp_path / "corpus", sheet=0)
    write_report(run.path, run.reconcile(SHARDS))
    opened.errors.clear()
    opened.page.goto((Path(run.path) / "report" / "index.html").as_uri())
    opened.page.wait_for_selector("html[data-ready]")
    assert opened.page.locator("#some .tile").count() == 12
    assert not opened.page.locator("#worst").is_visible()
    assert storage.exists(str(tmp_path / "run" / "report" / "pictures"))
    assert opened.errors == []
