"""What a curation says at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.curation.decide import Decided
from pipeline.curation.images import Groups
from pipeline.curation.schema import Decision
from pipeline.curation.strata import Strata
from pipeline.curation.view import View
from sdmatte.urls import redact

DECISION_NAMES: tuple[Decision, ...] = ("accept", "review", "reject")
_REASONS_SHOWN = 8
_STRATA_SHOWN = 20
_LONGEST = 90  # characters of a reason or a stratum in a line


@dataclass(frozen=True)
class Stratum:
    """One line of the table by stratum.

    Attributes:
        name: Such as ``label=cat``.
        counts: Records by decision.
        expected_error: Mean predicted_mad of its accepted records; None without any.
    """

    name: str
    counts: dict[str, int]
    expected_error: float | None


@dataclass(frozen=True)
class Curated:
    """The outcome of a curation; `str()` is made for people.

    Attributes:
        out: The folder.
        faults: What must not be.
        notes: What else people should know.
        records: How many count.
        counts: By decision.
        reasons: Decision, reason without its figure, and how many; the commonest first.
        expected_error: Mean predicted_mad of what is accepted, without what people accepted; None where there is none.
        expected_of: Of how many records that is the mean.
        review_share: Share of the predicted error, of what is accepted or reviewed, that lies in what is reviewed;
            None where nothing has a predicted error.
        without_score: Ok records without predicted_mad.
        mismatched: Ok records whose predicted_mad was calibrated for another model.
        judged: Records that people accepted or rejected.
        duplicate_groups: Groups of images that nearly equal each other.
        duplicate_images: Images in them that are not kept.
        strata: The largest first; empty where nothing was balanced.
    """

    out: str
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    records: int
    counts: dict[str, int]
    reasons: tuple[tuple[Decision, str, int], ...]
    expected_error: float | None
    expected_of: int
    review_share: float | None
    without_score: int
    mismatched: int
    judged: int
    duplicate_groups: int
    duplicate_images: int
    strata: tuple[Stratum, ...]

    @property
    def complete(self) -> bool:
        """Whether each record that counts has exactly one decision."""
        return not self.faults

    def to_dict(self) -> dict[str, Any]:
        """Return what curation.json holds of it; the strata are to be asked of the decisions."""
        plain = {name: value for name, value in vars(self).items() if name not in ("out", "strata", "reasons")}
        plain["faults"], plain["notes"] = list(self.faults), list(self.notes)
        plain["reasons"] = [{"decision": d, "reason": reason, "records": n} for d, reason, n in self.reasons]
        return plain

    def __str__(self) -> str:
        lines = [f"{self.records:,} records"]
        lines += [f"  {name:<7} {self.counts[name]:>10,}  {_percent(self, name)}" for name in DECISION_NAMES]
        if self.expected_error is not None:
            of = f" over {self.expected_of:,} records" if self.expected_of != self.counts["accept"] else ""
            lines.append(f"  expected error of what is accepted: {self.expected_error:.4f} (mean predicted MAD{of})")
        if self.review_share is not None and self.counts["review"]:
            lines.append(f"  the review covers {self.review_share:.0%} of the error that is expected")
        if self.judged:
            lines.append(f"  {self.judged:,} were decided by people")
        if self.duplicate_groups:
            groups = f"{self.duplicate_groups:,} groups"
            lines.append(f"  {self.duplicate_images:,} images nearly equal one that is kept, in {groups}")
        lines += ["", "reasons"]
        lines += [f"  {name:<7} {n:>10,}  {_short(text)}" for name, text, n in self.reasons[:_REASONS_SHOWN]]
        if rest := self.reasons[_REASONS_SHOWN:]:
            lines.append(f"  {'':<7} {sum(n for _, _, n in rest):>10,}  for {len(rest)} other reasons")
        if self.strata:
            lines += ["", *self._table()]
        lines += [f"  WARNING: {text}" for text in self._warnings()]
        lines += [f"  NOTE: {redact(note)}" for note in self.notes]
        lines += [f"  FAULT: {redact(fault)}" for fault in self.faults]
        return "\n".join([*lines, f"written to {redact(self.out)}"])

    def _table(self) -> list[str]:
        shown = self.strata[:_STRATA_SHOWN]
        width = max(len("stratum"), *(len(_short(each.name)) for each in shown))
        lines = [f"  {'stratum':<{width}} {'accept':>9} {'review':>9} {'reject':>9}  error"]
        for each in shown:
            counts = " ".join(f"{each.counts[name]:>9,}" for name in DECISION_NAMES)
            error = "-" if each.expected_error is None else f"{each.expected_error:.4f}"
            lines.append(f"  {_short(each.name):<{width}} {counts}  {error}")
        if len(self.strata) > len(shown):
            lines.append(f"  ... and {len(self.strata) - len(shown):,} more strata")
        return lines

    def _warnings(self) -> list[str]:
        cure = "calibrate for this model (jobs/calibrate.py), or decide by other columns (--accept CONDITION)"
        said = []
        if self.without_score:
            said.append(f"{self.without_score:,} mattes have no predicted_mad and can't be accepted by it: {cure}")
        if self.mismatched:
            said.append(
                f"the predicted_mad of {self.mismatched:,} mattes was calibrated for another model, input size or "
                f"second pass; they can't be accepted by it: {cure}"
            )
        return said


def figures(view: View, groups: Groups, strata: Strata, decided: Decided) -> dict[str, Any]:
    """Return the numbers of a :class:`Curated`, by the names of its attributes."""
    mad = view.numbers("predicted_mad")
    are = {name: decided.are(name) for name in DECISION_NAMES}
    predicted = decided.relied & ~decided.judged
    accepted, reviewed = are["accept"] & predicted, are["review"] & decided.relied
    error, seen = float(mad[accepted].sum()), float(mad[reviewed].sum())
    count = int(accepted.sum())
    by_rule = np.bincount(decided.rule[~decided.open], minlength=len(decided.rules))
    reasons = [(rule.decision, rule.name, int(n)) for rule, n in zip(decided.rules, by_rule, strict=True) if n]
    ok = view.equal("status", "ok")
    return {
        "records": len(view),
        "counts": {name: int(rows.sum()) for name, rows in are.items()},
        "reasons": tuple(sorted(reasons, key=lambda each: (-each[2], each))),
        "expected_error": error / count if count else None,
        "expected_of": count,
        "review_share": seen / (error + seen) if error + seen else None,
        "without_score": int((ok & ~np.isfinite(mad)).sum()),
        "mismatched": int((ok & np.isfinite(mad) & ~decided.relied).sum()),
        "judged": int(decided.judged.sum()),
        "duplicate_groups": groups.count,
        "duplicate_images": groups.images,
        "strata": _strata(strata, mad, are, accepted) if strata.shown else (),
    }


def _strata(
    strata: Strata, mad: np.ndarray, are: dict[Decision, np.ndarray], accepted: np.ndarray
) -> tuple[Stratum, ...]:
    size = len(strata.names)
    by = {name: np.bincount(strata.codes[rows], minlength=size) for name, rows in are.items()}
    count = np.bincount(strata.codes[accepted], minlength=size)
    error = np.bincount(strata.codes[accepted], mad[accepted], minlength=size)
    order = np.argsort(-sum(by.values(), np.zeros(size, np.int64)), kind="stable")
    return tuple(
        Stratum(
            strata.names[each],
            {name: int(counts[each]) for name, counts in by.items()},
            float(error[each] / count[each]) if count[each] else None,
        )
        for each in order
    )


def _percent(found: Curated, name: Decision) -> str:
    return f"{found.counts[name] / found.records:6.1%}" if found.records else ""


def _short(text: str) -> str:
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
