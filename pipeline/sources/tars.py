"""Tar files as streams of members: strict about damage, with names that can be shown and stored."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, Self

from pipeline.sources.frames import xz_reader, zstd_reader
from pipeline.sources.names import clean_name

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
"""Names of tar shards end in one of these."""

TAR_DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)
"""What reading a damaged tar raises."""

_CHUNK = 2**20
_LONGEST_NAME = 4096  # bytes; no file system has longer ones
_LONGEST_HEADER = 2**20  # bytes of an extended header, which tarfile reads as a whole
_MOST_GLOBALS = 100  # headers that hold for the rest of a tar, which tarfile keeps
_EXTENDED = {
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
}


@dataclass(frozen=True, slots=True)
class TarMember:
    """A regular file in a tar; can be read until the next one is asked for.

    Attributes:
        name: Path in the tar as it stands in records: without a leading ``./``, undecodable bytes and control
            characters as escapes. It may begin with ``/`` or hold ``..``: it is a name, never a place to write to.
        size: Bytes.
    """

    name: str
    size: int
    _tar: tarfile.TarFile
    _info: tarfile.TarInfo

    def read(self) -> bytes:
        """Return all its bytes, which take that much memory: look at the size first."""
        file = self._tar.extractfile(self._info)
        return file.read() if file else b""


def tar_members(stream: BufferedReader, passed: Counter[str] | None = None) -> Iterator[TarMember]:
    """Yield the regular files of a tar, plain or compressed; links, devices and folders are passed over.

    Whatever a tar says of itself, and however well it is compressed, only some MiB of it are in memory until a member
    is read.

    Args:
        stream: Of the tar; read from front to back.
        passed: Counts links and devices, as ``link`` and ``device``.

    Raises:
        tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError: It is damaged (:data:`TAR_DAMAGE`).
        PipelineError: The stream's own faults.
    """
    pieces: Any = _InPieces(_decompressed(stream))  # tarfile asks no more of a stream
    with tarfile.open(fileobj=pieces, mode="r|", bufsize=_CHUNK, tarinfo=_StrictTarInfo) as tar:
        while (info := _next(tar)) is not None:
            tar.members.clear()  # type: ignore[attr-defined] # tarfile would remember them all
            if info.isfile():
                yield TarMember(clean_name(info.name).removeprefix("./"), info.size, tar, info)
            elif passed is not None and not info.isdir():
                passed["link" if info.issym() or info.islnk() else "device"] += 1
        _check_end(tar)


class _InPieces:
    """Hands out what there is, rather than nothing of a block whose end can't be read."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        piece: bytes = self._stream.read1(size)
        return piece


def _decompressed(stream: BufferedReader) -> Any:
    """Return the tar itself; these readers check sums and read files of several parts, tarfile's own don't."""
    magic = stream.peek(4)[:4]
    if magic[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=stream)
    if magic[:2] == b"BZ":
        return bz2.BZ2File(stream)
    if magic[:2] == b"\xfd7":
        return xz_reader(stream)
    if magic == b"\x28\xb5\x2f\xfd" or (magic[1:] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5):
        return zstd_reader(stream)
    return stream


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        info = tar.next()
    except RecursionError:
        raise tarfile.ReadError(f"too many extended headers in a row at byte {tar.offset}") from None
    if info is not None and len(info.name) > _LONGEST_NAME:
        raise tarfile.ReadError(f"a name of {len(info.name)} characters at byte {info.offset}")
    if len(tar.pax_headers) > _MOST_GLOBALS:
        raise tarfile.ReadError(f"more than {_MOST_GLOBALS} global headers")
    return info


class _StrictTarInfo(tarfile.TarInfo):
    """Makes a damaged or missing header in the middle an error; tarfile takes it for the end.

    So are headers that tarfile would need any amount of memory for: huge ones, and the maps of sparse files.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.type in _EXTENDED and info.size > _LONGEST_HEADER:
            raise tarfile.HeaderError(f"an extended header of {info.size} bytes")
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.HeaderError("a sparse file; pack the tar without --sparse")
        return info

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise tarfile.HeaderError("a sparse file; pack the tar without --sparse")

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the regular end; tarfile doesn't document its subclasses
                raise
            raise tarfile.ReadError(f"no valid header at byte {tarfile_.offset} ({error}), nor its end") from None


def _check_end(tar: tarfile.TarFile) -> None:
    """Refuse data behind the end marker: members after a block of zeros would be lost without a word."""
    assert tar.fileobj is not None
    while rest := tar.fileobj.read(_CHUNK):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("there is data behind its end marker: a hole, or tars strung together")
