"""Look into run directories, check them, and keep them tidy.

    python jobs/runs.py status s3://bucket/mattes
    python jobs/runs.py reconcile s3://bucket/mattes         # lost, doubled, unexpected: must be 0
    python jobs/runs.py explain s3://bucket/mattes 9f3c…     # where a record is from
    python jobs/runs.py reproduce s3://bucket/mattes 9f3c…   # make it again, and compare the alphas
    python jobs/runs.py latest s3://bucket/mattes --out latest.parquet
    python jobs/runs.py compact s3://bucket/mattes           # few files with commits
    python jobs/runs.py redo s3://bucket/mattes --shard 0007.tar   # forget its commits: the job makes them anew
    python jobs/runs.py gc s3://bucket/mattes --delete       # leftovers of killed jobs

The path is an output.path; the runs that followed the first one there are looked at, too. Exit code 0: all is well; 1:
something is lost, doubled or unexpected, not complete, or not reproduced; 2: the command can't be used like that.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.latest import Chain


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

    from pipeline.errors import ConfigurationError, PipelineError
    from pipeline.inspection import open_chain
    from sdmatte.urls import redact

    try:
        return _run(arguments, open_chain(arguments.path))
    except ConfigurationError as error:
        print(f"runs: {redact(str(error))}", file=sys.stderr)
        return 2
    except (PipelineError, OSError) as error:  # OSError: of Arrow, where a data file can't be read
        print(f"runs: {redact(str(error))}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobs/runs.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    helps = {
        "status": "the state of each run",
        "reconcile": "inputs against records, without reading any alpha",
        "explain": "where a record is from",
        "reproduce": "make a record again from its input, and compare",
        "latest": "write one table of the records that count, over all runs, without their alphas",
        "compact": "gather commits in few files",
        "redo": "forget commits of shards, or without data file, so that the job makes their records anew",
        "gc": "list, or delete, what killed jobs left behind",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("path", metavar="PATH", help="run directory: a local path or any fsspec URL")
        if name in ("explain", "reproduce"):
            command.add_argument("record", metavar="RECORD", help="id: 16 hexadecimal digits, or a number")
        if name == "reconcile":
            command.add_argument("--no-input", action="store_true", help="don't list the input")
        if name == "latest":
            command.add_argument("--out", required=True, metavar="FILE", help="Parquet file to write")
            command.add_argument("--where", metavar="CONDITION", help="such as: quality < 0.5 and label == 'cat'")
            command.add_argument("--reviewed", action="store_true", help="with verdicts and what else reviewers left")
        if name == "redo":
            command.add_argument(
                "--shard", action="append", default=[], metavar="NAME", help="may be given repeatedly"
            )
        if name == "gc":
            command.add_argument("--delete", action="store_true", help="delete what is listed")
    return parser


def _run(arguments: argparse.Namespace, chain: Chain) -> int:
    if arguments.command in ("reconcile", "reproduce"):
        return _check(arguments, chain)
    if arguments.command in ("compact", "redo", "gc"):
        return _tidy(arguments, chain)
    from pipeline import inspection, latest

    if arguments.command == "latest":
        count = latest.write(chain, arguments.out, arguments.where, reviewed=arguments.reviewed)
        print(f"{count:,} records in {arguments.out}")
        return 0 if len(chain.complete()) == len(chain.runs) else 1
    if arguments.command == "explain":
        print(inspection.explain(chain, arguments.record))
    else:
        print(inspection.status(chain))
    return 0


def _check(arguments: argparse.Namespace, chain: Chain) -> int:
    if arguments.command == "reconcile":
        from pipeline.inspection import reconcile

        found = reconcile(chain, list_input=not arguments.no_input)
        print(found)
        return 0 if found.complete else 1
    from pipeline.reproduce import reproduce

    made = reproduce(chain, arguments.record)
    print(made)
    return 0 if made.same else 1


def _tidy(arguments: argparse.Namespace, chain: Chain) -> int:
    from pipeline import upkeep
    from sdmatte.urls import redact

    if arguments.command == "compact":
        print("\n".join(upkeep.compact(chain)))
    elif arguments.command == "redo":
        forgotten = {run.path: upkeep.redo(run, arguments.shard) for run in chain.runs.values()}
        for path, count in forgotten.items():
            print(f"{redact(path)}: {count} commits forgotten")
        if not any(forgotten.values()):
            print("nothing was forgotten: no commit names such a shard, and all data files are there")
            return 1 if arguments.shard else 0
        print("start the job again, which makes their records anew")
    else:
        files = upkeep.collect_garbage(chain, delete=arguments.delete)
        print("\n".join([*(redact(file.uri) for file in files), f"{len(files)} files"]))
        if files and not arguments.delete:
            print("nothing was deleted; --delete does that")
    return 0


if __name__ == "__main__":
    from pipeline.leaving import leave

    leave(main())
