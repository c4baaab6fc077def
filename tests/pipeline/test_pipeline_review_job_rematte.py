"""Edited regions of an import are matted again: near the edit only, and no failure costs another object."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import LabelConfig
from pipeline.errors import ConfigurationError
from pipeline.originals import read_originals
from pipeline.review import job
from pipeline.review.job import import_reviews
from pipeline.review.merge import decode_alpha, shown_alpha
from pipeline.review.rematte import Rematter, Rematters
from pipeline.review.store import read_reviews
from support.review_returns import alphas, counts, old, returned, stroke
from support.review_run import SIZE, review_run


@pytest.fixture
def output(tmp_path: Path) -> str:
    return review_run(tmp_path).path


@pytest.fixture(scope="module")
def rematters() -> Rematters:
    """The bundled model, at a small size, for every run."""

    class Small(Rematters):
        def of(self, config: LabelConfig) -> Any:
            model = config.model.model_copy(update={"source": "sdmatte-nano", "input_size": 64})
            return super().of(config.model_copy(update={"model": model}))

    return Small()


def test_matted_again_the_change_stays_near_the_edit(output: str, rematters: Rematters, one_thread: None) -> None:
    mask = shown_alpha(old(3)).copy()
    mask[0:3, 0:3] = 255
    done = import_reviews([output], [returned(output, 3, mask=mask), returned(output, 1)], rematter=rematters)
    assert (counts(done), done.edited, done.rematted, done.notes) == ((2, 2, 0, 0, 0), 1, 1, [])
    rows = {row["record_id"]: row for row in read_reviews(output).to_pylist()}
    assert (rows[3]["rematted"], rows[3]["model"]) == (True, "sdmatte-nano")
    assert (rows[1]["rematted"], rows[1]["model"]) == (False, None)
    now = decode_alpha(alphas(output)[3])
    y, x = np.indices(now.shape)
    far = np.hypot(np.maximum(x - 2, 0), np.maximum(y - 2, 0)) >= 16
    assert far.any()
    assert np.array_equal(now[far], old(3)[far])
    assert rows[3]["edited_pixels"] == (now != old(3)).sum() > 0


def test_originals_are_fetched_for_edited_objects_only(
    output: str, rematters: Rematters, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def watched(uris: Iterable[str], max_pixels: int) -> Iterator[Any]:
        asked.extend(uris)
        return read_originals(asked, max_pixels)

    monkeypatch.setattr(job, "read_originals", watched)
    came = [returned(output, number, mask=shown_alpha(old(number))) for number in (1, 2, 5)]
    done = import_reviews([output], [*came, returned(output, 3, mask=stroke(3))], rematter=rematters)
    assert (done.imported, done.rematted) == (4, 1)
    assert [Path(uri).name for uri in asked] == ["3.jpg"]


def test_a_model_that_fails_on_one_object_costs_no_other(output: str, one_thread: None) -> None:
    class Broken(Rematters):
        def of(self, config: LabelConfig) -> Any:
            return Rematter(broken)  # type: ignore[arg-type]

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    done = import_reviews([output], [returned(output, 3, mask=stroke(3)), returned(output, 1)], rematter=Broken())
    assert (done.imported, done.edited, done.rematted) == (2, 1, 0)
    assert "not matted again: the model failed (mat1 and mat2" in done.notes[0].message
    assert np.array_equal(decode_alpha(alphas(output)[3]), stroke(3))


@pytest.mark.parametrize("why", ["gone", "replaced", "erased"])
def test_what_cannot_be_matted_again_is_imported_as_it_was_corrected(
    tmp_path: Path, output: str, rematters: Rematters, why: str, one_thread: None
) -> None:
    path = tmp_path / "pictures/3.jpg"
    if why == "gone":
        path.unlink()
    elif why == "replaced":
        shutil.copy(tmp_path / "pictures/4.jpg", path)
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8) if why == "erased" else stroke(3)
    done = import_reviews([output], [returned(output, 3, mask=mask)], rematter=rematters)
    assert (done.imported, done.rematted, len(done.notes)) == (1, 0, 1)
    assert "imported as it was corrected; not matted again" in done.notes[0].message
    assert np.array_equal(decode_alpha(alphas(output)[3]), mask)


def test_a_model_that_cannot_be_loaded_stops_before_anything_is_written(tmp_path: Path, output: str) -> None:
    with pytest.raises(ConfigurationError, match="the model can't be used"):
        import_reviews(
            [output], [returned(output, 3, mask=stroke(3))], rematter=Rematters(str(tmp_path / "no-such-model"))
        )
    assert len(read_reviews(output)) == 0
