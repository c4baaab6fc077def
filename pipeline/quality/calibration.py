"""From features to a predicted error: reading and applying what jobs/calibrate.py wrote (docs/quality.md).

A calibration is boosted regression trees over the features of a record, and a monotone curve that makes their output
an expected error. Both are plain numbers in a JSON file and are evaluated with numpy: workers need nothing that fitting
needs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.config import LabelConfig
from pipeline.errors import ConfigurationError
from pipeline.provenance import ModelIdentity
from pipeline.stages.second import second_size
from pipeline.storage import NotFoundError, RefusedError, public_uri, read_beginning
from sdmatte.urls import redact

FORMAT = 1
"""Version of the file's form."""

MAX_BYTES = 4_000_000
"""A larger file is refused."""

HALVES = 0.02
"""Predicted error that halves the quality."""

MISSING = -99.0
"""What stands for a feature that a record lacks, where the data that was fitted to lacked it, too: less than any."""

FLAGS = ("box", "points", "mask", "transparent")
"""Inputs that are not columns: whether the prompt is of this kind, or says that the object is transparent."""

SINGLE = (
    "coverage",
    "definiteness",
    "semi_transparent",
    "softness",
    "fragments",
    "fragment_share",
    "holes",
    "hole_share",
    "frame_contact",
    "prompt_outside",
    "prompt_iou",
    "prompt_point_alpha",
    "prompt_area",
    "edge_alignment",
    "laplacian_energy",
    "colour_overlap",
)
"""Features of the matte alone: columns of :data:`pipeline.schema.RECORDS`."""

SECOND = ("second_difference", "second_agreement")
"""Features of the second pass."""

RATIOS = {"softness_share": ("softness", "coverage"), "second_share": ("second_difference", "coverage")}
"""Inputs that are one feature divided by another: what relates to the object rather than to the image."""

INPUTS = (*SINGLE, *SECOND, *RATIOS, *FLAGS)
"""All inputs that a calibration may use."""

