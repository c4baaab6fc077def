"""What earlier runs hold of an input: a follow-up leaves it alone, as long as it is what it was."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


def _nothing() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Seen:
    """Records and images of earlier runs; 8 bytes per record and 16 per image in memory.

    Attributes:
        records: Ids of records, ascending; int64.
        images: Ids of images, ascending; int64.
        digests: Of their bytes, as :func:`short` gives them; int64.
    """

    records: NDArray[np.int64] = field(default_factory=_nothing)
    images: NDArray[np.int64] = field(default_factory=_nothing)
    digests: NDArray[np.int64] = field(default_factory=_nothing)

    def knows(self, records: Sequence[int]) -> NDArray[np.bool_]:
        """Tell which records earlier runs hold."""
        return among(np.asarray(records, np.int64), self.records)

    def has_changed(self, image: int, data: bytes | None) -> bool:
        """Tell whether an image had other bytes when it was labelled; False where that isn't known."""
        place = int(np.searchsorted(self.images, image))
        if data is None or place == len(self.images) or self.images[place] != image:
            return False
        return bool(self.digests[place] != short(hashlib.sha256(data).hexdigest()))


def short(digest: str) -> int:
    """Return the first 64 bits of a hexadecimal digest, signed."""
    return int.from_bytes(bytes.fromhex(digest[:16]), "big", signed=True)


def among(ids: NDArray[np.int64], ascending: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which ids are among others; other than `isin` this sorts nothing.

    Args:
        ids: ``(N,)``.
        ascending: ``(M,)``, sorted.
    """
    places = np.searchsorted(ascending, ids)
    known = places < len(ascending)
    known[known] = ascending[places[known]] == ids[known]
    return np.asarray(known)
