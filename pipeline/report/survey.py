"""One look at all records of a run: distributions, slices by label and prompt, calibration, pace.

Memory is bounded whatever the size of the run: records come past in batches without their alphas, distributions are
kept in narrow bins, and of very many labels only the frequent ones are kept apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.report.choose import Chooser, encoded
from pipeline.runs import RunDirectory

FEATURES = {
    "predicted_mad": (0.0, 1.0),
    "quality": (0.0, 1.0),
    "definiteness": (0.0, 1.0),
    "coverage": (0.0, 1.0),
    "prompt_iou": (0.0, 1.0),
    "prompt_outside": (0.0, 1.0),
    "prompt_point_alpha": (0.0, 1.0),
    "edge_alignment": (0.0, 1.0),
    "laplacian_energy": (-10.0, 2.0),
    "colour_overlap": (0.0, 1.0),
    "semi_transparent": (0.0, 1.0),
    "softness": (0.0, 1.0),
    "fragment_share": (0.0, 1.0),
    "hole_share": (0.0, 1.0),
    "frame_contact": (0.0, 1.0),
    "second_difference": (0.0, 1.0),
    "second_agreement": (0.0, 1.0),
}
"""Columns whose distribution is kept, and the range of their values; what lies outside counts at its end."""

FINE = 5000
"""Bins of a distribution, as it is kept."""

_QUALITIES = 200  # bins of the qualities of one label
_LABELS = 20_000  # kept apart, at most
_ROWS = 50_000  # looked at together
_COLUMNS = [
    *("record_id", "status", "error_code", "error_message", "label", "prompt_kind", "labelled_at"),
    *("calibration", "calibration_matches", *FEATURES, "__filename"),
]


@dataclass
class Distribution:
    """How a column's values are spread over the ok records.

    Attributes:
        counts: ``(FINE,)`` records per bin of the column's range.
        total: Sum of the values.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(FINE, np.int64))
    total: float = 0.0

    @property
    def count(self) -> int:
        """Records that have a value."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float | None:
        """Mean of the values; None without any."""
        return self.total / self.count if self.count else None


@dataclass(frozen=True, slots=True)
class Slice:
    """The records that share a label, or a kind of prompt.

    Attributes:
        name: The label; None for records without, or with an empty one.
        count: Records.
        ok: Those with a matte.
        mad: Mean of `predicted_mad`; None where no record has it.
        quality: Median of `quality`, to 0.005; None where no record has it.
    """

    name: str | None
    count: int
    ok: int
    mad: float | None
    quality: float | None


class Slices:
    """Counts by the value of a column of strings."""

    def __init__(self, most: int = _LABELS) -> None:
        self._most = most
        self._names: dict[str | None, int] = {}
        self._sums = np.zeros((0, 4))  # count, ok, with predicted_mad, sum of it
        self._qualities = np.zeros((0, _QUALITIES), np.int64)
        self._others = np.zeros(4)
        self._other_qualities = np.zeros(_QUALITIES, np.int64)
        self.dropped = 0

    def add(self, names: pa.ChunkedArray, ok: NDArray[np.bool_], mad: _Values, quality: _Values) -> None:
        """Count records: `ok` says which have a matte; `mad` and `quality` are NaN where there is none."""
        codes, values = encoded(names)
        size = len(self._names)
        numbers = np.array([self._names.setdefault(name, len(self._names)) for name in values], np.int64)[codes]
        grown = len(self._names) - size
        self._sums = np.pad(self._sums, ((0, grown), (0, 0)))
        self._qualities = np.pad(self._qualities, ((0, grown), (0, 0)))
        scored = np.isfinite(mad)
        for column, weights in enumerate([None, ok, scored, np.where(scored, mad, 0)]):
            self._sums[:, column] += np.bincount(numbers, weights, len(self._names))
        rated = np.isfinite(quality)
        bins = np.clip((quality[rated] * _QUALITIES).astype(np.int64), 0, _QUALITIES - 1)
        np.add.at(self._qualities, (numbers[rated], bins), 1)
        if len(self._names) > self._most:
            self._prune()

    def _prune(self) -> None:
        """Put the rarer half together."""
        order = np.argsort(-self._sums[:, 0], kind="stable")
        kept, gone = order[: self._most // 2], order[self._most // 2 :]
        self.dropped += len(gone)
        self._others += self._sums[gone].sum(axis=0)
        self._other_qualities += self._qualities[gone].sum(axis=0)
        names = list(self._names)
        self._names = {names[old]: new for new, old in enumerate(kept.tolist())}
        self._sums, self._qualities = self._sums[kept], self._qualities[kept]

    def top(self, most: int) -> tuple[list[Slice], Slice | None, int]:
        """Return the most frequent values, the others taken together if there are any, and how many these are."""
        names = list(self._names)
        order = sorted(range(len(names)), key=lambda at: (-self._sums[at, 0], names[at] or ""))
        shown, rest = order[:most], order[most:]
        slices = [_slice(names[at], self._sums[at], self._qualities[at]) for at in shown]
        if not rest and not self.dropped:
            return slices, None, 0
        sums = self._others + self._sums[rest].sum(axis=0)
        qualities = self._other_qualities + self._qualities[rest].sum(axis=0)
        return slices, _slice(None, sums, qualities), len(rest) + self.dropped


@dataclass
class Survey:
    """What the records say.

    Attributes:
        distributions: By column, see :data:`FEATURES`.
        labels: Slices by label.
        kinds: Slices by kind of prompt.
        calibrations: Ok records by `(calibration, calibration_matches)`; `(None, None)` are those without a score.
        first: When the first record was made.
        last: When the last one was made.
        since: Records made since the run was resumed for the last time.
        examples: One message of each error code.
    """

    distributions: dict[str, Distribution] = field(default_factory=lambda: {name: Distribution() for name in FEATURES})
    labels: Slices = field(default_factory=Slices)
    kinds: Slices = field(default_factory=Slices)
    calibrations: dict[tuple[str | None, bool | None], int] = field(default_factory=dict)
    first: datetime | None = None
    last: datetime | None = None
    since: int = 0
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, table: pa.Table, resumed_at: datetime | None) -> None:
        """Count records; of `resumed_at` on they are counted in `since`, too."""
        ok = pc.equal(table["status"], "ok").to_numpy(zero_copy_only=False)
        only_ok = table.filter(pa.array(ok))
        for name, distribution in self.distributions.items():
            _count(distribution, _numbers(only_ok[name]), *FEATURES[name])
        mad, quality = _numbers(table["predicted_mad"]), _numbers(table["quality"])
        labels = table["label"]  # an empty one is none
        self.labels.add(pc.if_else(pc.equal(labels, ""), pa.scalar(None, labels.type), labels), ok, mad, quality)
        self.kinds.add(table["prompt_kind"], ok, mad, quality)
        keys = only_ok.select(["calibration", "calibration_matches"]).append_column(
            "scored", pc.is_valid(only_ok["predicted_mad"])
        )
        groups = keys.group_by(keys.column_names, use_threads=False).aggregate([([], "count_all")])
        for group in groups.to_pylist():
            key = (group["calibration"], group["calibration_matches"]) if group["scored"] else (None, None)
            self.calibrations[key] = self.calibrations.get(key, 0) + group["count_all"]
        self._add_times(table["labelled_at"].drop_null(), resumed_at)
        errors = table.select(["error_code", "error_message"]).filter(pa.array(~ok))
        for code in errors["error_code"].unique().drop_null().to_pylist():
            if code not in self.examples:
                messages = errors["error_message"].filter(pc.equal(errors["error_code"], code))
                self.examples[code] = messages[0].as_py() or ""

    def _add_times(self, times: pa.ChunkedArray, resumed_at: datetime | None) -> None:
        if not len(times):
            return
        ends = pc.min_max(times).as_py()
        self.first = min(filter(None, [self.first, ends["min"]]))
        self.last = max(filter(None, [self.last, ends["max"]]))
        if resumed_at is not None:
            after = pc.greater_equal(times, pa.scalar(resumed_at, times.type))
            self.since += pc.sum(after).as_py() or 0


_Values = NDArray[np.float64]


def look(run: RunDirectory, chooser: Chooser) -> Survey:
    """Read the light columns of all records once.

    Args:
        run: The run; it may still be going on.
        chooser: Sees the records, too.

    Raises:
        ConfigurationError: A commit is damaged.
        OSError: A data file can't be read.
    """
    survey = Survey()
    resumed = run.info.get("resumed") or []
    resumed_at = datetime.fromisoformat(resumed[-1]["at"]) if resumed else None
    for table in _tables(run):
        survey.add(table, resumed_at)
        chooser.add(table)
    return survey


def _tables(run: RunDirectory) -> Iterator[pa.Table]:
    batches: list[pa.RecordBatch] = []
    rows = 0
    for batch in _batches(run):
        batches.append(batch)
        rows += len(batch)
        if rows >= _ROWS:
            yield pa.Table.from_batches(batches)
            batches, rows = [], 0
    if rows:
        yield pa.Table.from_batches(batches)


def _batches(run: RunDirectory) -> Iterator[pa.RecordBatch]:
    for dataset in run.datasets():
        yield from dataset.scanner(columns=_COLUMNS, batch_readahead=4, fragment_readahead=4).to_batches()


def _numbers(column: pa.ChunkedArray) -> _Values:
    values: Any = pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy()
    return np.asarray(values, np.float64)


def _count(distribution: Distribution, values: _Values, low: float, high: float) -> None:
    values = values[np.isfinite(values)]
    bins = np.clip(((values - low) * (FINE / (high - low))).astype(np.int64), 0, FINE - 1)
    distribution.counts += np.bincount(bins, minlength=FINE)
    distribution.total += float(values.sum())


def _slice(name: str | None, sums: NDArray[np.float64], qualities: NDArray[np.int64]) -> Slice:
    rated = np.cumsum(qualities)
    median = None
    if rated[-1]:
        median = float(np.searchsorted(rated, rated[-1] / 2) + 0.5) / _QUALITIES
    mad = float(sums[3] / sums[2]) if sums[2] else None
    return Slice(name, int(sums[0]), int(sums[1]), mad, median)
