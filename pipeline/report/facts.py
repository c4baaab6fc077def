"""Figures of a run in the form in which people read them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from pipeline.reconcile import Reconciliation
from pipeline.report.survey import FEATURES, FINE, Distribution, Survey
from pipeline.runs import RunDirectory
from pipeline.schema import RECORDS

LISTED = (*(name for name in FEATURES if name not in ("predicted_mad", "quality")), "fragments", "holes")
"""Features of a record that the page lists."""

_BARS = 25
_LIMITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # where the axis of a distribution over [0, 1] may end
_TAIL = 0.002  # share of the values that may lie beyond
_WIDTH, _HEIGHT = 200.0, 60.0


@dataclass(frozen=True)
class Histogram:
    """Distribution of one column over the ok records.

    Attributes:
        name: Column of the records.
        description: What it is.
        low: Where the axis begins.
        high: Where it ends.
        beyond: Records beyond it; they count in the last bar.
        bars: `(x, y, width, height, words)` in a 200 x 60 drawing.
        count: Records that have a value.
        mean: Their mean.
        median: Their median, to the width of a bin.
    """

    name: str
    description: str
    low: float
    high: float
    beyond: int
    bars: tuple[tuple[float, float, float, float, str], ...]
    count: int
    mean: float
    median: float


@dataclass(frozen=True)
class Pace:
    """How fast the run went.

    Attributes:
        objects: Records that were made in the time.
        seconds: The time.
        since_resumed: It is that since the run was resumed for the last time; else that of the whole run.
    """

    objects: int
    seconds: float
    since_resumed: bool

    @property
    def per_hour(self) -> float:
        """Objects per hour."""
        return self.objects / self.seconds * 3600

    @property
    def per_second(self) -> float:
        """Objects per second."""
        return self.objects / self.seconds

    @property
    def duration(self) -> str:
        """The time in words, such as `2 h 05 min`."""
        minutes, seconds = divmod(round(self.seconds), 60)
        hours, minutes = divmod(minutes, 60)
        if hours:
            return f"{hours:,} h {minutes:02} min"
        return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


@dataclass(frozen=True)
class Calibration:
    """Whether the scores can be believed.

    Attributes:
        state: `none`: there are no scores; `other`: all or some were calibrated for another model; `unknown`: the
            records don't say; `good`.
        names: Calibrations that were used.
        scored: Ok records with a score.
        foreign: Those whose calibration was made for another model, input size or second pass.
        unscored: Ok records without one.
    """

    state: str
    names: tuple[str, ...]
    scored: int
    foreign: int
    unscored: int


def calibration(survey: Survey) -> Calibration | None:
    """Judge the scores; None where the run has no ok record."""
    scored = {key: number for key, number in survey.calibrations.items() if key != (None, None)}
    total = survey.distributions["predicted_mad"].count
    foreign = sum(number for (_, matches), number in scored.items() if matches is False)
    ok = sum(survey.calibrations.values())
    if not ok:
        return None
    unknown = total - foreign - sum(number for (_, matches), number in scored.items() if matches)
    state = "none" if not total else "other" if foreign else "unknown" if unknown else "good"
    names = sorted({name for name, _ in scored if name})
    return Calibration(state, tuple(names), total, foreign, ok - total)


def pace(run: RunDirectory, summary: Reconciliation, survey: Survey) -> Pace | None:
    """Return the run's pace; None where it can't be told.

    A run that was resumed stood still for an unknown time: its pace is that since it was resumed for the last time.
    While `run.json` names no end (the report is written before it), the last record's time is the end.
    """
    resumed = run.info.get("resumed") or []
    begin = datetime.fromisoformat(resumed[-1]["at"] if resumed else run.info["started_at"])
    end = datetime.fromisoformat(run.info["finished_at"]) if run.info.get("finished_at") else survey.last
    objects = survey.since if resumed else summary.found
    if end is None or (end - begin).total_seconds() < 1 or not objects:
        return None
    return Pace(objects, (end - begin).total_seconds(), bool(resumed))


def histograms(survey: Survey) -> tuple[list[Histogram], list[Histogram]]:
    """Return the distributions of the scores, and those of the features; only of columns that have values."""
    found = [
        histogram(name, distribution) for name, distribution in survey.distributions.items() if distribution.count
    ]
    scores = [one for one in found if one.name in ("predicted_mad", "quality")]
    return scores, [one for one in found if one not in scores]


def histogram(name: str, distribution: Distribution) -> Histogram:
    """Draw a distribution; the axis ends where nearly all values lie below."""
    low, high = FEATURES[name]
    counts = distribution.counts
    step = (high - low) / FINE
    if (low, high) == (0.0, 1.0):
        below = np.cumsum(counts)
        high = next(at for at in _LIMITS if below[round(at * FINE) - 1] >= (1 - _TAIL) * below[-1])
    else:
        full = np.flatnonzero(counts)
        low, high = math.floor(low + full[0] * step), math.ceil(low + (full[-1] + 1) * step)
    first, last = round((low - FEATURES[name][0]) / step), round((high - FEATURES[name][0]) / step)
    edges = np.linspace(first, last, _BARS + 1).round().astype(int)
    shown = np.add.reduceat(counts, edges[:-1])
    shown[-1] = counts[edges[-2] :].sum()
    tallest = max(1, int(shown.max()))
    width = _WIDTH / _BARS
    bars = []
    for index, count in enumerate(shown.tolist()):
        tall = max(1.5, _HEIGHT * count / tallest) if count else 0.0  # a bin that isn't empty is always seen
        begin, end = low + (high - low) * index / _BARS, low + (high - low) * (index + 1) / _BARS
        words = f"{begin:.4g} to {end:.4g}: {count:,}"
        bars.append((round(index * width + 0.5, 2), round(_HEIGHT - tall, 2), width - 1, round(tall, 2), words))
    return Histogram(
        name,
        RECORDS.field(name).metadata[b"description"].decode(),
        low,
        high,
        int(counts[last:].sum()),
        tuple(bars),
        distribution.count,
        distribution.mean or 0.0,
        _median(name, distribution),
    )


def median(survey: Survey, name: str) -> float | None:
    """Return the median of a column, to the width of a bin; None without values."""
    distribution = survey.distributions[name]
    return _median(name, distribution) if distribution.count else None


def _median(name: str, distribution: Distribution) -> float:
    low, high = FEATURES[name]
    below = np.cumsum(distribution.counts)
    return low + (high - low) * (int(np.searchsorted(below, below[-1] / 2)) + 0.5) / FINE


def plain(value: float | None) -> float | None:
    """Return a number that JSON can hold, of five digits."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")
