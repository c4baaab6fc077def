"""One object on one image, said in each format, becomes the same prompt."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import PromptsConfig
from pipeline.masks import decode_png
from pipeline.prompt_formats import LABELS, READERS
from support.brush import packed, rgba
from support.corpora import image, read_rows, reading_config

X0, Y0, X1, Y1 = BOX = [8, 6, 24, 21]  # on an image of 40 x 30 pixels
CORNERS = [X0, Y0, X1, Y0, X1, Y1, X0, Y1]
POINTS = list(zip(CORNERS[::2], CORNERS[1::2], strict=True))
INSIDE = np.zeros((30, 40), bool)
INSIDE[Y0:Y1, X0:X1] = True


def parquet(**columns):
    file = io.BytesIO()
    pq.write_table(pa.table({name: [value] for name, value in columns.items()}), file)
    return file.getvalue()


def dump(value):
    return json.dumps(value).encode()


def coco(**keys):
    return dump(
        {
            "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
            "annotations": [{"image_id": 1, "category_id": 1, **keys}],
        }
    )


def label_studio(kind, value):
    size = {"original_width": 40, "original_height": 30}
    result = {"type": kind, "to_name": "image", "value": value, **size}
    return dump([{"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-a.png"}, "annotations": [{"result": [result]}]}])


def cvat(shape):
    return f'<annotations><image name="a.png" width="40" height="30">{shape}</image></annotations>'.encode()


def labelme(kind, points):
    return dump({"shapes": [{"points": points, "shape_type": kind}], "imageWidth": 40, "imageHeight": 30})


def joined(points):
    return ";".join(f"{x},{y}" for x, y in points)


PERCENT = [[x / 0.4, y / 0.3] for x, y in POINTS]
FRACTIONS = " ".join(f"{x / 40} {y / 30}" for x, y in POINTS)
ALPHA = np.where(INSIDE, 255, 0).astype(np.uint8)

BOXES = {
    "jsonl": dump({"image": "a.png", "box": BOX}),
    "parquet": parquet(image="a.png", box=BOX),
    "coco": coco(bbox=[X0, Y0, X1 - X0, Y1 - Y0]),
    "label_studio": label_studio("rectangle", {"x": 20, "y": 20, "width": 40, "height": 50}),
    "cvat": cvat(f'<box xtl="{X0}" ytl="{Y0}" xbr="{X1}" ybr="{Y1}"/>'),
    "yolo": b"0 0.4 0.45 0.4 0.5",
    "labelme": labelme("rectangle", [[X1, Y0], [X0, Y1]]),
}
MASKS = {
    "jsonl": dump({"image": "a.png", "mask": {"polygon": [CORNERS]}}),
    "parquet": parquet(image="a.png", mask={"polygon": [CORNERS]}),
    "coco": coco(segmentation=[CORNERS]),
    "label_studio": label_studio("polygon", {"points": PERCENT}),
    "brush": label_studio("brush", {"format": "rle", "rle": packed(rgba(ALPHA))}),
    "cvat": cvat(f'<polygon points="{joined(POINTS)}"/>'),
    "cvat mask": cvat(f'<mask rle="0, {16 * 15}" left="{X0}" top="{Y0}" width="16" height="15"/>'),
    "yolo": f"0 {FRACTIONS}".encode(),
    "labelme": labelme("polygon", POINTS),
}
CLICKS = {
    "jsonl": dump({"image": "a.png", "points": [[8, 6]]}),
    "parquet": parquet(image="a.png", points=[[8, 6]]),
    "label_studio": label_studio("keypoint", {"x": 20, "y": 20}),
    "cvat": cvat('<points points="8,6"/>'),
    "labelme": labelme("point", [[8, 6]]),
}


def prompt(folder, name, data):
    kind = {"brush": "label_studio", "cvat mask": "cvat"}.get(name, name)
    (folder / "in").mkdir()
    (folder / "in/a.png").write_bytes(image())
    path = folder / "prompts" if kind in READERS else folder / f"labels/a{LABELS[kind].suffix}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    prompts = {"kind": kind, "path": str(path if kind in READERS else path.parent)}
    row, _ = read_rows(reading_config("folder", folder / "in", prompts=prompts))
    (found,) = row["prompts"]
    assert found["error_code"] is None, found["error_message"]
    return found


@pytest.mark.parametrize("name", BOXES)
def test_boxes(tmp_path, name):
    assert prompt(tmp_path, name, BOXES[name])["box"] == pytest.approx(BOX)


@pytest.mark.parametrize("name", MASKS)
def test_masks(tmp_path, name):
    np.testing.assert_array_equal(decode_png(prompt(tmp_path, name, MASKS[name])["mask"]) > 0, INSIDE)


@pytest.mark.parametrize("name", CLICKS)
def test_points(tmp_path, name):
    (point,) = prompt(tmp_path, name, CLICKS[name])["points"]
    assert point == pytest.approx([8, 6])


def test_every_configured_kind_has_a_format():
    kinds = PromptsConfig.model_json_schema()["properties"]["kind"]["enum"]
    assert {*READERS, *LABELS, "inline"} == set(kinds)
    assert set(BOXES) == {*READERS, *LABELS}
