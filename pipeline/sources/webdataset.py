"""WebDataset: tar files whose members belong together by name (``cat.jpg``, ``cat.prompts.jsonl``, ``cat.mask.png``).

The key of a member is its path up to the first dot of its file name (names with more dots:
:func:`pipeline.sources.names.member_name`); the members of an image stand one after the other. Tars are streamed: at
most one image and its siblings are in memory, and nothing is ever unpacked to disk.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import BufferedReader

from pipeline.config import LabelConfig
from pipeline.errors import BadInputError, ErrorCode, TransientError
from pipeline.ids import image_id
from pipeline.prompt_formats import label_files
from pipeline.prompt_formats.label_files import LabelFiles
from pipeline.prompts import MAX_BYTES, MAX_PROMPTS, RawPrompt, too_many_bytes, too_many_prompts
from pipeline.sources.base import (
    Sample,
    Shard,
    byte_limit,
    file_too_large,
    fingerprint,
    parse_prompts,
    unreadable,
)
from pipeline.sources.listing import list_inputs
from pipeline.sources.names import Kind, MemberName, clean_name, foreign, member_name
from pipeline.sources.tars import TAR_DAMAGE, TAR_SUFFIXES, tar_members
from pipeline.storage import RefusedError, open_stream, public_uri

_BROKEN = (*TAR_DAMAGE, TransientError, RefusedError)
_FAMILY_BYTES = 64 * 2**20  # of images whose names begin alike; then they count as families of their own
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Member:
    """A member that may be of use.

    Attributes:
        name: Path in the tar.
        kind: What its name says it is.
        data: Content; None where it is too large, or of no use.
        size: Bytes.
    """

    name: str
    kind: Kind
    data: bytes | None
    size: int


@dataclass(slots=True)
class _Group:
    """Members that have the same key.

    Attributes:
        key: Of the image.
        members: All that have it.
        family: These, and the other members whose names are equal up to the first dot.
    """

    key: str
    family: list[_Member]
    members: list[_Member] = field(default_factory=list)

    def of(self, kind: Kind) -> list[_Member]:
        return [member for member in self.members if member.kind == kind]

    def load_mask(self, name: str) -> bytes:
        for member in self.family:
            if member.name == f"{self.key}.{name}" and member.data is not None:
                return member.data
        raise BadInputError(
            ErrorCode.PROMPT_MALFORMED,
            f"the mask {name!r} is to be the member {self.key}.{name} beside the image, as a PNG; it isn't there",
        )


class WebDatasetSource:
    """Tar shards, plain or compressed."""

    def __init__(self, config: LabelConfig) -> None:
        self._config = config
        self._labels = LabelFiles.beside(config)
        self._inline = config.prompts.kind == "inline" or self._labels is not None

    def shards(self) -> list[Shard]:
        """See :class:`pipeline.sources.base.Source`. Shards are named by their path below the configured one."""
        files = list_inputs(self._config, TAR_SUFFIXES)
        return [
            Shard(name, {"uri": file.uri, "etag": file.etag}, fingerprint(file.version, str(file.size)))
            for name, file in files.items()
        ]

    def read(self, shard: Shard) -> Iterator[Sample]:
        """See :class:`pipeline.sources.base.Source`. Keys must be unique in their shard."""
        uri = shard.spec["uri"]
        seen: Counter[str] = Counter()
        passed: Counter[str] = Counter()
        try:
            with open_stream(uri, retries=self._config.workers.retries) as stream:
                for family in _families(stream, byte_limit(self._config), passed, self._labels):
                    yield from self._family(shard, family, seen)
        except _BROKEN as error:
            yield unreadable(shard, clean_name(public_uri(uri)), error, seen.total())
        if passed:
            level = logging.INFO if seen else logging.WARNING
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(passed.items()))
            _log.log(level, "%s: passed over members that are neither images nor prompts: %s", shard.name, counts)

    def _family(self, shard: Shard, groups: list[_Group], seen: Counter[str]) -> Iterator[Sample]:
        uri = clean_name(public_uri(shard.spec["uri"]))
        names = {member.name for member in groups[0].family}
        masks: set[str] = set()
        prompts: list[RawPrompt] = []
        for group in groups:
            prompts = self._prompts(group, uri)
            masks |= names & {f"{group.key}.{raw.content.get('mask')}" for raw in prompts}
        for group in groups:
            if len(groups) > 1:  # read again: those of a whole family of images may not fit the memory
                prompts = self._prompts(group, uri)
            yield from self._samples(shard, group, prompts, masks, seen)

    def _samples(
        self, shard: Shard, group: _Group, prompts: list[RawPrompt], masks: set[str], seen: Counter[str]
    ) -> Iterator[Sample]:
        uri = clean_name(public_uri(shard.spec["uri"]))
        images = [member for member in group.of("image") if member.name not in masks] or group.of("foreign")
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
        if image.kind == "foreign":
            return foreign(image.name)
        return file_too_large(image.size, self._config) if image.data is None else None

    def _prompts(self, group: _Group, uri: str) -> list[RawPrompt]:
        found: list[RawPrompt] = []
        for member in group.of("prompts") if self._inline else ():
            where = f"{uri}#{member.name}"
            if member.data is None:
                more = [too_many_bytes(where, member.size, _most(member.kind, byte_limit(self._config), self._labels))]
            elif self._labels:
                more = self._labels.parse(member.data, where)
            else:
                more = parse_prompts(member.name, member.data, where)
            found += more if len(found) + len(more) <= MAX_PROMPTS else [too_many_prompts(where)]
        return found


# --- grouping --------------------------------------------------------------------------------------------------------


def _families(
    stream: BufferedReader, limit: int, passed: Counter[str], labels: LabelFiles | None = None
) -> Iterator[list[_Group]]:
    """Yield the groups of members whose names are equal up to the first dot; not those in which a tar breaks off.

    Only together do they tell whether ``cat.dog.png`` is a mask, which a prompt of ``cat`` names, or an image.

    Args:
        stream: Of the tar file.
        limit: Bytes of a member that is read (of prompts, see :func:`_most`), and half of what is kept of the members
            of a group.
        passed: Counts members that are of no use, by extension; links and devices as such.
        labels: Tells which members hold prompts, where they have a format of their own.
    """
    current = ""
    groups: dict[str, _Group] = {}
    members: list[_Member] = []
    for file in tar_members(stream, passed):
        name = _member_name(file.name, labels)
        if name is None or (name.kind == "other" and not file.name.lower().endswith(".png")):
            passed[file.name.rpartition("/")[2].rpartition(".")[2][:20]] += 1
        if name is None:
            continue
        full = name.key not in groups and sum(len(member.data or b"") for member in members) > _FAMILY_BYTES
        if groups and (name.family != current or full):
            yield list(groups.values())
            groups, members = {}, []
        current = name.family
        group = groups.setdefault(name.key, _Group(name.key, members))
        kept = sum(len(other.data or b"") for other in group.members)
        useful = name.kind in ("image", "prompts") or file.name.lower().endswith(".png")
        fits = kept + file.size <= limit * 2 and file.size <= _most(name.kind, limit, labels)
        group.members.append(_Member(file.name, name.kind, file.read() if useful and fits else None, file.size))
        members.append(group.members[-1])
    if groups:
        yield list(groups.values())


def _most(kind: Kind, limit: int, labels: LabelFiles | None) -> int:
    """Return how many bytes of a member are read, where `limit` is that of images."""
    if kind != "prompts":
        return limit
    return min(limit, label_files.MAX_BYTES if labels else MAX_BYTES)


def _member_name(path: str, labels: LabelFiles | None) -> MemberName | None:
    name = member_name(path)
    if labels is None or name is None:
        return name
    if labels.holds_prompts(path):
        return replace(name, key=path[: -len(labels.format.suffix)], kind="prompts")
    return replace(name, kind="other") if name.kind == "prompts" else name
