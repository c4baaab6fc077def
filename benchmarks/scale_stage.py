"""A stand-in for the model stage: makes the records that the pipeline would make, without a network.

Everything around it is the pipeline's own: the plan, the reading, the board, the records' table, the sink.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.budget import BudgetExceededError
from pipeline.config import LabelConfig
from pipeline.provenance import ModelIdentity
from pipeline.quality.features import Features
from pipeline.quality.scoring import Score
from pipeline.stages.hazards import Board, ProcessWatch
from pipeline.stages.parcels import pack, unpack
from pipeline.stages.records import OUTPUT, Work, encode_png, origin, records_table

IDENTITY = ModelIdentity("simulated", "00" * 32, "float32", 64)
_FEATURES = Features(coverage=0.25, definiteness=0.9, semi_transparent=0.05, softness=0.04, fragments=1, holes=0)
_SCORE = Score(predicted_mad=0.01, quality=0.7, calibration="simulated", calibration_matches=True)


@dataclass(frozen=True)
class SimulatedModel:
    """What the pipeline asks a ready model for its name, and nothing else."""

    name: str = IDENTITY.name
    weights_sha256: str = IDENTITY.weights_sha256
    precision: str = IDENTITY.precision
    input_size: int = IDENTITY.input_size


class SimulatedMatte:
    """Takes the place of :class:`pipeline.stages.matte.MatteImages`; every object gets the same small alpha.

    Args:
        config: Of the run.
        run_id: Written into every record.
        model: Not used.
        board: Told what is in hand and what was done.
        more: What else the model stage is given.
    """

    def __init__(self, config: LabelConfig, run_id: str, model: Any, board: Board | None, *more: Any) -> None:
        del model, more
        self._board = board
        self._watch = ProcessWatch(board, config.model.batch_timeout)
        self._stopped = self._watch.arrive()
        self._origin = origin(config, run_id, IDENTITY)
        self._alpha = encode_png(np.full((16, 16), 128, np.uint8))

    def __call__(self, parcels: pa.Table) -> Iterator[pa.Table]:
        """Yield one parcel for those given."""
        if self._stopped is not None:
            raise BudgetExceededError(self._stopped)
        rows = unpack(parcels).to_pylist()
        ledgers = [row for row in rows if row["ledger"] is not None]
        works = [Work(row) for row in rows if row["ledger"] is None]
        for portion in self._watch.portions(works):
            for work in portion:
                work.digest, work.encoded = "ab" * 32, SimpleNamespace(grid=(64, 64))  # type: ignore[assignment]
            if self._board:
                count = sum(len(work.row["prompts"]) for work in portion)
                self._board({"ok": count}, self._watch.process, {})
        objects = [each for work in works for each in work.objects()]
        for each in objects:
            each.alpha, each.features, each.score = self._alpha, _FEATURES, _SCORE
        yield pack(pa.concat_tables([OUTPUT.empty_table(), records_table(objects, ledgers, self._origin)]))
