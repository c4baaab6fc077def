"""Train SDMatte, or distil LiteSDMatte from it.

    python jobs/train.py --config configs/train-sdmatte.yaml --workers 8
    python jobs/train.py --config train.yaml --local options.learning_rate=1e-4

Runs on Ray Train; with --local in this process. Ctrl-C or SIGTERM saves a checkpoint and stops, and the same command
continues an interrupted run. Exit code 0: trained to the end, the model is exported; 1: it stopped on the way; 2: the
configuration, the weights or the data must be changed first; 130: interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="jobs/train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file; see docs/training.md")
    parser.add_argument("--workers", type=int, metavar="N", help="same as workers.count=N")
    parser.add_argument("--local", action="store_true", help="one worker in this process, without Ray")
    parser.add_argument("--export", action="store_true", help="only export the model of the last checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="replaces single keys of the file")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.local and arguments.workers is not None:
        parser.error("--local has one worker, in this process; leave out --workers, or --local")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

    from pipeline.errors import ConfigurationError, PipelineError
    from pipeline.training.config import load_train_config
    from pipeline.training.run import export_model, train
    from sdmatte.urls import redact

    overrides = list(arguments.overrides)
    if arguments.workers is not None:
        overrides.append(f"workers.count={arguments.workers}")
    elif arguments.local:
        overrides.append("workers.count=1")
    try:
        config = load_train_config(arguments.config, overrides)
        if arguments.export:
            print(export_model(config))
            return 0
        outcome = train(config, local=arguments.local)
    except ConfigurationError as error:
        print(f"train: {redact(str(error))}", file=sys.stderr)
        return 2
    except PipelineError as error:
        print(f"train: {redact(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train: stopped at once; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    print(outcome)
    return 0 if outcome.complete else 130


if __name__ == "__main__":
    from pipeline.leaving import leave

    leave(main())
