"""Tables of prompts, or of their files, that are searched by the hash of a key."""

from __future__ import annotations

import posixpath
from array import array
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.ids import key_hash
from pipeline.prompts import RawPrompt

_BATCH = 65_536


@dataclass(frozen=True, slots=True)
class Found:
    """What there is for an image.

    Attributes:
        hash: :func:`pipeline.ids.key_hash` of the key that the file has for the image.
        prompts: In the order of the file; none where all of them are left out, or its own file is empty.
    """

    hash: int
    prompts: list[RawPrompt]


@dataclass(frozen=True)
class Aliases:
    """Other names of keys.

    Attributes:
        table: Columns ``hash``, of the name, ascending, and ``target``, hash of the key.
    """

    table: pa.Table

    @classmethod
    def of(cls, keys: pa.Table, names: Callable[[str], Iterable[str]]) -> Self:
        """Collect names.

        Args:
            keys: With columns ``hash``, ascending, and ``key``.
            names: Returns the other names of a key.
        """
        hashes = hashes_of(keys)
        firsts = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))
        found, targets = array("q"), array("q")
        for start in range(0, len(firsts), _BATCH):
            places = firsts[start : start + _BATCH]
            for key, target in zip(keys["key"].take(places).to_pylist(), hashes[places].tolist(), strict=True):
                for name in names(key):
                    found.append(key_hash(name))
                    targets.append(target)
        columns = {"hash": np.frombuffer(found, np.int64), "target": np.frombuffer(targets, np.int64)}
        return cls(sorted_by_hash(pa.table(columns)))

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return int(self.table.nbytes)

    def only(self, name: str) -> int | None:
        """Return the hash of the key that has this name; None if none has it, or several."""
        hashes = hashes_of(self.table)
        digest = key_hash(name)
        start, stop = (int(np.searchsorted(hashes, digest, side)) for side in ("left", "right"))
        targets = set(self.table["target"].slice(start, stop - start).to_pylist())
        return targets.pop() if len(targets) == 1 else None


def sorted_by_hash(table: pa.Table) -> pa.Table:
    """Sort rows by the column ``hash``, equal ones in their order; columns are contiguous then."""
    order = np.argsort(table["hash"].to_numpy(), kind="stable")
    return table.take(order).combine_chunks()


def hashes_of(table: pa.Table) -> NDArray[np.int64]:
    """Return the column ``hash`` of a table from :func:`sorted_by_hash`, without copying it."""
    found: Any = table["hash"].chunk(0).to_numpy(zero_copy_only=True) if len(table) else np.empty(0, np.int64)
    return found  # type: ignore[no-any-return]


def not_in(hashes: NDArray[np.int64], matched: AbstractSet[int] | NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the places of hashes that aren't among others."""
    others = matched if isinstance(matched, np.ndarray) else np.fromiter(matched, np.int64, len(matched))
    return np.flatnonzero(~np.isin(hashes, others))


def image_names(key: str, path: str, *, bare: bool = True) -> Iterable[str]:
    """Return what an image may be called, best first: key, path, both without extension, and bare file names.

    Args:
        key: The source's key.
        path: The image's path in its source, with extension.
        bare: Whether a file name without its folders will do.
    """
    name = posixpath.basename(path)
    names = [key, path, posixpath.splitext(path)[0]]
    return dict.fromkeys([*names, name, posixpath.splitext(name)[0]] if bare else names)
