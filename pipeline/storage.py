"""Files and objects at any path or fsspec URL: listed, read, streamed and written, with faults sorted by kind.

Every function here

* retries faults that may go away by themselves (throttling, timeouts, dropped connections, bodies that end early)
  with exponential backoff and full jitter, and raises :class:`~pipeline.errors.TransientError` when they don't;
* raises :class:`NotFoundError` for what isn't there, and :class:`RefusedError` where the store refuses this one
  object, its name can't be used, or its protocol is not known here: the caller decides whether that is a bad item or
  a fault of the configuration;
* raises :class:`~pipeline.errors.ConfigurationError` where nothing will work until a person acts: credentials that
  are missing, wrong or expired, a full disk.

Messages name files with :func:`public_uri`: never with user names, passwords or signed queries.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigurationError
from pipeline.filesystems import RETRIES, check_regular, explained, filesystem, is_local, is_url
from pipeline.storage_faults import (
    NotFoundError,
    RefusedError,
    public_uri,
    retried,
)
from pipeline.streams import CHUNK, MAX_LINE, open_stream, read_lines

__all__ = [
    "MAX_LINE",
    "RETRIES",
    "FileInfo",
    "NotFoundError",
    "RefusedError",
    "absolute",
    "check_readable",
    "delete",
    "described",
    "exists",
    "file_info",
    "filesystem",
    "is_local",
    "is_url",
    "is_web",
    "join",
    "list_files",
    "open_stream",
    "public_uri",
    "read_beginning",
    "read_bytes",
    "read_lines",
    "sync_folder",
    "write_bytes_atomic",
]

_CHANGED = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified", "created")
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "http", "https", "memory"}  # no folders to make


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file or object.

    Attributes:
        uri: Where it is: a local path, or a URL.
        name: Path relative to what was listed, with ``/``; the base name of single files.
        size: Bytes; None where unknown.
        etag: Its ETag, where the store has such a thing.
        version: Changes when the content does, as far as a listing can tell: the ETag, else size and time of the last
            change; None where the store tells neither.
    """

    uri: str
    name: str
    size: int | None
    etag: str | None
    version: str | None = None


# --- names -----------------------------------------------------------------------------------------------------------


def absolute(path: str) -> str:
    """Return a path that means the same in other working directories; URLs as they are."""
    return path if is_url(path) else str(Path(path).expanduser().absolute())


def is_web(path: str) -> bool:
    """Tell http(s) URLs, whose hosts may be anyone's, from others."""
    return path.startswith(("http://", "https://"))


