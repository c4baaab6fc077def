"""Being in charge of a run directory, from claim to release."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline import claims, commit_log, storage
from pipeline.claims import Claim

Gather = Callable[[str, Claim | None, str], tuple[str, ...]]
"""Given a run directory, the last job's claim and the name of a log: gathers commits, returns the logs that count."""


@contextmanager
def holding(
    path: str,
    *,
    exclusively: bool,
    gather: Gather = commit_log.seal,
) -> Iterator[Claim]:
    """Keep other jobs out of a run directory, show signs of life, and gather commits from time to time.

    Args:
        path: The directory.
        exclusively: False for stores that take no conditional writes: nobody is kept out.
        gather: What is done with the commits so far: :func:`pipeline.commit_log.seal` or `merge`.

    Raises:
        ClaimedError: Another job is writing there.
        SupersededError: Another job took over while this one was paused or cut off.
        ConfigurationError: The store refuses access, or can't keep jobs apart.
        TransientError: The store failed repeatedly.
    """
    path = storage.absolute(path)
    claim, heartbeat = claims.acquire(path, lambda before, name: gather(path, before, name), exclusively=exclusively)
    try:
        with commit_log.compacting(claim):
            yield claim
    except KeyboardInterrupt:
        if heartbeat.lost:
            claim.check()
        raise
    finally:
        heartbeat.close()
