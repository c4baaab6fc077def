"""Streams of xz and Zstandard: checked to their last byte, and with bounded memory whatever is in them.

``lzma.LZMAFile`` allows a file any amount of memory and leaves garbage behind its end alone, and the readers of
``zstandard`` take a file that breaks off for one that ends there.
"""

from __future__ import annotations

import io
import lzma
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

import zstandard

MOST_MEMORY = 2**27
"""Bytes that a decompressor may use for its window: what ``zstd`` and ``xz -9`` allow by default."""

_PIECE = 1024  # bytes; Zstandard makes at most 32 MiB of it, xz 8


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes) -> bytes: ...


def xz_reader(stream: BinaryIO) -> BinaryIO:
    """Return the content of an xz file of one or several streams.

    Raises:
        OSError, EOFError: On reading: it is damaged, needs more than :data:`MOST_MEMORY`, or breaks off.
    """
    return io.BufferedReader(_Frames(stream, lambda: lzma.LZMADecompressor(memlimit=MOST_MEMORY), padding=True), 2**16)


def zstd_reader(stream: BinaryIO) -> BinaryIO:
    """Return the content of a Zstandard file of one or several frames; raises as :func:`xz_reader`."""

    def start() -> _Decompressor:
        made: _Decompressor = zstandard.ZstdDecompressor(max_window_size=MOST_MEMORY).decompressobj()
        return made

    return io.BufferedReader(_Frames(stream, start, padding=False), 2**16)


class _Frames(io.RawIOBase):
    """Independent frames, one after the other."""

    def __init__(self, stream: BinaryIO, start: Callable[[], _Decompressor], *, padding: bool) -> None:
        self._stream = stream
        self._start = start
        self._padding = padding  # zeros between frames
        self._frame: _Decompressor | None = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            piece = self._piece()
            if not piece:
                return 0
            self._frame = self._frame or self._start()
            try:
                self._ready = memoryview(self._frame.decompress(piece))
            except (lzma.LZMAError, zstandard.ZstdError) as error:
                raise OSError(f"the compressed data is damaged: {error}") from None
        size = min(len(self._ready), memoryview(buffer).nbytes)
        memoryview(buffer)[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _piece(self) -> bytes:
        """Return the next compressed bytes; none at the end of the last frame."""
        rest = b""
        if self._frame is not None and self._frame.eof:
            rest = self._frame.unused_data
            self._frame = None
        piece = rest or self._stream.read(_PIECE)
        if self._frame is not None:
            if not piece:
                raise EOFError("the compressed data breaks off")
            return piece
        while self._padding and piece and not (piece := piece.lstrip(b"\0")):
            piece = self._stream.read(_PIECE)
        return piece
