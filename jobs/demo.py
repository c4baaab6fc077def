"""Label ten real photographs on this machine: the quickest way to see records, a report and a contact sheet.

    python jobs/demo.py [--out demo-run]

Packs the photographs as WebDataset shards, writes a configuration, and runs jobs/label.py with it as a user would.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.demo import DEMO_MODEL, Demo, prepare_demo
from pipeline.errors import ConfigurationError
from sdmatte.configs import packaged_folder

_LABEL = Path(__file__).resolve().with_name("label.py")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code of the labelling job, or 2 where it could not be prepared."""
    parser = argparse.ArgumentParser(
        prog="jobs/demo.py",
        description="Label ten photographs that ship with scikit-image, through the same job as any other corpus.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo-run"),
        metavar="FOLDER",
        help="where to write; what an earlier demo made there is replaced (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    try:
        demo = prepare_demo(options.out)
    except ConfigurationError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2

    corpus = demo.corpus
    command = [sys.executable, str(_LABEL), "--config", str(demo.config)]
    print(f"Packed {corpus.images} photographs with {corpus.objects} prompts into {len(corpus.shards)} shards.")
    print(f"$ {_shown(command)}\n", flush=True)
    code = _run(command)
    if code == 0:
        print(_what_to_look_at(demo))
    else:
        print(f"\ndemo: the labelling job failed with exit code {code}; its messages stand above", file=sys.stderr)
    return code


def _run(command: Sequence[str]) -> int:
    """Run a command in the foreground; return its exit code."""
    with subprocess.Popen(command) as job:  # noqa: S603 - our own interpreter and script
        while True:
            try:
                return job.wait()
            except KeyboardInterrupt:
                continue  # Ctrl-C went to the job as well; it stops in its own, orderly way


def _what_to_look_at(demo: Demo) -> str:
    released = [
        *(sys.executable, str(_LABEL), "--config", str(demo.config)),
        "model.source=LongfeiHuang/SDMatte",
        f"output.path={_near(demo.run.with_name('released'))}",
    ]
    return f"""
  contact sheet  {_near(demo.run / "report" / "contact_sheet.jpg")}
  report         {_near(demo.run / "report" / "index.html")}
  records        {_near(demo.run / "records")}/*.parquet

The mattes are those of {DEMO_MODEL}, the small model in the package, trained on two CPU cores. Where it fails, says
{_near(packaged_folder(DEMO_MODEL) / "README.md")}. With the released weights, 170 times its size (downloads 12 GB):

  {_shown(released)}
"""


def _shown(command: Sequence[str]) -> str:
    """Return a command as it can be typed in the current folder."""
    return shlex.join(_near(Path(part)) if Path(part).is_absolute() else part for part in command)


def _near(path: Path) -> str:
    """Return a path relative to the current folder where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


if __name__ == "__main__":
    sys.exit(main())
