"""Tidying of run directories: commits gathered in few files, and leftovers of killed jobs removed."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from functools import partial

from pipeline import claims, commit_log, storage
from pipeline.claims import Claim
from pipeline.commits import Commit
from pipeline.holding import Gather, holding
from pipeline.latest import Chain
from pipeline.runs import RunDirectory
from sdmatte.urls import redact


def compact(chain: Chain) -> list[str]:
    """Gather the commits of each run in few files, so that it is read with few requests.

    Returns:
        What was done, for people.

    Raises:
        ClaimedError: A job is writing to one of the runs.
        TransientError: The store failed repeatedly.
    """
    lines = []
    for run in chain.runs.values():
        before = len(commit_log.list_part_files(run.path, "commits"))
        with _in_charge(run, commit_log.merge) as claim:
            commit_log.remove_outdated(claim)
        after = len(commit_log.list_part_files(run.path, "commits"))
        lines.append(f"{redact(run.path)}: {before} files with commits before, {after} now")
    return lines


def collect_garbage(chain: Chain, *, delete: bool) -> list[storage.FileInfo]:
    """Find what killed jobs left behind and no reader sees: orphaned data files, outdated commits, probes.

    Args:
        chain: The runs.
        delete: Delete it, too. Else nothing is written, and of a run that is under way, files that are about to be
            committed are found as well.

    Returns:
        The files.

    Raises:
        ClaimedError: A job is writing to one of the runs (only with `delete`).
        TransientError: The store failed repeatedly.
    """
    found = []
    for run in chain.runs.values():
        if not delete:
            found += _garbage(run, claims.latest(run.path))
            continue
        before = claims.latest(run.path)
        with _in_charge(run, commit_log.seal) as claim:
            garbage = _garbage(run, before)
            commit_log.delete_all(file.uri for file in garbage)
            commit_log.remove_outdated(claim)  # what was gathered just now, which was no garbage
            found += garbage
    return found


def redo(run: RunDirectory, shards: Collection[str]) -> int:
    """Forget commits, so that the next job makes their records anew: the cure for what reconciling finds.

    Args:
        run: The run.
        shards: Names of shards of which all commits are forgotten, and with them what these hold of other shards.
            Commits whose data file is gone are forgotten in any case.

    Returns:
        How many commits were forgotten.

    Raises:
        ClaimedError: A job is writing to the run.
        TransientError: The store failed repeatedly.
    """
    there = {f"records/{file.name}" for file in commit_log.list_part_files(run.path, "records")}
    forgotten: list[str] = []

    def keep(commit: Commit) -> bool:
        # Looked for again: the listing may be older than the last job's last file.
        has_data = commit.data is None or commit.data in there or storage.exists(storage.join(run.path, commit.data))
        kept = has_data and not commit.shards.keys() & set(shards)
        if not kept:
            if not forgotten:  # before anything is forgotten: the marker must not outlive what it stands for
                storage.delete(storage.join(run.path, "_SUCCESS"))
            forgotten.append(commit.stem)
        return kept

    with _in_charge(run, partial(commit_log.merge, keep=keep)) as claim:
        commit_log.remove_outdated(claim)
    return len(forgotten)


def _garbage(run: RunDirectory, claim: Claim | None) -> list[storage.FileInfo]:
    outdated = commit_log.outdated(claim) if claim else []
    beside = storage.list_files(storage.join(run.path, "claims"), pattern=False)
    probes = [file for file in beside if file.name.startswith("probe-")]
    return [*run.orphans(claim), *outdated, *probes]


def _in_charge(run: RunDirectory, gather: Gather) -> AbstractContextManager[Claim]:
    return holding(run.path, exclusively=run.info["config"]["output"]["exclusive"], gather=gather)
