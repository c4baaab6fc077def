"""The first stage: read shards, and audit their prompts before they cost GPU time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.audit import ImageAudit, without_image
from pipeline.config import LabelConfig, PromptsConfig
from pipeline.errors import BadInputError, ErrorCode, TransientError
from pipeline.ids import id_sum, image_id, record_id
from pipeline.masks import MaskLoader
from pipeline.prompt_files import Prompts, prompt_choice
from pipeline.prompt_formats import LABELS
from pipeline.prompts import RawPrompt, fail_prompt, parse_prompt
from pipeline.reconcile import UNMATCHED_PROMPTS
from pipeline.schema import IMAGE_ROWS
from pipeline.seen import Seen
from pipeline.sources import Sample, Shard, make_source
from pipeline.sources.base import fetch_mask
from pipeline.sources.references import inside
from sdmatte.errors import ImageError
from sdmatte.images import ImageInfo, probe_image

PLAN = pa.schema(
    [
        ("shard", pa.string()),  # name
        ("spec", pa.large_string()),  # JSON, for the source
        ("source", pa.string()),  # fingerprint, for the ledger
        ("done", pa.large_binary()),  # record ids that are committed already, as little-endian int64
        ("limit", pa.int64()),  # images to hand on; null for all
    ]
)
"""What the stage takes: one row per shard that isn't finished."""

BLOCK_BYTES = 16 * 2**20
"""Bytes of images and masks after which a block is handed on, even if it has few images."""

UNMATCHED_ROWS = 10_000
"""Prompts without image in one table."""


def plan_table(
    shards: Sequence[Shard],
    done: Mapping[str, bytes],
    sources: Mapping[str, str] = MappingProxyType({}),
    limits: Mapping[str, int] = MappingProxyType({}),
) -> pa.Table:
    """Return shards as the stage takes them (:data:`PLAN`).

    Args:
        shards: To be read.
        done: By name of the shard, record ids that are committed already, as little-endian int64.
        sources: By name of the shard, a fingerprint of what it is now.
        limits: By name of the shard, how many images are to be handed on; others are read to their end.
    """
    rows = [
        {
            "shard": each.name,
            "spec": json.dumps(each.spec),
            "source": sources.get(each.name, ""),
            "done": done.get(each.name, b""),
            "limit": limits.get(each.name),
        }
        for each in shards
    ]
    return pa.Table.from_pylist(rows, PLAN)


