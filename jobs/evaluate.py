"""Evaluate models and baselines on data sets with true alphas.

    python jobs/evaluate.py --data aim-500=/data/AIM-500 --model LongfeiHuang/SDMatte --out evaluation
    python jobs/evaluate.py --data folder=photos --model ./mine --baseline grabcut --out mine model.input_size=512

Prints a table like the paper's, and writes it (Markdown, JSON), the scores of every object (Parquet) and a contact
sheet of each method's worst mattes; docs/evaluation.md describes them. The same command goes on with an evaluation
that was interrupted. Exit code 0: every object of every set was measured; 3: the table stands, but files are missing
or objects have no matte, which are named at its end; 1: it stopped before there was a table; 2: a folder, a model or
an option must be changed first; 130: interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

KINDS = ("box", "mask", "points")
BASELINES = ("prompt", "grabcut", "closed_form")
INCOMPLETE = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    arguments = _parse(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

    from pipeline.errors import ConfigurationError, PipelineError
    from pipeline.evaluation.datasets import parse_dataset
    from pipeline.evaluation.job import Settings, evaluate
    from sdmatte.urls import redact

    names = {"image": arguments.image_dir, "alpha": arguments.alpha_dir, "trimap": arguments.trimap_dir}
    try:
        settings = Settings(
            datasets=tuple(parse_dataset(text, **names) for text in arguments.data),
            models=tuple(dict.fromkeys(arguments.model)),
            baselines=tuple(dict.fromkeys(arguments.baseline)),
            out=arguments.out,
            kinds=arguments.prompts,
            seed=arguments.seed,
            limit=arguments.limit,
            processes=arguments.processes,
            overrides=tuple(arguments.overrides),
        )
        outcome = evaluate(settings)
    except ConfigurationError as error:
        print(f"evaluate: {redact(str(error))}", file=sys.stderr)
        return 2
    except PipelineError as error:
        print(f"evaluate: {redact(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("evaluate: interrupted; the same command goes on", file=sys.stderr)
        return 130
    print(outcome)
    print("".join(f"  {file}\n" for file in outcome.files), end="")
    return 0 if outcome.complete else INCOMPLETE


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="jobs/evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="LAYOUT=FOLDER",
        help="a data set; layouts: aim-500, am-2k, p3m-500-np, refmatte-rw-100, folder; repeatable",
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="SOURCE",
        help="a model: sdmatte-nano (bundled), folder, weights file, hub id or URL; repeatable",
    )
    parser.add_argument(
        "--baseline", action="append", default=[], choices=BASELINES, help="a method without a model; repeatable"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write")
    parser.add_argument(
        "--prompts", type=_kinds, default=KINDS, metavar="KINDS", help="of box,mask,points (default: all)"
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N objects of each set")
    parser.add_argument("--seed", type=int, default=0, help="of what is random in the prompts (default: %(default)s)")
    parser.add_argument(
        "--processes",
        type=_positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="that score mattes and compute baselines (default: one per CPU), each with up to 1 GB",
    )
    parser.add_argument("--image-dir", metavar="NAME", help="layout folder: folder of the images (default: image)")
    parser.add_argument("--alpha-dir", metavar="NAME", help="layout folder: folder of the alphas (default: alpha)")
    parser.add_argument("--trimap-dir", metavar="NAME", help="layout folder: folder of the trimaps (default: trimap)")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="for the runs: docs/configuration.md"
    )
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
