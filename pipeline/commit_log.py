"""The commit log of a run: which commits count, read with few requests, and compacted while the run goes on.

``commits/`` holds

``part-EPOCH-NONCE-….json``
    one commit (:mod:`pipeline.commits`), as a write task leaves it; counts in its own epoch;
``log-EPOCH-NONCE-….parquet``
    many of them, gathered by the job while it works, which then deletes the single ones; counts in its own epoch;
``sealed-EPOCH-NONCE.parquet``
    what the job before had not gathered, when this epoch was claimed.

The claim in charge (:mod:`pipeline.claims`) names the logs of earlier epochs that count. So a run of 10^6 commits is
read with some thousand requests, and a commit that arrives after its epoch has ended is never seen.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import claims, storage
from pipeline.claims import Claim, SupersededError
from pipeline.commits import Commit, Ledger, ShardPart
from pipeline.errors import ConfigurationError, PipelineError, TransientError
from pipeline.schema import LEDGER
from pipeline.storage_faults import NotFoundError
from sdmatte.urls import redact

COMPACT_AT = 500
"""Single commits after which a job gathers them in a log."""

COMPACT_SECONDS = 60.0
"""Between two looks at how many there are."""

LOG_COMMITS = 10_000
"""Commits in one log of :func:`merge`, at most."""

LOG_ROWS = 100_000
"""Records of the commits in one log, at most, unless one commit alone has more: readers hold a few logs at a time."""

LOG_SCHEMA = pa.schema(
    [
        ("stem", pa.string()),
        ("data", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("shard", pa.string()),
        ("record_ids", pa.list_(pa.int64())),
        ("ok", pa.int64()),
        ("errors", pa.string()),  # JSON: error code to count
        ("ledger", LEDGER),
    ]
)
"""Of logs: one row per commit and shard."""

_HEAD = ["stem", "data", "rows", "bytes"]

_In = TypeVar("_In")
_T = TypeVar("_T")
_Taker = TypeVar("_Taker", bound="Taker")
_log = logging.getLogger(__name__)
_READERS = 32  # objects read or deleted at a time: each request to a store is mostly waiting
_LOGS_AHEAD = 4  # read before they are wanted
_ATTEMPTS = 5  # at a consistent view, while another job compacts
_NAME = re.compile(r"(part|log)-(\d{6})-([0-9a-f]{6})-.+\.(json|parquet)")


class Taker(Protocol):
    """Takes commits as they come past."""

    def add(self, commit: Commit) -> None:
        """Take one."""


def fold(run: str, start: Callable[[], _Taker], *, names_only: bool = False) -> _Taker:
    """Hand all commits of a run that count to a taker, each once, roughly in the order in which they were written.

    Memory: about 230 bytes per commit, and the few logs that are read at a time; what else is kept is the taker's.

    Args:
        run: The run directory.
        start: Makes a taker; called again where the run changed so that reading has to begin anew.
        names_only: Leave `shards` of gathered commits empty, where stem, data file and sizes are all that is wanted.

    Raises:
        ConfigurationError: One of them is damaged, or the store refuses to hand it out.
        TransientError: The store failed repeatedly.
    """

    def read() -> _Taker:
        taker = start()
        claim = claims.latest(run)
        if claim is None:
            return taker
        listed = _counting(run, claim)
        claim.check()  # else the next job may have sealed and deleted what this listing should have shown
        for commit in _each(run, *listed, names_only=names_only):
            taker.add(commit)
        return taker

    return _patiently(run, read)


class _All:
    def __init__(self) -> None:
        self.commits: list[Commit] = []

    def add(self, commit: Commit) -> None:
        self.commits.append(commit)


def read_commits(run: str) -> list[Commit]:
    """Read all commits of a run that count, ordered by name; with all their ids, so 8 bytes per record.

    Raises:
        ConfigurationError: One of them is damaged, or the store refuses to hand it out.
        TransientError: The store failed repeatedly.
    """
    return sorted(fold(run, _All).commits, key=lambda commit: commit.stem)


def heads(run: str) -> list[Commit]:
    """Read all commits of a run that count, ordered by name, without what they hold of shards.

    Raises:
        ConfigurationError: A commit is damaged, or the store refuses to hand it out.
        TransientError: The store failed repeatedly.
    """
    found = fold(run, _All, names_only=True).commits
    return sorted((replace(commit, shards={}) for commit in found), key=lambda commit: commit.stem)


def data_files(run: str) -> list[str]:
    """Return the data files of a run that have a commit that counts, relative to it; errors as :func:`heads`."""
    return [commit.data for commit in heads(run) if commit.data]


def _patiently(run: str, read: Callable[[], _T]) -> _T:
    """Read; again, if what was listed has been gathered and deleted meanwhile, or another job has taken over."""
    for _ in range(_ATTEMPTS):
        with suppress(NotFoundError, SupersededError):
            return read()
    raise TransientError(f"the commits of {redact(run)} change faster than they can be read; try again")


def _each(
    run: str, logs: Sequence[str], loose: Sequence[storage.FileInfo], *, names_only: bool = False
) -> Iterator[Commit]:
    # A commit is in a log and on its own while a job gathers it, or after it died doing so.
    seen: set[str] = set()
    with ThreadPoolExecutor(_READERS) as pool:
        # Fetched by threads and unpacked in this one: what threads unpack stays in memory arenas of their own.
        uris = [storage.join(run, "commits", name) for name in logs]
        fetched = _ahead(pool, lambda uri: (uri, storage.read_bytes(uri)), uris, _LOGS_AHEAD)
        gathered = (_unpacked(uri, content, names_only=names_only) for uri, content in fetched)
        single = _ahead(pool, lambda file: [_read_commit(file)], loose, 4 * _READERS)
        for commit in itertools.chain.from_iterable(itertools.chain(gathered, single)):
            if commit.stem not in seen:
                seen.add(commit.stem)
                yield commit


def _ahead(pool: ThreadPoolExecutor, work: Callable[[_In], _T], items: Iterable[_In], most: int) -> Iterator[_T]:
    """Map in order, as `pool.map`, but with a bounded number of results that nobody has taken yet."""
    pending: deque[Future[_T]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > most:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _counting(run: str, claim: Claim) -> tuple[list[str], list[storage.FileInfo]]:
    """Return the names of the logs that count, and the single commits of the claim's own epoch.

    Raises:
        NotFoundError: Commits were gathered while they were listed.
    """
    logs, loose = _of_epoch(run, claim.epoch)
    # A listing of many names is not of one moment: it can miss a log, because it was past its name when that was
    # written, and the commits in it, because they were deleted when it came to theirs. A second one has the log.
    if _of_epoch(run, claim.epoch)[0] != logs:
        raise NotFoundError(f"commits of {redact(run)} were gathered while they were listed")
    return [*claim.logs, *logs], loose


def _of_epoch(run: str, epoch: int) -> tuple[list[str], list[storage.FileInfo]]:
    """Return the names of an epoch's logs, and its single commits."""
    logs: list[str] = []
    loose: list[storage.FileInfo] = []
    for file in list_part_files(run, "commits"):
        match = _NAME.fullmatch(file.name)
        if match and int(match[2]) == epoch:
            if match[1] == "log":
                logs.append(file.name)
            else:
                loose.append(file)
    return logs, loose


