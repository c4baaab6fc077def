"""What a run says at its end."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.bound import bound
from pipeline.reconcile import Reconciliation
from pipeline.runs import RunDirectory
from sdmatte.urls import redact

_FAULTS_SHOWN = 5


@dataclass(frozen=True)
class Summary:
    """The outcome of a labelling job; `str()` is made for people.

    Attributes:
        run: The run directory.
        reconciliation: Inputs against records.
        seconds: Wall time of this job.
        before: Records that earlier jobs of the run had committed.
        report: URI of the report, if one was written.
        already: The run was complete before this job.
        notes: What else a person should know, such as storage faults or the commonest error.
    """

    run: RunDirectory
    reconciliation: Reconciliation
    seconds: float
    before: int = 0
    report: str | None = None
    already: bool = False
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every input has exactly one record."""
        return self.reconciliation.complete

    def __str__(self) -> str:
        found = self.reconciliation
        path = redact(self.run.path)
        head = "complete" if self.complete else "NOT complete"
        if self.already:
            head = f"was complete already, nothing to do (labelled with {self.run.info['model']['name']})"
        ok, errors = found.by_status.get("ok", 0), found.by_status.get("error", 0)
        lines = [
            f"Run {self.run.run_id} {head}",
            f"  images     {found.images:,} in {found.shards:,} shards",
            f"  records    {found.found:,} of {found.expected:,}: {ok:,} ok, {errors:,} errors",
            *(f"             {count:>8,} {code}" for code, count in found.by_code.items()),
            f"  checked    {found.lost:,} lost, {found.doubled:,} doubled, {found.unexpected:,} unexpected",
        ]
        if not self.already:
            made = found.found - self.before
            resumed = f", after {self.before:,} of an earlier job" if self.before else ""
            lines.append(f"  this job   {made:,} records in {self.seconds:.0f} s{resumed}")
            if limit := bound(self.run.info.get("timing")):
                lines.append(f"  time       {limit.sentence}")
        lines.append(f"  written to {path}")
        if self.report:
            lines.append(f"  report     {redact(self.report)}")
        lines.extend(f"  FAULT: {fault}" for fault in found.faults[:_FAULTS_SHOWN])
        lines.extend(f"  NOTE: {note}" for note in self.notes[:_FAULTS_SHOWN])
        if len(found.faults) > _FAULTS_SHOWN:
            lines.append(f"  ... and {len(found.faults) - _FAULTS_SHOWN} more faults, see run.json")
        return "\n".join(lines)
