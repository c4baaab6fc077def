"""What a job has to do: in which run directory, which shards, and which records are none of its business."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline import commit_log, storage, where
from pipeline.commits import Commit, Committed
from pipeline.config import LabelConfig
from pipeline.errors import ConfigurationError
from pipeline.ids import image_id, record_id
from pipeline.latest import NOTHING, Chain, followup
from pipeline.prompt_files import Prompts
from pipeline.provenance import ModelIdentity
from pipeline.reconcile import UNMATCHED_PROMPTS
from pipeline.runs import RunDirectory
from pipeline.scopes import ALL, Scope, Selection
from pipeline.seen import Seen, among, short
from pipeline.sources import Shard
from sdmatte.urls import redact


@dataclass(frozen=True)
class Target:
    """Where a job works.

    Attributes:
        path: The run directory.
        selection: What the run there is, or will be, about.
        chain: The runs of the output so far.
    """

    path: str
    selection: Selection
    chain: Chain

    @property
    def there(self) -> RunDirectory | None:
        """The run itself, if it has begun."""
        return next((run for run in self.chain.runs.values() if run.path == self.path), None)

    @property
    def earlier(self) -> Chain:
        """The runs before it."""
        runs = {name: run for name, run in self.chain.runs.items() if not self.there or run.path < self.path}
        return Chain(self.chain.path, runs)

    def scope(self, config: LabelConfig, model: ModelIdentity) -> Scope:
        """Return what the run is about: its own scope if it is there, else a new one upon the complete runs."""
        if self.there is not None:
            return self.there.scope
        kind, where = self.selection.kind, self.selection.where
        if kind == "all":
            return ALL
        complete = self.chain.complete()
        names = [name for name, run in complete.items() if kind == "again" or _is_of(run, config, model)]
        return Scope(kind, where, tuple(names))


@dataclass(frozen=True)
class Assignment:
    """What a job has to read and to label.

    Attributes:
        shards: To be read, unless they are finished in this run.
        seen: What earlier runs hold; it is left alone.
        matched: Hashes of prompt-file keys that found their image in shards that are not read again; int64.
        selected: Records that are to be made anew, where that was asked for.
    """

    shards: list[Shard]
    seen: Seen = field(default_factory=Seen)
    matched: NDArray[np.int64] = field(default_factory=lambda: NOTHING)
    selected: int | None = None


def find_target(config: LabelConfig, selection: Selection) -> Target:
    """Find the run that a job goes on with, or begins.

    Raises:
        ConfigurationError: The output holds no run to follow, or an unfinished one of another kind.
        TransientError: The store failed repeatedly.
    """
    chain = Chain.open(config.output.path)
    for run in chain.runs.values():
        if run.succeeded:
            continue
        fits = selection.kind == "all" or run.scope.selection == selection
        if fits or (run.scope.kind == "all" and selection.kind == "incremental"):
            return Target(run.path, run.scope.selection, chain)
        raise ConfigurationError(
            f"{redact(run.path)} is not complete yet: finish it first, with the command that began it "
            f"({run.scope.selection.option}), or without options"
        )
    if selection.kind == "all" or (selection.kind == "incremental" and not chain.runs):
        return Target(chain.path, Selection(), chain)
    if not chain.runs:
        raise ConfigurationError(f"{redact(chain.path)} holds no run whose records could be made anew")
    return Target(storage.join(chain.path, followup(len(chain.runs))), selection, chain)


def _is_of(run: RunDirectory, config: LabelConfig, model: ModelIdentity) -> bool:
    used = run.info["model"]
    same_weights: bool = used["weights_sha256"] == model.weights_sha256 and used["precision"] == model.precision
    there = LabelConfig.recorded(run.info["config"])
    return same_weights and there.matte_hash() == config.matte_hash() and _frame(there) == _frame(config)


def _frame(config: LabelConfig) -> dict[str, Any]:
    """Return the settings that say where in its image a prompt is: with others, its record is another."""
    return config.prompts.model_dump(include={"box", "units", "orientation", "audit"})


def assignment(chain: Chain, scope: Scope, shards: Sequence[Shard], sources: Mapping[str, str]) -> Assignment:
    """Work out what of the input is to be read.

    Args:
        chain: The runs of the output so far.
        scope: What the run is about.
        shards: Of the input.
        sources: By name of the shard, the fingerprint of what it and its prompts are now; ``""`` where unknown.

    Raises:
        ConfigurationError: The condition can't be used, or selects nothing.
        TransientError: The store failed repeatedly.
    """
    if scope.kind == "all":
        return Assignment(list(shards))
    seen = _held([chain.runs[name] for name in scope.bases])
    unreadable = np.fromiter((record_id(image_id(shard.name, ""), {}) for shard in shards), np.int64, len(shards))
    if (asked_anew := unreadable[among(unreadable, seen)]).size:  # if a shard is read again
        seen = np.delete(seen, np.searchsorted(seen, asked_anew))
    if scope.kind == "again":
        assert scope.where is not None
        return _again(chain, shards, seen, scope.where)
    bases = {name: chain.runs[name].progress() for name in scope.bases}
    # A run that made records anew looked into shards of which runs of other settings may hold the rest.
    whole = [base for name, base in bases.items() if set(chain.runs[name].scope.bases) <= set(scope.bases)]
    known = {name: _same(name, whole, sources.get(name, "")) for name in (shard.name for shard in shards)}
    matched = (key for shard in known.values() if shard for ledger in shard.ledgers for key in ledger.matched)
    left = [shard for shard in shards if known[shard.name] is None]
    there = set().union(*bases.values())
    images = _images([chain.runs[name] for name in scope.bases], [one.name for one in left if one.name in there])
    return Assignment(left, Seen(seen, *images), np.fromiter(matched, np.int64))


def _same(name: str, bases: Iterable[Mapping[str, Committed]], source: str) -> Committed | None:
    """Return what an earlier run holds of a shard that is as it was then."""
    for base in bases:
        shard = base.get(name)
        if source and shard is not None and shard.finished and shard.ledgers[0].source == source:
            return shard
    return None


class _Held:
    """Ids of records, gathered as commits come past."""

    def __init__(self) -> None:
        self.pieces: list[NDArray[np.int64]] = []

    def add(self, commit: Commit) -> None:
        self.pieces += [part.record_ids for name, part in commit.shards.items() if name != UNMATCHED_PROMPTS]


def _held(runs: Iterable[RunDirectory]) -> NDArray[np.int64]:
    """Return the ids of all records of some runs, ascending, each once; 8 bytes each, and as much again on the way."""
    pieces = [piece for run in runs for piece in commit_log.fold(run.path, _Held).pieces]
    ids = np.concatenate([NOTHING, *pieces])
    del pieces
    ids.sort()  # in place
    first = np.ones(len(ids), np.bool_)
    np.not_equal(ids[1:], ids[:-1], out=first[1:])
    return ids if first.all() else ids[first]


def _images(bases: Sequence[RunDirectory], shards: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ids of images, ascending, and digests of their bytes, as the latest of some runs saw them in shards."""
    wanted = pc.field("shard").isin(pa.array(shards, pa.string())) & pc.field("image_sha256").is_valid()
    ids, digests = [NOTHING], [NOTHING]
    for run in reversed(bases) if shards else ():
        for dataset in run.datasets():
            for batch in dataset.to_batches(columns=["image_id", "image_sha256"], filter=wanted):
                ids.append(batch["image_id"].to_numpy())
                digests.append(np.fromiter(map(short, batch["image_sha256"].to_pylist()), np.int64, len(batch)))
    images, first = np.unique(np.concatenate(ids), return_index=True)  # of the latest run
    return images, np.concatenate(digests)[first]


