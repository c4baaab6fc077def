from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigurationError
from pipeline.provenance import ModelIdentity
from pipeline.quality.calibration import Calibration
from pipeline.quality.calibration_file import Content, Curve, Feature, Origin, Second, Tree, encoded
from pipeline.quality.scoring import Score, Scorer
from support.run_rows import label_config

MODEL = ModelIdentity("mine", "ab" * 32, "float32", 192)


def calibration(kind: str = "none") -> Calibration:
    """Predicts .02 for mattes of which less than half is seen, .04 for others."""
    tree = Tree(
        feature=[0, -1, -1],
        threshold=[0.5, 0, 0],
        left=[1, 0, 0],
        right=[2, 0, 0],
        value=[0, 0.02, 0.04],
    )
    return Calibration.of(
        Content(
            format=1,
            model=Origin(name="mine", weights_sha256="ab" * 32, input_size=192, resize="square"),
            second=Second.model_validate({"kind": kind}),
            features=[Feature(name="coverage", least=0, greatest=1, missing=0)],
            start=0,
            trees=[tree],
            curve=Curve(x=[0, 1], y=[0, 1]),
        )
    )


def scorer(tmp_path: Path, made: Calibration, model: ModelIdentity = MODEL, **quality: Any) -> Scorer:
    file = tmp_path / "calibration.json"
    file.write_bytes(encoded(made.content))
    return Scorer(label_config("out", quality={"calibration": str(file), **quality}), model)


def row(coverage: float, **features: Any) -> dict[str, Any]:
    return {"coverage": coverage, "prompt_kind": "box", "transparent": False, **features}


def test_records_get_what_the_calibration_predicts_its_quality_and_its_id(tmp_path: Path) -> None:
    low, high = scorer(tmp_path, calibration())([row(0.2), row(0.8)])
    assert (low.predicted_mad, high.predicted_mad) == (pytest.approx(0.02), pytest.approx(0.04))
    assert (low.quality, high.quality) == (pytest.approx(0.5), pytest.approx(0.25))
    assert low.calibration == calibration().id
    assert low.calibration_matches is True


@pytest.mark.parametrize("changed", [{"weights_sha256": "cd" * 32}, {"input_size": 256}])
def test_a_score_for_another_model_is_marked(tmp_path: Path, changed: dict[str, Any]) -> None:
    model = ModelIdentity(**{**vars(MODEL), **changed})
    (score,) = scorer(tmp_path, calibration(), model)([row(0.2)])
    assert score.predicted_mad == pytest.approx(0.02)
    assert score.calibration_matches is False


def test_a_record_without_its_second_matte_is_marked(tmp_path: Path) -> None:
    made = scorer(tmp_path, calibration("flip"), second="flip")
    there = {"second_difference": 0.01, "second_agreement": 0.9}
    assert [score.calibration_matches for score in made([row(0.2, **there), row(0.2)])] == [True, False]


def test_a_run_with_a_second_pass_does_not_match_a_calibration_without(tmp_path: Path) -> None:
    there = {"second_difference": 0.01, "second_agreement": 0.9}
    (score,) = scorer(tmp_path, calibration("none"), second="flip")([row(0.2, **there)])
    assert score.calibration_matches is False


def test_none_leaves_records_without_scores() -> None:
    made = Scorer(label_config("out", quality={"calibration": "none"}), MODEL)
    assert made([row(0.2)]) == [Score()]


def test_a_calibration_that_is_not_there_says_so(tmp_path: Path) -> None:
    config = label_config("out", quality={"calibration": str(tmp_path / "gone.json")})
    with pytest.raises(ConfigurationError, match=r"gone\.json.*jobs/calibrate\.py"):
        Scorer(config, MODEL)
