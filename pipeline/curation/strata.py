"""Strata: what decisions are balanced by, and how a budget is spread over them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.curation.config import Trait

SIZES = ("small", "medium", "large")
_SMALL, _MEDIUM = 32**2, 96**2
_NONE = "(none)"
_PLAIN = re.compile(r"[\w/]([\w .:/+-]*\w)?")


@dataclass(frozen=True)
class Strata:
    """To which stratum each record belongs.

    Attributes:
        codes: ``(N,)`` int64 indices into `names`.
        names: Such as ``label=cat, size=small``; sorted.
        shown: Whether there are any: without traits all records are of one stratum, which has no name.
    """

    codes: NDArray[np.int64]
    names: list[str]
    shown: bool


def columns_of(per: Sequence[Trait]) -> set[str]:
    """Return the columns of records that traits are made from, without those that every view has."""
    return {
        name
        for trait in per
        for name in {
            "label": (),
            "size": ("coverage", "image_width", "image_height"),
            "source": ("shard",),
        }[trait]
    }


def stratify(table: pa.Table, per: Sequence[Trait]) -> Strata:
    """Sort records into strata.

    `size` is COCO's, by the area of the alpha (coverage x width x height, unit: pixel): small below 32 x 32, medium
    below 96 x 96, large. `source` is the folder of the shard's name, or the output where that has none.

    Args:
        table: Of :class:`pipeline.curation.view.View`.
        per: The traits, in the order of their names.
    """
    codes, texts = np.zeros(len(table), np.int64), [""]
    for trait in per:
        values, names = {"label": _labels, "size": _sizes, "source": _sources}[trait](table)
        present, codes = np.unique(codes * len(names) + values, return_inverse=True)
        texts = [
            ", ".join(filter(None, [texts[each // len(names)], f"{trait}={names[each % len(names)]}"]))
            for each in present
        ]
    by_name = np.argsort(np.array(texts, object), kind="stable")
    place = np.empty(len(texts), np.int64)
    place[by_name] = np.arange(len(texts))
    return Strata(place[codes] if len(table) else codes, [texts[each] for each in by_name], shown=bool(per))


def spread(budget: int, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Spread a budget over strata: one for each that isn't empty, the rest in proportion to their sizes.

    Args:
        budget: What there is to be spread.
        sizes: ``(S,)``, what each stratum can take at most.

    Returns:
        ``(S,)``; the sum is the budget, or the sum of sizes where that is less. What can't be shared evenly goes to
        the largest remainders. A budget that isn't enough for one each goes to the largest strata.
    """
    budget = min(budget, int(sizes.sum()))
    share = np.minimum(sizes, 1)
    if budget <= share.sum():
        share[:] = 0
        share[np.argsort(-sizes, kind="stable")[:budget]] = 1
        return share
    left, room = budget - int(share.sum()), sizes - share
    more, remainder = np.divmod(room * left, max(1, int(room.sum())))
    more[np.argsort(-remainder, kind="stable")[: left - int(more.sum())]] += 1
    return share + more


def coded(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """Return the codes of a dictionary column, -1 for null, and the values that they stand for."""
    column = column.unify_dictionaries()
    parts = [pc.fill_null(chunk.indices, -1).to_numpy(zero_copy_only=False) for chunk in column.chunks]
    values = column.chunk(0).dictionary.to_pylist() if column.num_chunks else []
    return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64), values


def quoted(value: str) -> str:
    """Return a name from the input as it can stand in a list of names: quoted unless it is plain."""
    return value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=True)


def _labels(table: pa.Table) -> tuple[NDArray[np.int64], list[str]]:
    codes, values = coded(table["label"])
    empty = [code for code, value in enumerate(values) if not value]  # no label either
    return np.where((codes < 0) | np.isin(codes, empty), len(values), codes), [*map(quoted, values), _NONE]


def _sizes(table: pa.Table) -> tuple[NDArray[np.int64], list[str]]:
    numbers = [
        np.asarray(pc.cast(table[name], pa.float64()).to_numpy(), np.float64)
        for name in ("coverage", "image_width", "image_height")
    ]
    area = numbers[0] * numbers[1] * numbers[2]
    codes = np.digitize(area, [_SMALL, _MEDIUM])
    return np.where(np.isnan(area), len(SIZES), codes).astype(np.int64), [*SIZES, _NONE]


def _sources(table: pa.Table) -> tuple[NDArray[np.int64], list[str]]:
    shards, shard_names = coded(table["shard"])
    outputs, output_names = coded(table["output"])
    folders = [name.rpartition("/")[0] for name in shard_names]
    sources = sorted({*folders, *output_names} - {""})
    place = {name: index for index, name in enumerate(sources)}
    of_shard = np.array([*(place.get(folder, -1) for folder in folders), -1], np.int64)[shards]
    of_output = np.array([place[name] for name in output_names], np.int64)[outputs]
    return np.where(of_shard < 0, of_output, of_shard), [quoted(source) for source in sources]
