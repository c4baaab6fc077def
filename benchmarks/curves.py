"""Loss curves of a training run: `make curves RUN=runs/nano`, or `make curves` for those of the bundled model.

Reads `log.jsonl` of a run's folder (several parts of one run: one after the other; `.gz` as well) and draws the means
over a window of steps: MAD and the four losses of the paper, with a line where the size of the pictures changes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LOGS = Path(__file__).parent / "nano_training"
PANELS = (("mad",), ("l1_known", "l1_unknown"), ("laplacian_known", "laplacian_unknown"))
WINDOW = 100

_NEEDED = {"step", "size", "seconds", *sum(PANELS, ())}

Log = dict[str, NDArray[np.float64]]


class CurvesError(Exception):
    """There is nothing to draw, or no way to draw it."""


def read_log(path: Path) -> Log:
    """Read the logs of a run.

    Args:
        path: A log, or a folder with logs: `*.jsonl` or `*.jsonl.gz`, in the order of their names.

    Returns:
        A column per number that every step has, one entry per step; `step` counts on over all logs.

    Raises:
        CurvesError: There is no log, or one has no steps, is damaged, or is not that of a training run.
        OSError: A log can't be opened.
    """
    files = [path] if path.is_file() else sorted([*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")])
    if not files:
        raise CurvesError(f"{path} holds no *.jsonl or *.jsonl.gz; name the folder of a training run")
    rows: list[dict[str, float]] = []
    offset = own = 0.0  # steps before the part, and the last step that it counts itself
    for file in files:
        part = _read_part(file)
        if rows and part[0]["step"] <= own:  # counts from the start again, rather than on from the part before it
            offset = rows[-1]["step"]
        own = part[-1]["step"]
        rows += [{**row, "step": row["step"] + offset} for row in part]
    names = set.intersection(*(set(row) for row in rows))
    return {name: np.array([row[name] for row in rows], np.float64) for name in sorted(names)}


def _read_part(file: Path) -> list[dict[str, float]]:
    """Read one log: the numbers of each of its steps, of which there is at least one."""
    rows: list[dict[str, float]] = []
    try:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                row = json.loads(line)
                numbers = {k: v for k, v in row.items() if isinstance(v, int | float)} if isinstance(row, dict) else {}
                if missing := _NEEDED - numbers.keys():
                    raise CurvesError(
                        f"{file}, line {number}, is not a step of a training run: no number for "
                        f"{', '.join(sorted(missing))}; name the folder of a training run"
                    )
                rows.append(numbers)
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CurvesError(f"{file} is cut or damaged after {len(rows)} steps ({error}); copy it again") from error
    if not rows:
        raise CurvesError(f"{file} has no steps yet; wait for the first one, or name another run")
    return rows


def smoothed(values: NDArray[np.float64], window: int = WINDOW) -> NDArray[np.float64]:
    """Return the mean over the last `window` values, fewer at the start; same length."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(0, stop - window)
    return np.asarray((sums[stop] - sums[start]) / (stop - start))


def draw(log: Log, out: Path) -> None:
    """Draw the curves to a picture file, in a folder that is made if need be.

    Raises:
        CurvesError: matplotlib is missing, or does not know that kind of file.
        OSError: The file can't be written.
    """
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise CurvesError(f"the curves are drawn with matplotlib ({error}): pip install 'sdmatte[dev]'") from error

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
    if out.suffix[1:].lower() not in (kinds := figure.canvas.get_supported_filetypes()):
        raise CurvesError(f"{out} is no kind of picture that can be drawn; end its name in one of {', '.join(kinds)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, say where the run stood, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=LOGS, help="log or folder of logs (default: the bundled model's)")
    parser.add_argument("--out", type=Path, default=Path("runs/curves.png"), help="picture (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        log = read_log(arguments.run)
        draw(log, arguments.out)
    except (OSError, CurvesError) as error:
        print(f"curves: {error}", file=sys.stderr)
        return 2
    hours = log["seconds"].sum() / 3600
    print(
        f"{arguments.out}: {len(log['step'])} steps, {hours:.2f} h of optimisation; "
        f"MAD {log['mad'][:WINDOW].mean():.4f} over the first {WINDOW} steps, {log['mad'][-WINDOW:].mean():.4f} over "
        "the last (training samples)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
