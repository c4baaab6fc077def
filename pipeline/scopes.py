"""What a run is about: all of the input, what is new in it, or records that are to be made anew.

The first run of an output stands at ``output.path`` itself; the ones that follow it there, each a run directory of
its own, in ``followups/0001``, ``0002``, ... Nothing that a run has written is ever changed: of records with the same
id the one of the latest complete run counts (:mod:`pipeline.latest`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

Kind = Literal["all", "incremental", "again"]


@dataclass(frozen=True)
class Selection:
    """What a job is asked to label.

    Attributes:
        kind: ``all`` of the input; ``incremental``: what no complete run of the same configuration holds; ``again``:
            the records that `where` selects.
        where: Condition on records (:mod:`pipeline.where`), for ``again``.
    """

    kind: Kind = "all"
    where: str | None = None

    @property
    def option(self) -> str:
        """The command-line option that asks for it."""
        if self.kind == "again":
            return f"--where {self.where!r}"
        return "--incremental" if self.kind == "incremental" else "no option"


@dataclass(frozen=True)
class Scope:
    """What a run labels, as it stands in its `run.json`.

    Attributes:
        kind: See :class:`Selection`.
        where: See :class:`Selection`.
        bases: The complete runs before it that it builds upon, as paths relative to the first one (which is ``""``).
    """

    kind: Kind = "all"
    where: str | None = None
    bases: tuple[str, ...] = ()

    @property
    def selection(self) -> Selection:
        """What the job was asked for that began the run."""
        return Selection(self.kind, self.where)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as they stand in `run.json`."""
        return {**asdict(self), "bases": list(self.bases)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read the form of `run.json`; raises KeyError or TypeError for anything else."""
        return cls(fields["kind"], fields["where"], tuple(fields["bases"]))


ALL = Scope()
"""All of the input."""

ALL_OF_IT = Selection()
"""What a job is asked for without options."""
