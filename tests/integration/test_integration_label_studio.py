"""There and back: mattes go to a real Label Studio server, are edited in a real browser, and come back."""

import io
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.prompt_formats.brush import encode_levels
from pipeline.review import label_studio
from pipeline.review.items import Returned, ReviewItem
from pipeline.review.label_studio_config import CONFIG
from support.browser import Tab, browser_page
from support.label_studio import LabelStudio, label_studio_server, missing
from support.review_items import all_levels, demo_items, made_item, photo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    pytest.mark.timeout(900),
]

BRUSH, ERASER = ((0.1, 0.2), (0.3, 0.25)), ((0.4, 0.5), (0.6, 0.6))  # strokes, as shares of the image
BRUSH_WIDTH, ERASER_WIDTH = 15, 10  # CSS pixels; the first by label_studio_config.CONFIG, the other is the editor's
MATTE_COLOUR = (255, 0, 204)  # label_studio_config.CONFIG
TURNED = 3  # index of the item whose file is stored lying on its side


@dataclass
class Review:
    """What the browser session left: by index of the item."""

    items: list[ReviewItem]
    project: int
    returned: dict[int, Returned]
    scale: dict[int, float]  # image pixels per CSS pixel while it was edited
    shown: dict[int, tuple[np.ndarray, np.ndarray]]  # screenshots of the stage, with the matte and without


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    with label_studio_server(tmp_path_factory.mktemp("label-studio")) as running:
        yield running


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[ReviewItem]:
    """Three of the demo, one of 6 megapixels turned by EXIF, and one larger than the screen in one direction only."""
    found = demo_items(tmp_path_factory.mktemp("demo"), 3)
    turned = made_item(3, 3000, 2000, image=photo(3000, 2000, orientation=6), prompt_points=[[1500.0, 1000.0]])
    return [*found, turned, made_item(4, 1001, 333)]


@pytest.fixture(scope="module")
def review(server: LabelStudio, items: list[ReviewItem], tmp_path_factory: pytest.TempPathFactory) -> Review:
    """The whole way, once: 0 and 3 are painted and erased in, 1 is only accepted, 2 loses its matte, 4 is painted in
    while it is enlarged."""
    folder = str(tmp_path_factory.mktemp("export") / "project")
    exported = label_studio.export(items, folder, title="Worst mattes")
    assert (exported.tasks, exported.left_out) == (len(items), ())
    pushed = label_studio.push(folder, server.url, server.token)
    assert (pushed.imported, pushed.present) == (len(items), 0)
    again = label_studio.push(folder, server.url, server.token)
    assert (again.project, again.imported, again.present) == (pushed.project, 0, len(items))

    review = Review(items, pushed.project, {}, {}, {})
    tasks = server.call("GET", f"/api/tasks?project={pushed.project}&include=id,data")["tasks"]
    numbers = {task["data"]["rank"]: task["id"] for task in tasks}
    with browser_page(width=1400, height=1050) as tab:
        server.log_in(tab.page)
        for index in range(len(items)):
            _edit(server, tab, review, index, numbers[index])
        assert not [error for error in tab.errors if "Uncaught" in error or "TypeError" in error]
    for one in label_studio.read(label_studio.pull(server.url, server.token, pushed.project)):
        assert isinstance(one, Returned), one
        review.returned[next(i for i, item in enumerate(items) if item.record["record_id"] == one.record_id)] = one
    return review


def _edit(server: LabelStudio, tab: Tab, review: Review, index: int, task: int) -> None:
    page = tab.page
    page.goto(f"{server.url}/projects/{review.project}/data?task={task}")
    stage = page.locator(".konvajs-content").first
    stage.locator("canvas").first.wait_for()
    region = page.locator("[class*=outliner-item]").filter(has_text="Matte").first
    region.wait_for()
    page.wait_for_timeout(2000)  # the matte is drawn once its picture is decoded
    page.keyboard.press("Shift+1")  # to fit; at first the editor may show a part of the image only
    page.wait_for_timeout(500)
    box = stage.bounding_box()
    assert box is not None
    review.scale[index] = review.items[index].record["image_width"] / box["width"]

    with_matte = _screenshot(tab, box)
    page.get_by_label("Hide all regions").click()
    page.wait_for_timeout(500)
    review.shown[index] = with_matte, _screenshot(tab, box)
    page.get_by_label("Show all regions").click()
    page.wait_for_timeout(500)

    if index != 1:
        region.click()
        page.wait_for_timeout(300)
    if index == 2:
        page.keyboard.press("Backspace")
    if index == 4:
        for _ in range(3):
            page.get_by_label("zoom-in").first.click()
            page.wait_for_timeout(200)
    if index in (0, 3, 4):
        page.keyboard.press("b")
        _drag(tab, box, BRUSH)
    if index in (0, 3):
        page.get_by_label("eraser").first.click()
        _drag(tab, box, ERASER)
    if index == 0:
        page.get_by_placeholder("Comment").fill("the ear is missing")
        page.keyboard.press("Enter")
    page.get_by_text({1: "accept", 2: "reject"}.get(index, "fix"), exact=False).first.click()
    with page.expect_response(lambda answer: "/annotations" in answer.url and answer.request.method == "POST") as sent:
        page.get_by_role("button", name="Submit").click()
    assert sent.value.ok


