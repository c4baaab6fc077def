"""The pictures of docs/quality.md: a reliability diagram, and risk-coverage curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.quality.figures import reliability, risk_coverage

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]

_COLOURS = {"single": "#1f5fa8", "second": "#d1661a"}
_TITLES = {"single": "single pass", "second": "with second pass (flip)"}


def write_plots(scored: Mapping[str, Pair], folder: Path) -> None:
    """Write `quality_reliability.png` and `quality_risk_coverage.png`.

    Args:
        scored: Predicted and true errors of each pass.
        folder: Where to write.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, len(scored), figsize=(5 * len(scored), 4.6), layout="constrained", squeeze=False)
    top = 1.05 * max(float(np.quantile(values, 0.995)) for pair in scored.values() for values in pair)
    for axis, (name, (predicted, true)) in zip(axes[0], scored.items(), strict=True):
        means, errors, counts = reliability(predicted, true)
        axis.plot([0, top], [0, top], color="0.6", linewidth=1, label="perfect")
        axis.scatter(predicted, true, s=4, color=_COLOURS[name], alpha=0.2, linewidths=0, label="one matte")
        axis.plot(means, errors, "o-", color=_COLOURS[name], label=f"mean of about {counts[0]} mattes")
        axis.set(xlim=(0, top), ylim=(0, top), aspect="equal", title=_TITLES[name])
        axis.set(xlabel="predicted MAD", ylabel="true MAD")
        axis.legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(folder / "quality_reliability.png", dpi=110)
    plt.close(figure)

    figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for name, (predicted, true) in scored.items():
        curve = risk_coverage(predicted, true)
        shares = np.arange(1, len(curve) + 1) / len(curve)
        axis.plot(shares, curve, color=_COLOURS[name], label=f"{_TITLES[name]}: AURC {curve.mean():.4f}")
    true = next(iter(scored.values()))[1]
    best = risk_coverage(true, true)
    axis.plot(shares, best, color="0.3", linestyle=":", label=f"best order: {best.mean():.4f}")
    axis.axhline(true.mean(), color="0.6", linestyle="--", label=f"random order: {true.mean():.4f}")
    axis.set(
        xlabel="share of the mattes that is accepted", ylabel="mean true MAD of these", xlim=(0, 1), ylim=(0, None)
    )
    axis.legend(frameon=False, fontsize=9)
    figure.savefig(folder / "quality_risk_coverage.png", dpi=110)
    plt.close(figure)
