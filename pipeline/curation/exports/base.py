"""What all forms of export share: their settings, what is said about an object, and files written whole."""

from __future__ import annotations

import math
import shutil
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.curation.selected import SelectedImage, SelectedObject, Selection
from pipeline.errors import ConfigurationError
from pipeline.ids import show
from pipeline.storage_faults import retried
from pipeline.upright import Upright

MIB = 2**20

FIELDS = (
    *("record_id", "image_id", "run_id", "image_key", "image_uri", "label", "prompt_kind", "prompt_id"),
    *("prompt_box", "prompt_points", "transparent", "quality", "predicted_mad", "calibration", "calibration_matches"),
    *("coverage", "definiteness", "model"),
)
"""Columns of records that every form carries, so far as it carries any."""


@dataclass(frozen=True)
class ExportSettings:
    """How exports are made.

    Attributes:
        shard_mb: Size of Parquet and tar shards (unit: MiB). An object larger than that has a shard of its own.
        crop_margin: Cut-outs are cropped to the box around alpha >= 0.05, and wider on each side by this share of the
            box's longer side; None: not cropped, so that they lie over the original.
        trimap_low: Alpha up to here, 0 to 1, is surely background.
        trimap_high: Alpha from here on, 0 to 1, is surely foreground.
        trimap_radius: By how much the unknown band is dilated, as a share of the image's longer side; at least one
            pixel, unless it is 0.
    """

    shard_mb: int = 256
    crop_margin: float | None = None
    trimap_low: float = 0.05
    trimap_high: float = 0.95
    trimap_radius: float = 0.005

    def __post_init__(self) -> None:
        margin = self.crop_margin or 0.0
        sound = self.shard_mb >= 1 and 0 <= margin <= 10 and 0 <= self.trimap_radius <= 0.5
        if not (sound and 0 <= self.trimap_low < self.trimap_high <= 1):
            raise ConfigurationError(
                f"{self}: expected shard_mb >= 1, crop_margin in 0 to 10, 0 <= trimap_low < trimap_high <= 1, and "
                "trimap_radius in 0 to 0.5"
            )


@dataclass(frozen=True)
class Subject:
    """One object with its image.

    Attributes:
        image: The image that was chosen.
        upright: The image as every reader shows it; None for forms that need nothing of it.
        item: The object.
        matte: Its alpha, decoded: ``(H, W)`` bool, uint8 or uint16; empty once it is encoded.
    """

    image: SelectedImage
    upright: Upright | None
    item: SelectedObject
    matte: NDArray[Any]

    @property
    def photo(self) -> Upright:
        """The image, of forms that need it."""
        assert self.upright is not None
        return self.upright

    def alpha(self) -> NDArray[np.float32]:
        """Return the alpha, ``(H, W)`` float32 in [0, 1]."""
        scale = {"bool": 1, "uint8": 255, "uint16": 65535}[str(self.matte.dtype)]
        return self.matte.astype(np.float32) / np.float32(scale)

    def describe(self) -> dict[str, Any]:
        """Return the object's fields as plain JSON: ids as 16 hexadecimal digits, no NaN."""
        record = self.item.record
        about = {name: _plain(record[name]) for name in FIELDS}
        about |= {name: None if about[name] is None else show(about[name]) for name in ("record_id", "image_id")}
        about |= {"width": record["image_width"], "height": record["image_height"]}
        if (upright := self.upright) is not None:
            about |= {"width": upright.width, "height": upright.height, "image_notes": list(upright.notes)}
        return about | {"decision": self.item.decision, "reviewed": self.item.reviewed}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_plain(part) for part in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Made:
    """What a worker made of one object.

    Attributes:
        subject: The object.
        content: What the form's :meth:`Form.encode` returned.
    """

    subject: Subject
    content: Any


class Form(ABC):
    """One form of export. `picture` and `encode` are called by threads, in any order; `add` and `close` by one."""

    needs: ClassVar[Literal["file", "pixels", "nothing"]] = "file"
    """What of the original: an upright file, its pixels, or nothing at all (then there is no `upright`)."""

    libraries: ClassVar[tuple[str, ...]] = ()
    """Modules of the extra `curate` that it imports later."""

    def __init__(self, out: str, selection: Selection, settings: ExportSettings) -> None:
        self.out = out
        self.selection = selection
        self.settings = settings

    def picture(self, subject: Subject) -> None:  # noqa: B027 - most forms have none
        """Write what is written once for an image; told one of its objects that could be encoded."""

    @abstractmethod
    def encode(self, subject: Subject) -> Any:
        """Make of one object what will be added.

        Raises:
            BadInputError, SDMatteError: It can't be exported.
        """

    @abstractmethod
    def add(self, made: list[Made]) -> None:
        """Take the objects of one image; at least one."""

    @abstractmethod
    def close(self) -> dict[str, Any]:
        """Write what is left, and say what the manifest is to tell about the files."""

    def abort(self) -> None:  # noqa: B027 - most forms keep nothing open
        """Give up: leave no temporary files."""


# --- files -----------------------------------------------------------------------------------------------------------


class Spool:
    """A file that grows on a local disk, and appears at its place whole or not at all.

    Args:
        uri: Its place: a path or URL.
    """

    def __init__(self, uri: str) -> None:
        fs, inner = storage.filesystem(uri)
        self._uri = uri
        self._target = Path(inner) if storage.is_local(fs) else None
        if self._target is None:
            handle, name = tempfile.mkstemp(prefix="export-")
            self._path = Path(name)
            self.file: IO[bytes] = open(handle, "w+b")  # noqa: PTH123, SIM115 - closed by publish or discard
        else:  # beside its place, so that it only has to be renamed
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._path = self._target.with_name(f".{self._target.name}.{uuid.uuid4().hex[:12]}.tmp")
            self.file = self._path.open("x+b")

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self.file.tell()

    def publish(self) -> int:
        """Put the file at its place; returns its size in bytes.

        Raises:
            TransientError, ConfigurationError: The store failed repeatedly, or refuses the write.
        """
        try:
            self.file.flush()
            size = self.size
            self.file.close()
            retried("write", self._uri, storage.RETRIES, self._put)
        finally:
            self.discard()
        return size

    def _put(self) -> None:
        fs, inner = storage.filesystem(self._uri)
        if self._target is not None:
            self._path.replace(self._target)
            storage.sync_folder(self._target.parent)
        else:
            fs.put_file(str(self._path), inner)

    def discard(self) -> None:
        """Remove what is on the local disk."""
        self.file.close()
        self._path.unlink(missing_ok=True)


@contextmanager
def spooled(uri: str) -> Iterator[Spool]:
    """Publish a file at the end of the block, or discard it when that fails."""
    spool = Spool(uri)
    try:
        yield spool
        spool.publish()
    finally:
        spool.discard()


def append(target: IO[bytes], part: Spool) -> None:
    """Copy a spool's content, from its beginning, to the end of another file."""
    part.file.seek(0)
    shutil.copyfileobj(part.file, target, MIB)
