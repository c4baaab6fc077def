"""What the runs of an output hold: their state, whether anything is lost or doubled, and where one record is from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import claims, commit_log
from pipeline.config import LabelConfig
from pipeline.errors import ConfigurationError
from pipeline.ids import parse, show
from pipeline.latest import NOTHING, Chain
from pipeline.reconcile import UNMATCHED_PROMPTS, Reconciliation
from pipeline.runs import RunDirectory
from pipeline.schema import RECORDS
from pipeline.sources import make_source
from sdmatte.urls import redact

_FAULTS_SHOWN = 10


def open_chain(path: str) -> Chain:
    """Open the runs of an output.

    Raises:
        ConfigurationError: There is none.
        TransientError: The store failed repeatedly.
    """
    chain = Chain.open(path)
    if not chain.runs:
        raise ConfigurationError(f"{redact(path)} is not a run directory: it has no run.json")
    return chain


def status(chain: Chain) -> str:
    """Return the state of each run, for people; reads commits and listings, no data file."""
    lines = []
    for name, run in chain.runs.items():
        committed = run.progress()
        records = sum(shard.count for shard in committed.values())
        errors = sum(sum(shard.errors.values()) for shard in committed.values())
        finished = sum(shard.finished for shard in committed.values())
        bytes_ = sum(commit.size for commit in commit_log.heads(run.path))
        scope = run.scope
        about = {"all": "all of the input", "incremental": "what was new", "again": f"records where {scope.where}"}
        claim = claims.latest(run.path)
        info = run.info
        ok = f"{records:,} ({records - errors:,} ok, {errors:,} errors)"
        lines += [
            f"{name or 'first run'}  {run.run_id}  {'complete' if run.succeeded else info['state']}",
            f"  about      {about[scope.kind]}",
            f"  model      {info['model']['name']} in {info['model']['precision']}",
            f"  began      {info['started_at']}, ended {info['finished_at']}, {len(info['resumed'])} times resumed",
            f"  records    {ok} in {finished:,} finished of {_planned(run)} shards, {bytes_ / 1e6:,.1f} MB",
            f"  written by {claims.described(claim) if claim else 'nobody yet'}",
        ]
        if run.info.get("error"):
            lines.append(f"  stopped    {run.info['error']}")
        if orphans := run.orphans():
            lines.append(f"  orphans    {len(orphans)} files; a complete run has none, 'gc' removes them")
    return "\n".join(lines)


def _planned(run: RunDirectory) -> str:
    try:
        return f"{len(run.plan()):,}"
    except ConfigurationError:
        return "an unknown number of"


@dataclass(frozen=True)
class ChainReconciliation:
    """Inputs against the records of all runs of an output.

    Attributes:
        runs: Of each run, by its path relative to the first one.
        doubled_between: Records that a follow-up made although an earlier run that it builds upon holds them.
        not_labelled: Shards of the input that are in no run; None where the input was not listed.
    """

    runs: dict[str, Reconciliation]
    doubled_between: int
    not_labelled: tuple[str, ...] | None

    @property
    def complete(self) -> bool:
        """Whether nothing is lost, doubled, unexpected or missing."""
        return all(run.complete for run in self.runs.values()) and not self.doubled_between and not self.not_labelled

    def __str__(self) -> str:
        lines = []
        for name, run in self.runs.items():
            shards = f"{run.finished:,} of {run.shards:,} shards"
            head = f"{run.found:,} of {run.expected:,} records in {shards}, {run.images:,} images"
            lines.append(f"{name or 'first run'}: {head}")
            lines += [f"  FAULT: {fault}" for fault in run.faults[:_FAULTS_SHOWN]]
            if len(run.faults) > _FAULTS_SHOWN:
                lines.append(f"  ... and {len(run.faults) - _FAULTS_SHOWN} more faults")
        if self.doubled_between:
            lines.append(f"FAULT: {self.doubled_between:,} records of follow-ups were there before")
        if self.not_labelled is None:
            lines.append("the input was not listed")
        elif self.not_labelled:
            lines.append(
                f"{len(self.not_labelled):,} shards of the input are in no run, such as {self.not_labelled[0]}: label "
                "them with --incremental"
            )
        runs = self.runs.values()
        unfinished = sum(run.shards - run.finished for run in runs)
        if unfinished:
            lines.append(
                f"{unfinished:,} shards are not finished: what they have lost is not known, and not counted here"
            )
        lines.append(
            f"lost {sum(run.lost for run in runs)}, "
            f"doubled {sum(run.doubled for run in runs) + self.doubled_between}, "
            f"unexpected {sum(run.unexpected for run in runs)}"
        )
        return "\n".join(lines)


def reconcile(chain: Chain, *, list_input: bool = True) -> ChainReconciliation:
    """Compare the input with the records of all runs; reads commits and listings, no data file.

    Args:
        chain: The runs.
        list_input: List the input, too, to see whether there are shards that no run knows.

    Raises:
        ConfigurationError: A commit is damaged, or the input can't be listed.
        TransientError: The store failed repeatedly.
    """
    plans = {name: run.plan() for name, run in chain.runs.items()}
    runs = {name: run.reconcile(plans[name]) for name, run in chain.runs.items()}
    between = sum(_doubled(chain, run) for run in chain.runs.values() if run.scope.kind == "incremental")
    missing = None
    if list_input:
        known = {shard for plan in plans.values() for shard in plan}
        known |= {shard for run in chain.runs.values() for shard in run.progress()}
        last = list(chain.runs.values())[-1]
        shards = make_source(LabelConfig.model_validate(last.info["config"])).shards()
        missing = tuple(shard.name for shard in shards if shard.name not in known)
    return ChainReconciliation(runs, between, missing)


def _doubled(chain: Chain, run: RunDirectory) -> int:
    mine = _ids(run)
    others = [_ids(chain.runs[name]) for name in run.scope.bases]
    return int(np.isin(mine, np.concatenate([NOTHING, *others])).sum())


def _ids(run: RunDirectory) -> Any:
    committed = run.committed()
    return np.concatenate([NOTHING, *(s.record_ids for name, s in committed.items() if name != UNMATCHED_PROMPTS)])


def find_record(chain: Chain, record: str, columns: list[str] | None = None) -> tuple[RunDirectory, dict[str, Any]]:
    """Return the record of an id, and the run that made it; of several runs the latest complete one, else the latest.

    Args:
        chain: The runs.
        record: Its id, as 16 hexadecimal digits or as the signed number in the Parquet files.
        columns: Of :data:`pipeline.schema.RECORDS`; default all.

    Raises:
        ConfigurationError: There is no such record.
        TransientError: The store failed repeatedly.
    """
    numbers = pa.array(record_numbers(record), pa.int64())
    runs = sorted(chain.runs.values(), key=lambda run: run.succeeded)
    for run in reversed(runs):
        rows = run.dataset().to_table(columns=columns, filter=pc.field("record_id").isin(numbers))
        if len(rows):
            row: dict[str, Any] = rows.slice(0, 1).to_pylist()[0]
            return run, row
    raise ConfigurationError(f"{redact(chain.path)} holds no record {record}")


def record_numbers(text: str) -> list[int]:
    """Return the ids that a text may mean: 16 hexadecimal digits, or a signed decimal number, or either of them.

    Raises:
        ConfigurationError: It is neither.
    """
    numbers = [parse(text)] if re.fullmatch("[0-9a-fA-F]{16}", text) else []
    if re.fullmatch("-?[0-9]{1,19}", text) and -(2**63) <= int(text) < 2**63:
        numbers.append(int(text))
    if not numbers:
        raise ConfigurationError(
            f"{text!r} is no record id: give 16 hexadecimal digits, or a signed number of 64 bits"
        )
    return numbers


def explain(chain: Chain, record: str) -> str:
    """Return where a record is from: input, prompt, model, run, and the code and libraries that made it.

    Raises:
        ConfigurationError: There is no such record.
        TransientError: The store failed repeatedly.
    """
    run, row = find_record(chain, record)
    lines = [f"record {show(row['record_id'])} of {redact(run.path)}", ""]
    for field in RECORDS:
        value = row[field.name]
        if value is None:
            continue
        if field.name == "alpha":
            value = f"PNG of {len(value['bytes']):,} bytes"
        elif isinstance(value, bytes):
            value = f"{len(value):,} bytes"
        elif field.name in ("record_id", "image_id"):
            value = f"{show(value)} ({value})"
        unit = (field.metadata or {}).get(b"unit", b"").decode()
        lines.append(f"  {field.name:18} {value}{' ' + unit if unit else ''}")
    lines += ["", f"  run                {run.run_id}, began {run.info['started_at']}"]
    for about in [run.info, *run.info["resumed"]]:
        libraries = ", ".join(f"{name} {version}" for name, version in about["libraries"].items())
        lines.append(f"  code               {about['code']}; {libraries}")
    return "\n".join(lines)