class ReadShards:
    """Turns shards (:data:`PLAN`) into engine rows (:data:`pipeline.schema.IMAGE_ROWS`).

    Every image has at least one prompt struct, every prompt a record id; what can't be used carries its error. The
    last table of a shard ends with the shard's ledger. Prompts that are committed already are left out, and images
    with none left, too; the ledger counts them all the same.

    An image that the store fails to hand out for the time being becomes ``image_unavailable`` where its prompts are
    known. Where not even these are, or the rest of a shard can't be read, nothing is guessed: the shard ends without a
    ledger, so that the run is incomplete until a later job has read all of it. Nor gets a shard that has more images
    than its limit.

    Args:
        config: Of the run.
        index: The prompts, where they stand in a file of their own.
        warn: Told about each image (or rest of a shard) that is left out: shard, place and cause.
        seen: What earlier runs hold: it is left out, and not counted.
    """

    def __init__(
        self,
        config: LabelConfig,
        index: Prompts | None = None,
        warn: Callable[[str], None] | None = None,
        seen: Seen | None = None,
    ) -> None:
        self._config = config
        self._index = index
        self._warn = warn
        self._seen = seen
        self._source = make_source(config)
        self._choice = prompt_choice(config) if index is None else None

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Read shards from front to back.

        Yields:
            Tables of at most ``workers.images_per_block`` images and about :data:`BLOCK_BYTES`; at least one per
            shard, which may be empty.

        Raises:
            ConfigurationError: The credentials are missing, wrong or expired.
        """
        for row in batch.to_pylist():
            done = frozenset(np.frombuffer(row["done"] or b"", "<i8").tolist())
            yield from self._read(Shard(row["shard"], json.loads(row["spec"])), done, row["source"], row["limit"])

    def _read(self, shard: Shard, done: AbstractSet[int], source: str, limit: int | None) -> Iterator[pa.Table]:
        ledger = _Ledger()
        rows: list[dict[str, Any]] = []
        size = count = 0
        whole = True
        for sample in self._source.read(shard):
            try:
                row = self._row(shard, sample, done, ledger)
            except TransientError as error:
                whole = False
                if self._warn:
                    self._warn(f"shard {shard.name}: {sample.uri} is left out for now: {error}")
                continue
            if row is None:
                continue
            if limit is not None and count == limit:
                whole = False
                break
            count += 1
            if len(rows) == self._config.workers.images_per_block or (rows and size >= BLOCK_BYTES):
                yield pa.Table.from_pylist(rows, IMAGE_ROWS)
                rows, size = [], 0
            rows.append(row)
            size += len(row["image"] or b"") + sum(len(prompt["mask"] or b"") for prompt in row["prompts"])
        end = [ledger.row(shard.name, source)] if whole else []
        yield pa.Table.from_pylist([*rows, *end], IMAGE_ROWS)

    def _row(self, shard: Shard, sample: Sample, done: AbstractSet[int], ledger: _Ledger) -> dict[str, Any] | None:
        """Return an image as an engine row; None where all of it is done. Raises TransientError."""
        fault = sample.error
        if isinstance(fault, TransientError):
            if not (sample.key and sample.prompts_known):
                raise fault
            fault = BadInputError(ErrorCode.IMAGE_UNAVAILABLE, str(fault))
        raws = self._raw_prompts(sample, ledger)
        everything = list(_identified(sample.image_id, raws))
        identified = self._unseen(sample, everything)
        if not identified:
            return None
        missing = fault is not None and fault.code is ErrorCode.IMAGE_MISSING
        ledger.add([identifier for identifier, _ in identified], is_image=bool(sample.key) and not missing)
        left = {identifier for identifier, _ in identified if identifier not in done}
        if not left:
            return None
        load_mask = self._load_mask if sample.prompts is None else sample.load_mask
        info, error = self._probe(sample.data, fault)
        if error is None and not raws:
            error = self._no_prompt(sample)
        prompts = self._audited(everything, load_mask, info, error)
        return {
            "shard": shard.name,
            "image_key": sample.key,
            "image_uri": sample.uri,
            "image_etag": sample.etag,
            "image_id": sample.image_id,
            "image": sample.data,
            "image_width": info.width if info else None,
            "image_height": info.height if info else None,
            "prompts": [prompt for prompt in prompts if prompt["record_id"] in left],
        }

    def _audited(
        self,
        identified: Sequence[tuple[int, RawPrompt | None]],
        load_mask: MaskLoader,
        info: ImageInfo | None,
        error: BadInputError | None,
    ) -> list[dict[str, Any]]:
        """Return the prompt structs of an image.

        Args:
            identified: All of its prompts, those that are done already, too: the audit counts and compares them.
            load_mask: Fetches the mask files that they name.
            info: The image's header.
            error: What is wrong with the image; it outweighs what is wrong with a prompt.
        """
        config = self._config.prompts
        if error is not None or info is None:
            return [_without_image(identifier, raw, error, config) for identifier, raw in identified]
        audit = ImageAudit(config, info, load_mask, self._config.input.max_pixels)
        return [audit(raw, identifier) for identifier, raw in identified if raw is not None]

    def _unseen(
        self, sample: Sample, identified: list[tuple[int, RawPrompt | None]]
    ) -> list[tuple[int, RawPrompt | None]]:
        """Leave out the prompts whose records earlier runs hold, unless the image is another one now."""
        if self._seen is None or self._seen.has_changed(sample.image_id, sample.data):
            return identified
        known = self._seen.knows([identifier for identifier, _ in identified])
        return [each for each, is_known in zip(identified, known, strict=True) if not is_known]

    def _raw_prompts(self, sample: Sample, ledger: _Ledger) -> Sequence[RawPrompt]:
        if sample.prompts is not None or self._index is None:
            return self._choice(sample.prompts or ()) if self._choice else sample.prompts or ()
        found = self._index.lookup(sample.key, sample.path)
        if found is None:
            return ()
        ledger.matched.add(found.hash)
        return found.prompts

    def _load_mask(self, name: str) -> bytes:
        """Read a mask file that a prompt file names."""
        folder = self._index.folder if self._index else ""
        return fetch_mask(inside(folder, "", name), self._config)

    def _probe(self, data: bytes | None, fault: BadInputError | None) -> tuple[ImageInfo | None, BadInputError | None]:
        if fault is not None or data is None:
            return None, fault
        try:
            return probe_image(data, max_pixels=self._config.input.max_pixels), None
        except ImageError as error:
            return None, BadInputError(ErrorCode(error.code), str(error))

    def _no_prompt(self, sample: Sample) -> BadInputError:
        places = {
            "webdataset": f"a member {sample.key}.prompts.jsonl after the image",
            "folder": "a file of the image's name that ends in .prompts.jsonl instead of the extension",
            "manifest": 'a column "prompts" of its row',
        }
        place = places[self._config.input.kind] if self._index is None else "prompts.path, under the image's key"
        if self._index is None and (labels := LABELS.get(self._config.prompts.kind)):
            place = f"a file of the image's name that ends in {labels.suffix} instead of the extension"
        return BadInputError(ErrorCode.PROMPT_MISSING, f"the image has no prompt; expected in {place}")


def unmatched_rows(
    index: Prompts,
    matched: AbstractSet[int] | NDArray[np.int64],
    done: AbstractSet[int] = frozenset(),
    config: PromptsConfig | None = None,
) -> Iterator[pa.Table]:
    """Yield engine rows for the prompts of a prompt file that belong to no image, and their ledger.

    Args:
        index: The prompts.
        matched: Hashes of the keys that found their image: the ledgers' ``matched`` of all shards.
        done: Record ids that are committed already; left out, but counted in the ledger.
        config: Of the prompts; default: the native form's own.

    Yields:
        Tables (:data:`pipeline.schema.IMAGE_ROWS`) of the shard :data:`pipeline.reconcile.UNMATCHED_PROMPTS`, with at
        most :data:`UNMATCHED_ROWS` prompts each, all of which carry an error; the last one ends with the ledger.
        Nothing if there are no such prompts.
    """
    ledger = _Ledger()
    rows: list[dict[str, Any]] = []
    for image, prompt in _unmatched_prompts(index, matched, config or PromptsConfig()):
        ledger.add([prompt["record_id"]])
        if prompt["record_id"] in done:
            continue
        if len(rows) == UNMATCHED_ROWS:
            yield pa.Table.from_pylist(rows, IMAGE_ROWS)
            rows = []
        identity = {"image_key": image.key, "image_id": image.id}
        rows.append({"shard": UNMATCHED_PROMPTS, **identity, "prompts": [prompt]})
    if ledger.records:
        yield pa.Table.from_pylist([*rows, ledger.row(UNMATCHED_PROMPTS)], IMAGE_ROWS)


class _Missing(NamedTuple):
    """An image that isn't there."""

    key: str
    id: int


