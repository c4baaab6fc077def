"""Chooses the objects of a run that its contact sheet shows, and fetches what belongs to them.

The choice is the same every time, for the same run and seed. What it costs is bounded whatever the size of the run: it
looks into a few shards only, and holds one photograph at its full size at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from PIL import Image

from pipeline.commits import Committed
from pipeline.contact_sheet import SheetRow, fit
from pipeline.errors import BadInputError
from pipeline.masks import decode_png
from pipeline.originals import Unavailable, read_originals
from pipeline.runs import RunDirectory
from sdmatte.errors import SDMatteError
from sdmatte.images import decode_image

_SHARDS = 3  # looked into, at least: opening one may mean to read it from its beginning
_CANDIDATES = 4  # per object shown, at least; more shards are looked into until there are so many
_ERRORS = 0.25  # share of the sheet that errors may take from ok objects

_DESCRIBING = ["record_id", "shard", "status", "error_code", "prompt_kind"]
_SHOWN = [
    *("record_id", "image_key", "image_uri", "image_width", "image_height", "prompt_kind", "label", "transparent"),
    *("prompt_box", "prompt_points", "prompt_mask", "prompt_repairs", "status", "error_code", "error_message"),
    *("alpha", "definiteness", "coverage"),
]


def collect(run_path: str, limit: int, seed: int = 0) -> list[SheetRow]:
    """Choose objects of a run, spread over prompt kinds and error codes, and fetch their photographs.

    Args:
        run_path: The run directory; the run may still be going on.
        limit: How many objects to choose at most.
        seed: Another one chooses other objects, where there are more than `limit`.

    Returns:
        The objects by image key, errors last. A photograph that can't be fetched or decoded (any more) is missing
        from its row, which says why.

    Raises:
        ConfigurationError: There is no run, or a commit is damaged.
        TransientError: The run's store failed repeatedly.
    """
    run = RunDirectory.open(run_path)
    shards = _some_shards(run.progress(), limit, seed)
    records = _choose(_row_groups(run, shards), set(shards), limit, seed) if limit else []
    uris = [record["image_uri"] for record in records if record["image_uri"]]
    max_pixels: int = run.info["config"]["input"]["max_pixels"]
    photos = dict(_photos(list(dict.fromkeys(uris)), max_pixels))
    return [_sheet_row(record, photos, max_pixels) for record in records]


# --- choosing --------------------------------------------------------------------------------------------------------


def _some_shards(committed: dict[str, Committed], limit: int, seed: int) -> dict[str, Committed]:
    """Return few shards, in an order that depends on the seed alone, with records enough to choose from."""

    def drawn(name: str) -> bytes:
        return hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()

    chosen: dict[str, Committed] = {}
    records = 0
    for name in sorted((name for name, shard in committed.items() if shard.count), key=drawn):
        if len(chosen) >= _SHARDS and records >= _CANDIDATES * limit:
            break
        chosen[name] = committed[name]
        records += committed[name].count
    return chosen


def _row_groups(run: RunDirectory, shards: dict[str, Committed]) -> list[ds.Fragment]:
    """Return the row groups that hold records of these shards; only their files' footers are read."""
    stems = {stem for shard in shards.values() for stem in shard.commits}
    wanted = pc.field("shard").isin(list(shards))
    files = (file for file in run.dataset().get_fragments() if PurePosixPath(file.path).stem in stems)
    return [group for file in files for group in file.split_by_row_group(wanted)]