def seal(run: str, claim: Claim | None, name: str) -> tuple[str, ...]:
    """Gather what the last job left, for the next one's claim.

    Args:
        run: The run directory.
        claim: Of the last job.
        name: Of the log to write; several get numbers behind it.

    Returns:
        Names of all logs that count from now on.
    """
    if claim is None:
        return ()

    def read() -> tuple[list[str], list[Commit]]:
        logs, loose = _counting(run, claim)
        with ThreadPoolExecutor(_READERS) as pool:
            return logs, list(pool.map(_read_commit, loose))

    logs, commits = _patiently(run, read)
    return (*logs, *_write_logs(run, name, commits))


def compact(claim: Claim, number: int, *, at: int = COMPACT_AT) -> bool:
    """Gather the single commits of a claim's epoch in a log, if there are many, and delete them.

    Args:
        claim: Of the job that calls this, which must be in charge.
        number: Of the log, from 0; never used twice within the job, even if it failed before.
        at: How many are many.

    Returns:
        Whether a log was written.
    """
    _, loose = _counting(claim.run, claim)
    if len(loose) < at:
        return False
    with ThreadPoolExecutor(_READERS) as pool:
        commits = list(pool.map(_read_commit, loose))
        _write_logs(claim.run, f"log-{claim.prefix}-{number:06d}.parquet", commits)
        list(pool.map(lambda file: storage.delete(file.uri), loose))
    return True


@contextmanager
def compacting(claim: Claim) -> Iterator[None]:
    """Gather commits from time to time, in a thread, while a job works."""
    stop = threading.Event()

    def work() -> None:
        # A number per attempt: one that failed may have deleted commits already, so its log must not be replaced.
        for number in itertools.count():
            if stop.wait(COMPACT_SECONDS):
                return
            try:
                claim.check(retries=0)  # a job that was superseded deletes nothing
                compact(claim, number)
            except PipelineError as error:
                _log.warning("the commits could not be gathered this time: %s", error)

    thread = threading.Thread(target=work, name="compacting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def merge(
    run: str, claim: Claim | None, name: str, keep: Callable[[Commit], bool] = lambda _: True
) -> tuple[str, ...]:
    """Gather all that counts in few logs, for the next claim; as :func:`seal`, which leaves earlier logs as they are.

    Args:
        run: The run directory.
        claim: Of the last job.
        name: Of the log to write; several get numbers behind it.
        keep: Tells the commits that are to count from now on.

    Returns:
        Names of all logs that count from now on. Their ids together take 8 bytes each in memory.
    """
    if claim is None:
        return ()
    commits = [commit for commit in _patiently(run, lambda: [*_each(run, *_counting(run, claim))]) if keep(commit)]
    commits.sort(key=lambda commit: commit.stem)
    return tuple(_write_logs(run, name, commits))


