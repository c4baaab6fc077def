"""Many files at once: sizes and ETags of explicit paths, without a request for each where a listing has them all."""

from __future__ import annotations

import os.path
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from pipeline import storage
from pipeline.storage import FileInfo, NotFoundError, RefusedError, filesystem, is_local
from pipeline.storage_faults import retried

LISTED_FROM = 100
"""Paths in one folder from which the folder is listed instead; a listing has 1,000 names per request."""

_THREADS = 32
_WITH_PREFIX = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}  # where a listing can be cut down to a prefix
_NOT_LISTED = {"http", "https"}
_T = TypeVar("_T")
_R = TypeVar("_R")


def look_up(uris: Sequence[str], *, retries: int = storage.RETRIES) -> dict[str, FileInfo | None]:
    """Ask for size and ETag of many files or objects.

    Where :data:`LISTED_FROM` or more of them are in one folder, that folder is listed once; the others are asked for
    one by one, 32 at a time. No path is asked for twice.

    Args:
        uris: Paths or URLs; no patterns.
        retries: How often transient faults are retried.

    Returns:
        In the order of `uris`; None for those that are not there. One that its store refuses to tell about has
        neither size nor version.

    Raises:
        TransientError: The store failed repeatedly.
        ConfigurationError: The credentials are missing, wrong or expired.
    """
    found: dict[str, FileInfo | None] = dict.fromkeys(uris)
    folders: dict[str, list[str]] = {}
    single: list[str] = []
    for uri in found:
        folders.setdefault(uri.rpartition("/")[0], []).append(uri)
    for folder, members in folders.items():
        if len(members) < LISTED_FROM or folder.partition("://")[0] in _NOT_LISTED:
            single += members
        else:
            found |= _listed(folder, members, retries)
    found |= in_threads(lambda uri: _asked(uri, retries), single)
    return found


def in_threads(call: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[tuple[_T, _R]]:
    """Call for each item, 32 at a time; yields items and results in any order. The first exception ends it."""
    rest = iter(items)
    pool = ThreadPoolExecutor(_THREADS, "lookup")
    running: dict[Future[_R], _T] = {}
    try:
        while True:
            for item in islice(rest, _THREADS * 4 - len(running)):
                running[pool.submit(call, item)] = item
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _asked(uri: str, retries: int) -> FileInfo | None:
    try:
        return storage.file_info(uri, retries=retries)
    except NotFoundError:
        return None
    except RefusedError:
        return FileInfo(uri, uri.rpartition("/")[2], None, None)


def _listed(folder: str, members: list[str], retries: int) -> dict[str, FileInfo | None]:
    """Look up files of one folder by listing it."""
    fs, inner = filesystem(f"{folder}/")
    inner = inner.rstrip("/")
    names = {uri: uri.rpartition("/")[2] for uri in members}
    wanted = set(names.values())
    prefix = os.path.commonprefix(list(wanted))  # noqa: RUF071 - of names, not of paths
    cut = not is_local(fs) and folder.partition("://")[0] in _WITH_PREFIX

    def found() -> dict[str, FileInfo]:
        infos = fs.find(inner, detail=True, prefix=prefix).values() if cut else fs.ls(inner, detail=True)
        pairs = ((info["name"].removeprefix(inner).lstrip("/"), info) for info in infos if info["type"] != "directory")
        return {name: storage.described(fs, info, inner) for name, info in pairs if name in wanted}

    try:
        listed = retried("list", folder, retries, found)
    except NotFoundError:
        listed = {}
    except RefusedError:  # some may be read by people who may not list
        return dict(in_threads(lambda uri: _asked(uri, retries), members))
    return {uri: listed.get(name) for uri, name in names.items()}
