"""Loss curves of a training run: `make curves RUN=runs/nano`, or `make curves` for those of the bundled model.

Reads `log.jsonl` of a run's folder (several parts of one run: one after the other; `.gz` as well) and draws the means
over a window of steps: MAD and the four losses of the paper, with a line where the size of the pictures changes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LOGS = Path(__file__).parent / "nano_training"
PANELS = (("mad",), ("l1_known", "l1_unknown"), ("laplacian_known", "laplacian_unknown"))
WINDOW = 100

Log = dict[str, NDArray[np.float64]]


def read_log(path: Path) -> Log:
    """Read the logs of a run.

    Args:
        path: A log, or a folder with logs: `*.jsonl` or `*.jsonl.gz`, in the order of their names.

    Returns:
        A column per number that every step has, one entry per step; `step` counts on over all logs.

    Raises:
        FileNotFoundError: There is no log.
        ValueError: A log has no steps, or damaged lines.
    """
    files = [path] if path.is_file() else sorted([*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")])
    if not files:
        raise FileNotFoundError(f"{path} holds no *.jsonl or *.jsonl.gz; name the folder of a training run")
    rows: list[dict[str, float]] = []
    for file in files:
        before = rows[-1]["step"] if rows else 0
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
            part = [json.loads(line) for line in lines]
        if not part or not all({"step", "size", "seconds", *sum(PANELS, ())} <= row.keys() for row in part):
            raise ValueError(f"{file} has no steps yet, or is not the log of a training run")
        # A part counts its own steps, or goes on counting where the one before it stopped.
        offset = before if part[0]["step"] <= before else 0
        rows += [{**row, "step": row["step"] + offset} for row in part]
    names = set.intersection(*(set(row) for row in rows))
    return {name: np.array([row[name] for row in rows], np.float64) for name in sorted(names)}


def smoothed(values: NDArray[np.float64], window: int = WINDOW) -> NDArray[np.float64]:
    """Return the mean over the last `window` values, fewer at the start; same length."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(0, stop - window)
    return np.asarray((sums[stop] - sums[start]) / (stop - start))


def draw(log: Log, out: Path) -> None:
    """Draw the curves to a picture file."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(13, 3.6), layout="constrained")
    changes = log["step"][1:][np.diff(log["size"]) != 0]
    for axis, names in zip(axes, PANELS, strict=True):
        for name in names:
            axis.plot(log["step"], smoothed(log[name]), label=name.replace("_", ", "), linewidth=1.2)
        for change in changes if len(changes) < 12 else ():  # stages, not sizes drawn step by step
            axis.axvline(change, color="0.7", linewidth=0.8, linestyle="--")
        axis.set(xlabel="step", yscale="log")
        axis.grid(visible=True, which="both", alpha=0.25)
        axis.legend(frameon=False)
    figure.savefig(out, dpi=100)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, say where the run stood, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=LOGS, help="log or folder of logs (default: the bundled model's)")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="picture (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        log = read_log(arguments.run)
    except (OSError, ValueError) as error:
        print(f"curves: {error}", file=sys.stderr)
        return 2
    draw(log, arguments.out)
    hours = log["seconds"].sum() / 3600
    print(
        f"{arguments.out}: {len(log['step'])} steps, {hours:.2f} h of optimisation; "
        f"MAD {log['mad'][:WINDOW].mean():.4f} over the first {WINDOW} steps, {log['mad'][-WINDOW:].mean():.4f} over "
        "the last (training samples)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
