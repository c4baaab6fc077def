"""Members of tars, written byte by byte: `tarfile` refuses to write most of what it can be made to read."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping

END = bytes(10_240)
"""The end marker, and the padding that tar writes behind it."""


def header(name: str, size: int, *, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    """Return a member's header alone."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, target
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def member(name: str, data: bytes) -> bytes:
    """Return a regular file."""
    return header(name, len(data)) + data + bytes(-len(data) % 512)


def raw(name: bytes, data: bytes) -> bytes:
    """Return a regular file whose name is any bytes."""
    return member(name.decode(errors="surrogateescape"), data)


def link(name: str, target: str, *, hard: bool = False) -> bytes:
    """Return a link."""
    return header(name, 0, kind=tarfile.LNKTYPE if hard else tarfile.SYMTYPE, target=target)


def device(name: str) -> bytes:
    """Return the character device 1, 5: /dev/zero."""
    info = tarfile.TarInfo(name)
    info.type, info.devmajor, info.devminor = tarfile.CHRTYPE, 1, 5
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(records: Mapping[str, str], kind: bytes = tarfile.XHDTYPE) -> bytes:
    """Return a PAX header for the member behind it (kind `g`: for all behind it)."""
    text = b"".join(_record(key, value) for key, value in records.items())
    return header("PaxHeader/x", len(text), kind=kind) + text + bytes(-len(text) % 512)


def _record(key: str, value: str) -> bytes:
    content = f" {key}={value}\n".encode()
    length = len(content)
    while len(str(length)) + len(content) != length:
        length = len(str(length)) + len(content)
    return str(length).encode() + content


def tar(*parts: bytes) -> bytes:
    """Return a tar of members."""
    return b"".join(parts) + END
