"""WebDataset: tar files whose members belong together by name (``cat.jpg``, ``cat.prompts.jsonl``, ``cat.mask.png``).

The key of a member is its path up to the first dot of its file name; the members of an image stand one after the
other. Tars are streamed: at most one image and its siblings are in memory, and nothing is ever unpacked to disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader

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
from pipeline.sources.tars import TAR_DAMAGE, TAR_SUFFIXES, TarMember, tar_members
from pipeline.storage import RefusedError, open_stream, public_uri

_BROKEN = (*TAR_DAMAGE, TransientError, RefusedError)


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
        files = list_inputs(self._config, TAR_SUFFIXES)
        return [Shard(name, {"uri": file.uri, "etag": file.etag}) for name, file in files.items()]

    def read(self, shard: Shard) -> Iterator[Sample]:
        """See :class:`pipeline.sources.base.Source`. Keys must be unique in their shard."""
        uri = shard.spec["uri"]
        seen: Counter[str] = Counter()
        try:
            with open_stream(uri, retries=self._config.workers.retries) as stream:
                for group in _groups(stream, max_bytes(self._config.input.max_pixels)):
                    yield from self._samples(shard, group, seen)
        except _BROKEN as error:
            yield unreadable(shard, clean_text(public_uri(uri)), error, seen.total())

    def _samples(self, shard: Shard, group: _Group, seen: Counter[str]) -> Iterator[Sample]:
        uri = clean_text(public_uri(shard.spec["uri"]))
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
        return too_large(image.size, self._config.input.max_pixels) if image.data is None else None

    def _prompts(self, group: _Group, uri: str) -> list[RawPrompt]:
        found: list[RawPrompt] = []
        for member in group.prompts:
            where = f"{uri}#{member.name}"
            if member.data is None:
                found.append(unreadable_prompts(where, f"has {member.size} bytes, too many to be read"))
            else:
                found += parse_prompts(member.name, member.data, where)
        return found


# --- grouping --------------------------------------------------------------------------------------------------------


def _groups(stream: BufferedReader, limit: int) -> Iterator[_Group]:
    """Yield groups; the one in which a tar breaks off is not yielded.

    Args:
        stream: Of the tar file.
        limit: Bytes of a member that is read, and half of what is kept of the members of a group.
    """
    group: _Group | None = None
    for file in tar_members(stream):
        folder, slash, file_name = file.name.rpartition("/")
        stem, dot, extension = file_name.partition(".")
        if not stem or not dot:
            continue
        key = f"{folder}{slash}{stem}"
        if group is None or group.key != key:
            if group is not None:
                yield group
            group = _Group(key)
        _add(group, file, extension, limit)
    if group is not None:
        yield group


def _add(group: _Group, file: TarMember, suffix: str, limit: int) -> None:
    extension = suffix.lower()
    useful = extension in IMAGE_EXTENSIONS or extension in PROMPT_EXTENSIONS or extension.endswith(".png")
    kept = sum(len(other.data or b"") for other in group.members)
    fits = kept + file.size <= limit * 2 and file.size <= limit
    member = _Member(file.name, suffix, file.read() if useful and fits else None, file.size)
    group.members.append(member)
    if extension in IMAGE_EXTENSIONS:
        group.images.append(member)
    elif extension in PROMPT_EXTENSIONS:
        group.prompts.append(member)
