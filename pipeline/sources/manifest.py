"""Manifests: JSONL or Parquet files whose rows name images by URI, or (Parquet) hold their bytes.

A row has ``image``, and may have ``key`` (by default what ``image`` says) and ``prompts``; other columns are left
alone. Several rows may share a key, such as one row per object: each is an image of its own.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config import LabelConfig
from pipeline.errors import BadInputError, ConfigurationError, ErrorCode, TransientError
from pipeline.ids import image_id, key_hash
from pipeline.prompts import RawPrompt, clean_text, from_values, load_json, parse_list
from pipeline.sources.base import (
    Sample,
    Shard,
    fetch,
    fetch_mask,
    file_info,
    list_inputs,
    max_bytes,
    too_large,
    unreadable,
)
from pipeline.sources.references import resolve
from pipeline.storage import FileInfo, RefusedError, open_stream, public_uri, read_lines

_JSONL = (".jsonl", ".ndjson")
_PARQUET = (".parquet", ".pq")
_COLUMNS = ("image", "key", "prompts")
_BROKEN = (pa.ArrowException, OSError, EOFError, TransientError, RefusedError)


@dataclass(frozen=True, slots=True)
class _Row:
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


class ManifestSource:
    """Images that are listed in manifests."""

    def __init__(self, config: LabelConfig) -> None:
        self._config = config
        self._inline = config.prompts.kind == "inline"

    def shards(self) -> list[Shard]:
        """See :class:`pipeline.sources.base.Source`. Shards are named by manifest and first row (from 0)."""
        files = list_inputs(self._config, _JSONL + _PARQUET)
        shards = [shard for name, file in files.items() for shard in self._plan(name, file)]
        if not shards:
            raise ConfigurationError(f"input.path: the manifests {', '.join(files)} have no rows")
        return shards

    def _plan(self, name: str, file: FileInfo) -> Iterator[Shard]:
        try:
            parquet = file.name.lower().endswith(_PARQUET)
            keys, cuts = self._scan_parquet(file) if parquet else self._scan_jsonl(file)
        except (pa.ArrowException, BadInputError) as error:
            raise ConfigurationError(f"can't use the manifest {public_uri(file.uri)}: {error}") from None
        occurrences = _occurrences(keys)
        for cut in cuts:
            again = occurrences[cut["start"] : cut["stop"]]
            repeats = {str(cut["start"] + i): int(again[i]) for i in np.flatnonzero(again)}
            spec = {"uri": file.uri, "name": name, "parquet": parquet, **cut, "repeats": repeats}
            yield Shard(f"{name}#{cut['start']:09d}", spec)

    def _scan_jsonl(self, file: FileInfo) -> tuple[NDArray[np.int64], list[dict[str, int]]]:
        """Return the hashes of all keys, and where shards begin and end."""
        keys = array("q")
        cuts: list[dict[str, int]] = []
        fault = ""
        good = 0
        with open_stream(file.uri, retries=self._config.workers.retries) as stream:
            for number, (offset, line) in enumerate(read_lines(stream), 1):
                if not line.strip():
                    continue
                if len(keys) % self._config.input.images_per_shard == 0:
                    cuts.append({"start": len(keys), "stop": len(keys), "offset": offset, "line": number})
                row = _jsonl_row(line, number)
                good += row.fault is None
                fault = fault or (f"line {number} {row.fault}" if row.fault else "")
                keys.append(key_hash(row.key))
                cuts[-1]["stop"] += 1
        if fault and not good:
            raise BadInputError(ErrorCode.IMAGE_MISSING, f"no line names an image; {fault}")
        return np.asarray(keys, np.int64), cuts

    def _scan_parquet(self, file: FileInfo) -> tuple[NDArray[np.int64], list[dict[str, int]]]:
        """As :meth:`_scan_jsonl`; where rows hold bytes, shards are row groups, which can't be read in part."""
        with self._open_parquet(file.uri) as parquet:
            schema = parquet.schema_arrow
            if "image" not in schema.names:
                raise BadInputError(ErrorCode.IMAGE_MISSING, f"it has no column image, but {', '.join(schema.names)}")
            columns, embedded = _key_columns(schema)
            keys = array("q")
            for row in _parquet_rows(parquet, range(parquet.num_row_groups), columns) if columns else ():
                keys.append(key_hash(_row(row, f"row-{len(keys)}").key))
            rows = parquet.metadata.num_rows
            if not columns:
                keys.extend(range(rows))
            if embedded:
                sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
                edges = np.cumsum([0, *sizes]).tolist()
            else:
                edges = [*range(0, rows, self._config.input.images_per_shard), rows]
        cuts = [{"start": start, "stop": stop} for start, stop in pairwise(edges) if start < stop]
        return np.asarray(keys, np.int64), cuts

    def read(self, shard: Shard) -> Iterator[Sample]:
        """See :class:`pipeline.sources.base.Source`."""
        spec = shard.spec
        done = 0
        try:
            for number, where, row in self._parquet(spec) if spec["parquet"] else self._jsonl(spec):
                yield self._sample(spec, row, where, spec["repeats"].get(str(number), 0))
                done += 1
        except _BROKEN as error:
            yield unreadable(shard, clean_text(public_uri(spec["uri"])), error, done)

    def _jsonl(self, spec: dict[str, Any]) -> Iterator[tuple[int, str, _Row]]:
        with open_stream(spec["uri"], retries=self._config.workers.retries) as stream:
            stream.seek(spec["offset"])
            number = spec["start"]
            for line_number, (_, line) in enumerate(read_lines(stream), spec["line"]):
                if number == spec["stop"]:
                    return
                if line.strip():
                    yield number, f"{public_uri(spec['uri'])} line {line_number}", _jsonl_row(line, line_number)
                    number += 1
        if number < spec["stop"]:
            raise EOFError(f"it has only {number} rows left of {spec['stop']}; it was changed since the run began")

    def _parquet(self, spec: dict[str, Any]) -> Iterator[tuple[int, str, _Row]]:
        start, stop = spec["start"], spec["stop"]
        with self._open_parquet(spec["uri"]) as parquet:
            groups, first = _overlapping(parquet.metadata, start, stop)
            columns = [name for name in _COLUMNS if name in parquet.schema_arrow.names]
            for number, row in enumerate(_parquet_rows(parquet, groups, columns), first):
                if number >= stop:
                    return
                if number >= start:
                    yield number, f"{public_uri(spec['uri'])} row {number}", _row(row, f"row-{number}")

    @contextmanager
    def _open_parquet(self, uri: str) -> Iterator[pq.ParquetFile]:
        with open_stream(uri, retries=self._config.workers.retries) as stream:
            yield pq.ParquetFile(stream, pre_buffer=False)  # pre-buffering would hold several row groups

    def _sample(self, spec: dict[str, Any], row: _Row, where: str, occurrence: int) -> Sample:
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
            uri=_shown(manifest, row, where),
            path=clean_text(public_uri(row.image)) if isinstance(row.image, str) else row.key,
            etag=etag,
            data=data,
            prompts=_prompts(row.prompts, where) if self._inline else () if occurrence else None,
            error=error,
            load_mask=partial(self._mask, manifest),
        )

    def _load(self, manifest: str, row: _Row, occurrence: int) -> tuple[bytes, str | None]:
        if row.image is None:
            raise BadInputError(ErrorCode.IMAGE_MISSING, str(row.fault))
        if occurrence and not self._inline:
            raise BadInputError(ErrorCode.DUPLICATE_KEY, f"an earlier row has the key {row.key}, and all its prompts")
        if isinstance(row.image, str):
            uri = resolve(manifest, row.image)
            info = file_info(uri, self._config)
            return fetch(uri, info.size, self._config), info.etag
        limit = self._config.input.max_pixels
        if len(row.image) > max_bytes(limit):
            raise too_large(len(row.image), limit)
        return row.image, None

    def _mask(self, manifest: str, name: str) -> bytes:
        try:
            return fetch_mask(resolve(manifest, name), self._config)
        except BadInputError as error:
            if error.code is ErrorCode.IMAGE_MISSING:
                raise BadInputError(ErrorCode.PROMPT_MALFORMED, str(error)) from None
            raise


# --- rows ------------------------------------------------------------------------------------------------------------


def _jsonl_row(line: bytes, number: int) -> _Row:
    place = f"line-{number}"
    try:
        return _row(load_json(line), place)
    except BadInputError as error:
        return _Row(place, None, fault=f"is {error}")


def _row(value: object, place: str) -> _Row:
    """Read a row; `place` is its key where it names none."""
    if not isinstance(value, Mapping):
        return _Row(place, None, fault="is no JSON object")
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
        return _Row(clean_text(name), None, value.get("prompts"), fault)
    return _Row(clean_text(name), target, value.get("prompts"))


def _shown(manifest: str, row: _Row, where: str) -> str:
    """Return where a row's image is, as it may be shown."""
    if not isinstance(row.image, str):
        return clean_text(where)
    try:
        return clean_text(public_uri(resolve(manifest, row.image)))
    except BadInputError:
        return clean_text(public_uri(row.image))


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
        yield from batch.to_pylist()