_TINY = 1e-4  # added to what is divided by: an empty matte has a coverage of 0


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
        size: For `resolution`: side of its input (unit: pixel).
        model: For `model`: as `quality.second_model`, without credentials.
        weights_sha256: For `model`: SHA-256 of the second model's weights, where it is known.
    """

    kind: Literal["none", "flip", "jitter", "resolution", "model"]
    size: int | None = None
    model: str | None = Field(default=None, max_length=2000)
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

    feature: list[int] = Field(min_length=1, max_length=10_000)
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


@dataclass(frozen=True, eq=False)
class Calibration:
    """A calibration, ready for use.

    Attributes:
        id: 16 hexadecimal digits of its content.
        content: All that the file says.
    """

    id: str
    content: Content
    _nodes: _Nodes = field(repr=False)

    @classmethod
    def of(cls, content: Content) -> Calibration:
        """Make a calibration of what a file holds."""
        return cls(hashlib.sha256(encoded(content)).hexdigest()[:16], content, _Nodes.of(content))

    @property
    def model(self) -> Origin:
        """The model that it was made for."""
        return self.content.model

    @property
    def second(self) -> Second:
        """The second pass that it was made for."""
        return self.content.second

    def matches(self, model: ModelIdentity, config: LabelConfig, second_weights_sha256: str | None = None) -> bool:
        """Tell whether it was made for these weights, this input size and this second pass.

        The precision does not count.

        Args:
            model: That of the run.
            config: Of the run.
            second_weights_sha256: Of the second model (`quality.second: model`). Where it is not given, the model's
                name decides.
        """
        made = self.model
        same = (made.weights_sha256, made.input_size, made.resize) == (
            model.weights_sha256,
            model.input_size,
            config.model.resize,
        )
        second = second_of(config, model.input_size, second_weights_sha256)
        if self.second.weights_sha256 and second.weights_sha256:  # then what the models are called does not count
            return same and second.model_copy(update={"model": self.second.model}) == self.second
        return same and second.model_copy(update={"weights_sha256": None}) == self.second.model_copy(
            update={"weights_sha256": None}
        )

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """Predict the mean absolute error of mattes.

        Args:
            rows: With the columns of :data:`pipeline.schema.RECORDS` that are features, `prompt_kind` and
                `transparent`. What is None, missing or not finite counts as missing.

        Returns:
            `(N,)` in [0, 1], and never beyond what was seen when fitting.
        """
        if not rows:
            return np.zeros(0, np.float32)
        names = [feature.name for feature in self.content.features]
        total = self._nodes.sums(prepared(inputs(rows, names), self.content.features))
        return np.interp(total + self.content.start, self.content.curve.x, self.content.curve.y).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Nodes:
    """The nodes of all trees in one array each, so that all trees are descended at once."""

    roots: NDArray[np.int32]  # (T,)
    feature: NDArray[np.int32]  # (K,), 0 for leaves
    threshold: NDArray[np.float64]
    children: NDArray[np.int32]  # (K, 2); leaves lead to themselves
    value: NDArray[np.float64]
    depth: int

    @classmethod
    def of(cls, content: Content) -> _Nodes:
        sizes = [len(tree.feature) for tree in content.trees]
        roots = np.cumsum([0, *sizes])[:-1].astype(np.int32) if sizes else np.zeros(0, np.int32)
        feature = np.array([value for tree in content.trees for value in tree.feature], np.int32)
        itself = np.arange(len(feature), dtype=np.int32)
        offset = np.repeat(roots, sizes)
        sides = []
        for side in ("left", "right"):
            inner = np.array([value for tree in content.trees for value in getattr(tree, side)], np.int32)
            sides.append(np.where(feature < 0, itself, inner + offset))
        return cls(
            roots,
            np.maximum(feature, 0),
            np.array([value for tree in content.trees for value in tree.threshold], np.float64),
            np.stack(sides, axis=1).astype(np.int32) if sizes else np.zeros((0, 2), np.int32),
            np.array([value for tree in content.trees for value in tree.value], np.float64),
            max((_depth(tree) for tree in content.trees), default=0),
        )

    def sums(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the sum of the trees' values for each row of `(N, F)` inputs."""
        nodes = np.broadcast_to(self.roots, (len(values), len(self.roots)))
        rows = np.arange(len(values))[:, None]
        for _ in range(self.depth):
            right = values[rows, self.feature[nodes]] > self.threshold[nodes]
            nodes = self.children[nodes, right.astype(np.int8)]
        found: NDArray[np.float64] = self.value[nodes].sum(axis=1)
        return found


def _depth(tree: Tree) -> int:
    depths = [0] * len(tree.feature)
    for node, feature in enumerate(tree.feature):
        if feature >= 0:
            for child in (tree.left[node], tree.right[node]):
                depths[child] = max(depths[child], depths[node] + 1)
    return max(depths)


# --- inputs ----------------------------------------------------------------------------------------------------------


