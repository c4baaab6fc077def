import io
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.schema import IMAGE_ROWS, PROMPT
from pipeline.stages.records import OUTPUT, Work, encode_png, error_records, model_prompt
from sdmatte.errors import PromptError
from sdmatte.images import decode_image
from support.run_rows import MODEL, label_config


def prompt(record_id: int, **fields: Any) -> dict[str, Any]:
    return dict.fromkeys(field.name for field in PROMPT) | {"record_id": record_id} | fields


def row(**fields: Any) -> dict[str, Any]:
    return dict.fromkeys(IMAGE_ROWS.names) | {"shard": "s", "image_key": "a"} | fields


def test_error_records_need_no_model() -> None:
    rows = [
        row(
            prompts=[
                prompt(1, error_code="image_missing", error_message="m"),
                prompt(2, error_code="prompt_missing", error_message="m"),
            ]
        ),
        {"shard": "s", "ledger": {"images": 0, "records": 2, "id_sum": 3, "matched": []}},
    ]
    table = error_records(pa.Table.from_pylist(rows, schema=IMAGE_ROWS), label_config("out"), "run", MODEL)
    assert table.schema == OUTPUT
    assert table["record_id"].to_pylist() == [1, 2, None]
    assert table["error_code"].to_pylist() == ["image_missing", "prompt_missing", None]
    assert table["status"].to_pylist() == ["error", "error", None]
    assert table["weights_sha256"].to_pylist() == [MODEL.weights_sha256, MODEL.weights_sha256, None]
    assert table["ledger"].to_pylist()[-1]["records"] == 2


def test_only_images_that_are_there_and_have_a_usable_prompt_are_wanted() -> None:
    good, bad = prompt(1), prompt(2, error_code="prompt_degenerate")
    assert Work(row(image=b"x", prompts=[bad, good])).is_wanted
    assert not Work(row(image=b"x", prompts=[bad])).is_wanted
    assert not Work(row(image=None, prompts=[good])).is_wanted


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (61, 97)])
def test_alphas_come_back_from_every_reader(dtype: type[np.unsignedinteger], shape: tuple[int, int]) -> None:
    y, x = np.mgrid[: shape[0], : shape[1]]
    largest = np.iinfo(dtype).max
    ramp = ((y * 7 + x * 3) * (largest // 300)).clip(0, largest).astype(dtype)
    noise = np.random.default_rng(0).integers(0, largest, shape, dtype, endpoint=True)
    for alpha in (ramp, noise, np.zeros(shape, dtype), np.full(shape, largest, dtype)):
        data = encode_png(alpha)
        assert data.startswith(b"\x89PNG")
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            assert image.mode in ("L", "I;16")
            np.testing.assert_array_equal(np.asarray(image), alpha)
        np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), alpha)
        found = decode_image(data).pixels[..., 0]
        np.testing.assert_array_equal(found, alpha if dtype == np.uint8 else np.rint(alpha / 257))


def test_smooth_alphas_take_few_bytes() -> None:
    y, x = np.mgrid[:256, :256]
    disc = (np.hypot(y - 128, x - 128) < 90).astype(np.uint8) * 255
    assert len(encode_png(disc)) < 0.05 * disc.size


def test_an_unknown_kind_of_prompt_is_malformed() -> None:
    with pytest.raises(PromptError, match="lasso"):
        model_prompt(prompt(1, kind="lasso"))
