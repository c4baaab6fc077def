"""From features to a predicted error: reading and applying what jobs/calibrate.py wrote (docs/quality.md).

A calibration is boosted regression trees over the features of a record, and a monotone curve that makes of their sum
an expected error. Both are plain numbers in a JSON file and are evaluated with numpy: workers need nothing that
fitting needs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import LabelConfig
from pipeline.errors import ConfigurationError
from pipeline.provenance import ModelIdentity
from pipeline.quality.calibration_file import MAX_BYTES, Content, Feature, Origin, Second, Tree, decoded, encoded
from pipeline.quality.inputs import inputs
from pipeline.storage import NotFoundError, RefusedError, public_uri, read_beginning

HALVES = 0.02
"""Predicted error that halves the quality."""


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

    def matches(self, model: ModelIdentity, config: LabelConfig) -> bool:
        """Tell whether it was made for these weights, this input size and this second pass.

        The precision does not count.

        Args:
            model: That of the run.
            config: Of the run.
        """
        made = self.model
        return (made.weights_sha256, made.input_size, made.resize, self.second) == (
            model.weights_sha256,
            model.input_size,
            config.model.resize,
            second_of(config, model),
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
    threshold: NDArray[np.float32]  # of the inputs' precision: what is written in decimals must split like the number
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
            np.array([value for tree in content.trees for value in tree.threshold], np.float32),
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


def second_of(config: LabelConfig, model: ModelIdentity) -> Second:
    """Describe the second pass of a run.

    Args:
        config: Of the run.
        model: That of the run.
    """
    kind = config.quality.second
    if kind in ("none", "flip", "jitter"):
        return Second(kind=kind)
    return Second(kind=kind, size=model.second_size, weights_sha256=model.second_weights_sha256)


def quality(predicted_mad: NDArray[np.floating] | float) -> Any:
    """Return the quality of a predicted error: 1 is perfect, and each :data:`HALVES` of error halves it."""
    return 2.0 ** (-predicted_mad / HALVES)


# --- files -----------------------------------------------------------------------------------------------------------


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
    return Calibration.of(decoded(data, name))


@cache
def bundled() -> tuple[Calibration, ...]:
    """Return the calibrations that come with this package, by the names of their files."""
    folder = resources.files("pipeline") / "calibrations"
    if not folder.is_dir():
        return ()
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda file: file.name)
    return tuple(Calibration.of(decoded(file.read_bytes(), file.name)) for file in files)


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
