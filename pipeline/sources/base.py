"""What a source of images is, and what the sources share.

A source cuts its input into shards on the driver (:meth:`Source.shards`); workers read these one at a time, from front
to back, with a bounded number of bytes in memory (:meth:`Source.read`). Adding a source: one module with a class like
the ones beside this, one line in :mod:`pipeline.sources`, one word in :class:`pipeline.config.InputConfig`.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pipeline import storage
from pipeline.config import LabelConfig
from pipeline.errors import BadInputError, ConfigurationError, ErrorCode, TransientError
from pipeline.ids import image_id
from pipeline.masks import MaskLoader
from pipeline.prompts import RawPrompt, parse_lines, parse_list
from pipeline.sources.names import clean_name
from pipeline.storage import FileInfo, NotFoundError, RefusedError, public_uri
from sdmatte.urls import redact

_T = TypeVar("_T")

_BYTES_PER_PIXEL = 8  # of the most wasteful file: four channels of 16 bits, not compressed
_BYTES_BESIDE = 2**20  # of metadata


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of the input that one worker reads in one go; the unit of resuming.

    Attributes:
        name: Equal in every run over the same input, wherever the input lies.
        spec: What the reader needs to know; JSON-plain.
        fingerprint: Equal as long as the shard would yield the same, as far as a listing tells; ``""`` where it
            doesn't, so that the shard is never taken for unchanged.
    """

    name: str
    spec: dict[str, Any]
    fingerprint: str = ""


def _no_masks(name: str) -> bytes:
    raise BadInputError(ErrorCode.PROMPT_MALFORMED, f"the mask file {name!r} can't be found without its image")


@dataclass(frozen=True, slots=True)
class Sample:
    """An image of a shard, or what stands for one that could not be read.

    Attributes:
        key: The source's own key; ``""`` for a fault of the shard as a whole.
        image_id: From :func:`pipeline.ids.image_id`; unique in the input.
        uri: Where the bytes are, as it may be shown.
        path: The image's path in its source, with extension: what a prompt file may call it.
        etag: Of the object at `uri`, where the store tells.
        data: Encoded bytes; None where they could not be read.
        prompts: The prompts beside the image; None where those of a prompt file are to be looked up.
        error: Why the image can't be used, if so. A transient fault says nothing about the image: its bytes can't be
            had for the time being.
        load_mask: Fetches the mask files that its prompts name.
        prompts_known: False where a transient fault keeps the prompts back, or the rest of the shard: nobody can say
            how many records there must be, so none is made, and the shard stays unfinished.
    """

    key: str
    image_id: int
    uri: str
    path: str
    etag: str | None = None
    data: bytes | None = None
    prompts: Sequence[RawPrompt] | None = ()
    error: BadInputError | TransientError | None = None
    load_mask: MaskLoader = _no_masks
    prompts_known: bool = True


class Source(Protocol):
    """A source of images."""

    def shards(self) -> list[Shard]:
        """List the shards; runs once, on the driver.

        Raises:
            ConfigurationError: There is no image, or the input can't be read.
        """

    def read(self, shard: Shard) -> Iterator[Sample]:
        """Read a shard; runs on workers.

        One bad item is a sample with an error; a shard that can't be opened or breaks off ends with a sample with an
        empty key and the code ``shard_unreadable``. Where the store failed repeatedly, the error is a
        :class:`~pipeline.errors.TransientError` instead, for a later job to read it again.

        Raises:
            ConfigurationError: The credentials are missing, wrong or expired.
        """


def max_bytes(max_pixels: int) -> int:
    """Return how many bytes an image file of so many pixels can have."""
    return max_pixels * _BYTES_PER_PIXEL + _BYTES_BESIDE


def byte_limit(config: LabelConfig) -> int:
    """Return how many bytes an image file may have: ``input.max_bytes``, or what its pixels can take at most."""
    return config.input.max_bytes or max_bytes(config.input.max_pixels)


def fingerprint(*versions: str | None) -> str:
    """Return a shard's fingerprint, 16 hexadecimal digits.

    Args:
        versions: Of all that it is read from, see :class:`pipeline.storage.FileInfo`; None where unknown.
    """
    if None in versions:
        return ""
    return hashlib.sha256("\0".join(map(str, versions)).encode(errors="backslashreplace")).hexdigest()[:16]


def input_paths(config: LabelConfig) -> list[str]:
    """Return the configured paths as a list.

    Raises:
        ConfigurationError: There is none.
    """
    paths = [config.input.path] if isinstance(config.input.path, str) else config.input.path
    if not paths:
        raise ConfigurationError("input.path is an empty list; name at least one path or URL")
    return paths


