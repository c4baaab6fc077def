from typing import Any

import pyarrow as pa
import pytest

from pipeline.schema import IMAGE_ROWS, PROMPT
from pipeline.stages.records import OUTPUT, Work, error_records, model_prompt
from sdmatte.errors import PromptError
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


def test_an_unknown_kind_of_prompt_is_malformed() -> None:
    with pytest.raises(PromptError, match="lasso"):
        model_prompt(prompt(1, kind="lasso"))
