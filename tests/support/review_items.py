"""Objects on their way to reviewers: those of the drawn demo run with soft edges, and one that is made to measure."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from pipeline.originals import read_originals
from pipeline.review.items import ReviewItem
from support.demo_run import demo_run, png

ORIENTATION = 0x0112


def demo_items(folder: Path, count: int) -> list[ReviewItem]:
    """The first objects of the demo run; their drawn alphas are blurred, so that many levels occur."""
    run = demo_run(str(folder / "run"), folder / "corpus")
    records = sorted(run.dataset().to_table().to_pylist(), key=lambda record: record["record_id"])[:count]
    images = dict(read_originals([record["image_uri"] for record in records], 10**8))
    items = []
    for rank, record in enumerate(records):
        alpha = Image.open(io.BytesIO(record["alpha"]["bytes"])).convert("L").filter(ImageFilter.GaussianBlur(12))
        scores = {"run_id": "demo-run", "predicted_mad": 0.05 / (rank + 1)}
        soft = record | scores | {"alpha": {"bytes": png(alpha), "path": None}}
        items.append(ReviewItem(soft, str(folder / "run"), rank, images[record["image_uri"]]))
    return items


def photo(width: int, height: int, kind: str = "JPEG", *, mode: str = "RGB", orientation: int = 1) -> bytes:
    """A photo whose upright size is the given one: red grows to the right, green downwards."""
    down, across = np.mgrid[:height, :width]
    planes = [across * 255 // width, down * 255 // height, np.full_like(across, 60)]
    image = Image.fromarray(np.stack(planes, -1).astype(np.uint8)).convert(mode)
    exif = Image.Exif()
    if orientation == 6:  # to be turned clockwise by 90 degrees
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif[ORIENTATION] = orientation
    file = io.BytesIO()
    image.save(file, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    return file.getvalue()


def all_levels(width: int, height: int) -> np.ndarray:
    """A round mask that holds all of 0 to 255."""
    down, across = np.mgrid[:height, :width]
    distance = np.hypot(down - height / 2, across - width / 2) / min(width, height)
    return np.clip((0.45 - distance) * 3 * 255, 0, 255).astype(np.uint8)


def made_item(rank: int = 0, width: int = 48, height: int = 32, **changes: Any) -> ReviewItem:
    """An object with an alpha of all levels; `image` and `output` are the item's, all else is the record's."""
    image = changes.pop("image", None) or photo(width, height)
    output = changes.pop("output", "/data/out")
    alpha = changes.pop("mask", all_levels(width, height))
    record = {
        "record_id": -(2**63) + rank,
        "run_id": "2026-run",
        "image_key": "photos/a.jpg",
        "image_uri": "s3://bucket/photos/a.jpg",
        "image_width": width,
        "image_height": height,
        "image_sha256": None,
        "label": "cat",
        "transparent": False,
        "prompt_box": [4.0, 3.0, width - 6.0, height - 2.0],
        "prompt_points": None,
        "status": "ok",
        "alpha": {"bytes": png(Image.fromarray(alpha)), "path": None},
        "predicted_mad": 0.04,
        "quality": 0.25,
        "calibration_matches": True,
    }
    return ReviewItem(record | changes, output, rank, image)
