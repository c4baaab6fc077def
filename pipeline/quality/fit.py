"""Fit a calibration: from features to true errors, checked on images that were left out.

Gradient boosted trees (scikit-learn, which only this module needs) predict the logarithm of the error, so that small
errors are told apart, too. A monotone curve then turns their output into the mean error of mattes that look like this:
what the exponential of a mean logarithm is not. It is fitted to predictions of folds that the trees have not seen.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigurationError
from pipeline.provenance import code_version
from pipeline.quality.calibration import prepared
from pipeline.quality.calibration_file import FORMAT, MISSING, Content, Curve, Feature, Origin, Second, Tree
from pipeline.quality.figures import ScoreFigures, figures
from pipeline.quality.inputs import FLAGS, RATIOS, SECOND, SINGLE, inputs

Values = NDArray[np.float64]

FOLDS = 5
"""Parts that the images are divided into; each is predicted by trees fitted to the others."""

LEAST_IMAGES = 20
"""Fewer images with usable records are refused."""

DAMAGED_WEIGHT = 0.25
"""What a damaged matte counts when fitting, where one of the model itself counts 1."""

_OFFSET = 0.01  # added to errors before the logarithm: differences far below it do not matter
_TREES = {"n_estimators": 150, "max_depth": 5, "learning_rate": 0.06, "subsample": 0.5, "max_features": 0.3}
_LEAST_LEAF = 20
_POINTS, _LEAST_POINT = 25, 20  # of the curve, and records for each


@dataclass(frozen=True)
class Samples:
    """Records with their true errors.

    Attributes:
        rows: As :meth:`pipeline.quality.calibration.Calibration.predict` takes them.
        mad: `(N,)` true mean absolute errors.
        images: `(N,)` names of their images.
        damage: `(N,)` empty for mattes of the model, else the kind of damage (:mod:`pipeline.quality.degrade`).
    """

    rows: Sequence[Mapping[str, Any]]
    mad: Values
    images: NDArray[np.str_]
    damage: NDArray[np.str_]

    def own(self) -> Samples:
        """Return those of the model alone."""
        chosen = self.damage == ""
        rows = [row for row, kept in zip(self.rows, chosen, strict=True) if kept]
        return Samples(rows, self.mad[chosen], self.images[chosen], self.damage[chosen])


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted calibration.

    Attributes:
        content: What its file holds.
        left_out: `(N,)` predicted errors of the model's own mattes, by folds that had not seen their images.
        figures: Of these.
    """

    content: Content
    left_out: Values
    figures: ScoreFigures


