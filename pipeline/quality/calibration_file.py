"""The file of a calibration: what it holds, and how it is written and read. JSON of plain numbers, nothing else."""

from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigurationError
from pipeline.quality.inputs import INPUTS
from sdmatte.urls import redact

FORMAT: Literal[1] = 1
"""Version of the file's form."""

MAX_BYTES = 4_000_000
"""A larger file is refused."""

MISSING = -99.0
"""What stands for a feature that a record lacks, where the data that was fitted to lacked it, too: less than any."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Origin(_Part):
    """The model that a calibration was made for.

    Attributes:
        name: For people.
        weights_sha256: SHA-256 of its weights, hexadecimal.
        input_size: Side of its input (unit: pixel).
        resize: As `model.resize`.
    """

    name: str = Field(max_length=500)
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    input_size: int = Field(gt=0)
    resize: Literal["square", "aspect"]


class Second(_Part):
    """The second pass that a calibration was made for.

    Attributes:
        kind: As `quality.second`.
        size: For `resolution` and `model`: side of its input (unit: pixel).
        weights_sha256: For `model`: SHA-256 of the second model's weights.
    """

    kind: Literal["none", "flip", "jitter", "resolution", "model"]
    size: int | None = None
    weights_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")


class Feature(_Part):
    """One input of the trees.

    Attributes:
        name: Of :data:`INPUTS`.
        least: Least value that was seen when fitting; others are raised to it.
        greatest: Greatest value; others are lowered to it.
        missing: Stands for a value that a record lacks: :data:`MISSING`, or the median where none lacked it.
    """

    name: Literal[INPUTS]  # type: ignore[valid-type]  # a Literal of the tuple's strings
    least: float
    greatest: float
    missing: float


class Tree(_Part):
    """A regression tree; node 0 is its root, and children come after their parents.

    Attributes:
        feature: Per node the index of the feature that it looks at; -1 for a leaf.
        threshold: Per node: to the left go values that are not above it.
        left: Per node the index of a child.
        right: Likewise.
        value: Per node what is added; 0 but for leaves.
    """

    feature: list[int] = Field(min_length=1, max_length=1000)
    threshold: list[float]
    left: list[int]
    right: list[int]
    value: list[float]

    @model_validator(mode="after")
    def _is_a_tree(self) -> Tree:
        count = len(self.feature)
        if any(len(column) != count for column in (self.threshold, self.left, self.right, self.value)):
            raise ValueError("the columns of a tree differ in length")
        for node, (feature, left, right) in enumerate(zip(self.feature, self.left, self.right, strict=True)):
            if feature >= 0 and not (node < left < count and node < right < count):
                raise ValueError(f"node {node} has children that do not come after it")
        return self


class Curve(_Part):
    """A curve that rises: between its points it is straight, beyond them constant.

    Attributes:
        x: Sums of the trees, rising.
        y: Expected mean absolute errors, 0 to 1, not falling.
    """

    x: list[float] = Field(min_length=1, max_length=10_000)
    y: list[float]

    @model_validator(mode="after")
    def _rises(self) -> Curve:
        x, y = np.array(self.x), np.array(self.y)
        if len(x) != len(y) or (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
            raise ValueError("the curve does not rise")
        if y[0] < 0 or y[-1] > 1:
            raise ValueError("the curve leaves 0 to 1")
        return self


class Content(_Part):
    """What the file holds.

    Attributes:
        format: :data:`FORMAT`.
        model: What it was made for.
        second: Likewise.
        features: Inputs of the trees.
        start: Added to the sum of the trees.
        trees: They are added up.
        curve: Turns the sum into the predicted error.
        data: What it was fitted to.
        code: :func:`pipeline.provenance.code_version` of the program that fitted it.
        figures: How good it is on data that was left out when fitting.
    """

    format: Literal[1]
    model: Origin
    second: Second
    features: list[Feature] = Field(min_length=1, max_length=len(INPUTS))
    start: float
    trees: list[Tree] = Field(max_length=5000)
    curve: Curve
    data: dict[str, Any] = {}
    code: dict[str, Any] = {}
    figures: dict[str, Any] = {}

    @model_validator(mode="after")
    def _features_exist(self) -> Content:
        if any(max(tree.feature) >= len(self.features) for tree in self.trees):
            raise ValueError("a tree looks at a feature that there is not")
        return self


def encoded(content: Content) -> bytes:
    """Return the file of a calibration: JSON, the same bytes for the same content."""
    text = json.dumps(content.model_dump(mode="json"), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return text.encode() + b"\n"


def decoded(data: bytes, name: str) -> Content:
    """Read a file of :func:`encoded`.

    Args:
        data: The file's bytes.
        name: What the file is called in messages.

    Raises:
        ConfigurationError: It is no calibration.
    """
    again = "name a file that jobs/calibrate.py wrote, or make it again"
    if len(data) > MAX_BYTES:
        raise ConfigurationError(f"the calibration {name} is larger than {MAX_BYTES:,} bytes; {again}")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the calibration {name} is not JSON ({redact(str(error))[:200]}); {again}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else None
        raise ConfigurationError(
            f"the calibration {name} has the format {str(found)[:20]!r}, and this program reads {FORMAT}; {again}"
        )
    try:
        return Content.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:100]
        raise ConfigurationError(
            f"the calibration {name} is damaged: {where}: {first['msg'][:200]}; {again}"
        ) from None