def _choose(groups: Sequence[ds.Fragment], shards: set[str], limit: int, seed: int) -> list[dict[str, Any]]:
    """Return up to `limit` records with all that the sheet shows; alphas are read of no others' row groups."""
    salt = np.frombuffer(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), np.int64)[0]
    pools: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
    for index, group in enumerate(groups):
        for record in group.to_table(columns=_DESCRIBING).to_pylist():
            if record["shard"] not in shards:
                continue
            kind = record["error_code"] if record["status"] == "error" else record["prompt_kind"]
            drawn = int(np.int64(record["record_id"]) ^ salt)  # ids are hashes: this order is as good as random
            pools.setdefault((record["status"], kind or ""), []).append((drawn, record["record_id"], index))

    ok = _in_turns([sorted(pool) for (status, _), pool in sorted(pools.items()) if status != "error"])
    errors = _in_turns([sorted(pool) for (status, _), pool in sorted(pools.items()) if status == "error"])
    room = max(int(limit * _ERRORS), limit - len(ok))
    errors = errors[:room]
    chosen = ok[: limit - len(errors)] + errors

    records = []
    for index in sorted({index for _, _, index in chosen}):
        ids = [identifier for _, identifier, at in chosen if at == index]
        table: pa.Table = groups[index].to_table(columns=_SHOWN, filter=pc.field("record_id").isin(ids))
        records += table.to_pylist()
    records = list({record["record_id"]: record for record in records}.values())  # an unfinished run may double one
    return sorted(records, key=_reading_order)


def _reading_order(record: dict[str, Any]) -> tuple[bool, str, str, int]:
    failed = record["status"] == "error"
    return failed, record["image_key"] or "", record["prompt_kind"] or "", record["record_id"]


def _in_turns(pools: Sequence[Sequence[tuple[int, int, int]]]) -> list[tuple[int, int, int]]:
    """Take the first of each pool, then the second of each, and so on."""
    longest = max(map(len, pools), default=0)
    return [pool[turn] for turn in range(longest) for pool in pools if turn < len(pool)]


# --- fetching --------------------------------------------------------------------------------------------------------


def _photos(uris: Sequence[str], max_pixels: int) -> Iterator[tuple[str, Image.Image | str]]:
    """Yield each URI with its photograph, reduced to the sheet's size, or with the reason why there is none."""
    for uri, data in read_originals(uris, max_pixels):
        if isinstance(data, Unavailable):
            yield uri, data
            continue
        try:
            pixels = decode_image(data, max_pixels=max_pixels).pixels
        except SDMatteError as error:
            yield uri, str(error)
        else:
            yield uri, fit(Image.fromarray(pixels), Image.Resampling.LANCZOS)


# --- rows ------------------------------------------------------------------------------------------------------------


def _sheet_row(record: dict[str, Any], photos: dict[str, Image.Image | str], max_pixels: int) -> SheetRow:
    photo = photos.get(record["image_uri"], "the record names no image")
    notes = [*(["transparent"] if record["transparent"] else []), *(record["prompt_repairs"] or [])]
    pictures: dict[str, Image.Image] = {}
    for name, png in (("mask", record["prompt_mask"]), ("alpha", (record["alpha"] or {}).get("bytes"))):
        try:
            pictures |= {name: fit(gray(png, max_pixels))} if png else {}
        except BadInputError:
            notes.append(f"{name} unreadable")
    failed = record["status"] == "error"
    return SheetRow(
        key=record["image_key"] or "",
        kind=record["prompt_kind"] or "",
        label=record["label"] or "",
        width=record["image_width"] or 0,
        height=record["image_height"] or 0,
        photo=None if isinstance(photo, str) else photo,
        photo_fault=photo if isinstance(photo, str) else "",
        box=tuple(record["prompt_box"]) if record["prompt_box"] else None,
        points=tuple((x, y) for x, y in record["prompt_points"] or ()),
        mask=pictures.get("mask"),
        alpha=pictures.get("alpha"),
        definiteness=record["definiteness"],
        coverage=record["coverage"],
        notes=tuple(notes),
        error_code=(record["error_code"] or "unknown") if failed else "",
        error_message=record["error_message"] or "",
    )


def gray(png: bytes, max_pixels: int) -> Image.Image:
    """Decode an alpha or mask to mode L.

    Args:
        png: Of 1, 8 or 16 bits.
        max_pixels: Limit on width x height.

    Raises:
        BadInputError: It is no such PNG, or too large.
    """
    pixels = decode_png(png, max_pixels)
    if pixels.dtype == np.uint16:
        pixels = np.rint(pixels / np.float32(257))
    elif pixels.dtype == np.bool_:
        pixels = pixels * np.uint8(255)
    return Image.fromarray(pixels.astype(np.uint8))