def check_installed() -> None:
    """Raise ConfigurationError where scikit-learn is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise ConfigurationError("fitting a calibration needs scikit-learn: pip install 'sdmatte[curate]'")


def fit(
    samples: Samples,
    origin: Origin,
    second: Second,
    data: Mapping[str, Any],
    groups: NDArray[np.str_] | None = None,
    seed: int = 0,
) -> Fitted:
    """Fit a calibration.

    Args:
        samples: To fit to. Damaged mattes count less, shape the trees and the curve's upper end, and are in no figure.
        origin: The model that made the mattes.
        second: The second pass; with `none`, its features are left aside.
        data: What the samples are from, for the file.
        groups: `(N,)` what is left out together; default the images.
        seed: Of what is random.

    Raises:
        ConfigurationError: There are too few images.
    """
    own = samples.damage == ""
    if len(set(samples.images[own])) < LEAST_IMAGES:
        raise ConfigurationError(
            f"a calibration needs at least {LEAST_IMAGES} images with mattes, and there are "
            f"{len(set(samples.images[own]))}; give more data"
        )
    values = inputs(samples.rows, names_for(second))
    features = _seen(values, names_for(second), own)
    ready = prepared(values, features)
    sums = _left_out_sums(ready, samples, samples.images if groups is None else groups, seed)
    left_out, fold_of = _left_out_errors(sums, samples, seed)
    found = figures(left_out, samples.mad[own])

    final = _boosted(ready, samples, np.ones(len(own), bool), seed)
    content = Content(
        format=FORMAT,
        model=origin,
        second=second,
        features=features,
        start=float(final.init_.constant_.item()),
        trees=[_tree(each.tree_, final.learning_rate) for each in final.estimators_[:, 0]],
        curve=_curve(sums, samples.mad, own),
        data={**data, "records": int(own.sum()), "damaged": int((~own).sum())},
        code=code_version(),
        figures={
            **_plain(asdict(found)),
            "by_prompt": _by_prompt(samples, own, left_out),
            "damaged_seen": _damage_seen(sums, own, samples),
            "folds": int(fold_of.max()) + 1,
        },
    )
    return Fitted(content, left_out, found)


def names_for(second: Second) -> list[str]:
    """Return the inputs of a calibration for such a second pass."""
    names = list(SINGLE) + ([] if second.kind == "none" else list(SECOND))
    return [*names, *(name for name, parts in RATIOS.items() if set(parts) <= set(names)), *FLAGS]


def _seen(values: Values, names: Sequence[str], own: NDArray[np.bool_]) -> list[Feature]:
    """Describe the range of each input, and what stands for it where it is missing; one that never is there is 0."""
    found = []
    for name, column in zip(names, values.T, strict=True):
        there = column[~np.isnan(column)]
        if not there.size:
            found.append(Feature(name=name, least=0, greatest=0, missing=0))
            continue
        missing = MISSING if len(there) < len(column) else float(np.median(column[own]))
        found.append(Feature(name=name, least=float(there.min()), greatest=float(there.max()), missing=missing))
    return found


# --- trees -----------------------------------------------------------------------------------------------------------


def _boosted(ready: NDArray[np.float32], samples: Samples, chosen: NDArray[np.bool_], seed: int) -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    weights = np.where(samples.damage == "", 1.0, DAMAGED_WEIGHT)
    leaf = max(1, min(_LEAST_LEAF, int(chosen.sum()) // 20))
    model = GradientBoostingRegressor(**_TREES, min_samples_leaf=leaf, random_state=seed)
    return model.fit(ready[chosen], np.log(samples.mad[chosen] + _OFFSET), weights[chosen])


def _left_out_sums(ready: NDArray[np.float32], samples: Samples, groups: NDArray[np.str_], seed: int) -> Values:
    """Return what trees say that have not seen the group."""
    from sklearn.model_selection import GroupKFold

    sums = np.zeros(len(groups))
    folds = GroupKFold(min(FOLDS, len(set(groups))), shuffle=True, random_state=seed)
    for known, new in folds.split(ready, groups=groups):
        chosen = np.zeros(len(groups), bool)
        chosen[known] = True
        sums[new] = _boosted(ready, samples, chosen, seed).predict(ready[new])
    return sums


def _tree(tree: Any, rate: float) -> Tree:
    """Return a tree of scikit-learn, with its leaves' values as boosting adds them up."""
    leaf = tree.children_left < 0
    return Tree(
        feature=np.where(leaf, -1, tree.feature).tolist(),
        threshold=[float(str(value)) for value in _rounded_down(np.where(leaf, 0.0, tree.threshold))],
        left=np.where(leaf, 0, tree.children_left).tolist(),
        right=np.where(leaf, 0, tree.children_right).tolist(),
        # Eight digits are far more than the values are good for, and half of the file.
        value=[float(f"{value:.8g}") for value in np.where(leaf, rate * tree.value[:, 0, 0], 0.0)],
    )


def _rounded_down(values: Values) -> NDArray[np.float32]:
    """Return the greatest numbers of single precision that are not above: they split such inputs alike."""
    near = values.astype(np.float32)
    return np.where(near > values, np.nextafter(near, np.float32(-np.inf)), near)


# --- the curve -------------------------------------------------------------------------------------------------------


def _left_out_errors(sums: Values, samples: Samples, seed: int) -> tuple[Values, NDArray[np.int64]]:
    """Return predicted errors of the model's own mattes by curves that were fitted without their images."""
    from sklearn.model_selection import GroupKFold

    own = samples.damage == ""
    predicted, fold_of = np.zeros(len(own)), np.zeros(len(own), np.int64)
    folds = GroupKFold(FOLDS, shuffle=True, random_state=seed)
    for number, (known, new) in enumerate(folds.split(sums, groups=samples.images)):
        curve = _curve(sums[known], samples.mad[known], own[known])
        predicted[new], fold_of[new] = np.interp(sums[new], curve.x, curve.y), number
    return predicted[own], fold_of[own]


