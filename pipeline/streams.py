"""Files and objects read from front to back, with retries, and their lines; part of :mod:`pipeline.storage`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from pipeline.filesystems import RETRIES, check_regular, explained, filesystem
from pipeline.storage_faults import retried

MAX_LINE = 64 * 2**20
"""Bytes of a line of a text file; longer ones are cut, so that no file can fill the memory."""

CHUNK = 8 * 2**20
"""Bytes per request of a stream."""


def open_stream(uri: str, *, retries: int = RETRIES) -> io.BufferedReader:
    """Open a file or object for reading from front to back; at most a few chunks of 8 MiB of it are in memory.

    The stream can seek where the store allows it, and raises the errors of this module; close it after use.

    Raises:
        NotFoundError: It isn't there.
    """
    fs, inner = filesystem(uri)

    def attempt() -> Any:
        check_regular(fs, inner)
        return explained(fs, inner, lambda: fs.open(inner, "rb", block_size=CHUNK))

    return io.BufferedReader(_Stream(retried("open", uri, retries, attempt), uri, retries), 2**20)


def read_lines(stream: BinaryIO, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a stream from where it stands: their offsets, and their bytes.

    Line ends (LF, CRLF) and a byte order mark are left out; what exceeds :data:`MAX_LINE` of a line is skipped.

    Args:
        stream: Of the file.
        stop: Offset at which no further line is begun; by default the end.
    """
    while stop is None or stream.tell() < stop:
        offset = stream.tell()
        line = rest = stream.readline(MAX_LINE)
        if not line:
            return
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE)
        yield offset, line.removeprefix(b"\xef\xbb\xbf" if offset == 0 else b"").rstrip(b"\r\n")


class _Stream(io.RawIOBase):
    """A file whose reads are retried at the same place; an end before the known size is a fault, not an end."""

    def __init__(self, file: Any, uri: str, retries: int) -> None:
        self._file = file
        self._uri = uri
        self._retries = retries
        self._size: int | None = getattr(file, "size", None)
        self._can_seek: bool = file.seekable()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._can_seek

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        wanted = memoryview(buffer).nbytes
        start = self._file.tell() if self._can_seek else 0
        first = True

        def attempt() -> bytes:
            nonlocal first
            if not first:
                self._file.seek(start)
            first = False
            data: bytes = self._file.read(wanted)
            if not data and wanted and self._can_seek and self._size is not None and start < self._size:
                raise EOFError(f"the connection ended at byte {start} of {self._size}")
            return data

        # What can't seek can't be asked again for the same bytes.
        data = retried("read", self._uri, self._retries if self._can_seek else 0, attempt)
        memoryview(buffer)[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            with suppress(Exception):  # nothing was written: there is nothing to lose
                self._file.close()
        super().close()
