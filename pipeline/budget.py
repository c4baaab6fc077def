"""When a run must stop rather than go on spending: budgets of errors, and a canary before the pool is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pipeline.config import FailuresConfig
from pipeline.errors import ConfigurationError, ErrorCode, PipelineError

CANARY_SHARDS = 8
"""Shards, at most, that the canary takes its images from."""

_CODES = frozenset(map(str, ErrorCode))
_NO_EXAMPLES: Mapping[str, str] = MappingProxyType({})


class BudgetExceededError(PipelineError):
    """Too many of the objects are errors, or the model's processes keep dying: a person has to look first."""


class Budget:
    """The shares of errors that a run may have.

    Args:
        config: The shares, and from how many objects on they count.

    Raises:
        ConfigurationError: A code that doesn't exist, or a share outside 0 to 1.
    """

    def __init__(self, config: FailuresConfig) -> None:
        unknown = sorted(set(config.max_rate_by_code) - _CODES)
        if unknown:
            raise ConfigurationError(
                f"failures.max_rate_by_code names {', '.join(unknown)}, which is no error code; "
                f"there are {', '.join(sorted(_CODES))}"
            )
        for code, rate in config.max_rate_by_code.items():
            if not 0 <= rate <= 1:
                raise ConfigurationError(f"failures.max_rate_by_code.{code} is {rate:g}; it must be from 0 to 1")
        self._config = config

    def check(self, counts: Mapping[str, int], examples: Mapping[str, str] = _NO_EXAMPLES) -> str | None:
        """Tell why the run must stop; None while it may go on.

        Args:
            counts: Objects that are done, by ``ok`` and error code; other keys are left alone.
            examples: A message of each code.
        """
        done, errors = _totals(counts)
        config = self._config
        if done < config.min_objects:
            return None
        for code, limit in sorted(config.max_rate_by_code.items()):
            found = counts.get(code, 0)
            if found > limit * done:
                return _message(
                    f"{found:,} of the first {done:,} objects are {code} ({found / done:.1%}); "
                    f"failures.max_rate_by_code.{code} allows {limit:.1%}",
                    f"raise failures.max_rate_by_code.{code}",
                    examples.get(code),
                )
        failed = sum(errors.values())
        if failed > config.max_error_rate * done:
            code = max(errors, key=errors.__getitem__)
            return _message(
                f"{failed:,} of the first {done:,} objects are errors ({failed / done:.1%}); "
                f"failures.max_error_rate allows {config.max_error_rate:.1%}. Most of them are {code}",
                "raise failures.max_error_rate",
                examples.get(code),
            )
        return None


def canary_limits(shards: Sequence[str], images: int) -> dict[str, int]:
    """Choose where the canary takes its images from: shards spread evenly over the input.

    Args:
        shards: Names of the shards that aren't finished, in order.
        images: ``failures.canary_images``.

    Returns:
        Images to take, by name of at most :data:`CANARY_SHARDS` shards; they sum up to ``images``.
    """
    taken = min(CANARY_SHARDS, len(shards), images)
    chosen = [shards[number * len(shards) // taken] for number in range(taken)]
    return {name: images // taken + (number < images % taken) for number, name in enumerate(chosen)}


def canary_verdict(
    counts: Mapping[str, int], config: FailuresConfig, examples: Mapping[str, str] = _NO_EXAMPLES
) -> None:
    """Judge the canary by what became of its objects.

    Args:
        counts: Its objects, by ``ok`` and error code; other keys are left alone.
        config: The share of errors that it may have.
        examples: A message of each code.

    Raises:
        BudgetExceededError: Too many of them are errors.
    """
    done, errors = _totals(counts)
    failed = sum(errors.values())
    if failed <= config.canary_max_error_rate * done:  # also where nothing was read: that is for others to judge
        return
    code = max(errors, key=errors.__getitem__)
    raise BudgetExceededError(
        _message(
            f"the canary failed: {failed:,} of its {done:,} objects are errors ({failed / done:.1%}); "
            f"failures.canary_max_error_rate allows {config.canary_max_error_rate:.1%}. Most of them are {code}",
            "raise failures.canary_max_error_rate, or leave the canary out by failures.canary_images=0",
            examples.get(code),
        )
    )


def _totals(counts: Mapping[str, int]) -> tuple[int, dict[str, int]]:
    """Return the objects that are done, and the errors among them by code."""
    errors = {code: number for code, number in counts.items() if code in _CODES and number > 0}
    return counts.get("ok", 0) + sum(errors.values()), errors


def _message(finding: str, cure: str, example: str | None) -> str:
    shown = f", for example: {example}" if example else ""
    return (
        f"{finding}{shown}\nMend the input or the model, or {cure}. What was committed stays, and the same command "
        "continues the run"
    )
