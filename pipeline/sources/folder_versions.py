"""Fingerprints of a folder's shards: what images, prompt files and masks were when they were listed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pipeline.sources.base import fingerprint
from pipeline.sources.names import image_kind
from pipeline.storage import FileInfo

_PART = re.compile(r"[^A-Za-z0-9]")


class FolderVersions:
    """Versions of the files below a folder.

    A listing doesn't tell which masks an image's prompts name. A mask counts for the images whose name (without
    extension) its own begins with, such as ``masks/cat-2.png`` for ``cat.jpg``, wherever the two are; one that begins
    like no image counts for all of them.

    Args:
        files: All files, with names relative to the folder.
        masks: Those among them that are masks.
    """

    def __init__(self, files: Iterable[FileInfo], masks: Sequence[FileInfo]) -> None:
        self._versions = {file.name: _version(file) for file in files}
        self._masks = masks
        self._of_stem: dict[str, list[str | None]] | None = None
        self._of_all: list[str | None] = []

    def of(self, items: Sequence[dict[str, Any]]) -> str:
        """Return the fingerprint of a shard; ``""`` where the version of one of its files is unknown.

        Args:
            items: As they stand in the shard's spec.
        """
        masks = self._sorted_masks()
        parts: list[str | None] = [json.dumps([item["path"], item["prompts"], item["owner"]]) for item in items]
        for item in items:
            names = [*([item["path"]] if item["is_image"] else []), *item["prompts"]]
            parts += [self._versions.get(name) for name in names]
            parts += masks.get(_stem(item["path"]), [])
        if any(item["prompts"] for item in items):
            parts += self._of_all
        return fingerprint(*parts)

    def _sorted_masks(self) -> dict[str, list[str | None]]:
        if self._of_stem is None:
            masks = {mask.name for mask in self._masks}
            images = {_stem(name) for name in self._versions if image_kind(name) and name not in masks}
            self._of_stem = {}
            for mask in self._masks:
                owner = next((name for name in _beginnings(_base(mask.name)) if name in images), None)
                versions = self._of_all if owner is None else self._of_stem.setdefault(owner, [])
                versions += [mask.name, _version(mask)]
        return self._of_stem


def _version(file: FileInfo) -> str | None:
    return file.version and f"{file.size}-{file.version}"


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _stem(name: str) -> str:
    return _base(name).rpartition(".")[0] or _base(name)


def _beginnings(name: str) -> Iterator[str]:
    """Yield what a name begins with, up to each character that is no letter or digit; the longest first."""
    for end in reversed([match.start() for match in _PART.finditer(name)]):
        yield name[:end]
