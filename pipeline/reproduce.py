"""Makes one record again, from its input as it is now, and compares: does the corpus still give the same matte?"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from pipeline.config import LabelConfig
from pipeline.errors import ConfigurationError
from pipeline.ids import show
from pipeline.inspection import find_record
from pipeline.latest import Chain
from pipeline.prompt_files import load_prompt_index
from pipeline.schema import IMAGE_ROWS
from pipeline.sources import make_source
from pipeline.stages.read import ReadShards, plan_table
from sdmatte.errors import SDMatteError

TOLERANCE = 1 / 255
"""Largest difference between alphas that counts as none: other batches and other devices round differently."""


@dataclass(frozen=True)
class Reproduction:
    """A record and what became of it the second time.

    Attributes:
        there: The record as it was found.
        here: The record as it was made now.
        changes: What differs and explains a difference: the image, the weights, the precision.
        largest: Largest absolute difference between the alphas, 0 to 1; None where one of them is missing.
        mean: Mean absolute difference; None likewise.
    """

    there: dict[str, Any]
    here: dict[str, Any]
    changes: tuple[str, ...]
    largest: float | None
    mean: float | None

    @property
    def same(self) -> bool:
        """Whether status, error code and alpha are the same, the latter within :data:`TOLERANCE`."""
        outcome = [(row["status"], row["error_code"]) for row in (self.there, self.here)]
        if self.there["alpha"] is None:
            return outcome[0] == outcome[1]
        return outcome[0] == outcome[1] and self.largest is not None and self.largest <= TOLERANCE + 1e-9

    def __str__(self) -> str:
        lines = [f"record {show(self.there['record_id'])}"]
        for name, row in (("recorded", self.there), ("now", self.here)):
            lines.append(f"  {name:9} {row['status']} {row['error_code'] or ''} {row['error_message'] or ''}".rstrip())
        lines += [f"  CHANGED   {change}" for change in self.changes]
        if self.largest is not None:
            lines.append(f"  alpha     largest difference {self.largest:.4f}, mean {self.mean:.5f} (of 1)")
        lines.append("reproduced" if self.same else "NOT reproduced")
        return "\n".join(lines)


def reproduce(chain: Chain, record: str) -> Reproduction:
    """Read a record's image and prompt from the input, matte it on this machine, and compare.

    Args:
        chain: The runs that hold it.
        record: Its id, see :func:`pipeline.inspection.find_record`.

    Raises:
        ConfigurationError: There is no such record, or its input or model can't be had any more.
        TransientError: The store failed repeatedly.
    """
    from pipeline.stages.matte import MatteImages, load_model

    run, there = find_record(chain, record)
    config = LabelConfig.recorded(run.info["config"])
    rows = _engine_row(config, there)
    try:
        model = load_model(config)
    except SDMatteError as error:
        raise ConfigurationError(f"the model can't be used: {error}") from None
    (here,) = MatteImages(config, run.run_id, model).label(rows).to_pylist()
    changes = tuple(
        f"{name}: {there[name]} then, {here[name]} now"
        for name in ("image_sha256", "weights_sha256", "precision", "config_hash", "prompt_box", "prompt_points")
        if there[name] != here[name]
    )
    alphas = [_alpha(row) for row in (there, here)]
    first, second = alphas
    if first is None or second is None or first.shape != second.shape:
        return Reproduction(there, here, changes, None, None)
    difference = np.abs(first - second)
    return Reproduction(there, here, changes, float(difference.max()), float(difference.mean()))


def _engine_row(config: LabelConfig, there: dict[str, Any]) -> pa.Table:
    """Return the record's image with its prompt alone, as the reading stage makes it from the input."""
    shards = [shard for shard in make_source(config).shards() if shard.name == there["shard"]]
    if not shards:
        raise ConfigurationError(f"the input has no shard {there['shard']} any more; nothing to compare with")
    stage = ReadShards(config, load_prompt_index(config))
    for table in stage(plan_table(shards, {})):
        for row in table.to_pylist():
            prompts = [prompt for prompt in row["prompts"] or () if prompt["record_id"] == there["record_id"]]
            if prompts:
                return pa.Table.from_pylist([row | {"prompts": prompts}], IMAGE_ROWS)
    raise ConfigurationError(
        f"the shard {there['shard']} does not yield this record any more (image {there['image_key']}): its image or "
        "its prompt was changed or removed"
    )


def _alpha(row: dict[str, Any]) -> NDArray[np.float64] | None:
    """Return ``(H, W)``, 0 to 1."""
    if row["alpha"] is None:
        return None
    with Image.open(BytesIO(row["alpha"]["bytes"])) as image:
        pixels = np.asarray(image)
    return pixels.astype(np.float64) / (255 if pixels.dtype == np.uint8 else 65535)
