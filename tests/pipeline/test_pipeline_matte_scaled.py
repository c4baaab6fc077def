"""JPEGs much larger than the model's input, through the stage that mattes."""

import io
import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.config import LabelConfig
from pipeline.quality.image_terms import WORKING_SIDE
from pipeline.schema import IMAGE_ROWS, PROMPT
from pipeline.stages.matte import MatteImages, enough
from pipeline.stages.second import SecondPass
from sdmatte import SDMatte
from sdmatte.scaled import OVERSAMPLING
from support.models import SIZE, mini, photo
from support.run_rows import label_config

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH, HEIGHT = 901, 771
"""The shorter side is four times the model's input, and 3 pixels; neither is even."""


@cache
def nano() -> SDMatte:
    """The bundled model: random weights would make much of the least difference."""
    return SDMatte.from_pretrained(device="cpu")


def jpeg() -> bytes:
    file = io.BytesIO()
    smooth = Image.fromarray(photo(HEIGHT // 8, WIDTH // 8)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    smooth.save(file, "JPEG", quality=95)
    return file.getvalue()


def config(decode: str, **sections: Any) -> LabelConfig:
    made = label_config("out", **sections)
    return made.model_copy(update={"input": made.input.model_copy(update={"decode": decode})})


def label(decode: str, **sections: Any) -> list[dict[str, Any]]:
    empty = dict.fromkeys(field.name for field in PROMPT) | {"transparent": False}
    corner = [WIDTH - 400.0, HEIGHT - 300.0, WIDTH - 30.0, HEIGHT - 20.0]  # outside of what the pixels have
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[100:500, 200:800] = 255
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    prompts = [
        empty | {"record_id": 1, "kind": "box", "box": corner},
        empty | {"record_id": 2, "kind": "mask", "mask": file.getvalue()},
        empty | {"record_id": 3, "kind": "points", "points": [[WIDTH - 40.0, HEIGHT - 40.0]]},
    ]
    row = {"shard": "s", "image_key": "a", "image_uri": "/a", "image_id": 7, "image": jpeg()}
    row |= {"image_width": WIDTH, "image_height": HEIGHT, "prompts": prompts}
    return (
        MatteImages(config(decode, **sections), "run", nano())
        .label(pa.Table.from_pylist([row], IMAGE_ROWS))
        .to_pylist()
    )


def pixels(record: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(record["alpha"]["bytes"])), np.float64)


def test_large_jpegs_are_decoded_smaller_and_their_alphas_are_not() -> None:
    small, full = label("auto"), label("full")
    for here, there in zip(small, full, strict=True):
        assert (here["status"], there["status"]) == ("ok", "ok")
        assert (here["image_notes"], there["image_notes"]) == (["scaled_decode"], [])
        assert (here["image_width"], here["image_height"]) == (WIDTH, HEIGHT)
        assert pixels(here).shape == pixels(there).shape == (HEIGHT, WIDTH)
        # Of a smooth picture there is nothing to lose: what is compared is where prompts and pixels lie.
        assert np.abs(pixels(here) - pixels(there)).mean() < 1
        for name in ("prompt_iou", "prompt_area", "edge_alignment", "colour_overlap"):
            assert (here[name] is None) == (there[name] is None)
            assert here[name] is None or here[name] == pytest.approx(there[name], abs=0.02)
        assert (here["image_phash"] ^ there["image_phash"]).bit_count() <= 2
        assert here["config_hash"] != there["config_hash"]


@pytest.mark.parametrize("second", ["flip", "jitter", "resolution"])
def test_the_second_matte_lies_on_the_first(second: str) -> None:
    small, full = (label(decode, quality={"second": second}) for decode in ("auto", "full"))
    for here, there in zip(small, full, strict=True):
        assert here["second_difference"] == pytest.approx(there["second_difference"], abs=0.01)


def test_enough_is_for_the_larger_input_and_for_the_features() -> None:
    assert enough(config("full"), mini()) is None
    assert enough(config("auto"), mini()) == WORKING_SIDE > OVERSAMPLING * SIZE
    assert enough(config("auto"), mini().resized(512)) == OVERSAMPLING * 512
    larger = config("auto", quality={"second": "resolution", "second_size": 1024})
    assert enough(larger, mini(), SecondPass(larger, mini())) == OVERSAMPLING * 1024


MEMORY = """
import io, resource, sys
from sdmatte.images import decode_image
data = sys.stdin.buffer.read()
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
image = decode_image(data, enough=int(sys.argv[1]) or None)
print(image.width, image.height, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file_format", "options", "enough_side", "megabytes"),
    [
        ("JPEG", {"quality": 90}, 1024, 50),
        ("JPEG", {"quality": 90, "progressive": True}, 1024, 200),  # all its coefficients are kept until the end
        ("JPEG", {"quality": 90}, 0, 400),
        ("PNG", {"compress_level": 1}, 1024, 400),  # no scaling there: 4 bytes per pixel of Pillow's, 3 of ours
    ],
)
def test_decoding_50_megapixels_takes_no_more_memory_than_we_say(
    file_format: str, options: dict[str, Any], enough_side: int, megabytes: int
) -> None:
    file = io.BytesIO()
    tile = photo(500, 500)
    Image.fromarray(np.tile(tile, (12, 17, 1))).save(file, file_format, **options)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(enough_side)], input=file.getvalue(), capture_output=True, check=True
    )
    width, height, used = done.stdout.split()
    assert (int(width), int(height)) == (8500, 6000)
    assert float(used) < megabytes
