"""What became of a corpus, held against what must become of it."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from support.menagerie.animal import Fate, Home
from support.menagerie.corpus import FRIENDS, Corpus, Placed

LONGEST_MESSAGE = 2000
"""Characters of an error message; more would be the input itself."""

COLUMNS = (
    *("record_id", "shard", "image_key", "image_width", "image_height", "image_notes", "prompt_repairs"),
    *("status", "error_code", "error_message", "alpha"),
)
"""Columns of the records that are looked at."""


@dataclass
class Outcome:
    """What became of one input.

    Attributes:
        group: Heading it stands under.
        placed: The input.
        got: What its records say.
        lost: Records that are missing.
        doubled: Records that are too many.
        faults: What is wrong with the records that are there.
    """

    group: str
    placed: Placed
    got: list[Fate] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def wanted(self) -> list[Fate]:
        """What its records must say."""
        return [fate for fates in self.placed.fates.values() for fate in fates]


@dataclass
class Verdict:
    """What became of a corpus.

    Attributes:
        home: What the corpus is made of.
        outcomes: Of every input, bad and good.
        unexpected: Records at places where nothing stands.
    """

    home: Home
    outcomes: list[Outcome]
    unexpected: list[str]

    @property
    def animals(self) -> list[Outcome]:
        """Outcomes of the bad and unusual inputs."""
        return [each for each in self.outcomes if each.group != FRIENDS]

    @property
    def wrong(self) -> int:
        """Records that say something else than they must, or stand where nothing was expected."""
        return sum(len(each.faults) for each in self.outcomes) + len(self.unexpected)

    @property
    def lost(self) -> int:
        """Records that are missing."""
        return sum(each.lost for each in self.outcomes)

    @property
    def doubled(self) -> int:
        """Records that are too many."""
        return sum(each.doubled for each in self.outcomes)

    def faults(self) -> list[str]:
        """Return a line for everything that isn't as it must be."""
        found = [f"unexpected: {each}" for each in self.unexpected]
        for each in self.outcomes:
            counts = [f"{count} {what}" for what, count in (("lost", each.lost), ("doubled", each.doubled)) if count]
            if counts or each.faults:
                where = ", ".join("#".join(filter(None, place)) for place in each.placed.fates)
                found.append(f"{self.home} {each.placed.name} ({where[:200]}): {'; '.join((*counts, *each.faults))}")
        return found


def judge(corpus: Corpus, records: Iterable[Mapping[str, Any]]) -> Verdict:
    """Hold records against the corpus that they were made of.

    Args:
        corpus: The corpus.
        records: With the columns of :data:`COLUMNS`; `alpha` may be left out where nothing was matted.
    """
    there: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        shard = record["shard"] if corpus.home == "tars" else ""
        there.setdefault((shard, record["image_key"]), []).append(record)
    outcomes = [
        _judged(Outcome(group, placed), [record for place in placed.fates for record in there.pop(place, [])])
        for group, members in corpus.groups.items()
        for placed in members
    ]
    unexpected = [
        f"{corpus.home} {shard}#{key}: {_fate(each)}" for (shard, key), rest in there.items() for each in rest
    ]
    return Verdict(corpus.home, outcomes, unexpected)


def _judged(outcome: Outcome, records: list[Mapping[str, Any]]) -> Outcome:
    outcome.got = [_fate(record) for record in records]
    wanted, got = Counter(outcome.wanted), Counter(outcome.got)
    again = len(records) - len({record["record_id"] for record in records})
    outcome.lost = max(0, wanted.total() - len(records) + again)
    outcome.doubled = max(again, len(records) - wanted.total())
    instead = list((got - wanted).elements())[: wanted.total()]
    missed = list((wanted - got).elements())
    outcome.faults = [f"{fate}, not {other}" for fate, other in zip(instead, missed, strict=False)]
    for record in records:
        outcome.faults += _looked_at(record, outcome.placed)
    return outcome


def _fate(record: Mapping[str, Any]) -> Fate:
    if record["error_code"] is not None:
        return Fate(record["error_code"])
    return Fate(None, tuple(record["image_notes"] or ()), tuple(record["prompt_repairs"] or ()))


def _looked_at(record: Mapping[str, Any], placed: Placed) -> list[str]:
    """Return what is wrong with a record besides its code."""
    faults = []
    if record["error_code"] is not None:
        message = record["error_message"]
        if not message:
            faults.append(f"{record['error_code']} without a message")
        elif len(message) > LONGEST_MESSAGE:
            faults.append(f"{record['error_code']} with a message of {len(message)} characters")
        return faults
    size = (record["image_width"], record["image_height"])
    if placed.size is not None and size != placed.size:
        faults.append(f"{size[0]} x {size[1]} pixels, not {placed.size[0]} x {placed.size[1]}")
    if "alpha" in record:
        if record["alpha"] is None:
            faults.append("ok without a matte")
        elif (found := Image.open(io.BytesIO(record["alpha"]["bytes"])).size) != size:
            faults.append(f"a matte of {found[0]} x {found[1]} pixels, not {size[0]} x {size[1]}")
    return faults
