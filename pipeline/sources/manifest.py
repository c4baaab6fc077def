"""Manifests: JSON Lines, CSV or Parquet files whose rows name images by URI, or (Parquet) hold their bytes.

A row has ``image``, and may have ``key`` (by default what ``image`` says) and ``prompts``; other columns are left
alone. Several rows may share a key, such as one row per object: each is an image of its own.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config import LabelConfig
from pipeline.errors import BadInputError, ConfigurationError, ErrorCode, TransientError
from pipeline.ids import image_id, key_hash
from pipeline.prompts import MAX_PROMPTS, RawPrompt, from_values, parse_list
from pipeline.sources.base import (
    Sample,
    Shard,
    byte_limit,
    fetch,
    fetch_mask,
    file_info,
    file_too_large,
    fingerprint,
    some,
    unreadable,
)
from pipeline.sources.listing import list_inputs
from pipeline.sources.names import clean_name
from pipeline.sources.references import resolve
from pipeline.sources.rows import COLUMNS, TEXT_FORMATS, Header, Row, open_text, read_header, read_row, text_rows
from pipeline.storage import FileInfo, NotFoundError, RefusedError, open_stream, public_uri

_PARQUET = (".parquet", ".pq")
_TEXT = tuple(f".{extension}{packed}" for extension in TEXT_FORMATS for packed in ("", ".gz"))
_BROKEN = (pa.ArrowException, OSError, EOFError, zlib.error, TransientError, RefusedError)


class ManifestSource:
    """Images that are listed in manifests."""

    def __init__(self, config: LabelConfig) -> None:
        self._config = config
        self._inline = config.prompts.kind == "inline"

    def shards(self) -> list[Shard]:
        """See :class:`pipeline.sources.base.Source`. Shards are named by manifest and first row (from 0)."""
        files = list_inputs(self._config, _TEXT + _PARQUET)
        shards = [shard for name, file in files.items() for shard in self._plan(name, file)]
        if not shards:
            raise ConfigurationError(f"input.path: the manifests {some(list(files))} have no rows")
        return shards

    def _plan(self, name: str, file: FileInfo) -> Iterator[Shard]:
        base = {"uri": file.uri, "name": name}
        try:
            kind = _format(file.name)
            keys, cuts = self._scan_parquet(file) if kind == "parquet" else self._scan_text(file, kind)
        except (NotFoundError, RefusedError) as error:  # one of many
            yield Shard(f"{name}#unread", base | {"fault": str(error)})
            return
        except (pa.ArrowException, BadInputError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ConfigurationError(f"can't use the manifest {public_uri(file.uri)}: {error}") from None
        occurrences = _occurrences(keys)
        for cut in cuts:
            again = occurrences[cut.start : cut.stop]
            repeats = {str(cut.start + i): int(again[i]) for i in np.flatnonzero(again)}
            spec = base | {"format": kind, "start": cut.start, "stop": cut.stop, "repeats": repeats} | cut.place
            yield Shard(f"{name}#{cut.start:09d}", spec, cut.fingerprint(repeats))

    def _scan_text(self, file: FileInfo, kind: str) -> tuple[NDArray[np.int64], list[_Cut]]:
        """Return the hashes of all keys, and where shards begin and end."""
        keys = array("q")
        cuts: list[_Cut] = []
        fault = ""
        good = 0
        with open_text(file.uri, self._config.workers.retries) as stream:
            header, _, line = read_header(stream, kind)
            for placed in text_rows(stream, kind, header, line):
                if len(keys) % self._config.input.images_per_shard == 0:
                    place = {"offset": placed.offset, "line": placed.line, "header": header}
                    content = hashlib.sha256()
                    cuts.append(_Cut(len(keys), len(keys), content, place))
                row = placed.row
                good += row.fault is None
                fault = fault or (f"line {placed.line} {row.fault}" if row.fault else "")
                keys.append(key_hash(row.key))
                cuts[-1].stop += 1
                content.update(placed.raw + b"\n")
        if fault and not good:
            raise BadInputError(ErrorCode.IMAGE_MISSING, f"no line names an image; {fault}")
        return np.asarray(keys, np.int64), cuts

    def _scan_parquet(self, file: FileInfo) -> tuple[NDArray[np.int64], list[_Cut]]:
        """As :meth:`_scan_text`; where rows hold bytes, shards are row groups, which can't be read in part."""
        with self._open_parquet(file.uri) as parquet:
            schema = parquet.schema_arrow
            if "image" not in schema.names:
                raise BadInputError(ErrorCode.IMAGE_MISSING, f"it has no column image, but {', '.join(schema.names)}")
            columns, embedded = _key_columns(schema)
            keys = array("q")
            for row in _parquet_rows(parquet, range(parquet.num_row_groups), columns) if columns else ():
                keys.append(key_hash(read_row(row, f"row-{len(keys)}").key))
            rows = parquet.metadata.num_rows
            if not columns:
                keys.extend(range(rows))
            if embedded:
                sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
                edges = np.cumsum([0, *sizes]).tolist()
            else:
                edges = [*range(0, rows, self._config.input.images_per_shard), rows]
        version = hashlib.sha256(file.version.encode()) if file.version else None
        cuts = [_Cut(start, stop, version, {}) for start, stop in pairwise(edges) if start < stop]
        return np.asarray(keys, np.int64), cuts

    def read(self, shard: Shard) -> Iterator[Sample]:
        """See :class:`pipeline.sources.base.Source`."""
        spec = shard.spec
        done = 0
        try:
            if "fault" in spec:
                raise NotFoundError(spec["fault"])
            for number, where, row in self._parquet(spec) if spec["format"] == "parquet" else self._text(spec):
                yield self._sample(spec, row, where, spec["repeats"].get(str(number), 0))
                done += 1
        except _BROKEN as error:
            yield unreadable(shard, clean_name(public_uri(spec["uri"])), error, done)

    def _text(self, spec: dict[str, Any]) -> Iterator[tuple[int, str, Row]]:
        header = Header(*spec["header"]) if spec["header"] else None
        number = spec["start"]
        with open_text(spec["uri"], self._config.workers.retries) as stream:
            stream.seek(spec["offset"])
            for placed in text_rows(stream, spec["format"], header, spec["line"]):
                yield number, f"{public_uri(spec['uri'])} line {placed.line}", placed.row
                number += 1
                if number == spec["stop"]:
                    return
        raise EOFError(f"it has only {number} rows left of {spec['stop']}; it was changed since the run began")

    def _parquet(self, spec: dict[str, Any]) -> Iterator[tuple[int, str, Row]]:
        start, stop = spec["start"], spec["stop"]
        with self._open_parquet(spec["uri"]) as parquet:
            groups, first = _overlapping(parquet.metadata, start, stop)
            columns = [name for name in COLUMNS if name in parquet.schema_arrow.names]
            for number, row in enumerate(_parquet_rows(parquet, groups, columns), first):
                if number >= stop:
                    return
                if number >= start:
                    yield number, f"{public_uri(spec['uri'])} row {number}", read_row(row, f"row-{number}")

    @contextmanager
    def _open_parquet(self, uri: str) -> Iterator[pq.ParquetFile]:
        with open_stream(uri, retries=self._config.workers.retries) as stream:
            yield pq.ParquetFile(stream, pre_buffer=False)  # pre-buffering would hold several row groups

    def _sample(self, spec: dict[str, Any], row: Row, where: str, occurrence: int) -> Sample:
        manifest = spec["uri"]
        etag = data = None
        error: BadInputError | TransientError | None = None
        try:
            data, etag = self._load(manifest, row, occurrence)
        except BadInputError as fault:
            error = BadInputError(fault.code, f"{where}: {fault}")
        except TransientError as fault:
            error = fault
        return Sample(
            key=row.key,
            image_id=image_id(spec["name"], row.key, occurrence),
            uri=self._shown(manifest, row, where),
            path=clean_name(public_uri(row.image)) if isinstance(row.image, str) else row.key,
            etag=etag,
            data=data,
            prompts=_prompts(row.prompts, where) if self._inline else () if occurrence else None,
            error=error,
            load_mask=partial(self._mask, manifest),
        )

    def _load(self, manifest: str, row: Row, occurrence: int) -> tuple[bytes, str | None]:
        if row.image is None:
            raise BadInputError(ErrorCode.IMAGE_MISSING, str(row.fault))
        if occurrence and not self._inline:
            raise BadInputError(ErrorCode.DUPLICATE_KEY, f"an earlier row has the key {row.key}, and all its prompts")
        if isinstance(row.image, str):
            uri = resolve(manifest, row.image, self._config.input.schemes)
            info = file_info(uri, self._config)
            return fetch(uri, info.size, self._config), info.etag
        if len(row.image) > byte_limit(self._config):
            raise file_too_large(len(row.image), self._config)
        return row.image, None

    def _shown(self, manifest: str, row: Row, where: str) -> str:
        """Return where a row's image is, as it may be shown."""
        if not isinstance(row.image, str):
            return clean_name(where)
        try:
            return clean_name(public_uri(resolve(manifest, row.image, self._config.input.schemes)))
        except BadInputError:
            return clean_name(public_uri(row.image))

    def _mask(self, manifest: str, name: str) -> bytes:
        try:
            return fetch_mask(resolve(manifest, name, self._config.input.schemes), self._config)
        except BadInputError as error:
            if error.code is ErrorCode.IMAGE_MISSING:
                raise BadInputError(ErrorCode.PROMPT_MALFORMED, str(error)) from None
            raise


