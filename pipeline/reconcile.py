"""Reconciliation: proves that a run holds exactly one record per prompt, from its commits alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from pipeline.commits import ByShard, Commit, Committed, Ledger, wrapped_sum
from pipeline.distinct import DistinctIds

UNMATCHED_PROMPTS = "prompts:unmatched"
"""Shard of the records for prompts of a separate file whose image is in no shard. A run may have it or not; where it
is there it needs a ledger like any other."""


@dataclass(frozen=True)
class Reconciliation:
    """Inputs against records. A run is complete when `faults` is empty.

    Attributes:
        shards: Shards of the input (and the one of unmatched prompts, where there is any).
        finished: Shards that left behind exactly what their ledgers ask for.
        images: Images of the shards that were read to their end.
        expected: Records that these shards must leave behind.
        found: Distinct records committed.
        lost: Records known to be missing. Shards that were not read to their end have an unknown number of them,
            which is not in here: they are not `finished`.
        doubled: Records that stand there a second time (or a third, ...).
        unexpected: Records known to belong to no input.
        by_status: Committed records by status.
        by_code: Committed error records by error code.
        faults: What is wrong, shard by shard, and what to do; for people.
    """

    shards: int
    finished: int
    images: int
    expected: int
    found: int
    lost: int
    doubled: int
    unexpected: int
    by_status: dict[str, int]
    by_code: dict[str, int]
    faults: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether the run holds exactly one record for each prompt of each shard, and nothing else."""
        return not self.faults

    def counts(self) -> dict[str, Any]:
        """Return all the numbers, as they stand in `run.json`."""
        return {key: value for key, value in vars(self).items() if key != "faults"}


@dataclass
class _Shard:
    """The outcome for one shard."""

    expected: int = 0
    lost: int = 0
    unexpected: int = 0
    fault: str | None = None


class Tally:
    """What the commits of a run hold, gathered as they come past; see :func:`reconciled`.

    Memory: about 700 bytes per shard and 230 per commit, and the ids of shards that are not whole. Of the others the
    ids are counted, to find those that stand under two shards: on the disk, where there are many.

    Args:
        gone: Data files that aren't there: of their commits only the ledgers count.
        keep: Shards whose ids are kept in any case.
    """

    def __init__(self, gone: AbstractSet[str] = frozenset(), keep: AbstractSet[str] = frozenset()) -> None:
        self.by_shard = ByShard(keep)
        self.ids = DistinctIds()
        self.rows_of: dict[str, int] = {}
        self._gone = gone

    def add(self, commit: Commit) -> None:
        """Take one more commit."""
        if commit.data:
            self.rows_of[commit.data] = commit.rows
        if commit.data in self._gone:
            commit = _without_records(commit)
        for part in commit.shards.values():
            self.ids.add(part.record_ids)
        self.by_shard.add(commit)


def reconcile(commits: Sequence[Commit], expected: Iterable[str], files: Collection[str]) -> Reconciliation:
    """Compare what was committed with what the shards' ledgers ask for.

    Args:
        commits: All commits of the run.
        expected: Names of the input's shards.
        files: Data files that are there, relative to the run directory.
    """

    def fold(start: Callable[[], Tally]) -> Tally:
        tally = start()
        for commit in commits:
            tally.add(commit)
        return tally

    return reconciled(fold, expected, lambda: files)


def reconciled(
    fold: Callable[[Callable[[], Tally]], Tally], expected: Iterable[str], files: Callable[[], Collection[str]]
) -> Reconciliation:
    """As :func:`reconcile`, of commits that are not in memory together.

    They are gone through once; again only where a file is gone, or more came of a shard that was whole, for then the
    ids tell what exactly is wrong.

    Args:
        fold: Hands all commits to the tally that it is to make.
        expected: Names of the input's shards.
        files: Lists the data files; called after the commits were gone through, for a file is there before its commit.
    """
    tally = fold(Tally)
    there = files()
    gone = {name: rows for name, rows in tally.rows_of.items() if name not in there}
    keep: frozenset[str] = frozenset()
    again = bool(gone)
    while again or tally.by_shard.reopened - keep:
        again = False
        keep |= tally.by_shard.reopened
        tally = fold(partial(Tally, gone.keys(), keep))
    faults = [
        f"{data} is gone, and with it {rows} records: put it back, or forget its commit with "
        "jobs/runs.py redo, and start the job again, which makes them anew"
        for data, rows in gone.items()
    ]
    return _outcome(tally, expected, faults)


