"""Label a corpus: images and prompts in, a run directory of records with alpha mattes out.

    python jobs/label.py --config corpus.yaml
    python jobs/label.py --config corpus.yaml model.precision=bfloat16 output.path=s3://bucket/runs/7
    ray job submit --working-dir . -- python jobs/label.py --config corpus.yaml

    python jobs/label.py --config corpus.yaml --incremental
    python jobs/label.py --config corpus.yaml --retry error_code=image_unavailable

The same command continues a run that was interrupted. The options label what is new, or records anew, in a run that
follows the complete one at output.path. Exit code 0: the run is complete, every input has exactly one record; 1: it is
not; 2: the configuration, the input or the model must be changed first; 130: interrupted (Ctrl-C or
SIGTERM).
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.scopes import Selection


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="jobs/label.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file, local or any fsspec URL; see docs/configuration.md"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything that costs nothing, print the plan")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--incremental", action="store_true", help="only images and prompts that no run of this configuration holds"
    )
    what.add_argument("--retry", metavar="error_code=CODES", help="records with these error codes again, or =all")
    what.add_argument("--where", metavar="CONDITION", help="records again, such as: quality < 0.5 and label == 'cat'")
    parser.add_argument(
        "--max-error-rate",
        metavar="SHARE",
        help="short for failures.max_error_rate: stop when more objects are errors",
    )
    parser.add_argument(
        "--canary", metavar="IMAGES", help="short for failures.canary_images: label so many first, and judge by them"
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="replaces single keys of the file")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

    from pipeline.config import load_config
    from pipeline.errors import ConfigurationError, PipelineError
    from pipeline.label import label
    from pipeline.plan import plan
    from sdmatte.urls import redact

    try:
        config = load_config(arguments.config, [*arguments.overrides, *shorthands(arguments)])
        if arguments.dry_run:
            print(plan(config, selection(arguments)))
            return 0
        summary = label(config, selection(arguments))
    except ConfigurationError as error:
        print(f"label: {redact(str(error))}", file=sys.stderr)
        return 2
    except PipelineError as error:
        print(f"label: {redact(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("label: interrupted; the same command continues this run", file=sys.stderr)
        return 130
    print(summary)
    return 0 if summary.complete else 1


def shorthands(arguments: argparse.Namespace) -> list[str]:
    """Return the overrides that options stand for."""
    named = {"failures.max_error_rate": arguments.max_error_rate, "failures.canary_images": arguments.canary}
    return [f"{key}={value}" for key, value in named.items() if value is not None]


def selection(arguments: argparse.Namespace) -> Selection:
    """Return what the options ask for; raises ConfigurationError."""
    from pipeline import where
    from pipeline.errors import ConfigurationError
    from pipeline.scopes import Selection

    if arguments.incremental:
        return Selection("incremental")
    if arguments.retry is not None:
        key, _, codes = arguments.retry.partition("=")
        if key != "error_code":
            raise ConfigurationError(
                f"--retry {arguments.retry} is not of the form error_code=CODE,CODE or error_code=all"
            )
        return Selection("again", where.of_codes(codes))
    if arguments.where is not None:
        where.parse(arguments.where)
        return Selection("again", arguments.where)
    return Selection()


if __name__ == "__main__":
    from pipeline.leaving import leave

    leave(main())
