"""WebDataset: tar files whose members belong together by name (``cat.jpg``, ``cat.prompts.jsonl``, ``cat.mask.png``).

The key of a member is its path up to the first dot of its file name; the members of an image stand one after the
other. Tars are streamed: at most one image and its siblings are in memory, and nothing is ever unpacked to disk.
"""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Self

from pipeline.config import LabelConfig
from pipeline.errors import BadInputError, ErrorCode, TransientError
from pipeline.ids import image_id
from pipeline.prompts import RawPrompt, clean_text, unreadable_prompts
from pipeline.sources.base import (
    IMAGE_EXTENSIONS,
    PROMPT_EXTENSIONS,
    Sample,
    Shard,
    list_inputs,
    max_bytes,
    parse_prompts,
    too_large,
    unreadable,
)
from pipeline.storage import RefusedError, open_stream, public_uri

_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_BROKEN = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, TransientError, RefusedError)
_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class _Member:
    """A member that may be of use.

    Attributes:
        name: Path in the tar.
        extension: What follows the first dot of the file name.
        data: Content; None where it is too large, or of no use.
        size: Bytes.
    """

    name: str
    extension: str
    data: bytes | None
    size: int


@dataclass(slots=True)
class _Group:
    """Members that follow each other and have the same key."""

    key: str
    members: list[_Member] = field(default_factory=list)
    images: list[_Member] = field(default_factory=list)
    prompts: list[_Member] = field(default_factory=list)

    def load_mask(self, name: str) -> bytes:
        for member in self.members:
            if member.extension == name and member.data is not None:
                return member.data
        raise BadInputError(
            ErrorCode.PROMPT_MALFORMED,
            f"the mask {name!r} is to be the member {self.key}.{name} beside the image, as a PNG; it isn't there",
        )


class WebDatasetSource:
    """Tar shards, plain or gzipped."""

    def __init__(self, config: LabelConfig) -> None:
        self._config = config
        self._inline = config.prompts.kind == "inline"

    def shards(self) -> list[Shard]:
        """See :class:`pipeline.sources.base.Source`. Shards are named by their path below the configured one."""
        files = list_inputs(self._config, _SUFFIXES)
        return [Shard(name, {"uri": file.uri, "etag": file.etag}) for name, file in files.items()]

    def read(self, shard: Shard) -> Iterator[Sample]:
        """See :class:`pipeline.sources.base.Source`. Keys must be unique in their shard."""
        uri = shard.spec["uri"]
        seen: Counter[str] = Counter()
        try:
            with open_stream(uri, retries=self._config.workers.retries) as stream:
                for group in _groups(stream, max_bytes(self._config)):
                    yield from self._samples(shard, group, seen)
        except _BROKEN as error:
            yield unreadable(shard, public_uri(uri), error, seen.total())

    def _samples(self, shard: Shard, group: _Group, seen: Counter[str]) -> Iterator[Sample]:
        uri = public_uri(shard.spec["uri"])
        prompts = self._prompts(group, uri) if self._inline else []
        masks = {raw.content.get("mask") for raw in prompts if isinstance(raw.content.get("mask"), str)}
        images = [member for member in group.images if member.extension not in masks]
        if not images and not prompts:
            return
        for number, image in enumerate(images or [None]):
            occurrence = seen[group.key]
            seen[group.key] += 1
            path = image.name if image else group.key
            beside = prompts if number == 0 else []
            yield Sample(
                key=group.key,
                image_id=image_id(shard.name, group.key, occurrence),
                uri=f"{uri}#{path}",
                path=path,
                etag=shard.spec["etag"],
                data=image.data if image and not occurrence else None,
                prompts=beside if self._inline or occurrence else None,
                error=self._fault(group, image, occurrence),
                load_mask=group.load_mask,
            )

    def _fault(self, group: _Group, image: _Member | None, occurrence: int) -> BadInputError | None:
        if occurrence:
            return BadInputError(
                ErrorCode.DUPLICATE_KEY,
                f"the key {group.key} was already used in this shard; keep the members of an image together, give "
                f"each image a key of its own, and call masks {group.key}.mask.png",
            )
        if image is None:
            return BadInputError(ErrorCode.IMAGE_MISSING, f"the shard has prompts for {group.key}, but no image")
        return too_large(image.size, self._config) if image.data is None else None

    def _prompts(self, group: _Group, uri: str) -> list[RawPrompt]:
        found: list[RawPrompt] = []
        for member in group.prompts:
            where = f"{uri}#{member.name}"
            if member.data is None:
                found.append(unreadable_prompts(where, f"has {member.size} bytes, too many to be read"))
            else:
                found += parse_prompts(member.name, member.data, where)
        return found


# --- tar -------------------------------------------------------------------------------------------------------------


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


def _groups(stream: BufferedReader, limit: int) -> Iterator[_Group]:
    """Yield groups; the one in which a tar breaks off is not yielded.

    Args:
        stream: Of the tar file.
        limit: Bytes of the members of a group that are kept.
    """
    # gzip.open checks sums and reads files of several parts, which tarfile's own reader doesn't.
    plain = gzip.GzipFile(fileobj=stream) if stream.peek(2)[:2] == b"\x1f\x8b" else stream
    group: _Group | None = None
    with tarfile.open(fileobj=plain, mode="r|*", bufsize=_CHUNK, tarinfo=_StrictTarInfo) as tar:
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined] # tarfile would remember them all
            name = clean_text(info.name).removeprefix("./")
            folder, slash, file_name = name.rpartition("/")
            stem, dot, extension = file_name.partition(".")
            if not info.isfile() or not stem or not dot:
                continue
            key = f"{folder}{slash}{stem}"
            if group is None or group.key != key:
                if group is not None:
                    yield group
                group = _Group(key)
            _add(group, tar, info, _Member(name, extension, None, info.size), limit)
        _check_end(tar)
    if group is not None:
        yield group


def _add(group: _Group, tar: tarfile.TarFile, info: tarfile.TarInfo, member: _Member, limit: int) -> None:
    extension = member.extension.lower()
    useful = extension in IMAGE_EXTENSIONS or extension in PROMPT_EXTENSIONS or extension.endswith(".png")
    kept = sum(len(other.data or b"") for other in group.members)
    if useful and kept + info.size <= limit * 2 and info.size <= limit:
        file = tar.extractfile(info)
        member = _Member(member.name, member.extension, file.read() if file else None, info.size)
    group.members.append(member)
    if extension in IMAGE_EXTENSIONS:
        group.images.append(member)
    elif extension in PROMPT_EXTENSIONS:
        group.prompts.append(member)


def _check_end(tar: tarfile.TarFile) -> None:
    """Refuse data behind the end marker: members after a block of zeros would be lost without a word."""
    assert tar.fileobj is not None
    while rest := tar.fileobj.read(_CHUNK):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("there is data behind its end marker: a hole, or tars strung together")