# --- rows ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Cut:
    """Rows that make up a shard.

    Attributes:
        start: The first one's number.
        stop: That of the first one behind it.
        content: Hash of all that the shard is read from; None where unknown.
        place: Where to begin reading, for the shard's spec.
    """

    start: int
    stop: int
    content: hashlib._Hash | None
    place: dict[str, Any]

    def fingerprint(self, repeats: dict[str, int]) -> str:
        """Return the shard's fingerprint; the same rows elsewhere in the file count as the same."""
        if self.content is None:
            return ""
        ranks = sorted((int(number) - self.start, rank) for number, rank in repeats.items())
        return fingerprint(self.content.hexdigest(), json.dumps([self.stop - self.start, ranks]))


def _format(name: str) -> str:
    """Return the format of a manifest, by its name; what is called otherwise is taken for JSON Lines."""
    name = name.lower()
    if name.endswith(_PARQUET):
        return "parquet"
    return TEXT_FORMATS.get(name.removesuffix(".gz").rpartition(".")[2], "jsonl")


def _prompts(value: object, where: str) -> list[RawPrompt]:
    if value is None:
        return []
    return parse_list(value, where) if isinstance(value, str) else from_values(value, where)


def _occurrences(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each row how many earlier rows have its key."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
    ranks = np.arange(len(keys)) - np.repeat(starts, np.diff(starts, append=len(keys)))
    out = np.empty(len(keys), np.int64)
    out[order] = ranks
    return out


# --- Parquet ---------------------------------------------------------------------------------------------------------


def _key_columns(schema: pa.Schema) -> tuple[list[str], bool]:
    """Return the columns that keys are made of, without any bytes of images, and whether rows hold such bytes."""
    kind = schema.field("image").type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    embedded = not (pa.types.is_string(kind) or pa.types.is_large_string(kind))
    columns = ["key"] if "key" in schema.names else []
    if not embedded:
        columns.append("image")
    elif pa.types.is_struct(kind) and any(field.name == "path" for field in kind):
        columns.append("image.path")
    return columns, embedded


def _overlapping(metadata: pq.FileMetaData, start: int, stop: int) -> tuple[list[int], int]:
    """Return the row groups that hold rows from `start` to `stop`, and the number of their first row."""
    groups: list[int] = []
    first = row = 0
    for group in range(metadata.num_row_groups):
        end = row + metadata.row_group(group).num_rows
        if row < stop and end > start:
            first = first if groups else row
            groups.append(group)
        row = end
    return groups, first


def _parquet_rows(parquet: pq.ParquetFile, groups: range | list[int], columns: list[str]) -> Iterator[dict[str, Any]]:
    size = 8 if "image" in columns and not pa.types.is_string(parquet.schema_arrow.field("image").type) else 1024
    for batch in parquet.iter_batches(size, row_groups=list(groups), columns=columns, use_threads=False):
        prompts = batch.column("prompts") if "prompts" in columns else None
        if prompts is not None and _values(prompts) > MAX_PROMPTS:
            # Packed, millions of prompts are a few bytes. One more than are allowed is enough to say so.
            for row, cell in zip(_each(batch.drop_columns(["prompts"])), prompts, strict=True):
                values = cell.values
                yield row | {"prompts": None if values is None else values.slice(0, MAX_PROMPTS + 1).to_pylist()}
        else:
            yield from batch.to_pylist()


def _values(column: pa.Array) -> int:
    """Return how many values the lists of a column have; 0 where it has no lists."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return 0
    return pc.sum(pc.list_value_length(column)).as_py() or 0


def _each(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    for number in range(len(batch)):
        yield from batch.slice(number, 1).to_pylist()
