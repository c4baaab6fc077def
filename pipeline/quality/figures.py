"""How good a predicted error is, held against the true one.

All functions take arrays of the same length: what was predicted (or any score that grows with the error) and the true
mean absolute errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

WORST = 0.2
"""Share of the records that :func:`share_in_worst` looks at."""

BINS = 10
"""Bins of equal count of the reliability diagram."""


@dataclass(frozen=True, slots=True)
class ScoreFigures:
    """Figures of a predicted error.

    Attributes:
        records: How many records they are over.
        mean_mad: Mean of the true errors.
        mean_predicted: Mean of the predicted ones.
        spearman: Rank correlation of predicted and true errors, -1 to 1.
        worst_share: Share of the total error that the worst-scored fifth of the records holds, 0 to 1.
        worst_share_oracle: What that fifth could hold at most.
        ece: Expected calibration error (unit: as the errors).
        ece_relative: The same, divided by the mean of the true errors.
        aurc: Area under the risk-coverage curve: the mean error of the accepted part, over all its sizes.
        aurc_random: That of a random order.
        aurc_oracle: That of the best order.
    """

    records: int
    mean_mad: float
    mean_predicted: float
    spearman: float
    worst_share: float
    worst_share_oracle: float
    ece: float
    ece_relative: float
    aurc: float
    aurc_random: float
    aurc_oracle: float


def figures(predicted: NDArray[np.floating], true: NDArray[np.floating]) -> ScoreFigures:
    """Compute all figures.

    Args:
        predicted: `(N,)` predicted errors, at least 2 of them.
        true: `(N,)` true errors.
    """
    mean = float(np.mean(true))
    ece = expected_calibration_error(predicted, true)
    return ScoreFigures(
        records=len(true),
        mean_mad=mean,
        mean_predicted=float(np.mean(predicted)),
        spearman=spearman(predicted, true),
        worst_share=share_in_worst(predicted, true),
        worst_share_oracle=share_in_worst(true, true),
        ece=ece,
        ece_relative=ece / mean if mean else float("nan"),
        aurc=float(risk_coverage(predicted, true).mean()),
        aurc_random=mean,
        aurc_oracle=float(risk_coverage(true, true).mean()),
    )


def spearman(predicted: NDArray[np.floating], true: NDArray[np.floating]) -> float:
    """Return Spearman's rank correlation; NaN where one of them is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(values) for values in (predicted, true)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def share_in_worst(predicted: NDArray[np.floating], true: NDArray[np.floating], share: float = WORST) -> float:
    """Return the share of the total error that the records of the highest prediction hold, 0 to 1.

    Args:
        predicted: `(N,)`; records of equal prediction count as if their order were random.
        true: `(N,)`.
        share: Of the records; a record at its edge counts in part.
    """
    errors = _averaged(predicted, true)[::-1]  # worst first
    total = float(errors.sum())
    if not total:
        return float("nan")
    wanted = share * len(errors)
    whole = int(wanted)
    rest = (wanted - whole) * float(errors[whole]) if whole < len(errors) else 0.0
    return (float(errors[:whole].sum()) + rest) / total


def expected_calibration_error(predicted: NDArray[np.floating], true: NDArray[np.floating], bins: int = BINS) -> float:
    """Return the mean over bins of equal count of |mean predicted - mean true error|, weighted by their records."""
    means, errors, counts = reliability(predicted, true, bins)
    return float(np.sum(np.abs(means - errors) * counts) / counts.sum())


def reliability(
    predicted: NDArray[np.floating], true: NDArray[np.floating], bins: int = BINS
) -> tuple[Values, Values, NDArray[np.int64]]:
    """Return, for bins of equal count by prediction, the mean prediction, the mean true error, and the counts.

    Fewer records than bins make a bin each.
    """
    order = np.argsort(predicted, kind="stable")
    parts = [part for part in np.array_split(order, bins) if part.size]
    values = [np.asarray(values, np.float64) for values in (predicted, true)]
    means, errors = (np.array([v[part].mean() for part in parts]) for v in values)
    return means, errors, np.array([part.size for part in parts], np.int64)


def risk_coverage(predicted: NDArray[np.floating], true: NDArray[np.floating]) -> Values:
    """Return the mean true error of the n records of the lowest prediction, for n = 1 to N.

    The mean of these values is the AURC (Geifman & El-Yaniv 2017, section 2; the loss is the error itself).
    """
    errors = _averaged(predicted, true)
    return np.cumsum(errors) / np.arange(1, len(errors) + 1)


def _averaged(predicted: NDArray[np.floating], true: NDArray[np.floating]) -> Values:
    """Return the true errors in the order of the predictions; those of equal prediction are their mean."""
    _, groups = np.unique(predicted, return_inverse=True)
    counts = np.bincount(groups)
    means = np.bincount(groups, weights=np.asarray(true, np.float64)) / counts
    return np.repeat(means, counts)