def _screenshot(tab: Tab, box: dict[str, float]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(tab.page.screenshot(clip=box))).convert("RGB")).astype(int)


def _drag(tab: Tab, box: dict[str, float], path: tuple[tuple[float, float], tuple[float, float]]) -> None:
    mouse = tab.page.mouse
    (x0, y0), (x1, y1) = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in path]
    mouse.move(x0, y0)
    mouse.down()
    mouse.move(x1, y1, steps=20)
    mouse.up()
    tab.page.wait_for_timeout(400)


def _alpha(item: ReviewItem) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(item.record["alpha"]["bytes"])))


def _distance(shape: tuple[int, int], path: tuple[tuple[float, float], tuple[float, float]]) -> np.ndarray:
    """Distances of pixels' centres from a stroke's path, in pixels."""
    height, width = shape
    (x0, y0), (x1, y1) = np.array(path) * (width, height)
    down, across = np.mgrid[:height, :width] + 0.5
    along = ((across - x0) * (x1 - x0) + (down - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)
    along = np.clip(along, 0, 1)
    return np.hypot(across - x0 - along * (x1 - x0), down - y0 - along * (y1 - y0))


@pytest.mark.parametrize("index", range(5))
def test_the_matte_is_seen_over_the_upright_picture(review: Review, index: int):
    with_matte, without = review.shown[index]
    height, width = with_matte.shape[:2]
    image = Image.fromarray(_alpha(review.items[index]))
    alpha = np.asarray(image.resize((width, height), Image.Resampling.BOX)).astype(int)
    change = with_matte - without
    assert np.median(np.abs(change).max(2)[alpha >= 0.9 * alpha.max()]) > 30
    # The label's colour lies over the picture as strongly as the alpha says, and nowhere else.
    full = (np.array(MATTE_COLOUR) - without) * (alpha / 255)[..., None]
    strength = (change * full).sum() / (full**2).sum()
    off = np.abs(change - strength * full).max(2)
    assert 0.5 < strength < 0.7  # the editor's own opacity is 0.6
    assert np.quantile(off, 0.95) < 4  # lines and points of the prompt are hidden, too


def test_a_picture_that_is_stored_on_its_side_is_shown_upright(review: Review):
    height, width = review.shown[TURNED][1].shape[:2]
    assert width / height == pytest.approx(1.5, abs=0.01)
    red, green = review.shown[TURNED][1][..., 0], review.shown[TURNED][1][..., 1]
    assert red[:, -20].mean() > 200 > 50 > red[:, 20].mean()
    assert green[-20].mean() > 200 > 50 > green[20].mean()


@pytest.mark.parametrize("index", range(5))
def test_what_was_shown_comes_back_bit_for_bit(review: Review, index: int):
    shown = review.returned[index].shown
    assert shown is not None
    np.testing.assert_array_equal(shown, _alpha(review.items[index]))


def test_a_matte_that_nobody_touched_comes_back_bit_for_bit(review: Review):
    one = review.returned[1]
    assert one.verdict == "accept"
    np.testing.assert_array_equal(one.mask, _alpha(review.items[1]))


@pytest.mark.parametrize("index", [0, 3])
def test_only_pixels_under_strokes_change(review: Review, index: int):
    before, one = _alpha(review.items[index]), review.returned[index]
    assert one.mask is not None
    assert one.verdict == "fix"
    scale = review.scale[index]
    # Distances from the edges of the strokes, negative inside.
    painted = _distance(before.shape, BRUSH) - BRUSH_WIDTH / 2 * scale
    erased = _distance(before.shape, ERASER) - ERASER_WIDTH / 2 * scale
    margin = 1.5 * scale + 1  # the mouse's position is rounded to CSS pixels
    untouched = np.minimum(painted, erased) > margin
    np.testing.assert_array_equal(one.mask[untouched], before[untouched])
    assert (one.mask[painted < -margin] == 255).all()
    assert (one.mask[erased < -margin] == 0).all()
    assert (one.mask != before).sum() > 1000


def test_all_levels_outlive_an_edit(review: Review):
    mask = review.returned[TURNED].mask
    assert mask is not None
    before = all_levels(3000, 2000)
    changed = mask != before
    assert 0 < changed.mean() < 0.05
    assert len(np.unique(mask[~changed])) == 256


def test_strokes_on_an_enlarged_image_change_nothing_else(review: Review):
    before, one = _alpha(review.items[4]), review.returned[4]
    assert one.mask is not None
    rows, columns = np.nonzero(one.mask != before)
    assert len(rows) > 100
    assert (one.mask >= before).all()
    # Three steps of the zoom at most double it: the stroke spans less of the image than it does of the screen.
    assert np.ptp(columns) < 0.25 * before.shape[1]
    assert np.ptp(rows) < 0.25 * before.shape[0]


def test_a_matte_that_was_deleted_comes_back_as_erased(review: Review):
    one = review.returned[2]
    assert one.verdict == "reject"
    assert one.mask is not None
    assert not one.mask.any()


def test_who_when_and_what_they_wrote_comes_along(review: Review, server: LabelStudio):
    for one in review.returned.values():
        assert one.reviewer == server.email
        assert one.reviewed_at is not None
        assert one.reviewed_at.tzinfo is not None
        assert one.run_id in {item.record["run_id"] for item in review.items}
    assert review.returned[0].comment == "the ear is missing"
    assert review.returned[1].comment is None


def test_an_export_as_json_says_the_same(review: Review, server: LabelStudio):
    exported = server.call("GET", f"/api/projects/{review.project}/export?exportType=JSON")
    returned = list(label_studio.read(json.loads(json.dumps(exported))))
    assert len(returned) == len(review.items)
    by_id = {one.record_id: one for one in review.returned.values()}
    for one in returned:
        assert isinstance(one, Returned)
        other = by_id[one.record_id]
        assert (one.verdict, one.comment, one.reviewed_at) == (other.verdict, other.comment, other.reviewed_at)
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_array_equal(one.shown, other.shown)


def test_the_server_hands_out_the_worst_first(server: LabelStudio, tmp_path: Path):
    items = [made_item(rank) for rank in range(12)]
    label_studio.export(items, str(tmp_path / "project"), title="Order")
    project = label_studio.push(str(tmp_path / "project"), server.url, server.token).project
    assert server.call("GET", f"/api/projects/{project}/next")["data"]["rank"] == 0
    view = server.call("GET", f"/api/dm/views?project={project}")[0]["id"]
    tasks = server.call("GET", f"/api/tasks?view={view}&project={project}&page_size=100")["tasks"]
    assert [task["data"]["rank"] for task in tasks] == list(range(12))


def test_what_is_missing_is_pushed_and_nothing_else(server: LabelStudio, tmp_path: Path):
    items = [made_item(rank) for rank in range(3)]
    label_studio.export(items, str(tmp_path / "project"), title="Resumed", images="embed")
    project = label_studio.push(str(tmp_path / "project"), server.url, server.token).project
    tasks = server.call("GET", f"/api/tasks?project={project}&include=id")["tasks"]
    server.call("DELETE", f"/api/tasks/{tasks[1]['id']}")
    pushed = label_studio.push(str(tmp_path / "project"), server.url, server.token)
    assert (pushed.project, pushed.imported, pushed.present) == (project, 1, 2)


def test_personal_access_tokens_do(server: LabelStudio, tmp_path: Path):
    token = server.call("POST", "/api/token/", json={})["token"]
    label_studio.export([made_item()], str(tmp_path / "project"), title="Personal")
    pushed = label_studio.push(str(tmp_path / "project"), server.url, token)
    assert pushed.imported == 1
    assert list(label_studio.pull(server.url, token, pushed.project)) == []


SDK = """
import json, sys
import numpy as np
from label_studio_sdk.converter.brush import decode_rle, mask2rle
from label_studio_sdk.label_interface import LabelInterface
given = json.load(sys.stdin)
mask = np.array(given["mask"], np.uint8)
rle = [int(number) for number in mask2rle(mask)]
back = decode_rle(given["rle"]).reshape(*mask.shape, 4)[..., 3]
problems = LabelInterface(given["config"]).validate_prediction(given["prediction"], return_errors=True)
print(json.dumps({"rle": rle, "equal": bool((back == mask).all()), "problems": list(problems or [])}))
"""


def test_the_sdk_agrees_with_what_is_written(server: LabelStudio, tmp_path: Path):
    item = made_item(prompt_points=[[10.0, 12.0], [20.5, 3.25]])
    label_studio.export([item], str(tmp_path / "project"), title="SDK")
    (task,) = json.loads((tmp_path / "project" / "tasks-0001.json").read_text())
    mask = np.vstack([_alpha(item), np.random.default_rng(0).integers(0, 256, (40, 48), np.uint8)])
    given = {
        "mask": mask.tolist(),
        "rle": encode_levels(mask),
        "config": CONFIG,
        "prediction": task["predictions"][0],
    }
    done = subprocess.run(
        [server.python, "-c", SDK], input=json.dumps(given), capture_output=True, text=True, check=True, timeout=300
    )
    answer = json.loads(done.stdout)
    assert answer["problems"] == []
    assert answer["equal"]
    assert answer["rle"] == given["rle"]
