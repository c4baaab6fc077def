"""Prompts in a file of their own, found by the key of their image.

The file is read once, on the driver, into one Arrow table sorted by the hash of the key: workers share it without
copying it, and a look-up is a binary search. Prompts stay JSON text until their image comes by.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.coco import read_coco
from pipeline.config import LabelConfig
from pipeline.errors import ConfigurationError
from pipeline.ids import key_hash
from pipeline.prompts import Entry, RawPrompt, clean_text, parse_line
from pipeline.storage import NotFoundError, is_url, open_stream, public_uri, read_lines

_SCHEMA = pa.schema(
    [
        ("hash", pa.int64()),
        ("key", pa.large_string()),
        ("content", pa.large_string()),  # JSON
        ("number", pa.int64()),  # of the line or annotation
        ("fault", pa.large_string()),
    ]
)
_BATCH = 65_536  # prompts that stand in memory as Python objects at a time


@dataclass(frozen=True, slots=True)
class Found:
    """What a prompt file has for an image.

    Attributes:
        hash: :func:`pipeline.ids.key_hash` of the file's key for the image.
        prompts: At least one, in the order of the file.
    """

    hash: int
    prompts: list[RawPrompt]


class PromptIndex:
    """The prompts of a file by key. ``len()`` is its number of keys; workers unpickle it without copying the table.

    Args:
        place: File and what it is counted in, for messages: ``"prompts.jsonl line"``.
        table: Prompts, sorted by hash.
        nameless: Prompts without a usable key.
        folder: Path or URL of the folder that the mask files named in it are in.
        numeric: Keys are COCO image ids, to be found by numeric file stems.
    """

    def __init__(
        self, place: str, table: pa.Table, nameless: list[RawPrompt], *, folder: str = "", numeric: bool = False
    ) -> None:
        self.nameless = nameless
        self.folder = folder
        self._place = place
        self._table = table
        self._numeric = numeric
        self._hashes = table["hash"].chunk(0).to_numpy(zero_copy_only=True) if len(table) else np.empty(0, np.int64)

    @classmethod
    def build(cls, place: str, entries: Iterable[Entry], *, folder: str = "", numeric: bool = False) -> PromptIndex:
        """Sort prompts by key."""
        nameless: list[RawPrompt] = []
        table = pa.Table.from_batches(_batches(entries, nameless, place), _SCHEMA)
        order = np.argsort(table["hash"].to_numpy(), kind="stable")
        return cls(place, table.take(order).combine_chunks(), nameless, folder=folder, numeric=numeric)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(PromptIndex, folder=self.folder, numeric=self._numeric), (
            self._place,
            self._table,
            self.nameless,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the table, which workers share through Ray's object store."""
        return int(self._table.nbytes)

    def __len__(self) -> int:
        return int(np.count_nonzero(np.diff(self._hashes))) + 1 if len(self._hashes) else 0

    def lookup(self, key: str, path: str | None = None) -> Found | None:
        """Find the prompts of an image.

        The file may know the image by its key, by its path with or without extension, or by its bare file name with or
        without extension; the first of these that it has is taken.

        Args:
            key: The source's key of the image.
            path: The image's path in its source, with extension; by default the key.
        """
        for name in self._names(key, path or key):
            digest = key_hash(name)
            if prompts := self._at(digest).get(name):
                return Found(digest, prompts)
        return None

    def unmatched(self, matched: AbstractSet[int]) -> Iterator[tuple[str, list[RawPrompt]]]:
        """Yield keys and prompts that found no image, in the order of the file.

        Args:
            matched: Hashes of the keys that did (:attr:`Found.hash`).

        Yields:
            Each key once, with all its prompts; the nameless ones, if any, come first, under the key ``""``.
        """
        if self.nameless:
            yield "", self.nameless
        left = np.flatnonzero(~np.isin(self._hashes, np.fromiter(matched, np.int64, len(matched))))
        if not len(left):
            return
        hashes = self._hashes[left]
        starts = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))
        # Keys stand where their first line does; the table has those of equal hashes in the order of the file.
        firsts = self._table["number"].to_numpy()[left[starts]]
        order = np.argsort(np.repeat(firsts, np.diff(starts, append=len(left))), kind="stable")
        rows = self._rows(left[order])
        for _, group in groupby(rows, key=lambda row: row["hash"]):
            yield from self._by_key(group).items()

    def _rows(self, places: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(places), _BATCH):
            yield from self._table.take(places[start : start + _BATCH]).to_pylist()

    def _at(self, digest: int) -> dict[str, list[RawPrompt]]:
        """Return keys and prompts of a hash: one key, unless two collide."""
        start, stop = (int(np.searchsorted(self._hashes, digest, side)) for side in ("left", "right"))
        return self._by_key(self._table.slice(start, stop - start).to_pylist())

    def _by_key(self, rows: Iterable[dict[str, Any]]) -> dict[str, list[RawPrompt]]:
        found: dict[str, list[RawPrompt]] = {}
        for row in rows:
            raw = _raw(self._place, row["number"], json.loads(row["content"]), row["fault"])
            found.setdefault(row["key"], []).append(raw)
        return found

    def _names(self, key: str, path: str) -> Iterable[str]:
        name = posixpath.basename(path)
        stem = posixpath.splitext(name)[0]
        if self._numeric:
            return [stem.lstrip("0") or "0"] if stem.isdecimal() else []
        return dict.fromkeys((key, path, posixpath.splitext(path)[0], name, stem))


