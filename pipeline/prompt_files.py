"""Prompts in a file of their own, or in a folder of files, found by the key of their image.

A file is read once, on the driver, into one Arrow table sorted by the hash of the key: workers share it without
copying it, and a look-up is a binary search. Prompts stay JSON text until their image comes by. Of a folder, only the
listing is made into such a table (:mod:`pipeline.prompt_folders`).
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import LabelConfig
from pipeline.errors import ConfigurationError
from pipeline.ids import key_hash
from pipeline.prompt_folders import PromptFolder
from pipeline.prompt_formats import LABELS, READERS
from pipeline.prompt_formats.base import unparsed
from pipeline.prompt_formats.choice import Choice
from pipeline.prompt_formats.label_files import LabelFiles
from pipeline.prompt_lookup import Aliases, Found, hashes_of, image_names, not_in, sorted_by_hash
from pipeline.prompts import Entry, RawPrompt, clean_text
from pipeline.sources.names import clean_name
from pipeline.storage import NotFoundError, file_info, is_url, public_uri

__all__ = ["Found", "PromptIndex", "Prompts", "load_prompt_index", "prompt_choice"]

_SCHEMA = pa.schema(
    [
        ("hash", pa.int64()),
        ("key", pa.large_string()),  # null where there is none
        ("content", pa.large_string()),  # JSON
        ("number", pa.int64()),  # of the line or annotation
        ("fault", pa.large_string()),
    ]
)
_BATCH = 65_536  # prompts that stand in memory as Python objects at a time


class Prompts(Protocol):
    """Prompts that don't stand beside their images. ``len()`` is the number of keys."""

    @property
    def nameless(self) -> Sequence[RawPrompt]:
        """Prompts without a usable key, in the order of the file."""

    @property
    def folder(self) -> str:
        """Path or URL of the folder that the mask files named by prompts are in."""

    @property
    def version(self) -> str | None:
        """Equal as long as all prompts are, as far as the store tells; None where it doesn't."""

    def __len__(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """Bytes of the table, which workers share through Ray's object store."""

    def lookup(self, key: str, path: str | None = None) -> Found | None:
        """Find the prompts of an image; see :meth:`PromptIndex.lookup`.

        Raises:
            TransientError: The store keeps failing to hand them out.
        """

    def unmatched(self, matched: AbstractSet[int] | NDArray[np.int64]) -> Iterator[tuple[str, Sequence[RawPrompt]]]:
        """Yield keys and prompts that found no image; see :meth:`PromptIndex.unmatched`."""


class PromptIndex:
    """The prompts of a file by key. ``len()`` is its number of keys; workers unpickle it without copying the table.

    Args:
        place: File and what it is counted in, for messages: ``"prompts.jsonl line"``.
        table: Prompts, sorted by hash.
        nameless: Prompts without a usable key, in the order of the file.
        folder: Path or URL of the folder that the mask files named in it are in.
        numeric: Keys are COCO image ids, to be found by numeric file stems.
        choice: Of the prompts of an image.
        aliases: Other names of the keys.
        version: Equal as long as the file is; None where the store doesn't tell.
    """

    def __init__(
        self,
        place: str,
        table: pa.Table,
        nameless: pa.Table,
        *,
        folder: str = "",
        numeric: bool = False,
        choice: Choice = Choice(),  # noqa: B008 - frozen
        aliases: Aliases | None = None,
        version: str | None = None,
    ) -> None:
        self.nameless: Sequence[RawPrompt] = _Nameless(place, nameless)
        self.folder = folder
        self.version = version
        self._place = place
        self._table = table
        self._numeric = numeric
        self._choice = choice
        self._aliases = aliases
        self._hashes = hashes_of(table)

    @classmethod
    def build(
        cls,
        place: str,
        entries: Iterable[Entry],
        *,
        folder: str = "",
        numeric: bool = False,
        choice: Choice = Choice(),  # noqa: B008 - frozen
        aliases: Callable[[str], Iterable[str]] | None = None,
        version: str | None = None,
    ) -> PromptIndex:
        """Sort prompts by key.

        Args:
            place: As above.
            entries: In the order of the file.
            folder: As above.
            numeric: As above.
            choice: Entries that it leaves out whatever the others of their image are, are not kept.
            aliases: Returns the other names of a key.
            version: As above.
        """
        batches = list(_batches(entries, choice))
        rows = pa.Table.from_batches([batch for batch, _ in batches if batch is not None], _SCHEMA)
        nameless = pa.Table.from_batches([batch for _, batch in batches if batch is not None], _SCHEMA)
        table = sorted_by_hash(rows)
        names = Aliases.of(table, aliases) if aliases else None
        keys: dict[str, Any] = {"folder": folder, "numeric": numeric, "choice": choice, "version": version}
        return cls(place, table, nameless, aliases=names, **keys)

    def __reduce__(self) -> tuple[Any, ...]:
        keys: dict[str, Any] = {"folder": self.folder, "numeric": self._numeric, "choice": self._choice}
        keys |= {"aliases": self._aliases, "version": self.version}
        assert isinstance(self.nameless, _Nameless)
        return partial(PromptIndex, **keys), (self._place, self._table, self.nameless.table)

    @property
    def nbytes(self) -> int:
        """Bytes of the table, which workers share through Ray's object store."""
        return int(self._table.nbytes) + (self._aliases.nbytes if self._aliases else 0)

    def __len__(self) -> int:
        return int(np.count_nonzero(np.diff(self._hashes))) + 1 if len(self._hashes) else 0

    def lookup(self, key: str, path: str | None = None) -> Found | None:
        """Find the prompts of an image.

        The file may know the image by its key, by its path with or without extension, or by its bare file name with or
        without extension; the first of these that it has is taken. Files with paths of another machine may know it by
        a path that ends in its own, if only one does.

        Args:
            key: The source's key of the image.
            path: The image's path in its source, with extension; by default the key.
        """
        names = _numeric_names(path or key) if self._numeric else image_names(key, path or key)
        for name in names:
            digest = key_hash(name)
            if prompts := self._at(digest).get(name):
                return self._found(digest, prompts)
        for name in image_names(key, path or key, bare=False) if self._aliases else ():
            assert self._aliases is not None
            target = self._aliases.only(name)
            if target is not None:
                return self._found(target, next(iter(self._at(target).values())))
        return None

    def _found(self, digest: int, prompts: list[RawPrompt]) -> Found:
        return Found(digest, list(self._choice(prompts)))

    def unmatched(self, matched: AbstractSet[int] | NDArray[np.int64]) -> Iterator[tuple[str, Sequence[RawPrompt]]]:
        """Yield keys and prompts that found no image, in the order of the file.

        Args:
            matched: Hashes of the keys that did (:attr:`Found.hash`).

        Yields:
            Each key once, with all its prompts; the nameless ones, if any, come first, under the key ``""``.
        """
        if self.nameless:
            yield "", self.nameless
        left = not_in(self._hashes, matched)
        if not len(left):
            return
        hashes = self._hashes[left]
        starts = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))
        # Keys stand where their first line does; the table has those of equal hashes in the order of the file.
        firsts = self._table["number"].to_numpy()[left[starts]]
        order = np.argsort(np.repeat(firsts, np.diff(starts, append=len(left))), kind="stable")
        rows = _rows(self._table, left[order])
        for _, group in groupby(rows, key=lambda row: row["hash"]):
            for key, prompts in self._by_key(group).items():
                yield key, self._choice(prompts)

    def _at(self, digest: int) -> dict[str, list[RawPrompt]]:
        """Return keys and prompts of a hash: one key, unless two collide."""
        start, stop = (int(np.searchsorted(self._hashes, digest, side)) for side in ("left", "right"))
        return self._by_key(self._table.slice(start, stop - start).to_pylist())

    def _by_key(self, rows: Iterable[dict[str, Any]]) -> dict[str, list[RawPrompt]]:
        found: dict[str, list[RawPrompt]] = {}
        for row in rows:
            found.setdefault(row["key"], []).append(_raw(self._place, row))
        return found


