"""Commits: what a run has written, one small object per data file.

A write (:mod:`pipeline.parts`) puts its data file first and its commit last, each in one piece. So a commit implies
its data file, and a data file without a commit is an orphan that nobody reads. Whoever asks what a run holds asks the
commits alone (:mod:`pipeline.commit_log`); the protocol and what it can lose are described in docs/runs.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigurationError

VERSION = 2
"""Of the format of commit objects and of `run.json`."""


@dataclass(frozen=True)
class Ledger:
    """What a shard must leave behind in a complete run; written by the stage that reads the shard, as its last row.

    Attributes:
        images: Images in the shard.
        records: Records that the shard must leave behind.
        id_sum: Their ids, summed by :func:`pipeline.ids.id_sum`.
        matched: Hashes of the prompt file's keys that found their image in the shard, ascending.
        source: Fingerprint of the shard and of the prompts for it, as far as listings tell; ``""`` where they don't.
            Not compared: a file that was only written anew may have another one.
    """

    images: int
    records: int
    id_sum: int
    matched: tuple[int, ...] = ()
    source: str = field(default="", compare=False)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Ledger:
        """Read the form of :data:`pipeline.schema.LEDGER` and of commit objects."""
        matched = tuple(sorted(fields["matched"] or ()))
        return cls(fields["images"], fields["records"], fields["id_sum"], matched, fields.get("source") or "")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as they stand in commit objects."""
        return {**vars(self), "matched": list(self.matched)}


@dataclass(frozen=True, eq=False)
class ShardPart:
    """What one commit holds of one shard.

    Attributes:
        record_ids: (n,) int64, in the order of the data file.
        ok: How many of the records have status `ok`.
        errors: How many of the others have which error code.
        ledger: The shard's ledger, if it came with this write.
    """

    record_ids: NDArray[np.int64]
    ok: int
    errors: dict[str, int]
    ledger: Ledger | None


@dataclass(frozen=True, eq=False)
class Commit:
    """One commit object.

    Attributes:
        stem: Its name, and its data file's, without folder and extension.
        data: The data file, relative to the run directory; None where the write had only ledgers.
        rows: Records in the data file.
        size: Size of the data file as it was written (unit: byte); for people. A repeated write task may have
            replaced the file by one of the same records and another size.
        shards: What it holds, by name of the shard.
    """

    stem: str
    data: str | None
    rows: int
    size: int
    shards: dict[str, ShardPart]

    def to_json(self) -> str:
        """Return the object's content: JSON laid out for people, one shard after the other, ids on one line."""
        shards = {
            name: _lines(
                {
                    "records": len(part.record_ids),
                    "id_sum": wrapped_sum(part.record_ids),
                    "ok": part.ok,
                    "errors": part.errors,
                    "ledger": part.ledger and part.ledger.to_dict(),
                    "record_ids": part.record_ids.tolist(),
                },
                depth=2,
            )
            for name, part in self.shards.items()
        }
        head = {"version": VERSION, "data": self.data, "rows": self.rows, "bytes": self.size}
        return _lines({**head, "shards": _Rendered(_lines(shards, depth=1))}, depth=0) + "\n"

    @classmethod
    def from_json(cls, stem: str, text: str | bytes) -> Commit:
        """Read the content of a commit object.

        Raises:
            ConfigurationError: It is damaged, or of a version that this program does not know.
        """
        try:
            return _commit(stem, json.loads(text))
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
            raise ConfigurationError(
                f"commit {stem}.json is damaged: delete it and start the job again, which makes its records anew"
            ) from None


class _Rendered(str):
    """JSON text, to be taken as it is."""

    __slots__ = ()


def _lines(fields: Mapping[str, Any], depth: int) -> _Rendered:
    """Render an object with one key per line, and every value on its key's line."""
    values = (
        f"{json.dumps(key, ensure_ascii=False)}: {value if isinstance(value, _Rendered) else json.dumps(value)}"
        for key, value in fields.items()
    )
    indent = "\n" + "  " * depth
    return _Rendered("{" + ",".join(f"{indent}  {value}" for value in values) + (indent if fields else "") + "}")


def _commit(stem: str, fields: Mapping[str, Any]) -> Commit:
    if fields["version"] != VERSION:
        raise ConfigurationError(
            f"commit {stem}.json is of version {fields['version']}, this program reads version {VERSION}: "
            "continue the run with the program that began it"
        )
    shards = {name: _shard_part(part) for name, part in fields["shards"].items()}
    if fields["rows"] != sum(len(part.record_ids) for part in shards.values()):
        raise ValueError
    return Commit(stem, fields["data"], fields["rows"], fields["bytes"], shards)


def _shard_part(fields: Mapping[str, Any]) -> ShardPart:
    ids = np.asarray(fields["record_ids"] or np.empty(0, np.int64))
    if ids.dtype != np.int64 or len(ids) != fields["records"] or wrapped_sum(ids) != fields["id_sum"]:
        raise ValueError
    ledger = fields["ledger"]
    return ShardPart(ids, fields["ok"], fields["errors"], Ledger.from_dict(ledger) if ledger else None)


