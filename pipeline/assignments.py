"""What a job has to do: in which run directory, which shards, and which records are none of its business."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline import storage, where
from pipeline.commits import Committed
from pipeline.config import LabelConfig
from pipeline.errors import ConfigurationError
from pipeline.ids import image_id, record_id
from pipeline.latest import NOTHING, Chain, followup
from pipeline.prompt_files import Prompts
from pipeline.provenance import ModelIdentity
from pipeline.reconcile import UNMATCHED_PROMPTS
from pipeline.runs import RunDirectory
from pipeline.scopes import ALL, Scope, Selection
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

    def scope(self, config: LabelConfig, model: ModelIdentity) -> Scope:
        """Return what the run is about: its own scope if it is there, else a new one upon the complete runs."""
        there = next((run for run in self.chain.runs.values() if run.path == self.path), None)
        if there is not None:
            return there.scope
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
        seen: Ids of records that earlier runs hold, ascending; they are left alone. int64.
        matched: Hashes of prompt-file keys that found their image in shards that are not read again; int64.
        selected: Records that are to be made anew, where that was asked for.
    """

    shards: list[Shard]
    seen: NDArray[np.int64] = field(default_factory=lambda: NOTHING)
    matched: NDArray[np.int64] = field(default_factory=lambda: NOTHING)
    selected: int | None = None


def find_target(config: LabelConfig, selection: Selection) -> Target:
    """Find the run that a job goes on with, or begins.

    Raises:
        ConfigurationError: The output holds no run to follow, or an unfinished one of another kind.
        TransientError: The store failed repeatedly.
    """
    chain = Chain.open(config.output.path)
    if selection.kind == "all" or (selection.kind == "incremental" and not chain.runs):
        return Target(chain.path, Selection(), chain)
    if not chain.runs:
        raise ConfigurationError(f"{redact(chain.path)} holds no run whose records could be made anew")
    name, last = list(chain.runs.items())[-1]
    if not last.succeeded:
        if last.scope.selection == selection or (not name and selection.kind == "incremental"):
            return Target(last.path, last.scope.selection, chain)
        raise ConfigurationError(
            f"{redact(last.path)} is not complete yet: finish it first, with the command that began it "
            f"({last.scope.selection.option})"
        )
    return Target(storage.join(chain.path, followup(len(chain.runs))), selection, chain)


def _is_of(run: RunDirectory, config: LabelConfig, model: ModelIdentity) -> bool:
    used = run.info["model"]
    same_weights: bool = used["weights_sha256"] == model.weights_sha256 and used["precision"] == model.precision
    return same_weights and bool(run.info["config_hash"] == config.matte_hash())


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
    bases = {name: chain.runs[name].committed() for name in scope.bases}
    held = [shard.record_ids for base in bases.values() for name, shard in base.items() if name != UNMATCHED_PROMPTS]
    unreadable = [record_id(image_id(shard.name, ""), {}) for shard in shards]  # asked anew, if a shard is read again
    seen = np.setdiff1d(np.concatenate([NOTHING, *held]), unreadable)
    if scope.kind == "again":
        assert scope.where is not None
        return _again(chain, shards, seen, scope.where)
    # A run that made records anew looked into shards of which runs of other settings may hold the rest.
    whole = [base for name, base in bases.items() if set(chain.runs[name].scope.bases) <= set(scope.bases)]
    known = {name: _same(name, whole, sources.get(name, "")) for name in (shard.name for shard in shards)}
    matched = (key for shard in known.values() if shard for ledger in shard.ledgers for key in ledger.matched)
    left = [shard for shard in shards if known[shard.name] is None]
    return Assignment(left, seen, np.fromiter(matched, np.int64))


def _same(name: str, bases: Iterable[Mapping[str, Committed]], source: str) -> Committed | None:
    """Return what an earlier run holds of a shard that is as it was then."""
    for base in bases:
        shard = base.get(name)
        if source and shard is not None and shard.finished and shard.ledgers[0].source == source:
            return shard
    return None


def _again(chain: Chain, shards: Sequence[Shard], seen: NDArray[np.int64], condition: str) -> Assignment:
    table = chain.records(["record_id", "shard"], where.parse(condition))
    if not len(table):
        raise ConfigurationError(f"no record of {redact(chain.path)} meets the condition {condition}")
    selected = table["record_id"].to_numpy()
    names = set(table["shard"].to_pylist()) - {UNMATCHED_PROMPTS}
    if names <= {shard.name for shard in shards}:
        shards = [shard for shard in shards if shard.name in names]
    # else the input is cut differently now, and its records may be anywhere
    return Assignment(list(shards), np.setdiff1d(seen, selected), selected=len(selected))


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
