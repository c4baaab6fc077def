"""The native form as Parquet: one prompt per row, with a column for the key of its image."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import LabelConfig
from pipeline.errors import BadInputError, ConfigurationError
from pipeline.prompt_formats.base import PromptFile, unparsed
from pipeline.prompt_formats.jsonl import native_entry
from pipeline.prompts import KEYS, Entry, RawPrompt, load_json, raw_prompt
from pipeline.storage import open_stream, public_uri

_log = logging.getLogger(__name__)
_IN_JSON = ("box", "points", "mask", "image_size")  # keys that may stand as text
_ROWS, _ROWS_OF_MASKS = 4096, 64  # that are in memory at a time


def read_parquet(config: LabelConfig) -> PromptFile:
    """Read ``prompts.path``, a row group at a time; columns that are no native keys are left alone.

    Raises:
        ConfigurationError: While it is read: it isn't Parquet, is damaged, or has no column ``image``.
    """
    assert config.prompts.path is not None
    return PromptFile(_entries(config.prompts.path, config.workers.retries), "row")


def _entries(path: str, retries: int) -> Iterator[Entry]:
    number = 0
    try:
        with open_stream(path, retries=retries) as stream:
            parquet = pq.ParquetFile(stream, pre_buffer=False)
            schema = parquet.schema_arrow
            columns = [name for name in ("image", *KEYS) if name in schema.names]
            if "image" not in columns:
                raise ConfigurationError(
                    f"prompts.path {public_uri(path)} has no column image with the keys of the images, but "
                    f"{', '.join(schema.names[:20])}"
                )
            if other := sorted(set(schema.names) - set(columns)):
                _log.warning("%s: columns left alone: %s", public_uri(path), ", ".join(other[:20]))
            size = _ROWS_OF_MASKS if "mask" in columns else _ROWS
            for batch in parquet.iter_batches(size, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    yield _entry(row, number)
                    number += 1
    except (pa.ArrowException, OSError) as error:  # faults of the store are no OSError here
        raise ConfigurationError(
            f"prompts.path {public_uri(path)} can't be read as Parquet after row {number}: {error}"
        ) from None


def _entry(row: dict[str, Any], number: int) -> Entry:
    content = {name: _plain(value, name) for name, value in row.items()}
    key = content.get("image")
    content["image"] = str(key) if isinstance(key, int) and not isinstance(key, bool) else key
    try:
        for name in _IN_JSON:
            value = content.get(name)
            if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):  # else a file name, or a mistake
                content[name] = load_json(value.encode(errors="surrogatepass"))
    except BadInputError as error:
        key = content["image"]
        fault = f"{name}: {error}"
        return Entry(key if isinstance(key, str) and key else None, number, unparsed(content), fault)
    raw = raw_prompt(content, "")
    given = {name: part for name, part in raw.content.items() if part is not None}
    return native_entry(RawPrompt(given, "", raw.fault), number)


def _plain(value: Any, name: str) -> Any:
    """Return a value as JSON has it; PNG files in base64."""
    match value:
        case dict():
            value = {key: _plain(part, key) for key, part in value.items()}
        case list():
            value = [_plain(part, name) for part in value]
        case bytes() if name in ("mask", "png"):
            text = base64.b64encode(value).decode()
            value = {"png": text} if name == "mask" else text
        case bytes():
            value = value.decode(errors="backslashreplace")
        case Decimal():
            value = float(value)
        case date() | datetime() | time() | timedelta():
            value = str(value)
    return value