def load_prompt_index(config: LabelConfig) -> PromptIndex | None:
    """Read the configured prompt file.

    Returns:
        None where prompts stand beside the images.

    Raises:
        ConfigurationError: The file can't be read, isn't what ``prompts.kind`` says, or has no usable prompt.
        TransientError: The store failed repeatedly.
    """
    path = config.prompts.path
    if config.prompts.kind == "inline" or path is None:
        return None
    name, retries = public_uri(path), config.workers.retries
    try:
        if config.prompts.kind == "coco":
            coco = read_coco(config.prompts, retries=retries)
            index = PromptIndex.build(f"{name} annotation", coco.entries, numeric=coco.numeric)
        else:
            folder = path.rpartition("/")[0] if is_url(path) else Path(path).expanduser().absolute().parent.as_posix()
            index = PromptIndex.build(f"{name} line", _read_jsonl(path, retries), folder=folder)
    except NotFoundError as error:
        raise ConfigurationError(f"prompts: {error}; correct prompts.path or prompts.coco_images") from None
    if not len(index):
        first = index.nameless[0] if index.nameless else None
        reason = f"the first fault: {first.where}: {first.fault}" if first else "it is empty, or all is filtered out"
        raise ConfigurationError(
            f"prompts.path {name} has no prompt that names an image ({reason}); prompts.kind "
            f"{config.prompts.kind} is described in docs/prompts.md"
        )
    return index


def _read_jsonl(path: str, retries: int) -> Iterator[Entry]:
    with open_stream(path, retries=retries) as stream:
        for number, (_, line) in enumerate(read_lines(stream), 1):
            if not line.strip():
                continue
            raw = parse_line(line.strip(), "")
            key = raw.content.get("image")
            if raw.fault is None and isinstance(key, str) and key:
                content = {name: part for name, part in raw.content.items() if name != "image"}
                yield Entry(clean_text(key), number, content)
            else:
                yield Entry(None, number, raw.content, raw.fault or 'has no "image" with the key of an image')


def _batches(entries: Iterable[Entry], nameless: list[RawPrompt], place: str) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, object]] = []
    for key, number, content, fault in entries:
        if key is None:
            nameless.append(_raw(place, number, content, fault))
            continue
        text = json.dumps(content, separators=(",", ":"))
        rows.append({"hash": key_hash(key), "key": key, "content": text, "number": number, "fault": fault})
        if len(rows) == _BATCH:
            yield pa.RecordBatch.from_pylist(rows, _SCHEMA)
            rows = []
    if rows:
        yield pa.RecordBatch.from_pylist(rows, _SCHEMA)


def _raw(place: str, number: int, content: dict[str, Any], fault: str | None) -> RawPrompt:
    return RawPrompt(content, f"{place} {number}", None if fault is None else clean_text(fault))
