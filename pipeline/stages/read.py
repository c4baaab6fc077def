"""The first stage: read shards, and audit their prompts before they cost GPU time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import LabelConfig
from pipeline.errors import BadInputError, ErrorCode
from pipeline.ids import id_sum, image_id, record_id
from pipeline.masks import MaskLoader
from pipeline.prompt_files import PromptIndex
from pipeline.prompts import RawPrompt, audit_prompt, fail_prompt, parse_prompt
from pipeline.reconcile import UNMATCHED_PROMPTS
from pipeline.schema import IMAGE_ROWS
from pipeline.sources import Sample, Shard, make_source
from pipeline.sources.base import fetch_mask
from pipeline.sources.references import inside
from sdmatte.errors import ImageError
from sdmatte.images import ImageInfo, probe_image

PLAN = pa.schema(
    [
        ("shard", pa.string()),  # name
        ("spec", pa.large_string()),  # JSON, for the source
        ("done", pa.large_binary()),  # record ids that are committed already, as little-endian int64
    ]
)
"""What the stage takes: one row per shard that isn't finished."""

BLOCK_BYTES = 16 * 2**20
"""Bytes of images and masks after which a block is handed on, even if it has few images."""


def plan_table(shards: Sequence[Shard], done: Mapping[str, bytes]) -> pa.Table:
    """Return shards as the stage takes them (:data:`PLAN`).

    Args:
        shards: To be read.
        done: By name of the shard, record ids that are committed already, as little-endian int64.
    """
    rows = [{"shard": s.name, "spec": json.dumps(s.spec), "done": done.get(s.name, b"")} for s in shards]
    return pa.Table.from_pylist(rows, PLAN)


