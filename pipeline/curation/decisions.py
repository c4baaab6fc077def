"""Decisions, read back: for exports and reviews alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.curation.schema import CURATION_FILE, DECISIONS, DECISIONS_FILE, Decision
from pipeline.errors import ConfigurationError
from sdmatte.urls import redact


def read_decisions(folder: str, decision: Decision, columns: Sequence[str]) -> pa.Table:
    """Return the rows of one decision, by rank and then record_id.

    Args:
        folder: What jobs/curate.py wrote.
        decision: Which one.
        columns: Of :data:`pipeline.curation.schema.DECISIONS`.

    Raises:
        ConfigurationError: There are no decisions, they are damaged, decide twice on one record, or aren't those that
            the curation.json beside them is about.
        TransientError: The store failed repeatedly.
    """
    uri = storage.join(folder, DECISIONS_FILE)
    names = list(dict.fromkeys([*columns, "record_id", "rank", "decision"]))
    about = read_curation(folder) or {}
    try:
        with storage.open_stream(uri) as stream:
            _check(uri, stream, about.get("decisions_sha256"))
            table = pq.ParquetFile(stream).read(names, use_threads=False).select(names)
        table = table.cast(pa.schema([DECISIONS.field(name) for name in names]))
    except storage.NotFoundError:
        raise ConfigurationError(f"{redact(uri)} isn't there: decide first, with jobs/curate.py") from None
    except (pa.ArrowException, KeyError) as error:
        raise ConfigurationError(f"{redact(uri)} holds no decisions, or is damaged ({error})") from None
    chosen = table.filter(pc.equal(table["decision"], decision))
    if len(pc.unique(chosen["record_id"])) != len(chosen):
        raise ConfigurationError(f"{redact(uri)} decides twice on one record_id; write it with jobs/curate.py")
    return chosen.sort_by([("rank", "ascending"), ("record_id", "ascending")]).select(list(columns))


def read_curation(folder: str) -> dict[str, Any] | None:
    """Return the settings and counts that stand beside decisions; None where they don't, or can't be read.

    Raises:
        TransientError: The store failed repeatedly.
    """
    try:
        content = json.loads(storage.read_bytes(storage.join(folder, CURATION_FILE)))
    except (storage.NotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _check(uri: str, stream: IO[bytes], expected: str | None) -> None:
    """Refuse decisions beside a curation.json of other ones, as a curation that broke off leaves them."""
    if expected is None:
        return
    if hashlib.file_digest(cast("Any", stream), "sha256").hexdigest() != expected:
        raise ConfigurationError(
            f"{redact(uri)} isn't what the {CURATION_FILE} beside it is about (SHA-256): the curation broke off, or "
            "one of them was changed since; decide again with jobs/curate.py"
        )
    stream.seek(0)
