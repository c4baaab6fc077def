"""Near-duplicates among the images of a view: which one of each group is kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.curation.duplicates import representatives
from pipeline.curation.view import VERDICTS, View

_UNITS = 2**20  # quality in whole numbers, whose sum doesn't depend on the order


@dataclass(frozen=True)
class Groups:
    """Near-duplicates, by record.

    Attributes:
        group: ``(N,)`` int32: number of the image's group, -1 for images that no other nearly equals.
        kept_image: ``(N,)`` int64: image_id of the image that is kept of the group; the own one without a group.
        representative: ``(N,)`` bool: the image is the one that is kept.
        count: Groups.
        images: Images that are not kept.
    """

    group: NDArray[np.int32]
    kept_image: NDArray[np.int64]
    representative: NDArray[np.bool_]
    count: int
    images: int


def group_images(view: View, bits: int | None) -> Groups:
    """Group images whose perceptual hashes are near.

    Kept is the image whose objects have the highest sum of quality (those that people accepted count 1; errors, and
    those that people rejected, nothing); of equal ones the image with the most pixels, then that of the lowest id.

    Args:
        view: The records; images without a hash are in no group.
        bits: See :func:`pipeline.curation.duplicates.representatives`; None: nothing is grouped.
    """
    ids = view.table["image_id"].fill_null(0).to_numpy()
    nothing = Groups(np.full(len(view), -1, np.int32), ids, np.ones(len(view), np.bool_), 0, 0)
    if bits is None:
        return nothing
    hashed = np.flatnonzero(pc.is_valid(view.table["image_phash"]).to_numpy())
    hashes = view.table["image_phash"].fill_null(0).to_numpy()[hashed]
    # The same id with another hash is another picture: the file has changed, or it is of another corpus.
    pairs = np.stack([ids[hashed], hashes], axis=1)
    images, first, which = _unique_rows(pairs)
    worth = np.bincount(which, _worth(view)[hashed], minlength=len(images))
    pixels = (view.numbers("image_width") * view.numbers("image_height"))[hashed][first]
    order = np.empty(len(images), np.int64)
    order[np.lexsort((images[:, 1], images[:, 0], -np.nan_to_num(pixels), -worth))] = np.arange(len(images))
    kept = representatives(images[:, 1].copy(), order, bits)
    kept_id = images[kept, 0]
    sizes = np.bincount(kept, minlength=len(images))
    grouped = sizes[kept] > 1
    numbers = np.full(len(images), -1, np.int32)
    centres = np.flatnonzero(sizes > 1)
    numbers[centres] = np.arange(len(centres))
    # An image is no duplicate of itself, even if its file has changed a little.
    stands = kept_id == images[:, 0]
    nothing.group[hashed] = np.where(grouped, numbers[kept], -1)[which]
    nothing.representative[hashed] = stands[which]
    kept_image = ids.copy()
    kept_image[hashed] = kept_id[which]
    return Groups(nothing.group, kept_image, nothing.representative, len(centres), int((~stands).sum()))


def _worth(view: View) -> NDArray[np.float64]:
    quality = np.nan_to_num(view.numbers("quality"))
    quality[view.verdict == VERDICTS.index("accept")] = 1
    usable = view.equal("status", "ok") & (view.verdict != VERDICTS.index("reject"))
    # 1 more: an object without a score is worth more than none.
    return np.where(usable, np.round(quality * _UNITS) + 1, 0.0)


def _unique_rows(pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return distinct rows, where each is first, and which one each row is; np.unique(axis=0) is far slower."""
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    new = np.ones(len(order), np.bool_)
    new[1:] = (pairs[order][1:] != pairs[order][:-1]).any(axis=1)
    which = np.empty(len(order), np.int64)
    which[order] = np.cumsum(new) - 1
    return pairs[order[new]], order[new], which


def hexadecimal(ids: NDArray[np.int64]) -> pa.Array:
    """Return ids as people see them, 16 hexadecimal digits (:func:`pipeline.ids.show`)."""
    digits = ids.astype(">i8").view(np.uint8).reshape(-1, 8)
    table = np.frombuffer(b"0123456789abcdef", np.uint8)
    text = np.ascontiguousarray(np.stack([table[digits >> 4], table[digits & 15]], axis=-1).reshape(-1, 16))
    return pa.array(text.view("S16").ravel()).cast(pa.string())