def no_inputs(path: str, wanted: str, config: LabelConfig, passed_over: Sequence[str] = ()) -> ConfigurationError:
    """Return the error of a configured path that has nothing to read: because it isn't there, or holds other files."""
    if not glob.has_magic(path) and not storage.exists(path, retries=config.workers.retries):
        return ConfigurationError(f"input.path {public_uri(path)} does not exist; correct it")
    other = f", but {some(passed_over)}, which can't be read: convert them" if passed_over else ""
    return ConfigurationError(f"input.path {public_uri(path)} has {wanted}{other}; correct it, or input.kind")


def some(names: Sequence[str]) -> str:
    """Return a few of many names, as a message may show them."""
    shown = ", ".join(clean_name(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more such files"


def check_first(files: Iterable[FileInfo], config: LabelConfig) -> None:
    """Try to read the first file that isn't empty.

    Raises:
        ConfigurationError: It can't be read.
    """
    first = next((file for file in files if file.size), None)
    if first is not None:
        try:
            storage.check_readable(first.uri, retries=config.workers.retries)
        except NotFoundError:
            return  # deleted since: shows later, as that file's own fault


def fetch(uri: str, size: int | None, config: LabelConfig) -> bytes:
    """Read an image file; never more of it than :func:`byte_limit` and a few MiB.

    Args:
        uri: Where it is.
        size: Bytes, if known.
        config: Of the run.

    Raises:
        BadInputError: ``image_missing``, ``image_unreadable`` or ``image_too_large``.
        TransientError: The store failed repeatedly.
        ConfigurationError: The credentials are missing, wrong or expired.
    """
    limit = byte_limit(config)
    if size is not None and size > limit:
        raise file_too_large(size, config)
    retries = config.workers.retries
    if size is None or storage.is_web(uri):
        data = _fetched(lambda: storage.read_beginning(uri, limit + 1, retries=retries))
    else:
        data = _fetched(lambda: storage.read_bytes(uri, retries=retries))
    if len(data) > limit:
        raise file_too_large(len(data), config)
    return data


def file_info(uri: str, config: LabelConfig) -> FileInfo:
    """Ask for size and ETag of an image file; raises as :func:`fetch`."""
    return _fetched(lambda: storage.file_info(uri, retries=config.workers.retries))


def _fetched(ask: Callable[[], _T]) -> _T:
    try:
        return ask()
    except NotFoundError as error:
        raise BadInputError(ErrorCode.IMAGE_MISSING, str(error)) from None
    except RefusedError as error:
        raise BadInputError(ErrorCode.IMAGE_UNREADABLE, str(error)) from None


def fetch_mask(uri: str, config: LabelConfig) -> bytes:
    """Read a mask file.

    Raises:
        BadInputError: ``prompt_malformed``: it isn't there, too large, or the store refuses it.
        TransientError: The store failed repeatedly.
        ConfigurationError: The credentials are missing, wrong or expired.
    """
    try:
        return fetch(uri, file_info(uri, config).size, config)
    except BadInputError as error:
        raise BadInputError(ErrorCode.PROMPT_MALFORMED, f"the mask file can't be used: {error}") from None


def too_large(size: int, max_pixels: int) -> BadInputError:
    """Return the error of a file that can't be an image of the allowed size."""
    return BadInputError(
        ErrorCode.IMAGE_TOO_LARGE,
        f"the file has {size} bytes, more than any image of the allowed {max_pixels} pixels; "
        "make it smaller, or raise input.max_pixels",
    )


def file_too_large(size: int, config: LabelConfig) -> BadInputError:
    """Return the error of a file with more bytes than :func:`byte_limit`."""
    if config.input.max_bytes is None:
        return too_large(size, config.input.max_pixels)
    return BadInputError(
        ErrorCode.IMAGE_TOO_LARGE,
        f"the file has {size} bytes, or more, and input.max_bytes is {config.input.max_bytes}; make it smaller, or "
        "raise that",
    )


def parse_prompts(name: str, data: bytes, where: str) -> list[RawPrompt]:
    """Read the prompts of a file beside an image.

    Args:
        name: Its name, which ends in one of :data:`pipeline.sources.names.PROMPT_EXTENSIONS`.
        data: Its content.
        where: What messages call it.
    """
    return parse_lines(data, where) if name.lower().endswith("jsonl") else parse_list(data, where)


def unreadable(shard: Shard, uri: str, error: Exception, images: int) -> Sample:
    """Return the sample that stands for the unread rest of a shard.

    Args:
        shard: The shard.
        uri: Of its file, as it may be shown.
        error: What went wrong.
        images: How many images were read before.
    """
    reason = f"{redact(str(error)) or type(error).__name__}; {images} images were read before that"
    fault: BadInputError | TransientError
    if isinstance(error, TransientError):
        fault = TransientError(reason)
    else:
        message = f"{uri}: {reason}; fetch or build the shard again"
        fault = BadInputError(ErrorCode.SHARD_UNREADABLE, message)
    known = isinstance(fault, BadInputError)
    return Sample("", image_id(shard.name, ""), uri, "", error=fault, prompts_known=known)