def _again(chain: Chain, shards: Sequence[Shard], seen: NDArray[np.int64], condition: str) -> Assignment:
    table = chain.records(["record_id", "shard"], where.parse(condition))
    if not len(table):
        raise ConfigurationError(f"no record of {redact(chain.path)} meets the condition {condition}")
    table = table.filter(pc.not_equal(table["shard"], UNMATCHED_PROMPTS))
    if not len(table):
        raise ConfigurationError(
            "only prompts whose image is not in the input meet the condition; --incremental labels those whose images "
            "have come since"
        )
    selected = table["record_id"].to_numpy()
    names = set(table["shard"].to_pylist())
    if names <= {shard.name for shard in shards}:
        shards = [shard for shard in shards if shard.name in names]
    # else the input is cut differently now, and its records may be anywhere
    return Assignment(list(shards), Seen(np.setdiff1d(seen, selected)), selected=len(selected))


def sources(config: LabelConfig, shards: Sequence[Shard], index: Prompts | None) -> dict[str, str]:
    """Return fingerprints of what shards and their prompts are now, by name; ``""`` where listings don't tell.

    Two equal ones promise that reading the shard would yield the same images and the same prompts.
    """
    prompts = _prompts_version(config, index)
    if prompts is None:
        return {shard.name: "" for shard in shards}
    settings = config.model_dump(mode="json", include={"prompts": True, "input": {"kind", "max_pixels", "max_bytes"}})
    head = json.dumps([settings, prompts], sort_keys=True)
    return {
        shard.name: hashlib.sha256(f"{head}\n{shard.fingerprint}".encode()).hexdigest()[:16]
        if shard.fingerprint
        else ""
        for shard in shards
    }


def _prompts_version(config: LabelConfig, index: Prompts | None) -> str | None:
    """Return what tells this state of the prompts from others; None if nothing does."""
    if index is not None:
        return index.version
    names = config.prompts.class_names  # beside the images there are the prompts themselves, parts of the shards
    return "" if names is None else storage.file_info(names, retries=config.workers.retries).version
