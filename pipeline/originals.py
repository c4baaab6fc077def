"""The encoded originals that records point to: files, members of tars, rows of Parquet manifests.

For everything that looks at images again after a run: sheets, reports, exports, reviews.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import PipelineError
from pipeline.sources.base import max_bytes, too_large
from pipeline.sources.tars import TAR_DAMAGE, TAR_SUFFIXES, tar_members
from sdmatte.errors import SDMatteError
from sdmatte.urls import redact

_RETRIES = 2
_UNREADABLE = (*TAR_DAMAGE, PipelineError, pa.ArrowException, SDMatteError)
_PARQUET_ROW = re.compile(r"(.+\.(?:parquet|pq)) row (\d+)", re.IGNORECASE | re.DOTALL)


class Unavailable(str):
    """Why an original can't be had; a sentence for people, without credentials."""

    __slots__ = ()


def read_originals(
    uris: Iterable[str], max_pixels: int, *, retries: int = _RETRIES
) -> Iterator[tuple[str, bytes | Unavailable]]:
    """Fetch the encoded bytes of images, each tar read once and only as far as needed; one image is held at a time.

    Args:
        uris: Values of the column `image_uri`; repetitions count once. Tar members come after all others.
        max_pixels: Bounds the bytes that are read of one image, see :func:`pipeline.sources.base.max_bytes`.
        retries: How often a transient fault of the store is retried.

    Yields:
        Each URI with its bytes, or with the reason why there are none.
    """
    shards: dict[str, dict[str, str]] = {}
    for uri in dict.fromkeys(uris):
        shard, member = split_member(uri)
        if member:
            shards.setdefault(shard, {})[member] = uri
            continue
        try:
            yield uri, _read_one(uri, max_pixels, retries)
        except _UNREADABLE as error:
            yield uri, Unavailable(redact(str(error)))
    for shard, members in shards.items():
        found: set[str] = set()
        try:
            for member, data in _members(shard, set(members), max_pixels, retries):
                found.add(member)
                yield members[member], data
        except _UNREADABLE as error:
            reason = redact(str(error))
        else:
            reason = ""
        for member, uri in members.items():
            if member not in found:
                yield uri, Unavailable(reason or f"{redact(uri)} is not there any more")


def _read_one(uri: str, max_pixels: int, retries: int) -> bytes:
    """Read a file, or the bytes in a row of a Parquet manifest."""
    if row := _PARQUET_ROW.fullmatch(uri):
        return _read_parquet_row(row[1], int(row[2]), retries)
    size = storage.file_info(uri, retries=retries).size
    if size is not None and size > max_bytes(max_pixels):
        raise too_large(size, max_pixels)
    return storage.read_bytes(uri, retries=retries)


def _read_parquet_row(uri: str, row: int, retries: int) -> bytes:
    left = row
    with storage.open_stream(uri, retries=retries) as stream:
        parquet = pq.ParquetFile(stream, buffer_size=2**20, pre_buffer=False)
        for group in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(group).num_rows
            if left >= size:
                left -= size
                continue
            for batch in parquet.iter_batches(8, row_groups=[group], columns=["image"], use_threads=False):
                if left < len(batch):
                    image = batch.column(0)[left].as_py()
                    return bytes(image["bytes"] if isinstance(image, dict) else image)
                left -= len(batch)
    raise EOFError(f"{uri} has no row {row} any more")


def split_member(uri: str) -> tuple[str, str]:
    """Split `URI#member` of a tar shard; the member of other URIs is empty."""
    for suffix in TAR_SUFFIXES:
        shard, mark, member = uri.partition(f"{suffix}#")
        if mark:
            return shard + suffix, member
    return uri, ""


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
