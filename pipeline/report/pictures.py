"""The chosen objects with all that the page shows of them: fetched, reduced, and written as sheets of small pictures.

Sheets, not single files: two thousand objects are 500 files, which load from a disk and from an object store as they
come into view. A sheet holds :data:`PER_SHEET` objects that stand next to each other on the page as it opens.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import pyarrow.compute as pc

from pipeline import storage
from pipeline.originals import Unavailable, read_originals
from pipeline.report.choose import Chosen
from pipeline.report.thumbnails import Picture, Sheet, draw_sheet, prepare
from pipeline.runs import RunDirectory
from sdmatte.errors import SDMatteError
from sdmatte.images import decode_image

FOLDER = "pictures"
"""Beside the page: the sheets. Their names hold a hash of their content, so that no cache shows an old one."""

PER_SHEET = 8
"""Few: in another order than the first, each object on the screen is on a sheet of its own to decode."""

SHOWN = (
    *("record_id", "shard", "image_key", "image_uri", "image_width", "image_height", "image_notes", "prompt_kind"),
    *("prompt_id", "label", "prompt_score", "transparent", "prompt_box", "prompt_points", "prompt_mask"),
    *("prompt_repairs", "status", "error_code", "error_message", "alpha", "coverage", "definiteness"),
    *("semi_transparent", "softness", "fragments", "fragment_share", "holes", "hole_share", "frame_contact"),
    *("prompt_outside", "prompt_iou", "prompt_point_alpha", "prompt_area", "edge_alignment", "laplacian_energy"),
    *("colour_overlap", "second_difference", "second_agreement", "predicted_mad", "quality", "calibration_matches"),
)
"""Columns of a record that the page shows, in words or pictures."""

_LARGE = 16_000_000  # pixels; larger photographs are decoded one at a time
_In = TypeVar("_In")
_Out = TypeVar("_Out")


def collect(run: RunDirectory, chosen: Sequence[Chosen]) -> tuple[list[Picture], list[Sheet]]:
    """Fetch the chosen records and their photographs, and write the sheets.

    Costs one read of each row group that holds a chosen record, and of each photograph; a photograph of many objects
    is decoded once. At most about 60 kB per object are held.

    Args:
        run: The run.
        chosen: What to show, in the order of the page. Records that are gone meanwhile are left out.

    Returns:
        The objects in that order, and the sheets: object number `n` is on sheet ``n // PER_SHEET``.

    Raises:
        ConfigurationError: A commit is damaged, or the store refuses the write.
        TransientError: The store failed repeatedly.
        OSError: A data file can't be read.
    """
    max_pixels: int = run.info["config"]["input"]["max_pixels"]
    why = {one.record_id: one.why for one in chosen}
    order = {one.record_id: place for place, one in enumerate(chosen)}
    threads = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads, "report") as pool:
        pictures: dict[int, Picture] = {}
        for picture in _in_parallel(pool, threads, lambda row: prepare(row, max_pixels), _rows(run, chosen)):
            picture.why = why[picture.record["record_id"]]
            pictures[picture.record["record_id"]] = picture  # an unfinished run may hold one twice
        ordered = sorted(pictures.values(), key=lambda picture: order[picture.record["record_id"]])
        _add_photos(pool, threads, ordered, max_pixels)
        groups = [(at, ordered[at : at + PER_SHEET]) for at in range(0, len(ordered), PER_SHEET)]
        sheets = list(_in_parallel(pool, threads, lambda group: _write_sheet(run.path, *group), groups))
    return ordered, sheets


def remove_others(run_path: str, sheets: Sequence[Sheet]) -> None:
    """Delete the sheets of earlier reports; to be called once the page that named them is replaced.

    Raises:
        TransientError: The store failed repeatedly.
    """
    folder = storage.join(run_path, "report", FOLDER)
    kept = {name for sheet in sheets for name in (sheet.photo, sheet.cut)}
    for file in storage.list_files(folder, (".webp",), pattern=False):
        if f"{FOLDER}/{file.name}" not in kept and file.name.startswith(("photo-", "cut-")):
            storage.delete(file.uri)


def _rows(run: RunDirectory, chosen: Sequence[Chosen]) -> Iterator[dict[str, Any]]:
    """Read the chosen records, a row group at a time; row groups without any are only looked into for ids."""
    by_file: dict[str, list[int]] = {}
    for one in chosen:
        by_file.setdefault(one.file, []).append(one.record_id)
    if not by_file:
        return
    for fragment in run.dataset().get_fragments():
        wanted = pc.field("record_id").isin(by_file.get(fragment.path, []))
        if fragment.path not in by_file:
            continue
        for group in fragment.split_by_row_group():
            if group.count_rows(filter=wanted):
                for batch in group.to_batches(columns=list(SHOWN), filter=wanted, batch_size=16):
                    yield from batch.to_pylist()


def _add_photos(pool: ThreadPoolExecutor, threads: int, pictures: Sequence[Picture], max_pixels: int) -> None:
    users: dict[str, list[Picture]] = {}
    for picture in pictures:
        if uri := picture.record["image_uri"]:
            users.setdefault(uri, []).append(picture)
        else:
            picture.fault = "the record names no image"

    def is_large(found: tuple[str, bytes | Unavailable]) -> bool:
        record = users[found[0]][0].record
        return (record["image_width"] or 0) * (record["image_height"] or 0) > _LARGE

    found = read_originals(users, max_pixels)
    for _ in _in_parallel(pool, threads, lambda one: _add_photo(users[one[0]], one[1], max_pixels), found, is_large):
        pass


def _add_photo(pictures: Sequence[Picture], data: bytes | Unavailable, max_pixels: int) -> None:
    """Show a photograph with its objects, or say why that can't be."""
    if isinstance(data, Unavailable):
        reason: str = data
    else:
        try:
            pixels = decode_image(data, max_pixels=max_pixels).pixels
        except SDMatteError as error:
            reason = str(error)
        else:
            for picture in pictures:
                picture.add_photo(pixels)
            return
    for picture in pictures:
        picture.fault = reason


def _write_sheet(run_path: str, first: int, pictures: Sequence[Picture]) -> Sheet:
    sheet, photo, cut = draw_sheet(pictures)
    for name, data in (("photo", photo), ("cut", cut)):
        if data:
            digest = hashlib.sha256(data).hexdigest()[:10]
            path = f"{FOLDER}/{name}-{first // PER_SHEET:04d}-{digest}.webp"
            storage.write_bytes_atomic(storage.join(run_path, "report", path), data)
            setattr(sheet, name, path)
    for picture in pictures:
        picture.forget_pixels()
    return sheet


def _in_parallel(
    pool: ThreadPoolExecutor,
    threads: int,
    work: Callable[[_In], _Out],
    items: Iterable[_In],
    alone: Callable[[_In], bool] = lambda _: False,
) -> Iterator[_Out]:
    """Yield results in order; few items are in hand at a time, and those that are to be alone are."""
    waiting: deque[Future[_Out]] = deque()
    for item in items:
        if alone(item):
            while waiting:
                yield waiting.popleft().result()
            yield work(item)
            continue
        waiting.append(pool.submit(work, item))
        if len(waiting) > threads:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
