"""What each part of SDMatte is worth: `make ablation` trains one small model with all parts, and one without each.

    python benchmarks/ablation.py --out ablation.json
    python benchmarks/ablation.py --model sdmatte-nano options.learning_rate=2e-4 output.path=runs/ablation-trained

All variants have the same budget, seed, data and initial weights, and are measured on the same held-out pictures with
exact alphas (docs/ablation.md). The same command continues an interrupted run; variants that are finished are not
trained again. Exit code 0: every part helps; 1: some part does not, or the training stopped; 2: the configuration or
the weights must be changed first; 130: interrupted.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))  # for `benchmarks`, when run as a script

from benchmarks.ablation_runs import FULL, KINDS, SEED, Measured, run
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.training.config import TrainConfig, load_train_config
from sdmatte.errors import SDMatteError

Verdict = Literal["helps", "hurts", "no difference measured"]

CONFIG = Path(__file__).parent.parent / "configs" / "ablation-nano.yaml"
SAMPLES = 400
RESAMPLES = 1000
COVERED = 95.0
"""Of the bootstrap's intervals, percent."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean MAD over all prompts without a part, less that with all parts.

    Attributes:
        mean: Above 0 where the part helps.
        low: Lower end of the bootstrap's interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """What the interval says about the part."""
        return "helps" if self.low > 0 else "hurts" if self.high < 0 else "no difference measured"


def difference(without: Measured, full: Measured) -> Difference:
    """Compare a variant with the full model, picture by picture; the bootstrap draws pictures and has a fixed seed."""
    paired = (without.mads - full.mads).mean(axis=0)
    drawn = np.random.default_rng(SEED).integers(len(paired), size=(RESAMPLES, len(paired)))
    low, high = np.percentile(paired[drawn].mean(axis=1), [50 - COVERED / 2, 50 + COVERED / 2])
    return Difference(float(paired.mean()), float(low), float(high))


def table(found: Mapping[str, Measured]) -> str:
    """Lay out what was measured: a row per variant."""
    columns = (*KINDS, "all", "transparent")
    lines = [f"{'mean MAD':34}" + "".join(f"{name:>12}" for name in columns) + f"{'all - full':>14}   95 % interval"]
    for name, measured in found.items():
        figures = measured.figures()
        line = f"{name if name == FULL else f'without {name}':34}"
        line += "".join(f"{'-':>12}" if figures[key] is None else f"{figures[key]:12.4f}" for key in columns)
        if name != FULL:
            gap = difference(measured, found[FULL])
            line += f"{gap.mean:+14.4f}   {gap.low:+.4f} to {gap.high:+.4f}"
        lines.append(line)
    return "\n".join(lines)


def verdicts(found: Mapping[str, Measured]) -> dict[str, Verdict]:
    """Return what was found about each part."""
    return {name: difference(measured, found[FULL]).verdict for name, measured in found.items() if name != FULL}


def report(config: TrainConfig, found: Mapping[str, Measured]) -> dict[str, Any]:
    """Return the figures, and each picture's MADs, as JSON holds them."""
    full = found[FULL]
    variants = {
        name: {
            "figures": measured.figures(),
            "difference": None if name == FULL else asdict(difference(measured, full)),
            "verdict": None if name == FULL else difference(measured, full).verdict,
            "mads": {kind: row.round(6).tolist() for kind, row in zip(KINDS, measured.mads, strict=True)},
        }
        for name, measured in found.items()
    }
    return {
        "config": config.model_dump(mode="json"),
        "samples": full.mads.shape[1],
        "pictures": full.pictures,
        "empty": full.empty,
        "transparent": full.transparent.tolist(),
        "variants": variants,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(CONFIG), help="training configuration (default: %(default)s)")
    parser.add_argument("--model", metavar="SOURCE", help="start all variants from these weights, and train them on")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="pictures to measure on (default: %(default)s)")
    parser.add_argument(
        "--parallel", type=int, default=2, help="variants at a time, a core each (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="file for the figures, and for each picture's, as JSON")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="replaces single keys of the file")
    arguments = parser.parse_intermixed_args(argv)
    if min(arguments.samples, arguments.parallel) < 1:
        parser.error("--samples and --parallel must be at least 1")
    start = json.dumps({"start": "continue", "source": arguments.model})
    overrides = [*([f"model={start}"] if arguments.model else []), *arguments.overrides]
    try:
        config = load_train_config(arguments.config, overrides)
        found = run(config, arguments.samples, arguments.parallel)
    except (ConfigurationError, SDMatteError) as error:
        print(f"ablation: {error}", file=sys.stderr)
        return 2
    except PipelineError as error:
        print(f"ablation: {error}", file=sys.stderr)
        return 1
    except BrokenProcessPool:
        print("ablation: a variant's process died (out of memory?); the same command continues", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ablation: stopped; the same command continues", file=sys.stderr)
        return 130
    full = found[FULL]
    print(
        f"\n{arguments.samples} pictures ({full.pictures}), {int(full.transparent.sum())} of transparent objects "
        f"(measured with boxes); {config.options.training_options().steps} steps; MAD of an empty matte: "
        f"{full.empty:.4f}\n\n{table(found)}\n"
    )
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report(config, found), indent=1) + "\n", encoding="utf-8")
    for part, verdict in verdicts(found).items():
        print(f"{part:34}{verdict}")
    return 0 if set(verdicts(found).values()) == {"helps"} else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