class ReadShards:
    """Turns shards (:data:`PLAN`) into engine rows (:data:`pipeline.schema.IMAGE_ROWS`).

    Every image has at least one prompt struct, every prompt a record id; what can't be used carries its error. The
    last table of a shard ends with the shard's ledger. Prompts that are committed already are left out, and images
    with none left, too; the ledger counts them all the same.

    Args:
        config: Of the run.
        index: The prompts, where they stand in a file of their own.
    """

    def __init__(self, config: LabelConfig, index: PromptIndex | None = None) -> None:
        self._config = config
        self._index = index
        self._source = make_source(config)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Read shards from front to back.

        Yields:
            Tables of at most ``workers.images_per_block`` images and about :data:`BLOCK_BYTES`.

        Raises:
            ConfigurationError: The credentials are missing, wrong or expired.
        """
        for row in batch.to_pylist():
            done = frozenset(np.frombuffer(row["done"] or b"", "<i8").tolist())
            yield from self._read(Shard(row["shard"], json.loads(row["spec"])), done)

    def _read(self, shard: Shard, done: AbstractSet[int]) -> Iterator[pa.Table]:
        ledger = _Ledger()
        rows: list[dict[str, Any]] = []
        size = 0
        for sample in self._source.read(shard):
            row = self._row(shard, sample, done, ledger)
            if row is None:
                continue
            if len(rows) == self._config.workers.images_per_block or (rows and size >= BLOCK_BYTES):
                yield pa.Table.from_pylist(rows, IMAGE_ROWS)
                rows, size = [], 0
            rows.append(row)
            size += len(row["image"] or b"") + sum(len(prompt["mask"] or b"") for prompt in row["prompts"])
        yield pa.Table.from_pylist([*rows, ledger.row(shard.name)], IMAGE_ROWS)

    def _row(self, shard: Shard, sample: Sample, done: AbstractSet[int], ledger: _Ledger) -> dict[str, Any] | None:
        """Return an image as an engine row; None where all of it is done."""
        raws = self._raw_prompts(sample, ledger)
        identified = _identified(sample.image_id, raws)
        ledger.add(sample, [identifier for identifier, _ in identified])
        left = [(identifier, raw) for identifier, raw in identified if identifier not in done]
        if not left:
            return None
        load_mask = self._load_mask if sample.prompts is None else sample.load_mask
        info, error = self._probe(sample)
        if error is None and not raws:
            error = self._no_prompt(sample)
        return {
            "shard": shard.name,
            "image_key": sample.key,
            "image_uri": sample.uri,
            "image_etag": sample.etag,
            "image_id": sample.image_id,
            "image": sample.data,
            "image_width": info.width if info else None,
            "image_height": info.height if info else None,
            "prompts": [_audited(identifier, raw, load_mask, info, error) for identifier, raw in left],
        }

    def _raw_prompts(self, sample: Sample, ledger: _Ledger) -> Sequence[RawPrompt]:
        if sample.prompts is not None or self._index is None:
            return sample.prompts or ()
        found = self._index.lookup(sample.key, sample.path)
        if found is None:
            return ()
        ledger.matched.add(found.hash)
        return found.prompts

    def _load_mask(self, name: str) -> bytes:
        """Read a mask file that a prompt file names."""
        folder = self._index.folder if self._index else ""
        return fetch_mask(inside(folder, "", name), self._config)

    def _probe(self, sample: Sample) -> tuple[ImageInfo | None, BadInputError | None]:
        if sample.error is not None or sample.data is None:
            return None, sample.error
        try:
            return probe_image(sample.data, max_pixels=self._config.input.max_pixels), None
        except ImageError as error:
            return None, BadInputError(ErrorCode(error.code), str(error))

    def _no_prompt(self, sample: Sample) -> BadInputError:
        places = {
            "webdataset": f"a member {sample.key}.prompts.jsonl after the image",
            "folder": "a file of the image's name that ends in .prompts.jsonl instead of the extension",
            "manifest": 'a column "prompts" of its row',
        }
        place = places[self._config.input.kind] if self._index is None else "prompts.path, under the image's key"
        return BadInputError(ErrorCode.PROMPT_MISSING, f"the image has no prompt; expected in {place}")


def unmatched_rows(index: PromptIndex, matched: AbstractSet[int]) -> pa.Table | None:
    """Return engine rows for the prompts of a prompt file that belong to no image, and their ledger.

    Args:
        index: The prompts.
        matched: Hashes of the keys that found their image: the ledgers' ``matched`` of all shards.

    Returns:
        Rows (:data:`pipeline.schema.IMAGE_ROWS`) of the shard :data:`pipeline.reconcile.UNMATCHED_PROMPTS`, all of
        whose prompts carry an error; None if there are none.
    """
    ledger = _Ledger()
    rows = []
    for key, raws in index.unmatched(set(matched)):
        error = BadInputError(ErrorCode.IMAGE_MISSING, f"no image of the input has the key {key!r} of this prompt")
        sample = Sample(key, image_id(UNMATCHED_PROMPTS, key), uri="", path=key, error=error)
        prompts = []
        for identifier, raw in _identified(sample.image_id, raws):
            assert raw is not None
            prompt = parse_prompt(raw, identifier)  # nameless ones are malformed
            if key:
                fail_prompt(prompt, error, raw.where)
            prompts.append(prompt)
        ledger.add(sample, [prompt["record_id"] for prompt in prompts])
        rows.append({"shard": UNMATCHED_PROMPTS, "image_key": key, "image_id": sample.image_id, "prompts": prompts})
    return pa.Table.from_pylist([*rows, ledger.row(UNMATCHED_PROMPTS)], IMAGE_ROWS) if rows else None


@dataclass
class _Ledger:
    """What a shard must leave behind, whatever of it is done already."""

    images: int = 0
    ids: list[int] = field(default_factory=list)
    matched: set[int] = field(default_factory=set)

    def add(self, sample: Sample, ids: Iterable[int]) -> None:
        missing = sample.error is not None and sample.error.code is ErrorCode.IMAGE_MISSING
        self.images += bool(sample.key) and not missing
        self.ids += ids

    def row(self, shard: str) -> dict[str, Any]:
        ledger = {
            "images": self.images,
            "records": len(self.ids),
            "id_sum": id_sum(self.ids),
            "matched": sorted(self.matched),
        }
        return {"shard": shard, "ledger": ledger}


def _identified(image: int, raws: Sequence[RawPrompt]) -> list[tuple[int, RawPrompt | None]]:
    """Return prompts with their record ids; an image without prompts has one record, too."""
    if not raws:
        return [(record_id(image, {}), None)]
    seen: Counter[int] = Counter()
    identified: list[tuple[int, RawPrompt | None]] = []
    for raw in raws:
        first = record_id(image, raw.content)
        identified.append((record_id(image, raw.content, seen[first]), raw))
        seen[first] += 1
    return identified


def _audited(
    identifier: int,
    raw: RawPrompt | None,
    load_mask: MaskLoader,
    info: ImageInfo | None,
    error: BadInputError | None,
) -> dict[str, Any]:
    """Return a prompt struct; `error`, if any, is the image's, and outweighs what is wrong with the prompt."""
    prompt = parse_prompt(raw or RawPrompt({}, ""), identifier)
    if error is not None:
        fail_prompt(prompt, error)
    elif raw is not None and info is not None and prompt["error_code"] is None:
        audit_prompt(prompt, raw, info.width, info.height, load_mask)
    return prompt
