import json

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor

from pipeline.errors import ConfigurationError
from pipeline.quality import fit as fitting
from pipeline.quality.calibration import Calibration, prepared
from pipeline.quality.calibration_file import MISSING, Second, decoded, encoded
from pipeline.quality.figures import spearman
from pipeline.quality.fit import FOLDS, Samples, fit
from pipeline.quality.inputs import inputs
from support.calibrating import ORIGIN, fitted, records, samples


def test_numpy_predicts_what_scikit_learn_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[GradientBoostingRegressor] = []
    boosted = fitting._boosted

    def keeping(*arguments: object) -> GradientBoostingRegressor:
        kept.append(boosted(*arguments))
        return kept[-1]

    monkeypatch.setattr(fitting, "_boosted", keeping)
    made = fit(samples(300, damaged=60), ORIGIN, Second(kind="flip"), {})
    calibration = Calibration.of(decoded(encoded(made.content), "file"))  # through the file, as workers do
    content = calibration.content
    for rows in (samples(300, damaged=60).rows, records(500, seed=1)[0]):  # what the splits were made from, and others
        values = prepared(inputs(rows, [feature.name for feature in content.features]), content.features)
        theirs = kept[-1].predict(values)
        assert np.allclose(calibration._nodes.sums(values) + content.start, theirs, rtol=0, atol=1e-6)
        curve = np.interp(theirs, content.curve.x, content.curve.y)
        assert np.allclose(calibration.predict(rows), curve, rtol=0, atol=1e-6)


def test_new_records_are_ranked_and_their_mean_error_is_met() -> None:
    rows, mad = records(600, seed=7)
    predicted = Calibration.of(fitted().content).predict(rows)
    assert spearman(predicted, mad) > 0.9
    assert predicted.mean() == pytest.approx(mad.mean(), rel=0.1)
    assert len(np.unique(predicted)) > 550


def test_figures_are_of_images_that_the_trees_have_not_seen() -> None:
    known = samples()
    rng = np.random.default_rng(0)
    # One error per image, which nothing tells but the image's own coverage: memory alone could predict it.
    own = rng.random(200)
    rows = [{**row, "coverage": float(own[index // 3])} for index, row in enumerate(known.rows)]
    noise = Samples(rows, np.repeat(rng.random(200) * 0.1, 3), known.images, known.damage)
    assert abs(fit(noise, ORIGIN, Second(kind="none"), {}).figures.spearman) < 0.25
    assert fitted().figures.spearman > 0.9
    assert len(fitted().left_out) == 600
    assert fitted().content.figures["folds"] == FOLDS


def test_damaged_mattes_are_in_no_figure_and_extend_the_curve() -> None:
    rows, mad = records(700)
    damage = np.array([""] * 600 + ["blur"] * 100)
    worse = [{**row, "softness": 1.5 + row["softness"]} for row in rows[600:]]
    images = np.array([f"image {index // 3}" for index in range(700)])
    mixed = Samples([*rows[:600], *worse], np.concatenate([mad[:600], mad[600:] + 0.3]), images, damage)
    made = fit(mixed, ORIGIN, Second(kind="none"), {})
    assert made.content.figures["records"] == 600
    assert made.content.data["damaged"] == 100
    assert made.content.figures["damaged_seen"]["blur"] > 0.9
    assert made.content.curve.y[-1] > 0.2 > fitted().content.curve.y[-1]
    assert mixed.own().mad.tolist() == mad[:600].tolist()


def test_a_single_pass_does_not_look_at_the_second() -> None:
    names = {feature.name for feature in fitted().content.features}
    assert not {"second_difference", "second_agreement", "second_share"} & names
    assert {feature.name for feature in fitted("flip").content.features} - names == {
        "second_difference",
        "second_agreement",
        "second_share",
    }


def test_what_is_never_missing_when_fitting_is_replaced_by_its_median() -> None:
    features = {feature.name: feature for feature in fitted().content.features}
    soft = [row["softness"] for row in samples().rows]
    assert features["softness"].missing == pytest.approx(np.median(soft))
    assert features["prompt_iou"].missing == MISSING
    assert features["softness"].greatest == pytest.approx(max(soft))


def test_a_feature_that_no_record_has_does_no_harm() -> None:
    known = samples(300)
    rows = [{**row, "laplacian_energy": None} for row in known.rows]
    made = fit(Samples(rows, known.mad, known.images, known.damage), ORIGIN, Second(kind="none"), {})
    assert np.isfinite(Calibration.of(made.content).predict(known.rows)).all()


def test_perfect_mattes_are_no_reason_to_fail() -> None:
    known = samples(120)
    made = fit(Samples(known.rows, np.zeros(120), known.images, known.damage), ORIGIN, Second(kind="none"), {})
    assert Calibration.of(made.content).predict(known.rows).max() == 0
    assert made.content.figures["spearman"] is None
    json.loads(encoded(made.content), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_few_images_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 20 images with mattes, and there are 10; give more data"):
        fit(samples(30), ORIGIN, Second(kind="none"), {})


def test_the_file_is_small_and_the_same_again() -> None:
    again, before = fit(samples(), ORIGIN, Second(kind="none"), {"sets": []}).content, fitted().content
    nothing = {"code": {}}  # somebody may edit the working tree between the two
    assert encoded(again.model_copy(update=nothing)) == encoded(before.model_copy(update=nothing))
    assert len(encoded(again)) < 300_000
