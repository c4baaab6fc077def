"""Tar files as streams of members: strict about damage, with names that can be shown and stored."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, Self

from pipeline.prompts import clean_text

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""Names of tar shards end in one of these."""

TAR_DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)
"""What reading a damaged tar raises."""

_CHUNK = 2**20
# These check sums and read files of several parts, which tarfile's own readers don't.
_READERS: dict[bytes, Callable[[BufferedReader], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZ": bz2.BZ2File,
    b"\xfd7": lzma.LZMAFile,
}


@dataclass(frozen=True, slots=True)
class TarMember:
    """A regular file in a tar; can be read until the next one is asked for.

    Attributes:
        name: Path in the tar as it stands in records: without a leading ``./``, undecodable bytes as escapes.
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


def tar_members(stream: BufferedReader) -> Iterator[TarMember]:
    """Yield the regular files of a tar, plain or compressed; links, devices and folders are passed over.

    Args:
        stream: Of the tar; read from front to back.

    Raises:
        tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError: It is damaged (:data:`TAR_DAMAGE`).
        PipelineError: The stream's own faults.
    """
    reader = _READERS.get(stream.peek(2)[:2])
    plain = reader(stream) if reader else stream
    with tarfile.open(fileobj=plain, mode="r|*", bufsize=_CHUNK, tarinfo=_StrictTarInfo) as tar:
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined] # tarfile would remember them all
            if info.isfile():
                yield TarMember(clean_text(info.name).removeprefix("./"), info.size, tar, info)
        _check_end(tar)


class _StrictTarInfo(tarfile.TarInfo):
    """Makes a damaged or missing header in the middle an error; tarfile takes it for the end."""

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