class _Nameless(Sequence[RawPrompt]):
    """Prompts without a key; they become objects only as they are asked for."""

    def __init__(self, place: str, table: pa.Table) -> None:
        self.table = table
        self._place = place

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[RawPrompt]:
        return (_raw(self._place, row) for row in _rows(self.table, np.arange(len(self.table))))

    @overload
    def __getitem__(self, place: int) -> RawPrompt: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[RawPrompt]: ...
    def __getitem__(self, place: int | slice) -> RawPrompt | Sequence[RawPrompt]:
        places = np.arange(len(self.table))[place]
        found = [_raw(self._place, row) for row in _rows(self.table, np.atleast_1d(places))]
        return found if isinstance(place, slice) else found[0]


def load_prompt_index(config: LabelConfig) -> Prompts | None:
    """Read the configured prompt file, or list the configured folder.

    Returns:
        None where prompts stand beside the images.

    Raises:
        ConfigurationError: The file can't be read, isn't what ``prompts.kind`` says, or has no usable prompt.
        TransientError: The store failed repeatedly.
    """
    path, kind = config.prompts.path, config.prompts.kind
    if kind in LABELS:
        return _labels(config)
    if kind == "inline" or path is None:
        return None
    name = public_uri(path)
    folder = path.rpartition("/")[0] if is_url(path) else Path(path).expanduser().absolute().parent.as_posix()
    try:
        versions = [
            file_info(part, retries=config.workers.retries).version
            for part in (path, config.prompts.coco_images)
            if part is not None
        ]
        file = READERS[kind](config)
        index = PromptIndex.build(
            f"{name} {file.unit}",
            file.entries,
            folder=folder,
            numeric=file.numeric,
            choice=Choice.of(config.prompts, file.categories),
            aliases=file.aliases,
            version=None if None in versions else " ".join(map(str, versions)),
        )
    except NotFoundError as error:
        raise ConfigurationError(f"prompts: {error}; correct prompts.path or prompts.coco_images") from None
    if not len(index):
        first = index.nameless[0] if index.nameless else None
        reason = f"the first fault: {first.where}: {first.fault}" if first else "it is empty, or all is filtered out"
        raise ConfigurationError(
            f"prompts.path {name} has no prompt that names an image ({reason}); prompts.kind "
            f"{kind} is described in docs/prompts.md"
        )
    return index


