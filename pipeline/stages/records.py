"""From images and prompts in work to the records that the model stage yields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import LabelConfig
from pipeline.errors import BadInputError
from pipeline.masks import decode_png
from pipeline.provenance import ModelIdentity
from pipeline.quality.features import Features
from pipeline.schema import LEDGER, RECORDS
from sdmatte.errors import PromptError
from sdmatte.prompts import Box, Mask, Points, Prompt

if TYPE_CHECKING:
    from pipeline.quality.image_terms import ImageTerms
    from pipeline.quality.scoring import Score
    from sdmatte.model import EncodedImage

LONGEST_MESSAGE = 2000
"""Characters of an error message: a name or a value of megabytes is not to stand in every record."""

OUTPUT = pa.schema([*RECORDS, pa.field("ledger", LEDGER)])
"""What the stage yields: records, and the ledger rows that end shards (all other columns but ``shard`` null)."""

_PNG = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
)
"""Mattes are flat, or change slowly: less the row above, most bytes are 0 or repeat the one before, and runs of these
are all that deflate has to find. A third of the time of zlib's level 3 with its default strategy, and a few percent
smaller (benchmarks/png.py)."""


@dataclass
class Work:
    """One image on its way through the actor.

    Attributes:
        row: The engine row (:data:`pipeline.schema.IMAGE_ROWS`).
        digest: SHA-256 of the encoded bytes, hexadecimal.
        notes: What decoding did.
        pixels: ``(H, W, 3)``, upright; large JPEGs may be smaller than they are (`input.decode`).
        size: Width and height of the upright image at its full size (unit: pixel).
        error: Code and message, for all prompts that have none of their own.
        encoded: What the model keeps of the image.
        encoded_again: Likewise of the second pass (`quality.second`), once it was needed.
        terms: What the features of its objects share.
        phash: Perceptual hash of the pixels (:mod:`pipeline.quality.phash`).
    """

    row: dict[str, Any]
    digest: str | None = None
    notes: tuple[str, ...] = ()
    pixels: NDArray[np.uint8] | None = None
    size: tuple[int, int] | None = None
    error: tuple[str, str] | None = None
    encoded: EncodedImage | None = None
    encoded_again: EncodedImage | None = None
    terms: ImageTerms | None = None
    phash: int | None = None

    def objects(self) -> list[Object]:
        """Return its prompts, new ones with every call: were they kept here, the cycle would keep pixels alive."""
        return [Object(self, spec) for spec in self.row["prompts"]]

    @property
    def identity(self) -> int:
        """What the image is called towards the board; unlike its name, no other image of the run has it."""
        identity: int = self.row["image_id"]
        return identity

    @property
    def name(self) -> str:
        """What the image is called towards people; rows of a manifest may share it."""
        return f"{self.row['shard']}: {self.row['image_key']}"

    @property
    def is_wanted(self) -> bool:
        """Whether the image has to be decoded: it is there, and some prompt of it is in order."""
        return self.row["image"] is not None and not all(spec["error_code"] for spec in self.row["prompts"])


@dataclass
class Object:
    """One prompt of one image; ends as one record.

    Attributes:
        work: The image.
        spec: The audited prompt struct (:data:`pipeline.schema.PROMPT`).
        prompt: The model's prompt, where it can be matted.
        error: Code and message.
        alpha: The matte as a PNG.
        features: What the score is computed from.
        score: How far the matte can be trusted.
        told: Whether it has been counted.
    """

    work: Work
    spec: dict[str, Any]
    prompt: Prompt | None = None
    error: tuple[str, str] | None = None
    alpha: bytes | None = None
    features: Features | None = None
    score: Score | None = None
    told: bool = False


def model_prompt(spec: dict[str, Any]) -> Prompt:
    """Return the model's prompt for an audited prompt struct (:data:`pipeline.schema.PROMPT`).

    Raises:
        PromptError: The mask can't be decoded, or the kind is unknown.
    """
    transparent = bool(spec["transparent"])
    if spec["kind"] == "box":
        x0, y0, x1, y1 = spec["box"]
        return Box(x0, y0, x1, y1, transparent=transparent)
    if spec["kind"] == "points":
        return Points(spec["points"], transparent=transparent)
    if spec["kind"] == "mask":
        try:
            return Mask(decode_png(spec["mask"]) > 0, transparent=transparent)
        except BadInputError as error:
            raise PromptError("prompt_malformed", str(error)) from None
    raise PromptError("prompt_malformed", f"unknown prompt kind {spec['kind']!r}")


def encode_png(alpha: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Encode ``(H, W)`` of 8 or 16 bits as a grayscale PNG."""
    done, data = cv2.imencode(".png", alpha, _PNG)
    assert done, f"OpenCV can't encode {alpha.dtype} {alpha.shape}"
    return data.tobytes()


def origin(config: LabelConfig, run_id: str, model: ModelIdentity) -> dict[str, Any]:
    """Return the columns that all records of a run share."""
    return {
        "run_id": run_id,
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "precision": model.precision,
        "config_hash": config.matte_hash(),
    }


def records_table(objects: Sequence[Object], ledgers: Sequence[dict[str, Any]], shared: dict[str, Any]) -> pa.Table:
    """Return the records of objects that are done, and the ledger rows (:data:`OUTPUT`).

    Args:
        objects: Each with an error or an alpha.
        ledgers: Engine rows that end shards.
        shared: See :func:`origin`.
    """
    records = [_record(each, shared) for each in objects]
    ends = [dict.fromkeys(OUTPUT.names) | _only(row, "shard", "ledger") for row in ledgers]
    return pa.Table.from_pylist([*records, *ends], schema=OUTPUT)


def error_records(rows: pa.Table, config: LabelConfig, run_id: str, model: ModelIdentity) -> pa.Table:
    """Turn engine rows of which every prompt carries an error into records (:data:`OUTPUT`), without a model."""
    listed = rows.to_pylist()
    objects = [each for row in listed if row["ledger"] is None for each in Work(row).objects()]
    for each in objects:
        each.error = (each.spec["error_code"], each.spec["error_message"])
    ledgers = [row for row in listed if row["ledger"] is not None]
    return records_table(objects, ledgers, origin(config, run_id, model))


def _record(each: Object, shared: dict[str, Any]) -> dict[str, Any]:
    row, spec, work = each.work.row, each.spec, each.work
    record = dict.fromkeys(OUTPUT.names) | shared
    record |= _only(row, "image_id", "shard", "image_key", "image_uri", "image_etag", "image_width", "image_height")
    record |= _only(spec, "record_id", "label", "transparent") | {
        "image_sha256": work.digest,
        "image_phash": work.phash,
        "image_notes": list(work.notes),
        "prompt_kind": spec["kind"],
        "prompt_id": spec["id"],
        "prompt_score": spec["score"],
        "prompt_box": spec["box"],
        "prompt_points": spec["points"],
        "prompt_mask": spec["mask"],
        "prompt_repairs": spec["repairs"],
        "labelled_at": datetime.now(UTC),
    }
    if each.error is not None:
        code, message = each.error
        return record | {"status": "error", "error_code": str(code), "error_message": message[:LONGEST_MESSAGE]}
    assert each.features is not None
    assert each.score is not None
    assert work.encoded is not None
    return record | {
        "status": "ok",
        "alpha": {"bytes": each.alpha, "path": None},
        "input_height": work.encoded.grid[0],
        "input_width": work.encoded.grid[1],
        **asdict(each.features),
        **asdict(each.score),
    }


def _only(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: row[key] for key in keys}