def _unmatched_prompts(
    index: Prompts, matched: AbstractSet[int] | NDArray[np.int64], config: PromptsConfig
) -> Iterator[tuple[_Missing, dict[str, Any]]]:
    """Yield prompt structs, with what stands for their image."""
    for key, raws in index.unmatched(matched):
        image = _Missing(key, image_id(UNMATCHED_PROMPTS, key))
        error = BadInputError(ErrorCode.IMAGE_MISSING, f"no image of the input has the key {key!r} of this prompt")
        for identifier, raw in _identified(image.id, raws):
            assert raw is not None
            prompt = _without_image(identifier, raw, None, config)  # nameless ones are malformed
            if key:
                fail_prompt(prompt, error, raw.where)
            yield image, prompt


@dataclass
class _Ledger:
    """What a shard must leave behind, whatever of it is done already."""

    images: int = 0
    records: int = 0
    id_sum: int = 0
    matched: set[int] = field(default_factory=set)

    def add(self, ids: Sequence[int], *, is_image: bool = False) -> None:
        self.images += is_image
        self.records += len(ids)
        self.id_sum = id_sum([self.id_sum, *ids])

    def row(self, shard: str, source: str = "") -> dict[str, Any]:
        ledger = {
            "images": self.images,
            "records": self.records,
            "id_sum": self.id_sum,
            "matched": sorted(self.matched),
            "source": source,
        }
        return {"shard": shard, "ledger": ledger}


def _identified(image: int, raws: Sequence[RawPrompt]) -> Iterator[tuple[int, RawPrompt | None]]:
    """Yield prompts with their record ids; an image without prompts has one record, too."""
    if not raws:
        yield record_id(image, {}), None
    seen: Counter[int] = Counter()
    for raw in raws:
        first = record_id(image, raw.content)
        yield record_id(image, raw.content, seen[first]), raw
        seen[first] += 1


def _without_image(
    identifier: int, raw: RawPrompt | None, error: BadInputError | None, config: PromptsConfig
) -> dict[str, Any]:
    """Return the prompt struct of an image that can't be used, and says so on each of its prompts."""
    prompt = parse_prompt(raw or RawPrompt({}, ""), identifier)
    without_image(prompt, raw or RawPrompt({}, ""), config)
    if error is not None:
        fail_prompt(prompt, error)
    return prompt
