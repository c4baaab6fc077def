"""Rows of manifests: what they say about an image, and where they are in text files (JSON Lines, CSV)."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from pipeline.errors import BadInputError, ErrorCode
from pipeline.prompts import load_json
from pipeline.sources.names import clean_name
from pipeline.storage import MAX_LINE, open_stream, public_uri, read_lines

COLUMNS = ("image", "key", "prompts")
"""Columns of manifests that are read."""

_DELIMITERS = {"csv": ",", "tsv": "\t"}
TEXT_FORMATS = {"jsonl": "jsonl", "ndjson": "jsonl", "csv": "csv", "tsv": "tsv"}
"""Formats of text manifests, by extension."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a manifest.

    Attributes:
        key: Its own, or what `image` says, or its place.
        image: URI or bytes.
        prompts: What stands in its column.
        fault: Why it names no image, if so.
    """

    key: str
    image: str | bytes | None
    prompts: object = None
    fault: str | None = None


class Placed(NamedTuple):
    """A row of a text file.

    Attributes:
        offset: Where it begins in the file, unpacked (unit: byte).
        line: Number of the line that it begins in, from 1.
        raw: Its text.
        row: What it says.
    """

    offset: int
    line: int
    raw: bytes
    row: Row


class Header(NamedTuple):
    """The columns of a CSV file.

    Attributes:
        width: How many there are.
        places: Where each of :data:`COLUMNS` is; None where it isn't.
    """

    width: int
    places: list[int | None]


def read_row(value: object, place: str) -> Row:
    """Read a row from JSON-plain data; `place` is its key where it names none."""
    if not isinstance(value, Mapping):
        return Row(place, None, fault="is no JSON object")
    image = value.get("image")
    if isinstance(image, Mapping):  # as Hugging Face datasets writes images
        path = image.get("path")
        data = image.get("bytes")
    else:
        path, data = (image, None) if isinstance(image, str) else (None, image)
    key = value.get("key")
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    name = key if isinstance(key, str) and key else public_uri(path) if isinstance(path, str) and path else place
    target = data if isinstance(data, bytes) and data else path
    if not isinstance(target, str | bytes) or not target:
        fault = 'names no image; give its path or URL as "image"'
        return Row(clean_name(name), None, value.get("prompts"), fault)
    return Row(clean_name(name), target, value.get("prompts"))


# --- text files ------------------------------------------------------------------------------------------------------


@contextmanager
def open_text(uri: str, retries: int) -> Iterator[BinaryIO]:
    """Open a text manifest, gzipped or not; seeking in a gzipped one unpacks it from its beginning."""
    with open_stream(uri, retries=retries) as stream:
        if stream.peek(2)[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=stream) as plain:
                yield io.BufferedReader(plain, 2**20)
        else:
            yield stream


def read_header(stream: BinaryIO, kind: str) -> tuple[Header | None, int, int]:
    """Read what stands before the rows of a text file.

    Returns:
        The header of a CSV file (None for JSON Lines), and the offset and the number of the first line behind it.

    Raises:
        BadInputError: ``image_missing``: it has no column for images.
    """
    if kind not in _DELIMITERS:
        return None, 0, 1
    for record in _records(stream, kind, 1):
        names = [name.strip() for name in record.fields]
        if record.fault or names.count("image") != 1:
            named = record.fault or f"its first line has {', '.join(names)[:300]}"
            raise BadInputError(ErrorCode.IMAGE_MISSING, f"it needs a header with one column image; {named}")
        places = [names.index(name) if name in names else None for name in COLUMNS]
        return Header(len(names), places), stream.tell(), record.line + record.raw.count(b"\n") + 1
    return Header(0, [None] * len(COLUMNS)), 0, 1


def text_rows(stream: BinaryIO, kind: str, header: Header | None, line: int) -> Iterator[Placed]:
    """Yield the rows of a text file from where its stream stands; empty lines are none.

    Args:
        stream: At the beginning of a row; behind the header, if there is one.
        kind: One of the values of :data:`TEXT_FORMATS`.
        header: See :func:`read_header`.
        line: Number of the line that the stream stands at.

    Raises:
        EOFError: A quoted value of a CSV file never ends.
    """
    if header is None:
        for number, (offset, text) in enumerate(read_lines(stream), line):
            if text.strip():
                yield Placed(offset, number, text, _jsonl_row(text, number))
    else:
        for record in _records(stream, kind, line):
            yield Placed(record.offset, record.line, record.raw, _csv_row(record, header))


def _jsonl_row(line: bytes, number: int) -> Row:
    place = f"line-{number}"
    try:
        return read_row(load_json(line), place)
    except BadInputError as error:
        return Row(place, None, fault=f"is {error}")


class _Record(NamedTuple):
    """A record of a CSV file, which may have several lines."""

    offset: int
    line: int
    raw: bytes
    fields: Sequence[str]
    fault: str | None


def _csv_row(record: _Record, header: Header) -> Row:
    place = f"line-{record.line}"
    if record.fault:
        return Row(place, None, fault=record.fault)
    if len(record.fields) != header.width:
        fault = f"has {len(record.fields)} values, and the header {header.width}; put values with commas in quotes"
        return Row(place, None, fault=fault)
    try:
        values = {
            name: record.fields[at].encode(errors="surrogateescape").decode() or None
            for name, at in zip(COLUMNS, header.places, strict=True)
            if at is not None
        }
    except UnicodeDecodeError as error:
        return Row(place, None, fault=f"is not UTF-8 (byte {error.start} of a value)")
    return read_row(values, place)


def _records(stream: BinaryIO, kind: str, line: int) -> Iterator[_Record]:
    lines = _Lines(stream, line)
    csv.field_size_limit(MAX_LINE)
    reader = csv.reader(lines, delimiter=_DELIMITERS[kind], strict=True)  # quoted as in RFC 4180
    while True:
        lines.begin()
        fields: list[str] = []
        fault = None
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fault = f"is not valid CSV: {error}"
            if lines.ended:
                raise EOFError(f"the quotes that open in line {lines.first} are never closed") from None
        if raw := b"".join(lines.parts).strip(b"\n"):
            yield _Record(lines.offset, lines.first, raw, fields, fault)


class _Lines:
    """The lines of a stream as text, one at a time, as csv.reader asks for them.

    Attributes:
        offset: Where the current record begins.
        first: Number of its first line.
        parts: Its lines so far.
        ended: Whether there is no further line.
    """

    def __init__(self, stream: BinaryIO, number: int) -> None:
        self._lines = enumerate(read_lines(stream), number)
        self.ended = False
        self.begin()

    def begin(self) -> None:
        self.offset = self.first = -1
        self.parts: list[bytes] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        number, (offset, line) = next(self._lines, (-1, (-1, b"")))
        if number < 0:
            self.ended = True
            raise StopIteration
        if self.first < 0:
            self.offset, self.first = offset, number
        self.parts += line, b"\n"
        return line.decode(errors="surrogateescape") + "\n"
