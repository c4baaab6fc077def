"""Decide which mattes are used, looked at or left out; and write data sets of what was accepted.

    python jobs/curate.py decide s3://bucket/mattes --out s3://bucket/curated --target-error 0.01
    python jobs/curate.py decide run-a run-b --out curated --budget 500 --per label,size
    python jobs/curate.py decide run-a --out curated --accept-above 0.8 --reject-below 0.3 --at-most 1000 --per label
    python jobs/curate.py export curated --as coco --out dataset

`decide` writes decisions.parquet, a row with a reason for each record, and curation.json; docs/curation.md describes
the rules. Exit code 0: all is well; 1: records are there twice, or something could not be exported; 2: the command
can't be used like that.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

FORMS = ("huggingface", "webdataset", "coco", "cutouts", "trimaps")
TRAITS = ("label", "size", "source")
EXPORT_OPTIONS: dict[str, tuple[type, str]] = {
    "shard_mb": (int, "size of Parquet and tar shards in MiB (default: 256)"),
    "crop_margin": (float, "crop cut-outs to the object, wider by this share of its longer side"),
    "trimap_low": (float, "alpha up to here is surely background (default: 0.05)"),
    "trimap_high": (float, "alpha from here on is surely foreground (default: 0.95)"),
    "trimap_radius": (float, "widen the unknown band by this share of the image's longer side (default: 0.005)"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

    from pipeline.errors import ConfigurationError, PipelineError
    from sdmatte.urls import redact

    try:
        return _decide(arguments) if arguments.command == "decide" else _export(arguments)
    except ConfigurationError as error:
        print(f"curate: {redact(str(error))}", file=sys.stderr)
        return 2
    except (PipelineError, OSError) as error:  # OSError: of Arrow, where a data file can't be read
        print(f"curate: {redact(str(error))}", file=sys.stderr)
        return 1


def _decide(arguments: argparse.Namespace) -> int:
    from pipeline.curation.config import decide_settings
    from pipeline.curation.job import curate

    values = {name: value for name, value in vars(arguments).items() if name != "command"}
    done = curate(decide_settings(**values))
    print(done)
    return 0 if done.complete else 1


def _export(arguments: argparse.Namespace) -> int:
    from pipeline.curation.export import export_accepted
    from pipeline.curation.exports.base import ExportSettings

    chosen = {name: getattr(arguments, name) for name in EXPORT_OPTIONS}
    done = export_accepted(
        arguments.folder,
        arguments.out,
        arguments.form,
        decision=arguments.decision,
        where=arguments.where,
        settings=ExportSettings(**{name: value for name, value in chosen.items() if value is not None}),
    )
    print(done)
    return 0 if done.complete else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobs/curate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_decide(commands.add_parser("decide", help="accept, review or reject each record of one or more runs"))
    export = commands.add_parser("export", help="write what was accepted as a data set")
    export.add_argument("folder", metavar="FOLDER", help="what `decide` wrote")
    export.add_argument("--as", dest="form", required=True, choices=FORMS, help="the form")
    export.add_argument("--out", required=True, metavar="FOLDER", help="where to write: a path or any fsspec URL")
    export.add_argument(
        "--decision", default="accept", choices=("accept", "review", "reject"), help="default: %(default)s"
    )
    export.add_argument("--where", metavar="CONDITION", help="only records that meet it, such as: label == 'cat'")
    for name, (kind, text) in EXPORT_OPTIONS.items():
        export.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=text)
    return parser


def _add_decide(command: argparse.ArgumentParser) -> None:
    command.add_argument("runs", nargs="+", metavar="RUN", help="run directory (output.path) with its follow-ups")
    command.add_argument("--out", required=True, metavar="FOLDER", help="where to write: a path or any fsspec URL")
    rules = command.add_argument_group("what is accepted (at least one of them)")
    rules.add_argument(
        "--target-error", type=float, metavar="MAD", help="as many as possible, with this mean predicted error"
    )
    rules.add_argument(
        "--budget",
        type=int,
        metavar="N",
        help="at most N are reviewed; alone: the worst N, the rest is accepted, and what has no score that was "
        "calibrated for its model is reviewed, too",
    )
    rules.add_argument("--accept-above", type=float, metavar="QUALITY", help="only of at least this quality")
    rules.add_argument(
        "--accept", action="append", default=[], metavar="CONDITION", help="only what meets it; repeatable"
    )
    rules = command.add_argument_group("what is rejected, besides errors")
    rules.add_argument("--reject-below", type=float, metavar="QUALITY", help="of less than this quality")
    rules.add_argument(
        "--reject",
        action="append",
        default=[],
        metavar="CONDITION",
        help='what meets it, such as "fragments > 20 or prompt_iou < 0.3"; repeatable',
    )
    rules.add_argument(
        "--duplicates",
        type=_bits,
        default=6,
        metavar="BITS",
        help="images whose hashes differ in at most so many of 64 bits (default: %(default)s; 0: equal ones; off)",
    )
    rules.add_argument(
        "--on-duplicate", default="reject", choices=("reject", "keep"), help="keep: only mark them (default: reject)"
    )
    balance = command.add_argument_group("order and balance")
    balance.add_argument(
        "--rank",
        default="absolute",
        choices=("absolute", "relative"),
        help="review by the error over the image, or by the object's size (default: %(default)s)",
    )
    balance.add_argument(
        "--per", type=_traits, default=(), metavar="TRAITS", help="of label,size,source: spread the budget over these"
    )
    balance.add_argument("--at-most", type=int, metavar="N", help="accept at most N, of each stratum with --per")


def _bits(text: str) -> int | None:
    if text == "off":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be off, or a number of bits from 0 to 12")
    return int(text)


def _traits(text: str) -> tuple[str, ...]:
    traits = tuple(part.strip() for part in text.split(","))
    if not set(traits) <= set(TRAITS):
        raise argparse.ArgumentTypeError(f"{text!r} must be of {', '.join(TRAITS)}, separated by commas")
    return traits


if __name__ == "__main__":
    from pipeline.leaving import leave

    leave(main())