@dataclass(frozen=True, eq=False)
class Committed:
    """What all commits together hold of one shard.

    Attributes:
        record_ids: (n,) int64; an id that was committed twice stands there twice. Empty where the shard is `whole`.
        ok: How many of the records have status `ok`.
        errors: How many of the others have which error code.
        ledgers: The distinct ledgers; more than one only where the shard changed while the run went on.
        commits: Stems of the commits.
        whole: Exactly the records of its one ledger are there, each once, and their ids were not kept.
    """

    record_ids: NDArray[np.int64]
    ok: int
    errors: dict[str, int]
    ledgers: tuple[Ledger, ...]
    commits: tuple[str, ...]
    whole: bool = False

    @property
    def count(self) -> int:
        """How many records are committed; one that was committed twice counts twice."""
        return self.ledgers[0].records if self.whole else len(self.record_ids)

    @property
    def distinct(self) -> int:
        """How many of them are distinct."""
        return self.count if self.whole else len(np.unique(self.record_ids))

    @property
    def done(self) -> bytes:
        """The record ids as little-endian int64, as the reading stage takes them to leave finished prompts out."""
        return self.record_ids.astype("<i8").tobytes()

    @property
    def finished(self) -> bool:
        """Whether exactly the records are there that the shard's ledger asks for (so that it needn't be read)."""
        return self.whole or (len(self.ledgers) == 1 and _asked_for(np.unique(self.record_ids), self.ledgers[0]))


class ByShard:
    """Gathers what commits hold, by name of the shard, while they come past.

    Of a shard that is whole the ids are let go: of a run in order, only those of the few shards that are just being
    worked on are in memory at any time, and about 700 bytes per shard.

    Args:
        keep: Shards whose ids are kept all the same; None for all.

    Attributes:
        reopened: Shards that were whole, and of which more came: to know what is doubled, gather again and keep these.
    """

    def __init__(self, keep: AbstractSet[str] | None = None) -> None:
        self.reopened: set[str] = set()
        self._keep = keep
        self._shards: dict[str, _Gathered] = {}

    def add(self, commit: Commit) -> None:
        """Take one more commit."""
        for name, part in commit.shards.items():
            shard = self._shards.setdefault(name, _Gathered())
            if shard.whole and (len(part.record_ids) or part.ledger not in (None, shard.ledgers[0])):
                self.reopened.add(name)
            shard.add(commit.stem, part)
            if self._keep is not None and name not in self._keep:
                shard.let_go()

    def shards(self) -> dict[str, Committed]:
        """Return the outcome, ordered by name."""
        return {name: self._shards[name].committed() for name in sorted(self._shards)}


class _Gathered:
    """What has come of one shard so far."""

    __slots__ = ("count", "errors", "ids", "ledgers", "ok", "stems", "whole")

    def __init__(self) -> None:
        self.ids: list[NDArray[np.int64]] = []
        self.count = 0
        self.ok = 0
        self.errors: Counter[str] | None = None  # most shards have none
        self.ledgers: tuple[Ledger, ...] = ()
        self.stems: tuple[str, ...] = ()
        self.whole = False

    def add(self, stem: str, part: ShardPart) -> None:
        if len(part.record_ids):
            self.ids.append(part.record_ids)
        self.count += len(part.record_ids)
        self.ok += part.ok
        if part.errors:
            self.errors = (self.errors or Counter()) + Counter(part.errors)
        if part.ledger and part.ledger not in self.ledgers:
            self.ledgers += (part.ledger,)
        self.stems += (stem,)

    def let_go(self) -> None:
        if self.whole or len(self.ledgers) != 1 or self.count != self.ledgers[0].records:
            return
        if _asked_for(np.unique(_joined(self.ids)), self.ledgers[0]):
            self.whole = True
            self.ids = []

    def committed(self) -> Committed:
        return Committed(
            record_ids=_joined(self.ids),
            ok=self.ok,
            errors=dict(self.errors or {}),
            ledgers=self.ledgers,
            commits=self.stems,
            whole=self.whole,
        )


def by_shard(commits: Iterable[Commit]) -> dict[str, Committed]:
    """Gather what commits hold, by name of the shard, with all ids."""
    gathered = ByShard()
    for commit in commits:
        gathered.add(commit)
    return gathered.shards()


def _joined(pieces: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, np.int64), *pieces])


def _asked_for(distinct: NDArray[np.int64], ledger: Ledger) -> bool:
    """Tell whether distinct ids are those that a ledger asks for."""
    return len(distinct) == ledger.records and wrapped_sum(distinct) == ledger.id_sum


def wrapped_sum(ids: NDArray[np.int64]) -> int:
    """Return what :func:`pipeline.ids.id_sum` does, of an array: int64 wraps around at the same place."""
    return int(np.sum(ids, dtype=np.int64))