def _outcome(tally: Tally, expected: Iterable[str], faults: list[str]) -> Reconciliation:
    shards = tally.by_shard.shards()
    names = set(expected) | ({UNMATCHED_PROMPTS} & shards.keys())
    outcomes = {name: _expected_shard(name, shards.get(name)) for name in sorted(names)}
    outcomes |= {name: _unexpected_shard(name, shards[name]) for name in sorted(shards.keys() - names)}
    faults += [outcome.fault for outcome in outcomes.values() if outcome.fault]

    total, found = tally.ids.count()
    if strays := sum(shard.distinct for shard in shards.values()) - found:
        faults.append(f"{strays} records stand under more than one shard: two shards hold the same images and prompts")
    ok = sum(shard.ok for shard in shards.values())
    return Reconciliation(
        shards=len(names),
        finished=sum(outcomes[name].fault is None for name in names),
        images=sum(_ledger(shard).images for name, shard in shards.items() if name in names and shard.ledgers),
        expected=sum(outcome.expected for outcome in outcomes.values()),
        found=found,
        lost=sum(outcome.lost for outcome in outcomes.values()),
        doubled=total - found,
        unexpected=sum(outcome.unexpected for outcome in outcomes.values()),
        by_status={"ok": ok, "error": total - ok},
        by_code=dict(
            sorted(sum((Counter(shard.errors) for shard in shards.values() if shard.errors), Counter()).items())
        ),
        faults=tuple(faults),
    )


def _without_records(commit: Commit) -> Commit:
    empty = np.empty(0, np.int64)
    return replace(
        commit,
        shards={name: replace(part, record_ids=empty, ok=0, errors={}) for name, part in commit.shards.items()},
    )


def _expected_shard(name: str, shard: Committed | None) -> _Shard:
    if shard is None:
        return _Shard(fault=f"shard {name}: not begun; start the job again")
    if not shard.ledgers:
        count = shard.count
        return _Shard(fault=f"shard {name}: not read to its end ({count} records so far); start the job again")
    ledger = _ledger(shard)
    if shard.whole:
        return _Shard(ledger.records)
    distinct = np.unique(shard.record_ids)
    lost = max(0, ledger.records - len(distinct))
    unexpected = max(0, len(distinct) - ledger.records)
    if len(distinct) == ledger.records and wrapped_sum(distinct) != ledger.id_sum:
        lost = unexpected = 1  # at least: one record stands where another should
    doubled = len(shard.record_ids) - len(distinct)
    outcome = _Shard(ledger.records, lost, unexpected)
    if len(shard.ledgers) > 1:
        what = f"changed while the run went on ({len(shard.ledgers)} ledgers that differ)"
    elif unexpected:
        what = f"{unexpected} or more records that are not in the input, {lost} lost"
    elif doubled:
        what = f"{doubled} records are there more than once (did two jobs write at the same time?)"
    elif lost:
        outcome.fault = f"shard {name}: {lost} of {ledger.records} records are missing; start the job again"
        return outcome
    else:
        return outcome
    outcome.fault = f"shard {name}: {what}; {_anew(name)}"
    return outcome


def _unexpected_shard(name: str, shard: Committed) -> _Shard:
    count = shard.distinct
    fault = f"shard {name}: {count} records, but the input has no such shard; put it back, or {_anew(name)}"
    return _Shard(unexpected=count, fault=fault)


def _ledger(shard: Committed) -> Ledger:
    """Return the ledger to count with; where there are several, there is a fault in any case."""
    return max(shard.ledgers, key=lambda ledger: ledger.records)


def _anew(name: str) -> str:
    """Say how all records of a shard are made anew: without its commits their data files are orphans."""
    return f"forget its commits with jobs/runs.py redo --shard {name!r}, and start the job again"
