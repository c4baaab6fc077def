"""What comes back of the records of :func:`support.review_run.review_run`, and what became of them."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.latest import Chain
from pipeline.review.items import Returned
from pipeline.review.job import Imported
from pipeline.review.merge import shown_alpha
from support.review_run import soft_alpha

NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, UTC)


def run_of(output: str) -> str:
    return Chain.open(output).runs[""].run_id


def old(number: int) -> NDArray[Any]:
    return soft_alpha(number, np.uint16 if number == 5 else np.uint8)


def returned(output: str, number: int, **fields: Any) -> Returned:
    values: dict[str, Any] = {"run_id": run_of(output), "tool": "label_studio", "verdict": "accept", "mask": None}
    values |= {"reviewer": "ann@example.org", "reviewed_at": NOON, "review_id": str(number)}
    return Returned(number, **(values | fields))


def stroke(number: int, value: int = 200) -> NDArray[np.uint8]:
    """What a soft tool holds after one stroke over rows 2 to 5."""
    mask = shown_alpha(old(number)).copy()
    mask[2:6, 3:20] = value
    return mask


def counts(done: Imported) -> tuple[int, ...]:
    assert done.returned == done.imported + done.known + done.silent + len(done.faults)
    return done.returned, done.imported, done.known, done.silent, len(done.faults)


def alphas(output: str) -> dict[int, bytes]:
    table = Chain.open(output).records(["record_id", "alpha", "status"], reviews=True)
    return {row["record_id"]: row["alpha"]["bytes"] for row in table.to_pylist() if row["status"] == "ok"}
