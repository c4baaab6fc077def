"""Prompts in a folder of files, one per image: listed on the driver, read by the worker that has the image.

A file's key is its path below the folder, without extension. It belongs to the image that has this path, or its file
name; also where one has ``images`` in its path and the other ``labels``, as in data sets for YOLO.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import ConfigurationError
from pipeline.ids import key_hash
from pipeline.prompt_formats.choice import Choice
from pipeline.prompt_formats.label_files import MAX_BYTES, LabelFiles
from pipeline.prompt_lookup import Found, hashes_of, image_names, not_in, sorted_by_hash
from pipeline.prompts import RawPrompt, unreadable_prompts
from pipeline.sources.names import clean_name
from pipeline.storage import FileInfo, NotFoundError, RefusedError, public_uri

_SCHEMA = pa.schema([("hash", pa.int64()), ("name", pa.large_binary()), ("size", pa.int64())])
_AT_ONCE = 16  # files without image that are fetched at a time


@dataclass(frozen=True)
class PromptFolder:
    """The prompt files of a folder by key. ``len()`` is their number.

    Attributes:
        root: Path or URL of the folder.
        table: Its files, sorted by the hash of their keys; names are bytes, as they may be no text.
        labels: Reads them.
        choice: Of the prompts of an image.
        version: Changes when a file or the class names do, as far as the listing tells; None where it doesn't.
        retries: How often a transient fault is retried.
        nameless: None: every file has a name.
    """

    root: str
    table: pa.Table
    labels: LabelFiles
    choice: Choice
    version: str | None
    retries: int
    nameless: Sequence[RawPrompt] = ()

    @classmethod
    def listed(cls, path: str, labels: LabelFiles, choice: Choice, *, retries: int) -> PromptFolder:
        """List a folder.

        Args:
            path: Path or URL.
            labels: Reads its files.
            choice: Of the prompts of an image.
            retries: How often a transient fault is retried.

        Raises:
            ConfigurationError: It isn't there, can't be read, or has no file of the format.
            TransientError: The store failed repeatedly.
        """
        files = storage.list_files(path, (labels.format.suffix,), retries=retries)
        root = files[0].uri.removesuffix(files[0].name).rstrip("/") if files else path
        files = [file for file in files if labels.holds_prompts(file.name)]
        if not files:
            raise ConfigurationError(
                f"prompts.path {public_uri(path)} is no folder with files *{labels.format.suffix}; correct it, or "
                "prompts.kind; without prompts.path, they are looked for beside the images"
            )
        columns = {
            "hash": np.fromiter((key_hash(_key(file.name)) for file in files), np.int64, len(files)),
            "name": [file.name.encode(errors="surrogateescape") for file in files],
            "size": [file.size for file in files],
        }
        table = sorted_by_hash(pa.table(columns, _SCHEMA))
        return cls(root, table, labels, choice, _version(files, labels), retries)

    @property
    def folder(self) -> str:
        """Path or URL of the folder."""
        return self.root

    @cached_property
    def _hashes(self) -> NDArray[np.int64]:
        return hashes_of(self.table)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_hashes"}  # it is in the table

    @property
    def nbytes(self) -> int:
        """Bytes of the table, which workers share through Ray's object store."""
        return int(self.table.nbytes)

    def __len__(self) -> int:
        return len(self.table)

    def lookup(self, key: str, path: str | None = None) -> Found | None:
        """Find and read the prompts of an image; see :meth:`pipeline.prompt_files.PromptIndex.lookup`.

        Raises:
            TransientError: The store failed repeatedly.
            ConfigurationError: The credentials are missing, wrong or expired.
        """
        for name in _names(key, path or key):
            digest = key_hash(name)
            start, stop = (int(np.searchsorted(self._hashes, digest, side)) for side in ("left", "right"))
            for row in self.table.slice(start, stop - start).to_pylist():
                if _key(_name(row)) == name:
                    return Found(digest, self._read(row))
        return None

    def unmatched(self, matched: AbstractSet[int] | NDArray[np.int64]) -> Iterator[tuple[str, Sequence[RawPrompt]]]:
        """Read the files that found no image, a few at a time; yield their keys and prompts, in no certain order.

        Args:
            matched: Hashes of the keys that did.

        Raises:
            TransientError: The store failed repeatedly.
            ConfigurationError: The credentials are missing, wrong or expired.
        """
        left = not_in(self._hashes, matched)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for start in range(0, len(left), _AT_ONCE * 4):
                rows = self.table.take(left[start : start + _AT_ONCE * 4]).to_pylist()
                for row, prompts in zip(rows, pool.map(self._read, rows), strict=True):
                    if prompts:
                        yield clean_name(_name(row)), prompts

    def _read(self, row: dict[str, Any]) -> list[RawPrompt]:
        uri = storage.join(self.root, _name(row))
        where = clean_name(public_uri(uri))
        if (row["size"] or 0) > MAX_BYTES:
            return [unreadable_prompts(where, f"has {row['size']} bytes, too many to be read")]
        try:
            data = storage.read_bytes(uri, retries=self.retries)
        except NotFoundError:  # deleted since: no prompts
            return []
        except RefusedError as error:
            return [unreadable_prompts(where, str(error))]
        return list(self.choice(self.labels.parse(data, where)))


def _name(row: dict[str, Any]) -> str:
    name: bytes = row["name"]
    return name.decode(errors="surrogateescape")


def _key(name: str) -> str:
    return clean_name(name.rpartition(".")[0])


def _names(key: str, path: str) -> Iterator[str]:
    """Yield keys that the file of an image may have, best first."""
    plain, *others = (name for name in image_names(key, path) if name not in (key, path))
    yield key
    yield path
    yield plain
    folders = plain.split("/")
    if "images" in folders[:-1]:
        at = len(folders) - 2 - folders[-2::-1].index("images")
        yield "/".join([*folders[:at], "labels", *folders[at + 1 :]])
        yield "/".join(folders[at + 1 :])
    yield f"labels/{plain}"
    yield from others


def _version(files: Sequence[FileInfo], labels: LabelFiles) -> str | None:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr(labels.class_names).encode())
    for file in files:
        if file.version is None:
            return None
        digest.update(f"{file.name}\0{file.version}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()
