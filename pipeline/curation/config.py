"""What decisions are made by: one object behind the options of jobs/curate.py."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from pipeline.config import Section
from pipeline.errors import ConfigurationError
from pipeline.storage_faults import check_url
from pipeline.where import parse

Trait = Literal["label", "size", "source"]


class DecideSettings(Section):
    """Which objects are accepted, reviewed and rejected; docs/curation.md describes how the rules work together."""

    runs: tuple[str, ...] = Field(min_length=1)
    """Each an output.path, with the runs that followed the first one there."""
    out: str
    """Folder for the decisions."""
    accept_above: float | None = Field(default=None, ge=0, le=1)
    """Only objects of at least this quality are accepted."""
    reject_below: float | None = Field(default=None, ge=0, le=1)
    """Objects of a lower quality are rejected."""
    accept: tuple[str, ...] = ()
    """Conditions (:mod:`pipeline.where`) that all have to hold for an object to be accepted."""
    reject: tuple[str, ...] = ()
    """Conditions; where one holds the object is rejected."""
    budget: int | None = Field(default=None, ge=0)
    """Objects that people can look at. As the only rule: the worst ones; nothing is rejected for being over it."""
    target_error: float | None = Field(default=None, ge=0, le=1)
    """The mean predicted_mad of what is accepted must not exceed this."""
    rank: Literal["absolute", "relative"] = "absolute"
    """What a review pays: `absolute`: predicted_mad; `relative`: predicted_mad by the object's share of the image."""
    duplicates: int | None = Field(default=6, ge=0, le=12)
    """Images whose hashes differ in at most so many of 64 bits are near-duplicates; None: nobody looks."""
    on_duplicate: Literal["reject", "keep"] = "reject"
    """Objects of images that nearly equal a better one: rejected, or only marked."""
    per: tuple[Trait, ...] = ()
    """What the budget is spread over, and what `at_most` counts."""
    at_most: int | None = Field(default=None, ge=0)
    """Objects that are accepted at most, of each stratum where `per` is set."""

    @model_validator(mode="after")
    def _fits_together(self) -> DecideSettings:
        """Raise ConfigurationError, which leaves as it is: pydantic's own error would print the keys in a URL."""
        for path in (*self.runs, self.out):
            check_url(path)
        for condition in (*self.accept, *self.reject):
            parse(condition)
        if self.accept_above is not None and self.accept_above < (self.reject_below or 0):
            raise ConfigurationError("--accept-above is less than --reject-below: objects between them would be both")
        if not self.accept and self.accept_above is None and self.budget is None and self.target_error is None:
            raise ConfigurationError(
                "say what is to be accepted: --target-error 0.01 (mean error), --budget 500 (the worst 500 are "
                "reviewed, the others accepted), --accept-above 0.8 (quality) or --accept CONDITION"
            )
        if len(set(self.per)) < len(self.per):
            raise ConfigurationError("--per names something twice")
        return self


def decide_settings(**values: Any) -> DecideSettings:
    """Return checked settings.

    Raises:
        ConfigurationError: A value is out of range, a condition can't be used, or nothing could ever be accepted.
    """
    try:
        return DecideSettings.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(
            f"--{'.'.join(map(str, each['loc'])).replace('_', '-')}: {each['msg']}" for each in error.errors()
        )
        raise ConfigurationError(faults) from None