def prompt_choice(config: LabelConfig) -> Choice:
    """Return the choice among prompts that stand beside their image.

    Raises:
        ConfigurationError: ``prompts.categories`` has one that the classes don't have, or these can't be read.
        TransientError: The store failed repeatedly.
    """
    labels = LabelFiles.beside(config)
    if labels is None or config.prompts.categories is None or config.prompts.kind != "yolo":
        return Choice.of(config.prompts)
    return Choice.of(config.prompts, labels.categories)


def _labels(config: LabelConfig) -> PromptFolder | None:
    labels = LabelFiles(config)
    choice = Choice.of(config.prompts, labels.categories)  # reads the class names: what is wrong with them shows now
    if config.prompts.path is not None:
        return PromptFolder.listed(config.prompts.path, labels, choice, retries=config.workers.retries)
    if config.input.kind == "manifest":
        raise ConfigurationError(
            f"prompts.kind {config.prompts.kind} has a file per image: beside a manifest's rows there are none; set "
            "prompts.path to their folder"
        )
    return None


def _batches(
    entries: Iterable[Entry], choice: Choice
) -> Iterator[tuple[pa.RecordBatch | None, pa.RecordBatch | None]]:
    """Yield batches of prompts with and without a key."""
    rows: list[dict[str, object]] = []
    nameless: list[dict[str, object]] = []
    for name, number, content, fault in entries:
        if name is not None and not choice.wants(content, fault):
            continue
        key = None if name is None else clean_name(name)
        text, reason = _dumped(content, fault)
        row: dict[str, object] = {
            "hash": 0 if key is None else key_hash(key),
            "key": key,
            "content": text,
            "number": number,
        }
        (nameless if key is None else rows).append(row | {"fault": None if reason is None else clean_text(reason)})
        if len(rows) + len(nameless) == _BATCH:
            yield _batch(rows), _batch(nameless)
            rows, nameless = [], []
    yield _batch(rows), _batch(nameless)


def _batch(rows: list[dict[str, object]]) -> pa.RecordBatch | None:
    return pa.RecordBatch.from_pylist(rows, _SCHEMA) if rows else None


def _dumped(content: dict[str, Any], fault: str | None) -> tuple[str, str | None]:
    try:
        return json.dumps(content, separators=(",", ":")), fault
    except (RecursionError, TypeError, ValueError):  # nested too deeply, or integers of thousands of digits
        return json.dumps(unparsed(content)), fault or "nested too deeply, or numbers too long"


def _rows(table: pa.Table, places: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    for start in range(0, len(places), _BATCH):
        yield from table.take(places[start : start + _BATCH]).to_pylist()


def _raw(place: str, row: dict[str, Any]) -> RawPrompt:
    return RawPrompt(json.loads(row["content"]), f"{place} {row['number']}", row["fault"])


def _numeric_names(path: str) -> list[str]:
    stem = posixpath.splitext(posixpath.basename(path))[0]
    return [stem.lstrip("0") or "0"] if stem.isdecimal() else []
