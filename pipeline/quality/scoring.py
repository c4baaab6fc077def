"""From the features of a record to its score: what a run writes beside each matte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import LabelConfig
from pipeline.provenance import ModelIdentity
from pipeline.quality.calibration import choose, quality
from pipeline.quality.inputs import SECOND


@dataclass(frozen=True)
class Score:
    """The columns of :data:`pipeline.schema.RECORDS` that a calibration fills; None where there is no calibration."""

    predicted_mad: float | None = None
    quality: float | None = None
    calibration: str | None = None
    calibration_matches: bool | None = None


class Scorer:
    """Scores the records of a run.

    Args:
        config: Of the run.
        model: That of the run.

    Raises:
        ConfigurationError: See :func:`pipeline.quality.calibration.choose`.
        TransientError: Likewise.
    """

    def __init__(self, config: LabelConfig, model: ModelIdentity) -> None:
        self._calibration = choose(config, model)
        self._matches = self._calibration is not None and self._calibration.matches(model, config)
        self._expects_second = config.quality.second != "none"

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[Score]:
        """Score records.

        Args:
            rows: With the columns that are features, `prompt_kind` and `transparent`.

        Returns:
            One score each. One whose second matte could not be made is marked as not matching: its calibration was
            made for records that have one.
        """
        if self._calibration is None:
            return [Score()] * len(rows)
        return [
            Score(
                predicted,
                float(quality(predicted)),
                self._calibration.id,
                self._matches and not (self._expects_second and any(row.get(name) is None for name in SECOND)),
            )
            for row, predicted in zip(rows, self._calibration.predict(rows).tolist(), strict=True)
        ]