def inputs(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> NDArray[np.float64]:
    """Return the inputs of records as `(N, F)`; NaN where a record lacks one.

    Args:
        rows: See :meth:`Calibration.predict`.
        names: Of :data:`INPUTS`.
    """
    return np.array([[_input(row, name) for name in names] for row in rows], np.float64).reshape(-1, len(names))


def _input(row: Mapping[str, Any], name: str) -> float:
    if name == "transparent":
        return float(bool(row.get("transparent")))
    if name in FLAGS:
        return float(row.get("prompt_kind") == name)
    if name in RATIOS:
        above, below = (_input(row, part) for part in RATIOS[name])
        return above / (below + _TINY)
    value = row.get(name)
    if value is None:
        return math.nan
    number = float(value)
    return number if math.isfinite(number) else math.nan


def prepared(values: NDArray[np.float64], features: Sequence[Feature]) -> NDArray[np.float32]:
    """Clip inputs to what was seen when fitting, and fill in what is missing.

    Args:
        values: `(N, F)` of :func:`inputs`.
        features: The features, in that order.
    """
    least, greatest, missing = (
        np.array([getattr(feature, name) for feature in features]) for name in ("least", "greatest", "missing")
    )
    return np.where(np.isnan(values), missing, np.clip(values, least, greatest)).astype(np.float32)


def second_of(config: LabelConfig, input_size: int, weights_sha256: str | None = None) -> Second:
    """Describe the second pass of a run.

    Args:
        config: Of the run.
        input_size: Side of the first model's input, resolved (unit: pixel).
        weights_sha256: Of the second model, for `quality.second: model`.
    """
    quality = config.quality
    named = quality.second == "model"
    return Second(
        kind=quality.second,
        size=second_size(config, input_size) if quality.second == "resolution" else None,
        model=str(redact(quality.second_model)) if named else None,
        weights_sha256=weights_sha256 if named else None,
    )


def quality(predicted_mad: NDArray[np.floating] | float) -> Any:
    """Return the quality of a predicted error: 1 is perfect, and each :data:`HALVES` of error halves it."""
    return 2.0 ** (-predicted_mad / HALVES)


# --- files -----------------------------------------------------------------------------------------------------------


def encoded(content: Content) -> bytes:
    """Return the file of a calibration: JSON, the same bytes for the same content."""
    text = json.dumps(content.model_dump(mode="json"), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return text.encode() + b"\n"


def read_calibration(path: str) -> Calibration:
    """Read a file that jobs/calibrate.py wrote.

    Args:
        path: Local, or any fsspec URL.

    Raises:
        ConfigurationError: It is not there, can't be read, or is no calibration.
        TransientError: Its store failed repeatedly.
    """
    name = public_uri(path)
    try:
        data = read_beginning(path, MAX_BYTES + 1)
    except (NotFoundError, RefusedError) as error:
        raise ConfigurationError(f"the calibration: {error}; name a file that jobs/calibrate.py wrote") from None
    return parsed(data, name)


def parsed(data: bytes, name: str) -> Calibration:
    """Make a calibration of a file's content.

    Args:
        data: The content.
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
        return Calibration.of(Content.model_validate(document))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:100]
        raise ConfigurationError(
            f"the calibration {name} is damaged: {where}: {first['msg'][:200]}; {again}"
        ) from None


@cache
def bundled() -> tuple[Calibration, ...]:
    """Return the calibrations that come with this package, by the names of their files."""
    folder = resources.files("pipeline") / "calibrations"
    if not folder.is_dir():
        return ()
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda file: file.name)
    return tuple(parsed(file.read_bytes(), file.name) for file in files)


def choose(config: LabelConfig, model: ModelIdentity) -> Calibration | None:
    """Return the calibration that a run uses (`quality.calibration`).

    Of the bundled ones (`auto`) that which matches; else, of those for the same second pass, the one for the same
    weights, then resize, then nearest input size. There being none for this second pass, one that needs none.

    Args:
        config: Of the run.
        model: That of the run.

    Raises:
        ConfigurationError: See :func:`read_calibration`.
        TransientError: See :func:`read_calibration`.
    """
    wanted = config.quality.calibration
    if wanted == "none":
        return None
    if wanted != "auto":
        return read_calibration(wanted)
    for kind in dict.fromkeys((config.quality.second, "none")):
        found = [each for each in bundled() if each.second.kind == kind]
        if found:
            return min(found, key=lambda each: _distance(each, model, config))
    return None


def _distance(calibration: Calibration, model: ModelIdentity, config: LabelConfig) -> tuple[bool, bool, bool, float]:
    made = calibration.model
    return (
        not calibration.matches(model, config),
        made.weights_sha256 != model.weights_sha256,
        made.resize != config.model.resize,
        abs(math.log(made.input_size / model.input_size)),
    )
