"""fsspec's file systems, by path or URL."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.core import url_to_fs

from pipeline.storage_faults import RefusedError, check_url, fault_codes, public_uri, translated

RETRIES = 5
"""How often a transient fault is retried where the caller doesn't say."""

_T = TypeVar("_T")
_CHAINED = re.compile(r"::[a-z][a-z0-9+]*://")


def is_url(path: str) -> bool:
    """Tell URLs (``s3://...``) from local paths."""
    return "://" in path


def filesystem(uri: str) -> tuple[Any, str]:
    """Return fsspec's file system for a path or URL, and the path in it.

    Raises:
        RefusedError: The URL can't be used, or its protocol needs another package.
        ConfigurationError: The credentials are missing or wrong.
    """
    if not is_url(uri):
        return fsspec.filesystem("file"), Path(uri).expanduser().absolute().as_posix()
    check_url(uri)
    options = {"use_listings_cache": False}  # other processes write, too
    try:
        if "::" not in uri or _CHAINED.search(uri):
            fs, inner = url_to_fs(uri, **options)
        else:  # a key with :: in it, which url_to_fs takes for a chain
            kind = fsspec.get_filesystem_class(uri.partition("://")[0])
            fs, inner = kind(**kind._get_kwargs_from_urls(uri), **options), kind._strip_protocol(uri)  # noqa: SLF001
    except ImportError as error:
        raise RefusedError(f"can't use {public_uri(uri)}, whose protocol needs another package: {error}") from None
    except Exception as error:  # noqa: BLE001 - of any package
        raise translated(error, f"can't use {public_uri(uri)}", uri) from None
    return fs, inner


def is_local(fs: Any) -> bool:
    """Tell this machine's disks from stores."""
    return isinstance(fs, fsspec.get_filesystem_class("file"))


def check_regular(fs: Any, path: str) -> None:
    """Refuse local devices and pipes: reading them may never end, or never begin.

    Raises:
        OSError: The path is one.
    """
    if is_local(fs):
        mode = os.stat(path).st_mode  # noqa: PTH116
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.ENODEV, "it is a device, a pipe or a socket, not a file")


def explained(fs: Any, path: str, ask: Callable[[], _T]) -> _T:
    """Call; if a bare HEAD was refused, find out why: its answer has no body, that of a GET tells the reason.

    Args:
        fs: The file system that is asked.
        path: In it.
        ask: Asks it.
    """
    try:
        return ask()
    except Exception as error:
        if fault_codes(error)[1] in (400, 403) and not is_local(fs):
            fs.cat_file(path, start=0, end=1)
        raise