def _write_logs(run: str, name: str, commits: Iterable[Commit]) -> list[str]:
    """Write commits into as many logs as they need, and return their names; several have numbers behind the name."""
    portions = list(_portions(commits))
    names = [name.replace(".parquet", f"-{number:06d}.parquet") for number in range(len(portions))]
    names = [name] if len(portions) == 1 else names
    for each, portion in zip(names, portions, strict=True):
        _write_log(run, each, portion)
    return names


def _portions(commits: Iterable[Commit]) -> Iterator[list[Commit]]:
    """Cut commits into what one log holds: readers have a few logs in memory at a time."""
    portion: list[Commit] = []
    rows = 0
    for commit in commits:
        if portion and (len(portion) == LOG_COMMITS or rows + commit.rows > LOG_ROWS):
            yield portion
            portion, rows = [], 0
        portion.append(commit)
        rows += commit.rows
    if portion:
        yield portion


def outdated(claim: Claim) -> list[storage.FileInfo]:
    """Return commits and logs that don't count any more: gathered ones, and what earlier jobs wrote too late.

    Args:
        claim: The one in charge.
    """
    kept = set(claim.logs)
    return [
        file
        for file in list_part_files(claim.run, "commits")
        if file.name not in kept and (epoch := epoch_of(file.name)) is not None and epoch < claim.epoch
    ]


def remove_outdated(claim: Claim) -> None:
    """Delete what :func:`outdated` finds."""
    delete_all(file.uri for file in outdated(claim))


def delete_all(uris: Iterable[str]) -> None:
    """Delete files, several at a time."""
    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(storage.delete, uris))


def epoch_of(name: str) -> int | None:
    """Return the epoch in the name of a data file, commit or log; None for other files."""
    match = re.match(r"\.?(?:part|log|sealed)-(\d{6})-", name)
    return int(match[1]) if match else None


def list_part_files(run: str, folder: str) -> list[storage.FileInfo]:
    """List what lies in a run's folder `records` or `commits`, ordered by name; nothing before the first write."""
    try:
        return storage.list_files(storage.join(run, folder), pattern=False)
    except NotFoundError:
        return []


def _read_commit(file: storage.FileInfo) -> Commit:
    return Commit.from_json(file.name.removesuffix(".json"), storage.read_bytes(file.uri))


# --- logs ------------------------------------------------------------------------------------------------------------


def _write_log(run: str, name: str, commits: Sequence[Commit]) -> None:
    rows = [
        {"stem": commit.stem, "data": commit.data, "rows": commit.rows, "bytes": commit.size, "shard": shard}
        | {"record_ids": part.record_ids, "ok": part.ok, "errors": json.dumps(part.errors)}
        | {"ledger": part.ledger and part.ledger.to_dict()}
        for commit in commits
        for shard, part in commit.shards.items()
    ]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, LOG_SCHEMA), file, compression="zstd")
    storage.write_bytes_atomic(storage.join(run, "commits", name), file.getvalue())


def _unpacked(uri: str, content: bytes, *, names_only: bool = False) -> list[Commit]:
    """Read the content of a log."""
    columns = _HEAD if names_only else LOG_SCHEMA.names
    try:
        table = pq.read_table(io.BytesIO(content), schema=LOG_SCHEMA, columns=columns, use_threads=False)
    except (pa.ArrowException, OSError, ValueError):
        raise ConfigurationError(f"{redact(uri)} is damaged; restore it, or choose another output.path") from None
    if names_only:
        found = dict.fromkeys(zip(*(table[name].to_pylist() for name in _HEAD), strict=True))
        return [Commit(stem, data, rows, size, {}) for stem, data, rows, size in found]
    ids = table["record_ids"].combine_chunks()
    values, edges = ids.values.to_numpy(), ids.offsets.to_numpy()
    commits: dict[str, Commit] = {}
    for number, row in enumerate(table.drop_columns(["record_ids"]).to_pylist()):
        commit = commits.setdefault(row["stem"], Commit(row["stem"], row["data"], row["rows"], row["bytes"], {}))
        commit.shards[row["shard"]] = ShardPart(
            record_ids=values[edges[number] : edges[number + 1]].astype(np.int64),
            ok=row["ok"],
            errors=json.loads(row["errors"]),
            ledger=Ledger.from_dict(row["ledger"]) if row["ledger"] else None,
        )
    return list(commits.values())