def _curve(sums: Values, mad: Values, own: NDArray[np.bool_]) -> Curve:
    """Fit the mean error as a rising function of what the trees say.

    Points are means over records of similar sums; isotonic regression merges those that would fall. At both ends the
    outermost slope goes on to the last record, so that few records are tied. Damaged mattes continue the curve where
    they look worse than any of the model's own.
    """
    x, y, counts = _means(sums[own], mad[own])
    worse = ~own & (sums > sums[own].max())
    if int(worse.sum()) >= _LEAST_POINT:
        more = _means(sums[worse], mad[worse])
        x, y, counts = (np.concatenate(pair) for pair in zip((x, y, counts), more, strict=True))
    x, y = _risen(x, y, counts)
    if len(x) == 1:
        return Curve(x=x.tolist(), y=y.tolist())
    reach = sums[own | worse]
    low, high = min(float(reach.min()), x[0] - 1e-6), max(float(reach.max()), x[-1] + 1e-6)
    first, last = (y[1] - y[0]) / (x[1] - x[0]), (y[-1] - y[-2]) / (x[-1] - x[-2])
    below = max(y[0] - first * (x[0] - low), 0.5 * y[0])
    above = min(y[-1] + last * (high - x[-1]), float(mad.max()))
    x, y = np.array([low, *x, high]), np.array([below, *y, max(above, float(y[-1]))])
    y *= mad[own].mean() / np.interp(sums[own], x, y).mean()  # straight lines between means miss their mean by little
    return Curve(x=x.tolist(), y=np.minimum(y, 1.0).tolist())


def _means(sums: Values, mad: Values) -> tuple[Values, Values, Values]:
    points = int(np.clip(len(sums) // _LEAST_POINT, 1, _POINTS))
    parts = np.array_split(np.argsort(sums, kind="stable"), points)
    return (
        np.array([sums[part].mean() for part in parts]),
        np.array([mad[part].mean() for part in parts]),
        np.array([float(len(part)) for part in parts]),
    )


def _risen(x: Values, y: Values, counts: Values) -> tuple[Values, Values]:
    """Merge points until both coordinates rise."""
    from sklearn.isotonic import IsotonicRegression

    level = IsotonicRegression().fit_transform(x, y, sample_weight=counts)
    _, group = np.unique(level, return_inverse=True)
    weight = np.bincount(group, counts)
    merged: Values = np.bincount(group, counts * x) / weight
    return merged, np.bincount(group, counts * y) / weight


# --- figures ---------------------------------------------------------------------------------------------------------


def _by_prompt(samples: Samples, own: NDArray[np.bool_], left_out: Values) -> dict[str, Any]:
    kinds = np.array([str(row.get("prompt_kind")) for row in samples.rows])[own]
    mad = samples.mad[own]
    return {
        kind: _plain(asdict(figures(left_out[kinds == kind], mad[kinds == kind])))
        for kind in sorted(set(kinds))
        if int((kinds == kind).sum()) >= 2
    }


def _damage_seen(sums: Values, own: NDArray[np.bool_], samples: Samples) -> dict[str, float]:
    """Return the share of pairs, of a damaged and an own matte of other error, that are ranked rightly, by damage."""
    rng = np.random.default_rng(0)
    mine = np.flatnonzero(own)
    shares = {}
    for kind in sorted(set(samples.damage[~own])):
        damaged = np.flatnonzero(samples.damage == kind)
        other = rng.choice(mine, len(damaged))
        right = (sums[damaged] > sums[other]) == (samples.mad[damaged] > samples.mad[other])
        shares[str(kind)] = round(float(right.mean()), 4)
    return shares


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Round figures; what could not be computed is null, which JSON knows."""
    return {
        name: (None if value != value else round(value, 6)) if isinstance(value, float) else value  # noqa: PLR0124
        for name, value in values.items()
    }
