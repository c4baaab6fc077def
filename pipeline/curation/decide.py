"""The rules: what becomes of each record, and why. docs/curation.md describes them for people.

Each record is settled by the first rule that applies:

1. An error record has no matte: reject.
2. A verdict of a person decides; `fix` leads to review, whatever the budget.
3. An image that nearly equals a better one: reject, unless duplicates are kept.
4. A condition for rejection holds: reject. A matte in which nothing is opaque is never accepted unseen: review.
5. What may be accepted (all conditions for acceptance hold; the predicted error can be relied upon, where it is used)
   is capped per stratum, best first; then cut where the mean predicted error would exceed the target.
6. What remains is for people, worst first, as far as the budget goes; what is over it is rejected. A budget alone
   takes the worst of what could be accepted and rejects nothing: what has no score to rely upon waits for a person,
   also over the budget.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.curation.config import DecideSettings
from pipeline.curation.images import Groups
from pipeline.curation.schema import Decision
from pipeline.curation.strata import Strata, spread
from pipeline.curation.view import VERDICTS, View, columns_named
from pipeline.errors import ConfigurationError, ErrorCode

SCORES = frozenset({"predicted_mad", "quality"})
_LEAST_AREA = 1e-4  # of the image: smaller objects don't count for more
_OPEN = -1
_DIGITS = 5  # behind the point, of figures in reasons
_RELATIVE = 1e-9  # sums of floats


@dataclass(frozen=True)
class Rule:
    """A reason; its text may hold a figure of the record.

    Attributes:
        decision: What follows.
        before: Text before the figure.
        figure: Column that the figure is from, or `image` (the kept image's id) or `stratum`; None: there is none.
        after: Text after the figure.
        than: What the figure was compared with: it is rounded only so far that the comparison still holds.
    """

    decision: Decision
    before: str
    figure: str | None = None
    after: str = ""
    than: float | None = None

    @property
    def name(self) -> str:
        """The reason without the figure, to be counted by."""
        figure = {"image": "...", "stratum": "a stratum"}.get(self.figure or "", "")
        return " ".join(f"{self.before}{figure}{self.after}".split())


@dataclass
class Decided:
    """Decisions, by record.

    Attributes:
        rule: ``(N,)`` int16 index into `rules`.
        rank: ``(N,)`` int32 place in the order of review, -1 where nobody is to look.
        relied: ``(N,)`` bool: predicted_mad is there, and was calibrated for this model.
        judged: ``(N,)`` bool: a person accepted or rejected the matte.
        rules: All of them.
    """

    rule: NDArray[np.int16]
    rank: NDArray[np.int32]
    relied: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    rules: list[Rule] = field(default_factory=list)

    def settle(self, rows: NDArray[np.bool_], rule: Rule) -> None:
        """Apply a rule to those of the rows that no earlier rule applied to."""
        self.replace(rows & self.open, rule)

    def replace(self, rows: NDArray[np.bool_] | NDArray[np.int64], rule: Rule) -> None:
        """Apply a rule in place of others."""
        if rule not in self.rules:
            self.rules.append(rule)
        self.rule[rows] = self.rules.index(rule)

    @property
    def open(self) -> NDArray[np.bool_]:
        """Rows without a decision."""
        return np.asarray(self.rule == _OPEN, np.bool_)

    def are(self, decision: Decision) -> NDArray[np.bool_]:
        """Return the rows of a decision."""
        indices = [index for index, rule in enumerate(self.rules) if rule.decision == decision]
        return np.asarray(np.isin(self.rule, indices), np.bool_)


def decide(view: View, settings: DecideSettings, groups: Groups, strata: Strata) -> Decided:
    """Decide about every record of a view; ties are broken by record_id, so that the same view has one outcome.

    Args:
        view: The records.
        settings: The rules.
        groups: Of near-duplicates.
        strata: What budgets and caps are spread over.

    Raises:
        ConfigurationError: A budget is the only rule, and nothing has a score to rely upon.
    """
    mad = view.numbers("predicted_mad")
    relied = np.isfinite(mad) & view.equal("calibration_matches", value=True)
    decided = Decided(
        np.full(len(view), _OPEN, np.int16), np.full(len(view), -1, np.int32), relied, np.zeros(len(view), np.bool_)
    )
    fix = _settle_what_is_known(view, settings, groups, decided)
    _reject_by_condition(view, settings, decided, fix)
    acceptable, waiting = _sort_out(view, settings, decided, fix)
    if not _is_cap(settings) and waiting.any() and not relied.any():
        raise ConfigurationError(
            f"none of {int(waiting.sum()):,} mattes has a predicted_mad that was calibrated for its model, so "
            "--budget alone can't tell the worst: calibrate for this model (jobs/calibrate.py), or say by other "
            "columns what can be accepted unseen (--accept CONDITION)"
        )
    if settings.at_most is not None:
        _cap(view, settings.at_most, decided, strata, acceptable)
    if settings.target_error is not None:
        _cut_at_target(view, settings.target_error, decided, acceptable, waiting)
    _review(view, settings, decided, strata, fix, acceptable, waiting)
    return decided


def payoff(view: View, settings: DecideSettings) -> NDArray[np.float64]:
    """Return what reviewing each record pays: the predicted error, or the error by the object's share of the image.

    The share is that of the prompt or of the alpha, whichever is larger, and at least 0.0001.
    """
    mad = view.numbers("predicted_mad")
    if settings.rank == "absolute":
        return mad
    return mad / np.fmax(np.fmax(view.numbers("prompt_area"), view.numbers("coverage")), _LEAST_AREA)


def reasons(decided: Decided, table: pa.Table, rows: NDArray[np.int64], figures: dict[str, pa.Array]) -> pa.Array:
    """Return the reasons of some records.

    Args:
        decided: Of all records.
        table: Of these records alone.
        rows: ``(n,)``: which ones they are.
        figures: What isn't in the table: `image` and `stratum`, likewise.
    """
    rule = decided.rule[rows]
    texts, places = [], []
    for index in np.unique(rule):
        some = np.flatnonzero(rule == index)
        each = decided.rules[index]
        places.append(some)
        if each.figure is None:
            texts.append(pa.repeat(pa.scalar(each.before), len(some)))
            continue
        column = (figures[each.figure] if each.figure in figures else table[each.figure]).take(pa.array(some))
        if pa.types.is_floating(column.type):
            column = _rounded(column, each.than)
        figure = pc.fill_null(pc.cast(column, pa.string()), "missing")
        text = pc.binary_join_element_wise(each.before, figure, each.after, "")
        texts.append(text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text)
    if not texts:
        return pa.array([], pa.string())
    return pa.concat_arrays(texts).take(pa.array(np.argsort(np.concatenate(places))))


def _settle_what_is_known(view: View, settings: DecideSettings, groups: Groups, decided: Decided) -> NDArray[np.bool_]:
    """Rules 1 to 3; returns what a person sent back to be fixed."""
    for code in ErrorCode:
        decided.settle(view.equal("error_code", str(code)), Rule("reject", f"error: {code}"))
    decided.settle(~view.equal("status", "ok"), Rule("reject", "error: of a code that is not known"))
    for verdict in ("accept", "reject"):
        said = decided.open & (view.verdict == VERDICTS.index(verdict))
        decided.judged |= said
        decided.settle(said, Rule(verdict, f"verdict: {verdict}"))
    fix = np.asarray(decided.open & (view.verdict == VERDICTS.index("fix")), np.bool_)
    if settings.on_duplicate == "reject":
        decided.settle(~groups.representative & ~fix, Rule("reject", "duplicate of image ", "image"))
    return fix


def _reject_by_condition(view: View, settings: DecideSettings, decided: Decided, fix: NDArray[np.bool_]) -> None:
    if settings.reject_below is not None:
        low = decided.relied & (view.numbers("quality") < _as_stored(settings.reject_below))
        decided.settle(low & ~fix, _quality("reject", "<", settings.reject_below))
    for condition in settings.reject:
        met = view.met[condition] & ~fix
        if SCORES & columns_named(condition):
            met &= decided.relied
        decided.settle(met, Rule("reject", f"reject: {condition}"))


def _sort_out(
    view: View, settings: DecideSettings, decided: Decided, fix: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return what may be accepted, and what only people can accept; the latter's reasons are noted as reviews."""
    before = decided.open
    decided.settle(fix, Rule("review", "verdict: fix"))
    # To miss a small object altogether is a small error over the image: no score tells that from a good matte.
    empty = view.equal("fragments", 0) & ~view.equal("transparent", value=True)
    decided.settle(empty, Rule("review", "nothing is opaque: alpha > 0.5 in specks at most"))
    by_score = settings.accept_above is not None or settings.target_error is not None or not settings.accept
    if by_score or any(SCORES & columns_named(condition) for condition in settings.accept):
        scored = np.isfinite(view.numbers("predicted_mad"))
        decided.settle(~scored, Rule("review", "predicted_mad is missing"))
        decided.settle(~decided.relied, Rule("review", "predicted_mad was calibrated for another model"))
    if settings.accept_above is not None:
        high = view.numbers("quality") >= _as_stored(settings.accept_above)
        decided.settle(~high, _quality("review", "<", settings.accept_above))
    for condition in settings.accept:
        decided.settle(~view.met[condition], Rule("review", f"not met: {condition}"))
    acceptable = decided.open
    if settings.accept_above is not None:
        more = "".join(f"; {condition}" for condition in settings.accept)
        rule = _quality("accept", ">=", settings.accept_above, more)
    else:
        rule = Rule("accept", f"accept: {'; '.join(settings.accept)}")
    if _is_cap(settings):
        decided.settle(acceptable, rule)
    else:
        after = f" is not among {_worst(settings)}"
        decided.settle(acceptable, Rule("accept", "predicted_mad ", "predicted_mad", after))
    return acceptable, before & ~acceptable & ~fix


def _is_cap(settings: DecideSettings) -> bool:
    """Tell whether a budget is the most that people look at, rather than all that is asked for."""
    conditions = settings.accept_above is not None or bool(settings.accept)
    return settings.budget is None or settings.target_error is not None or conditions


def _worst(settings: DecideSettings) -> str:
    return f"the worst {settings.budget}" + (" for its size" if settings.rank == "relative" else "")


def _cap(view: View, at_most: int, decided: Decided, strata: Strata, acceptable: NDArray[np.bool_]) -> None:
    """Reject what is over the cap of its stratum, the worst; `acceptable` loses these."""
    taken = np.bincount(strata.codes[decided.judged & decided.are("accept")], minlength=len(strata.names))
    rows = np.flatnonzero(acceptable)
    mad = np.where(decided.relied, view.numbers("predicted_mad"), np.inf)[rows]
    codes = strata.codes[rows]
    order = np.lexsort((view.ids()[rows], mad, codes))
    over = rows[order][_place_within(codes[order]) >= np.maximum(0, at_most - taken)[codes[order]]]
    acceptable[over] = False
    figure = ("stratum", "") if strata.shown else (None, "")
    before = f"over {at_most} accepted of " if strata.shown else f"over {at_most} accepted"
    decided.replace(over, Rule("reject", before, *figure))


def _cut_at_target(
    view: View, target: float, decided: Decided, acceptable: NDArray[np.bool_], waiting: NDArray[np.bool_]
) -> None:
    """Keep as many acceptable records as the target allows: those of the lowest error, whose mean rises with each."""
    rows = np.flatnonzero(acceptable)
    mad = view.numbers("predicted_mad")[rows]
    order = np.lexsort((view.ids()[rows], mad))
    allowed = max(target, _as_stored(target)) * (1 + _RELATIVE) * np.arange(1, len(rows) + 1)
    within = int((np.cumsum(mad[order]) <= allowed).sum())
    after = f" is within the target error {_text(target)}"
    decided.replace(rows[order[:within]], Rule("accept", "predicted_mad ", "predicted_mad", after))
    beyond = rows[order[within:]]
    after = f" is beyond the target error {_text(target)}"
    decided.replace(beyond, Rule("review", "predicted_mad ", "predicted_mad", after))
    acceptable[beyond] = False
    waiting[beyond] = True


def _review(
    view: View,
    settings: DecideSettings,
    decided: Decided,
    strata: Strata,
    fix: NDArray[np.bool_],
    acceptable: NDArray[np.bool_],
    waiting: NDArray[np.bool_],
) -> None:
    """Spend the budget, and rank what goes to people."""
    # Of several kinds: what a person sent back, then what has no score to rely upon and is lost without a review.
    kind = np.where(fix, 0, np.where(decided.relied, 2, 1))
    order = np.lexsort((view.ids(), -np.nan_to_num(payoff(view, settings), nan=-1), kind))
    if settings.budget is not None:
        pool = waiting if _is_cap(settings) else waiting | acceptable
        ranked = order[pool[order]]
        codes = strata.codes[ranked]
        left = max(0, settings.budget - int(fix.sum()))
        quota = spread(left, np.bincount(codes, minlength=len(strata.names)))
        by_stratum = np.argsort(codes, kind="stable")
        chosen = np.zeros(len(view), np.bool_)
        chosen[ranked[by_stratum]] = _place_within(codes[by_stratum]) < quota[codes[by_stratum]]
        after = f" is among {_worst(settings)}"
        decided.replace(chosen & acceptable, Rule("review", "predicted_mad ", "predicted_mad", after))
        if _is_cap(settings):
            _reject_over_budget(decided, waiting & ~chosen, settings.budget)
    ranked = order[decided.are("review")[order]]
    decided.rank[ranked] = np.arange(len(ranked))


def _reject_over_budget(decided: Decided, rows: NDArray[np.bool_], budget: int) -> None:
    for index in np.unique(decided.rule[rows]):
        rule = decided.rules[index]
        after = f"; over the review budget of {budget}"
        changed = Rule("reject", rule.before if rule.figure else rule.before + after, rule.figure)
        if rule.figure:
            changed = Rule("reject", rule.before, rule.figure, rule.after + after, rule.than)
        decided.replace(rows & (decided.rule == index), changed)


def _place_within(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each row within its run of equal codes; the codes are sorted."""
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    return np.arange(len(codes)) - np.repeat(starts, np.diff(starts, append=len(codes)))


def _quality(decision: Decision, sign: str, than: float, more: str = "") -> Rule:
    return Rule(decision, "quality ", "quality", f" {sign} {_text(than)}{more}", _as_stored(than))


def _text(value: float) -> str:
    """Return a setting with all its digits."""
    return np.format_float_positional(value, trim="-")


def _rounded(column: pa.ChunkedArray, than: float | None) -> pa.ChunkedArray:
    """Round figures, but none to the other side of what it was compared with."""
    rounded = pc.round(column, _DIGITS)
    if than is None:
        return rounded
    limit = pa.scalar(than, column.type)
    return pc.if_else(pc.equal(pc.less(rounded, limit), pc.less(column, limit)), rounded, column)


def _as_stored(value: float) -> float:
    """Return a figure as a column of float32 holds it, so that 0.7 is not above 0.7."""
    return float(np.float32(value))
