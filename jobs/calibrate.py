"""Fit the prediction of a model's error on a data set with true alphas.

    python jobs/calibrate.py --data folder=photos --model ./mine --out mine.json
    python jobs/calibrate.py --data aim-500=/data/AIM-500 --model ./mine --out mine-flip.json quality.second=flip

Labels the set with the pipeline, with prompts from the true alphas as in jobs/evaluate.py, joins the records' features
with their true errors, and writes what turns the ones into the other: a JSON file for `quality.calibration` of
labelling runs. docs/quality.md says how much data it takes, and what the figures mean. They are of images that were
left out when fitting. The same command goes on with a run that was interrupted.

Exit code 0: the file is written, and every object counted; 3: it is written, but files are missing or objects have no
matte; 1: it stopped before; 2: a folder, the model or an option must be changed first; 130: interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.quality.fit import Fitted

KINDS = ("box", "mask", "points")
INCOMPLETE = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    arguments = _parse(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

    from pipeline.errors import ConfigurationError, PipelineError
    from sdmatte.urls import redact

    try:
        return _calibrate(arguments)
    except ConfigurationError as error:
        print(f"calibrate: {redact(str(error))}", file=sys.stderr)
        return 2
    except PipelineError as error:
        print(f"calibrate: {redact(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("calibrate: interrupted; the same command goes on", file=sys.stderr)
        return 130


def _calibrate(arguments: argparse.Namespace) -> int:
    from pipeline.evaluation.datasets import parse_dataset
    from pipeline.evaluation.job import Settings
    from pipeline.quality.calibration_file import Second
    from pipeline.quality.fit import check_installed, fit
    from pipeline.quality.samples import collect

    check_installed()  # before the run, which may take hours
    settings = Settings(
        datasets=tuple(parse_dataset(text) for text in arguments.data),
        models=(arguments.model,),
        baselines=(),
        out=arguments.work or arguments.out.with_suffix(""),
        kinds=arguments.prompts,
        seed=arguments.seed,
        limit=arguments.limit,
        processes=arguments.processes,
        overrides=(*arguments.overrides, "quality.calibration=none"),
    )
    collected = collect(settings, arguments.damaged)
    for fault in collected.faults[:20]:
        print(f"- {fault}")
    for name, count in collected.errors.items():
        print(f"- {count} x {name}: without a matte, and not fitted to")
    wanted = {arguments.out: collected.second}
    if arguments.single:
        wanted[arguments.single] = Second(kind="none")
    for path, second in wanted.items():
        samples = collected.samples if second.kind == "none" else collected.samples.own()
        _write(path, fit(samples, collected.origin, second, collected.data, seed=arguments.seed))
    return INCOMPLETE if collected.faults or collected.errors else 0


def _write(path: Path, fitted: Fitted) -> None:
    from pipeline.quality.calibration import Calibration
    from pipeline.quality.calibration_file import encoded
    from pipeline.storage import write_bytes_atomic

    content, found = fitted.content, fitted.figures
    data = encoded(content)
    write_bytes_atomic(str(path), data)
    print(
        f"\n{path}: {len(data) / 1000:.0f} kB, id {Calibration.of(content).id}\n"
        f"  for {content.model.name} at {content.model.input_size} px, second pass: {content.second.kind}\n"
        f"  {found.records} records, and {content.data['damaged']} damaged ones; on images left out when fitting:\n"
        f"  Spearman of predicted and true MAD       {found.spearman:8.3f}\n"
        f"  error in the worst-scored fifth          {found.worst_share:8.1%}  "
        f"(at most {found.worst_share_oracle:.1%})\n"
        f"  expected calibration error / mean MAD    {found.ece_relative:8.1%}\n"
        f"  AURC                                     {found.aurc:8.4f}  (random {found.aurc_random:.4f}, "
        f"oracle {found.aurc_oracle:.4f})"
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="jobs/calibrate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="LAYOUT=FOLDER",
        help="a data set, as in jobs/evaluate.py: aim-500, am-2k, p3m-500-np, refmatte-rw-100, folder; repeatable",
    )
    parser.add_argument(
        "--model", required=True, metavar="SOURCE", help="sdmatte-nano (bundled), folder, weights file, hub id or URL"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="the calibration")
    parser.add_argument(
        "--single",
        type=Path,
        metavar="FILE.json",
        help="write that for runs without a second pass, too: the first mattes are the same",
    )
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="where the run is kept (default: --out without its ending)"
    )
    parser.add_argument(
        "--prompts", type=_kinds, default=KINDS, metavar="KINDS", help="of box,mask,points (default: all)"
    )
    parser.add_argument(
        "--damaged",
        type=int,
        choices=range(5),
        default=1,
        metavar="N",
        help="damaged mattes to add for each of the model's, 0 to 4 (default: %(default)s); those for a second pass "
        "do without",
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N objects of each set")
    parser.add_argument("--seed", type=int, default=0, help="of what is random (default: %(default)s)")
    parser.add_argument(
        "--processes",
        type=_positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="that measure mattes (default: one per CPU)",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="for the run: docs/configuration.md")
    return parser.parse_intermixed_args(argv)


def _kinds(text: str) -> tuple[str, ...]:
    chosen = {part.strip() for part in text.split(",")}
    if not chosen <= set(KINDS):
        raise argparse.ArgumentTypeError(f"{text!r} must be of {', '.join(KINDS)}, separated by commas")
    return tuple(kind for kind in KINDS if kind in chosen)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    from pipeline.leaving import leave

    leave(main())
