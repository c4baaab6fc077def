"""Bring mattes to people, the worst first, and their corrections back.

    python jobs/review.py export s3://bucket/mattes --limit 200 --tool label_studio --out to-review
    python jobs/review.py export --decisions curated --tool cvat --out to-review
    python jobs/review.py push to-review --url http://localhost:8080       # Label Studio only
    python jobs/review.py import s3://bucket/mattes --tool label_studio --url http://localhost:8080 --project 3
    python jobs/review.py import s3://bucket/mattes --tool cvat --from annotations.xml --rematte

What comes back is added to reviews/ in the output.path that holds the records; nothing there is overwritten. Exit
code 0: all is well; 1: something can't be shown, or came back and can't be used (it is listed); 2: the command can't
be used like that.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.review.items import Returned, ReturnFault

TOOLS = ("label_studio", "cvat", "coco")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

    from pipeline.errors import ConfigurationError, PipelineError
    from pipeline.storage import NotFoundError
    from sdmatte.urls import redact

    try:
        return {"export": _export, "push": _push, "import": _import}[arguments.command](arguments)
    except (ConfigurationError, NotFoundError) as error:
        print(f"review: {redact(str(error))}", file=sys.stderr)
        return 2
    except (PipelineError, OSError) as error:  # OSError: of the temporary folder
        print(f"review: {redact(str(error))}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobs/review.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    export = commands.add_parser("export", help="write the files of a tool's project, worst objects first")
    export.add_argument("outputs", metavar="OUTPUT", nargs="*", help="an output.path")
    export.add_argument("--decisions", metavar="FOLDER", help="what jobs/curate.py wrote; instead of OUTPUT")
    export.add_argument("--limit", type=_count, metavar="N", help="how many objects at most")
    export.add_argument("--where", metavar="CONDITION", help="such as: label == 'cat' and predicted_mad > 0.02")
    export.add_argument("--again", action="store_true", help="objects that were reviewed already, too")
    export.add_argument("--tool", choices=TOOLS, required=True)
    export.add_argument("--out", metavar="FOLDER", required=True, help="new or empty")
    export.add_argument("--title", default="Mattes to review", help="of the project")
    export.add_argument(
        "--images",
        choices=("files", "embed", "uri"),
        default="files",
        help="Label Studio: how pictures reach the browser (default: files)",
    )

    push = commands.add_parser("push", help="bring an export to a Label Studio server")
    push.add_argument("folder", metavar="FOLDER", help="what export wrote")
    _add_server(push, needed=True)

    back = commands.add_parser("import", help="add what people did to the outputs that hold the records")
    back.add_argument("outputs", metavar="OUTPUT", nargs="+", help="an output.path")
    back.add_argument("--tool", choices=TOOLS, required=True)
    back.add_argument("--from", dest="file", metavar="FILE", help="the tool's export; instead of --url")
    _add_server(back, needed=False)
    back.add_argument("--rematte", action="store_true", help="matte edited regions again, with the corrected mask")
    back.add_argument("--rematte-model", metavar="SOURCE", help="with this model; default: that of the run")
    back.add_argument("--reviewer", metavar="NAME", help="who, for tools that don't say")
    back.add_argument("--dry-run", action="store_true", help="write nothing")
    return parser


def _add_server(parser: argparse.ArgumentParser, *, needed: bool) -> None:
    parser.add_argument("--url", metavar="URL", required=needed, help="of the Label Studio server")
    parser.add_argument("--project", type=_count, metavar="N", help="its number; it stands in the URL of the project")
    token = parser.add_mutually_exclusive_group()
    token.add_argument(
        "--token-env", metavar="NAME", default="LABEL_STUDIO_API_KEY", help="environment variable with the token"
    )
    token.add_argument("--token-file", metavar="FILE", help="file with the token")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _export(arguments: argparse.Namespace) -> int:
    from pipeline.errors import ConfigurationError
    from pipeline.review import coco, cvat, label_studio, select
    from sdmatte.urls import redact

    if bool(arguments.outputs) == bool(arguments.decisions):
        raise ConfigurationError("name either outputs or --decisions FOLDER")
    limits: dict[str, Any] = {"limit": arguments.limit, "where": arguments.where, "again": arguments.again}
    if arguments.decisions:
        selection = select.choose_decided(arguments.decisions, **limits)
    else:
        select.check_folder(arguments.out, arguments.outputs)
        selection = select.choose(arguments.outputs, **limits)
    select.check_folder(arguments.out, (each.output for each in selection.objects))
    if selection.outdated:
        print(f"{selection.outdated:,} decisions are about records that were made anew since: curate again")
    if selection.reviewed:
        print(f"{selection.reviewed:,} objects were reviewed already; --again brings them, too")
    if not selection.objects:
        print("there is nothing to review")
        return 0
    linked = arguments.tool == "label_studio" and arguments.images == "uri"
    items = select.review_items(selection.objects, originals=not linked)
    if arguments.tool == "label_studio":
        done = label_studio.export(items, arguments.out, images=arguments.images, title=arguments.title)
    else:
        export = cvat.export if arguments.tool == "cvat" else coco.export
        done = export(items, arguments.out, title=arguments.title)
    for fault in done.left_out:
        print(f"FAULT: {fault.where}: {fault.message}")
    print(f"{done.tasks:,} of {len(selection.objects):,} objects are in {redact(done.folder)}")
    return 0 if done.tasks == len(selection.objects) else 1


def _push(arguments: argparse.Namespace) -> int:
    from pipeline.review import label_studio

    done = label_studio.push(arguments.folder, arguments.url, _token(arguments), project=arguments.project)
    print(f"{done.imported:,} tasks pushed, {done.present:,} were there already\n{done.url}")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from pipeline.errors import ConfigurationError
    from pipeline.review.job import import_reviews
    from pipeline.review.rematte import Rematters

    if arguments.rematte_model and not arguments.rematte:
        raise ConfigurationError("--rematte-model goes with --rematte")
    done = import_reviews(
        arguments.outputs,
        _returned(arguments),
        rematter=Rematters(arguments.rematte_model) if arguments.rematte else None,
        reviewer=arguments.reviewer,
        dry_run=arguments.dry_run,
    )
    print(done)
    if arguments.dry_run:
        print("nothing was written (--dry-run)")
    return 1 if done.faults or done.notes else 0


def _returned(arguments: argparse.Namespace) -> Iterator[Returned | ReturnFault]:
    from pipeline.errors import ConfigurationError
    from pipeline.review import coco, cvat, label_studio

    if bool(arguments.file) == bool(arguments.url):
        raise ConfigurationError("name either --from FILE or --url URL with --project N")
    if arguments.url:
        if arguments.tool != "label_studio" or arguments.project is None:
            raise ConfigurationError("--url goes with --tool label_studio and --project N; of other tools give --from")
        return label_studio.read(label_studio.pull(arguments.url, _token(arguments), arguments.project))
    if arguments.tool == "label_studio":
        return label_studio.read(_tasks(arguments.file))
    return cvat.read(arguments.file) if arguments.tool == "cvat" else coco.read(arguments.file)


def _tasks(path: str) -> list[Any]:
    """Read a project's export as "JSON"."""
    import json

    from pipeline import storage
    from pipeline.errors import ConfigurationError

    try:
        tasks = json.loads(storage.read_bytes(path))
    except (ValueError, RecursionError):
        tasks = None
    if not isinstance(tasks, list):
        raise ConfigurationError(f'{path} is no list of tasks; export the project as "JSON" (not as JSON-MIN)')
    return tasks


def _token(arguments: argparse.Namespace) -> str:
    """Return the token, which is never an argument: those are seen by everyone on the machine."""
    from pipeline.errors import ConfigurationError

    if arguments.token_file:
        try:
            token = Path(arguments.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"--token-file {arguments.token_file} can't be read: {error}") from None
    else:
        token = os.environ.get(arguments.token_env, "").strip()
    if not token:
        where = arguments.token_file or f"the environment variable {arguments.token_env}"
        raise ConfigurationError(f"{where} holds no token: copy it from your account in Label Studio")
    return token


if __name__ == "__main__":
    from pipeline.leaving import leave

    leave(main())
