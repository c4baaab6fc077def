import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from pipeline.quality.figures import (
    expected_calibration_error,
    figures,
    reliability,
    risk_coverage,
    share_in_worst,
    spearman,
)

ERRORS = np.array([0.1, 0.2, 0.3, 0.4, 1.0])
few = st.lists(st.integers(0, 5), min_size=4, max_size=30).filter(lambda found: len(set(found)) > 1)


@given(few)
def test_rank_correlation_is_scipys_with_ties(values: list[int]) -> None:
    other = values[::-1]
    assert spearman(np.array(values), np.array(other)) == pytest.approx(spearmanr(values, other).statistic, abs=1e-9)


def test_rank_correlation_of_a_constant_is_not_a_number() -> None:
    assert math.isnan(spearman(np.ones(5), ERRORS))


def test_the_worst_fifth_of_a_perfect_order_holds_the_greatest_errors() -> None:
    assert share_in_worst(ERRORS, ERRORS) == pytest.approx(0.5)
    assert share_in_worst(-ERRORS, ERRORS) == pytest.approx(0.05)


def test_a_record_at_the_edge_counts_in_part() -> None:
    assert share_in_worst(ERRORS, ERRORS, share=0.3) == pytest.approx((1.0 + 0.5 * 0.4) / 2)


def test_records_of_equal_prediction_share_their_error_whatever_their_order() -> None:
    assert share_in_worst(np.zeros(5), ERRORS) == pytest.approx(0.2)
    assert np.allclose(risk_coverage(np.zeros(5), ERRORS), 0.4)


def test_risk_grows_with_coverage_in_the_best_order_and_ends_at_the_mean() -> None:
    assert np.allclose(risk_coverage(ERRORS, ERRORS), [0.1, 0.15, 0.2, 0.25, 0.4])
    assert risk_coverage(-ERRORS, ERRORS)[0] == 1.0


def test_calibration_error_is_the_mean_distance_of_bins_from_their_errors() -> None:
    true = np.linspace(0, 1, 100)
    assert expected_calibration_error(true, true) == pytest.approx(0)
    assert expected_calibration_error(true + 0.1, true) == pytest.approx(0.1)
    assert expected_calibration_error(true[:3] + 0.1, true[:3]) == pytest.approx(0.1)  # fewer records than bins


def test_bins_hold_equally_many_records_in_the_order_of_their_prediction() -> None:
    means, errors, counts = reliability(np.array([3.0, 1.0, 2.0, 4.0]), np.array([30.0, 10.0, 20.0, 40.0]), bins=2)
    assert means.tolist() == [1.5, 3.5]
    assert errors.tolist() == [15.0, 35.0]
    assert counts.tolist() == [2, 2]


def test_all_figures_of_a_shuffled_prediction_are_those_of_chance() -> None:
    rng = np.random.default_rng(0)
    true = rng.gamma(1.0, 0.02, 20_000)
    found = figures(rng.permutation(true), true)
    assert abs(found.spearman) < 0.03
    assert found.worst_share == pytest.approx(0.2, abs=0.02)
    assert found.aurc == pytest.approx(found.aurc_random, rel=0.05)
    assert found.aurc_oracle < 0.6 * found.aurc_random
    assert found.worst_share_oracle > 0.5
    assert found.ece_relative == pytest.approx(found.ece / found.mean_mad)