def join(base: str, *parts: str) -> str:
    """Append parts to a path or URL."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


# --- reading ---------------------------------------------------------------------------------------------------------


def list_files(
    path: str, suffixes: Sequence[str] = (), *, pattern: bool = True, retries: int = RETRIES
) -> list[FileInfo]:
    """List files, sorted by name.

    Args:
        path: A folder (listed recursively; links to folders are not followed), a file, or a glob pattern.
        suffixes: Lower-case endings such as ``.tar``; other files below a folder or pattern are left out. A path that
            names one file is taken whatever it is called.
        pattern: Whether ``*``, ``?`` and ``[`` in the path stand for others; where not, it is the name as it stands.
        retries: How often transient faults are retried.

    Returns:
        The files; none where there is nothing at this path.
    """
    fs, inner = filesystem(path)

    def found() -> list[FileInfo]:
        if pattern and glob.has_magic(inner) and not (is_local(fs) and Path(inner).exists()):
            base = _parent(re.split(r"[*?[]", inner, maxsplit=1)[0])
            infos = fs.glob(inner, detail=True)
        else:
            info = explained(fs, inner, lambda: fs.info(inner))
            if info["type"] != "directory":
                return [described(fs, info, _parent(info["name"]))]
            base = info["name"]
            infos = _walk(base) if is_local(fs) else fs.find(base, detail=True)
        files = [
            described(fs, info, base)
            for info in infos.values()
            if info["type"] != "directory" and not info["name"].endswith("/")
        ]
        chosen = (file for file in files if file.name.lower().endswith(tuple(suffixes) or ""))
        return sorted(chosen, key=lambda file: file.name)

    try:
        return retried("list", path, retries, found)
    except NotFoundError:
        return []


def file_info(uri: str, *, retries: int = RETRIES) -> FileInfo:
    """Return size and ETag of a file or object.

    Raises:
        NotFoundError: It isn't there, or is a folder.
    """
    fs, inner = filesystem(uri)

    def ask() -> FileInfo:
        info = explained(fs, inner, lambda: fs.info(inner))
        if info["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, "this is a folder")
        return described(fs, info, _parent(info["name"]))

    return retried("read", uri, retries, ask)


def exists(uri: str, *, retries: int = RETRIES) -> bool:
    """Tell whether there is a file, object or folder."""
    fs, inner = filesystem(uri)
    try:
        retried("look for", uri, retries, lambda: fs.info(inner))
    except NotFoundError:
        return False
    return True


def read_bytes(uri: str, *, retries: int = RETRIES) -> bytes:
    """Return the content of a file or object.

    Raises:
        NotFoundError: It isn't there.
    """
    fs, inner = filesystem(uri)

    def read() -> bytes:
        check_regular(fs, inner)
        return bytes(fs.cat_file(inner))

    return retried("read", uri, retries, read)


def read_beginning(uri: str, size: int, *, retries: int = RETRIES) -> bytes:
    """Return the content of a file or object, but at most so many bytes, whatever its host says about its size.

    Raises:
        NotFoundError: It isn't there.
    """
    fs, inner = filesystem(uri)

    def attempt() -> bytes:
        check_regular(fs, inner)
        parts: list[bytes] = []
        left = size
        with fs.open(inner, "rb", **({"block_size": 0} if is_web(uri) else {})) as file:  # 0: one request, streamed
            while left and (part := file.read(min(left, CHUNK))):
                parts.append(part)
                left -= len(part)
        return b"".join(parts)

    return retried("read", uri, retries, attempt)


def check_readable(uri: str, *, retries: int = RETRIES) -> None:
    """Ask for the first byte of a file that isn't empty: that shows wrong credentials and permissions.

    Raises:
        RefusedError, ConfigurationError: It can't be read.
        NotFoundError: It isn't there.
    """
    fs, inner = filesystem(uri)
    retried("read", uri, retries, lambda: fs.cat_file(inner, start=0, end=1))


# --- writing ---------------------------------------------------------------------------------------------------------


def write_bytes_atomic(uri: str, data: bytes, *, retries: int = RETRIES) -> None:
    """Write a file or object so that readers see all of it or nothing, whenever the writer dies.

    An existing one is replaced. Local folders are made as needed.

    Raises:
        ConfigurationError: The bucket doesn't exist, writing isn't permitted, or the disk is full.
    """
    fs, inner = filesystem(uri)

    def write() -> None:
        if is_local(fs):
            _write_local(Path(inner), data)
            return
        if not _OBJECT_STORES.intersection([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol):
            fs.makedirs(_parent(inner), exist_ok=True)
        fs.pipe_file(inner, data)  # one put, or one multipart upload: either appears whole

    try:
        retried("write", uri, retries, write)
    except NotFoundError as error:
        raise ConfigurationError(f"{error}; create the bucket or folder first, or change the path") from error


def delete(uri: str, *, retries: int = RETRIES) -> None:
    """Delete a file or object; one that isn't there is fine."""
    fs, inner = filesystem(uri)
    with suppress(NotFoundError):
        retried("delete", uri, retries, lambda: fs.rm_file(inner))


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a local folder outlive a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# --- fsspec ----------------------------------------------------------------------------------------------------------


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _walk(root: str) -> dict[str, dict[str, Any]]:
    """Return files below a local folder; other than fsspec's own, links to files count as files."""

    def fail(error: OSError) -> None:
        raise error

    found: dict[str, dict[str, Any]] = {}
    for folder, _, names in os.walk(root, onerror=fail):
        for name in names:
            path = f"{Path(folder).as_posix()}/{name}"
            with suppress(FileNotFoundError):  # deleted since, unless it is a dangling link
                size = os.stat(path).st_size if Path(path).is_file() else None  # noqa: PTH116
                if size is not None or Path(path).is_symlink():
                    found[path] = {"name": path, "size": size, "type": "file"}
    return found


def described(fs: Any, info: dict[str, Any], base: str) -> FileInfo:
    """Return what fsspec says about a file.

    Args:
        fs: Its file system.
        info: From there.
        base: Path in it that the name is to be relative to.
    """
    path = info["name"]
    etag = str(info.get("ETag") or info.get("etag") or "").strip('"') or None
    size = info.get("size")
    changed = _changed(path) if is_local(fs) else next((info[key] for key in _CHANGED if info.get(key)), None)
    if isinstance(changed, datetime):
        changed = changed.timestamp()
    return FileInfo(
        uri=path if is_local(fs) else fs.unstrip_protocol(path),
        name=path.removeprefix(base).lstrip("/"),
        size=size,
        etag=etag,
        version=etag or (f"{size}-{changed}" if size is not None and changed is not None else None),
    )


def _changed(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - of what a link leads to, too
    except OSError:
        return None
