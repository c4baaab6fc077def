"""The encoded originals that records point to: files, members of tars, rows of Parquet manifests.

For everything that looks at images again after a run: sheets, reports, exports, reviews.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import BadInputError, ErrorCode, PipelineError
from pipeline.sources.base import max_bytes, too_large
from pipeline.sources.tars import TAR_DAMAGE, TAR_SUFFIXES, tar_members
from sdmatte.errors import SDMatteError
from sdmatte.urls import redact

_RETRIES = 2
_UNREADABLE = (*TAR_DAMAGE, PipelineError, pa.ArrowException, SDMatteError)
_AT_ONCE = 8  # rows of a manifest in memory
_PARQUET_ROW = re.compile(r"(.+\.(?:parquet|pq)) row (\d+)", re.IGNORECASE | re.DOTALL)


class Unavailable(str):
    """Why an original can't be had; a sentence for people, without credentials."""

    __slots__ = ()


def read_originals(
    uris: Iterable[str], max_pixels: int, *, retries: int = _RETRIES
) -> Iterator[tuple[str, bytes | Unavailable]]:
    """Fetch the encoded bytes of images; one image is held at a time.

    Each tar and each Parquet manifest is read once, from front to back and only as far as needed.

    Args:
        uris: Values of the column `image_uri`; repetitions count once. Members of tars and rows of manifests come
            after all others.
        max_pixels: Bounds the bytes that are read of one image, see :func:`pipeline.sources.base.max_bytes`.
        retries: How often a transient fault of the store is retried.

    Yields:
        Each URI with its bytes, or with the reason why there are none.
    """
    containers: dict[str, dict[str, str]] = {}
    for uri in dict.fromkeys(uris):
        container, member = split_member(uri)
        if member:
            containers.setdefault(container, {})[member] = uri
            continue
        try:
            yield uri, _read_file(uri, max_pixels, retries)
        except _UNREADABLE as error:
            yield uri, Unavailable(redact(str(error)))
    for container, members in containers.items():
        read = _members if container.lower().endswith(TAR_SUFFIXES) else _rows
        found: set[str] = set()
        reason = ""
        try:
            for member, data in read(container, set(members), max_pixels, retries):
                found.add(member)
                yield members[member], data
        except _UNREADABLE as error:
            reason = redact(str(error))
        for member, uri in members.items():
            if member not in found:
                yield uri, Unavailable(reason or f"{redact(uri)} is not there any more")


def split_member(uri: str) -> tuple[str, str]:
    """Split what names a part of a file: `URI#member` of a tar, `URI row N` of a Parquet manifest.

    Returns:
        The file and its part: the member's name, or the row's number; the part of other URIs is empty.
    """
    if row := _PARQUET_ROW.fullmatch(uri):
        return row[1], row[2]
    for suffix in TAR_SUFFIXES:
        shard, mark, member = uri.partition(f"{suffix}#")
        if mark:
            return shard + suffix, member
    return uri, ""


def _read_file(uri: str, max_pixels: int, retries: int) -> bytes:
    size = storage.file_info(uri, retries=retries).size
    if size is not None and size > max_bytes(max_pixels):
        raise too_large(size, max_pixels)
    return storage.read_bytes(uri, retries=retries)


def _rows(uri: str, wanted: set[str], max_pixels: int, retries: int) -> Iterator[tuple[str, bytes | Unavailable]]:
    """Read a Parquet manifest, and yield the wanted rows as bytes or reasons; stops at the last of them."""
    numbers = {int(text): text for text in wanted}
    with storage.open_stream(uri, retries=retries) as stream:
        parquet = pq.ParquetFile(stream, buffer_size=2**20, pre_buffer=False)
        if "image" not in parquet.schema_arrow.names:
            raise BadInputError(ErrorCode.IMAGE_MISSING, f"{uri} has no column image any more")
        first = 0
        for group in range(parquet.num_row_groups):
            after = first + parquet.metadata.row_group(group).num_rows
            here = sorted(number for number in numbers if first <= number < after)
            for number, image in _values(parquet, group, [number - first for number in here]):
                yield numbers[first + number], _bytes(image, f"{uri} row {first + number}", max_pixels)
            first = after


def _values(parquet: pq.ParquetFile, group: int, rows: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Yield images of a row group, by their rows there, which are ascending; a few are decoded at a time."""
    if not rows:
        return
    start = 0
    left = deque(rows)
    for batch in parquet.iter_batches(_AT_ONCE, row_groups=[group], columns=["image"], use_threads=False):
        while left and left[0] < start + len(batch):
            yield left[0], batch.column(0)[left[0] - start].as_py()
            left.popleft()
        if not left:
            return
        start += len(batch)


def _bytes(image: object, where: str, max_pixels: int) -> bytes | Unavailable:
    """Return what a cell holds; the manifest may have been written anew since."""
    data = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(data, bytes):
        return Unavailable(f"{redact(where)} holds no image any more")
    return Unavailable(too_large(len(data), max_pixels)) if len(data) > max_bytes(max_pixels) else data


def _members(shard: str, wanted: set[str], max_pixels: int, retries: int) -> Iterator[tuple[str, bytes | Unavailable]]:
    """Stream a tar, and yield the wanted members as bytes or reasons; stops at the last of them."""
    with storage.open_stream(shard, retries=retries) as stream:
        for member in tar_members(stream):
            if member.name not in wanted:
                continue
            wanted = wanted - {member.name}
            if member.size > max_bytes(max_pixels):
                yield member.name, Unavailable(too_large(member.size, max_pixels))
            else:
                yield member.name, member.read()
            if not wanted:
                return
