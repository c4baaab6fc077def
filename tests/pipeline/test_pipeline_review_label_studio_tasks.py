import base64
import json

import numpy as np
import pytest

from pipeline.errors import BadInputError
from pipeline.prompt_formats.brush import decode_levels
from pipeline.review.label_studio_tasks import task_of
from support.review_items import all_levels, made_item


def results(task):
    return {result["from_name"]: result for result in task["predictions"][0]["result"]}


def test_a_task_holds_the_matte_with_all_levels_and_the_prompt_in_percent():
    item = made_item(7, 480, 320, prompt_box=[48.0, 32.0, 240.0, 160.0], prompt_points=[[120.0, 80.0]])
    task, picture = task_of(item, "embed")
    assert picture is None
    found = results(task)
    mask = decode_levels(found["mask"]["value"]["rle"], 480, 320)
    np.testing.assert_array_equal(mask, all_levels(480, 320))
    assert len(np.unique(mask)) == 256
    box, point = found["prompt_box"]["value"], found["prompt_points"]["value"]
    assert [box[key] for key in ("x", "y", "width", "height")] == pytest.approx([10, 10, 40, 40])
    assert (point["x"], point["y"]) == pytest.approx((25, 25))
    assert found["prompt_box"]["readonly"]
    assert "readonly" not in found["mask"]
    assert task["data"]["rank"] == 7


def test_ids_are_texts_as_javascript_would_round_them():
    task, _ = task_of(made_item(record_id=-(2**63) + 1), "embed")
    assert task["data"]["record_id"] == task["meta"]["record_id"] == "-9223372036854775807"
    assert task["data"]["run_id"] == task["meta"]["run_id"] == "2026-run"


def test_texts_of_the_input_become_one_bounded_line_and_nothing_else():
    hostile = "<script>alert(1)</script>\x00\x1b[31m\n\u202e" + "x" * 500 + "\udcff"
    task, _ = task_of(made_item(label=hostile, image_key=hostile, output="s3://me:secret@bucket/out"), "embed")
    title = task["data"]["title"]
    assert title.startswith("<script>alert(1)</script>")  # the editor escapes it: see the integration test
    assert title.isprintable()
    assert len(title) < 450
    assert "secret" not in json.dumps(task)
    json.dumps(task).encode("ascii")


def test_a_heading_says_how_sure_the_score_is():
    def about(**columns):
        return task_of(made_item(**columns), "embed")[0]["data"]["about"]

    assert about() == "predicted error 0.0400; quality 0.25"
    assert about(calibration_matches=False).startswith("predicted error 0.0400, not calibrated for this model;")
    assert about(predicted_mad=None, quality=float("nan")) == "no score"
    assert about(reason="quality 0.25 < 0.5").endswith("; quality 0.25 < 0.5")


def test_an_empty_matte_has_no_brush():
    task, _ = task_of(made_item(mask=np.zeros((32, 48), np.uint8)), "embed")
    assert "mask" not in results(task)
    assert task["data"]["has_matte"] is False
    assert task_of(made_item(), "embed")[0]["data"]["has_matte"] is True


def test_boxes_that_leave_the_image_are_cut_and_points_outside_left_out():
    task, _ = task_of(made_item(prompt_box=[-5.0, 8.0, 60.0, 16.0], prompt_points=[[-1.0, 3.0], [3.0, 3.0]]), "embed")
    box = results(task)["prompt_box"]["value"]
    assert (box["x"], box["width"]) == (0, 100)
    assert len(task["predictions"][0]["result"]) == 3


# --- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_travel_in_files_in_tasks_or_as_their_address():
    item = made_item()
    task, picture = task_of(item, "files")
    assert picture is not None
    assert task["data"]["image"] == picture.name
    assert picture.data == item.image
    embedded = task_of(item, "embed")[0]["data"]["image"]
    assert base64.b64decode(embedded.removeprefix("data:image/jpeg;base64,")) == item.image
    assert task_of(item, "uri")[0]["data"]["image"] == "s3://bucket/photos/a.jpg"


@pytest.mark.parametrize(
    "uri", [None, "/local/a.jpg", "s3://bucket/a.tar#b.jpg", "javascript:alert(1)", "s3://b/rows.parquet row 3"]
)
def test_addresses_that_no_browser_can_fetch_are_refused(uri):
    with pytest.raises(BadInputError, match="export with images=files or embed"):
        task_of(made_item(image_uri=uri), "uri")


@pytest.mark.parametrize(
    "uri", ["https://bucket.example.org/a.jpg?X-Amz-Signature=0a1b2c", "https://me:secret@example.org/a.jpg"]
)
def test_an_address_that_works_with_credentials_alone_is_refused_and_not_shown(uri):
    with pytest.raises(BadInputError, match="its address holds credentials") as caught:
        task_of(made_item(image_uri=uri), "uri")
    assert "0a1b2c" not in str(caught.value)
    assert "secret" not in str(caught.value)
