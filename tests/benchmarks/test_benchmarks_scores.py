"""What `make score-report` makes of its measurements; the measuring itself takes minutes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import scores
from benchmarks.nano_set import KINDS, Kind, Picture, Thing
from benchmarks.score_plots import write_plots
from benchmarks.scores import Scored, Verdict
from pipeline.quality.calibration import bundled
from sdmatte import Box, Mask, Points, SDMatte
from sdmatte.configs import BUNDLED


def scored(predicted: np.ndarray, true: np.ndarray) -> list[Scored]:
    kinds = ("box", "mask", "points")
    return [
        Scored(
            "scenes" if index % 4 else "photographs",
            f"picture {index}",
            "thing",
            kinds[index % 3],
            index % 2 == 0,
            p,
            t,
        )
        for index, (p, t) in enumerate(zip(predicted.tolist(), true.tolist(), strict=True))
    ]


def measured(noise: float) -> dict[str, list[Scored]]:
    rng = np.random.default_rng(0)
    true = rng.gamma(0.4, 0.05, 400)
    return dict.fromkeys(scores.PASSES, scored(true * np.exp(rng.normal(0, noise, 400)), true))


def test_good_scores_meet_every_target_and_bad_ones_none_but_cost() -> None:
    good = scores.judge(scores.tables(measured(0.1))[1], ratio=0.1)
    assert len(good) == 7
    assert all(verdict.met for verdict in good)
    bad = scores.judge(scores.tables(measured(3.0))[1], ratio=0.1)
    assert [verdict.met for verdict in bad] == [False] * 6 + [True]
    assert not scores.judge(scores.tables(measured(0.1))[1], ratio=0.16)[-1].met


def test_what_is_not_a_number_is_missed() -> None:
    assert not Verdict("any", float("nan"), 0.5, at_least=True).met
    assert "MISSED" in str(Verdict("any", float("nan"), 0.5, at_least=False))


def test_photographs_stand_by_themselves() -> None:
    text, found = scores.tables(measured(0.5))
    assert found["single"]["photographs"].records == 100
    assert found["single"]["scenes"].records == 300
    assert "single, photographs" in text


def test_plots_are_pictures(tmp_path: Path) -> None:
    write_plots({name: scores.arrays(rows) for name, rows in measured(0.5).items()}, tmp_path)
    for name in ("quality_reliability.png", "quality_risk_coverage.png"):
        with Image.open(tmp_path / name) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def picture(*kinds: Kind) -> Picture:
    rng = np.random.default_rng(0)
    alpha = np.zeros((96, 128), np.uint8)
    alpha[20:70, 30:90] = 255
    image = np.where(alpha[..., None] > 0, rng.integers(150, 256, (96, 128, 3)), rng.integers(0, 100, (96, 128, 3)))
    prompts = {"box": Box(30, 20, 90, 70), "mask": Mask(alpha > 0), "points": Points([(60, 40), (50, 50)])}
    prompts = {kind: prompts[kind] for kind in kinds}
    return Picture("one", "photographs", image.astype(np.uint8), (Thing("thing", alpha, None, False, prompts, {}),))


@pytest.fixture(scope="module")
def model() -> SDMatte:
    return SDMatte.from_pretrained(BUNDLED, device="cpu")


def test_scores_come_from_the_stage_and_its_bundled_calibration(model: SDMatte) -> None:
    rows = list(scores.score([picture(*KINDS)], "flip", model))
    assert [row.kind for row in rows] == ["box", "mask", "points"]
    assert all(row.first and row.set == "photographs" for row in rows)
    assert all(0 < row.predicted < 1 and 0 < row.true < 1 for row in rows)
    best = min(each.content.curve.y[0] for each in bundled())
    assert min(row.predicted for row in rows) >= best - 1e-6


def test_the_cost_is_measured_with_and_without_features(model: SDMatte, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.stages import matte

    seen: list[int] = []
    features = matte.features

    def counted(*arguments: object) -> object:
        seen.append(1)
        return features(*arguments)

    monkeypatch.setattr(matte, "features", counted)
    with_scores, without, _ = scores.cost([picture("box")], model, rounds=1)
    assert len(seen) == 2  # in the first round and one more, on one side alone
    assert matte.features is counted
    assert with_scores > 0 < without
