"""The engine's targets, and figures held against them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CPU_RATIOS = {("float32", 1): 1.25, ("float32", 4): 1.45, ("bfloat16", 1): 3.0, ("bfloat16", 4): 3.7}
"""Objects/s over the baseline's, released configuration at 512 px on a CPU: by precision and prompts per image."""

NANO_RATIO = 3.0
CUDA_RATIO = 10.0
CUDA_SHARE = 0.45
CUDA_MEMORY = 16.0
NANO_MEAN, NANO_P999, RELEASED_MEAN = 0.25, 4.0, 1.5


@dataclass(frozen=True)
class Verdict:
    """A target, what was measured, and whether that meets it.

    Attributes:
        meaning: Of the figure.
        value: What was measured; NaN where it could not be.
        limit: Of the target.
        at_least: The limit is the least value; else the largest.
        unit: Of both.
        reason: Why there is no value.
        applies: The target is about this machine; one that is not is printed, and misses nothing.
    """

    meaning: str
    value: float
    limit: float
    at_least: bool
    unit: str = ""
    reason: str = ""
    applies: bool = True

    @property
    def met(self) -> bool:
        """Whether the figure meets the target; NaN never does."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        target = f"{'>=' if self.at_least else '<='} {self.limit:g}{self.unit}"
        value = self.reason if math.isnan(self.value) else f"{self.value:.3g}{self.unit}"
        verdict = ("met" if self.met else "MISSED") if self.applies else "not a target here"
        return f"{self.meaning:72} {target:>9}  {value:>8}  {verdict}"


def unmeasured(meaning: str, limit: float, reason: str, *, at_least: bool = True, unit: str = "x") -> Verdict:
    """Return the verdict on a target that nothing was measured for: missed."""
    return Verdict(meaning, math.nan, limit, at_least, unit, reason)


def passed(verdicts: Sequence[Verdict]) -> bool:
    """Say whether all targets that are about this machine are met."""
    return all(verdict.met for verdict in verdicts if verdict.applies)
