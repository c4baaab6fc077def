"""Scores of mattes whose errors are known."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import BadInputError, ErrorCode
from pipeline.evaluation.datasets import Case
from pipeline.evaluation.scoring import SCORES, ScoreTask, mapped, score, scores_table
from pipeline.evaluation.truth import BAND, derive_trimap, read_alpha, read_trimap
from support.truths import HEIGHT, WIDTH, disc, write_gray, write_object

FULL = {"box": [0.0, 0.0, float(WIDTH), float(HEIGHT)]}


def png(levels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def task(tmp_path: Path) -> ScoreTask:
    write_object(tmp_path, "a", trimap="trimap")
    case = Case("mine", "a", tmp_path / "image" / "a.jpg", tmp_path / "alpha" / "a.png", tmp_path / "trimap" / "a.png")
    return ScoreTask(case, "box", FULL, "nano", alpha=png(disc()))


def scored(task: ScoreTask) -> dict[str, Any]:
    row = score(task)
    assert row is not None
    assert list(row) == SCORES.names
    return row


def test_a_perfect_matte_has_no_error(task: ScoreTask) -> None:
    row = scored(task)
    assert (row["status"], row["trimap"], row["method"], row["key"]) == ("ok", "file", "nano", "a")
    assert [row[name] for name in SCORES.names[11:]] == pytest.approx([0.0] * 12, abs=1e-9)


def test_errors_by_hand(task: ScoreTask) -> None:
    truth = disc()
    off = np.clip(truth.astype(int) + 51, 0, 255).astype(np.uint8)  # by a fifth, where there is room
    difference = np.abs(off.astype(float) - truth) / 255
    row = scored(replace(task, alpha=png(off)))
    assert row["mad_whole"] == pytest.approx(difference.mean(), rel=1e-6)
    assert row["mse_whole"] == pytest.approx((difference**2).mean(), rel=1e-6)
    assert row["sad_whole"] == pytest.approx(difference.sum() / 1000, rel=1e-6)
    unknown = (truth > 0) & (truth < 255)
    assert row["mad_unknown"] == pytest.approx(difference[unknown].mean(), rel=1e-6)
    assert row["sad_unknown"] == pytest.approx(difference[unknown].sum() / 1000, rel=1e-6)


def test_baselines_are_computed_where_they_can(task: ScoreTask) -> None:
    row = scored(replace(task, method="prompt", baseline="prompt", alpha=None))
    assert row["mad_whole"] == pytest.approx(1 - (disc() / 255).mean(), rel=1e-6)
    points = {"points": [[28.0, 20.0]]}
    assert score(replace(task, kind="points", prompt=points, baseline="grabcut", alpha=None)) is None
    (task.case.image).write_bytes(b"no image")
    row = scored(replace(task, baseline="prompt", alpha=None))
    assert (row["status"], row["error_code"], row["mad_whole"]) == ("error", "image_unsupported", None)


def test_what_went_wrong_is_a_row(task: ScoreTask) -> None:
    failed = replace(task, alpha=None, error=("prompt_unsupported", "boxes only"))
    row = scored(failed)
    assert (row["status"], row["error_code"], row["error_message"]) == ("error", "prompt_unsupported", "boxes only")
    row = scored(replace(task, alpha=None))
    assert row["error_message"] == "the run has no record of this prompt"
    row = scored(replace(task, alpha=png(disc()[:, :30])))
    assert (row["status"], row["error_code"]) == ("error", "model_failed")
    assert "resize the prediction" in row["error_message"]
    table = scores_table([row, scored(task), scored(failed)])
    assert table["status"].to_pylist() == ["error", "ok", "error"]


def test_the_order_is_kept_in_processes_of_their_own() -> None:
    assert list(mapped(str, range(9), processes=1)) == [str(number) for number in range(9)]


def test_truths_of_every_kind_of_file(tmp_path: Path) -> None:
    levels = disc()
    expected = levels.astype(np.float32) / np.float32(255)
    rgb = np.repeat(levels[..., None], 3, axis=2)
    cutout = np.dstack([np.full_like(rgb, 200), levels])
    for name, pixels in {"gray": levels, "rgb": rgb, "cutout": cutout, "deep": levels.astype(np.uint16) * 257}.items():
        path = tmp_path / f"{name}.png"
        Image.fromarray(pixels).save(path)
        np.testing.assert_allclose(read_alpha(path), expected, atol=1e-6, err_msg=name)
    Image.fromarray(levels >= 128).save(tmp_path / "hard.png")
    np.testing.assert_array_equal(read_alpha(tmp_path / "hard.png"), levels >= 128)
    Image.fromarray(levels).save(tmp_path / "a.jpg", quality=100)
    np.testing.assert_allclose(read_alpha(tmp_path / "a.jpg"), expected, atol=0.02)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(BadInputError) as caught:
        read_alpha(tmp_path / "text.png")
    assert caught.value.code is ErrorCode.IMAGE_UNSUPPORTED


def test_trimaps_read_and_derived(tmp_path: Path) -> None:
    write_gray(tmp_path / "t.png", np.array([[0, 1, 128, 254, 255]], np.uint8))
    assert read_trimap(tmp_path / "t.png").tolist() == [[0, 128, 128, 128, 255]]
    alpha = np.zeros((101, 101), np.float32)
    alpha[:, 50:] = 1
    reach = BAND // 2
    row = derive_trimap(alpha)[50]
    assert (row[: 50 - reach] == 0).all()
    assert (row[50 - reach : 50 + reach] == 128).all()
    assert (row[50 + reach :] == 255).all()
