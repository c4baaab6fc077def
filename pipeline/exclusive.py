"""Conditional writes: of several writers of one name exactly one succeeds, and each of them knows.

On S3 it is a PUT with ``If-None-Match: *``, on Google Cloud Storage one with a generation of 0, on Azure one with
``overwrite=False``, on local disks a hard link. Stores exist that take the condition and ignore it, so
:func:`check_store` tries it out. Tests run on moto's and Ceph's S3 and on disks; the others were not tried.
"""

from __future__ import annotations

import errno
import os
import secrets
import uuid
from contextlib import suppress
from pathlib import Path

from pipeline import storage
from pipeline.errors import ConfigurationError
from pipeline.storage_faults import NotFoundError, fault_codes, retried
from sdmatte.urls import redact

_TAKEN = 412  # precondition failed
_UNKNOWN = 501  # what stores answer that don't know the header
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def create(uri: str, data: bytes, *, retries: int = storage.RETRIES) -> bool:
    """Write a file or object unless there is one of that name.

    Args:
        uri: Its path or URL.
        data: Content; must be unlike any other writer's, for a store may report a fault after it has written.
        retries: How often a transient fault is retried.

    Returns:
        Whether it is ours now; False where another one's was there.

    Raises:
        ConfigurationError: The bucket doesn't exist, writing isn't permitted, or the disk is full.
        TransientError: The store failed repeatedly.
    """
    fs, inner = storage.filesystem(uri)

    def write() -> bool:
        try:
            if storage.is_local(fs):
                _create_local(Path(inner), data)
            else:
                fs.pipe_file(inner, data, mode="create")
        except Exception as error:
            status = fault_codes(error)[1]
            if status == _UNKNOWN or isinstance(error, NotImplementedError | TypeError):
                raise _no_conditions(uri, f"takes no conditional writes ({type(error).__name__}: {error})") from None
            if not isinstance(error, FileExistsError) and status != _TAKEN:
                raise
            return False
        return True

    try:
        return retried("write", uri, retries, write) or storage.read_bytes(uri, retries=retries) == data
    except NotFoundError as error:
        raise ConfigurationError(f"{error}; create the bucket or folder first, or change the path") from error


def check_store(folder: str, *, retries: int = storage.RETRIES) -> None:
    """Try a conditional write: the first must succeed, the second must not.

    Args:
        folder: Where; a probe of a random name is written there and deleted. Local disks are not tried.
        retries: How often a transient fault is retried.

    Raises:
        ConfigurationError: The store ignores conditions, or takes no such writes; or it refuses access.
        TransientError: The store failed repeatedly.
    """
    if storage.is_local(storage.filesystem(folder)[0]):
        return
    probe = storage.join(folder, f"probe-{secrets.token_hex(8)}")
    try:
        first = create(probe, b"first", retries=retries)
        second = create(probe, b"second", retries=retries)
    finally:
        with suppress(ConfigurationError):
            storage.delete(probe, retries=retries)
    if not first or second:
        raise _no_conditions(folder, "ignores the condition of conditional writes (If-None-Match)")


def _no_conditions(uri: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"the store of {redact(uri)} {redact(reason)}, so it can't keep a second job out of the run; write to another "
        "store, or set output.exclusive=false and make sure yourself that one job at a time writes there"
    )


def _create_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _create_in_place(path, data)  # FAT and some network disks know no links
    finally:
        temporary.unlink(missing_ok=True)
    storage.sync_folder(path.parent)


def _create_in_place(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
