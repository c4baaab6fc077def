"""Bad and unusual inputs, each between good neighbours: `make zoo`.

Three corpora (tar shards, a folder, a manifest) are labelled by `jobs/label.py` with the bundled model. Every input
must end as its records, with the documented code or notes, and every neighbour must be ok. Prints and writes
docs/zoo.md; last the figures, which must be 0. Exits with 0 if they are, 1 if not.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # for `support`: the animals, which the tests use, too
sys.path.insert(0, str(Path(__file__).parent.parent))  # for `benchmarks`, when run as a script

from benchmarks.chaos_job import QUIET, ROOT
from pipeline.runs import read_records
from support.menagerie.animal import Fate
from support.menagerie.corpus import FRIENDS, write_corpus
from support.menagerie.verdict import COLUMNS, Outcome, Verdict, judge

HOMES = ("tars", "folder", "manifest")
SETTINGS = (
    "model.source=sdmatte-nano",
    "model.input_size=64",
    "output.contact_sheet=0",
    "workers.object_store_mb=200",
    "workers.cpus_per_actor=1",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "zoo.md", help="page to write")
    arguments = parser.parse_args(argv)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="zoo-") as name:
        verdicts = [_label(home, Path(name)) for home in HOMES]
    page = _page(verdicts, time.monotonic() - start)
    arguments.out.write_text(page)
    print(page)
    faults = [fault for verdict in verdicts for fault in verdict.faults()]
    print(*faults, sep="\n")
    print(_figures(verdicts))
    return 1 if faults else 0


def _label(home: str, folder: Path) -> Verdict:
    corpus = write_corpus(home, folder / home)  # type: ignore[arg-type]
    run = folder / f"{home}-run"
    command = [sys.executable, str(ROOT / "jobs/label.py"), *corpus.overrides, *SETTINGS, f"output.path={run}"]
    job = subprocess.run(command, env={**os.environ, **QUIET}, capture_output=True, text=True, check=False)
    if job.returncode:
        print(job.stdout[-2000:], job.stderr[-4000:], file=sys.stderr)
        raise SystemExit(f"zoo: the job on {home} ended with {job.returncode}, where every input has a record")
    return judge(corpus, read_records(str(run), COLUMNS).to_pylist())


def _figures(verdicts: Sequence[Verdict]) -> str:
    inputs = sum(len(verdict.animals) for verdict in verdicts)
    neighbours = sum(len(verdict.outcomes) - len(verdict.animals) for verdict in verdicts)
    wrong, lost, doubled = (
        sum(getattr(verdict, what) for verdict in verdicts) for what in ("wrong", "lost", "doubled")
    )
    return (
        f"wrong codes {wrong} / lost {lost} / doubled {doubled} of {inputs} inputs and {neighbours} good neighbours "
        "(targets 0)"
    )


def _page(verdicts: Sequence[Verdict], seconds: float) -> str:
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # of the largest process
    lines = [
        "# Bad and unusual inputs",
        "",
        "Written by `make zoo` (benchmarks/zoo.py). Each of these stands between good neighbours: in tar shards,",
        "in a folder and in a manifest, where it can. A job labels each of the three; every input must end as the",
        "records in the table, and every neighbour as `ok`.",
        "",
        f"**{_figures(verdicts)}**, in {seconds:.0f} s; the largest process took {peak:.1f} GB.",
    ]
    groups: dict[str, dict[str, dict[str, Outcome]]] = {}
    for verdict in verdicts:
        for each in verdict.outcomes:
            if each.group != FRIENDS:
                groups.setdefault(each.group, {}).setdefault(each.placed.name, {})[verdict.home] = each
    for group, members in groups.items():
        lines += ["", f"## {group}", "", "| input | what it is | in | becomes |", "|---|---|---|---|"]
        for name, outcomes in members.items():
            some = next(iter(outcomes.values()))
            fates = list(dict.fromkeys(_shown(each.got) for each in outcomes.values()))
            wrong = "" if not any(each.faults or each.lost or each.doubled for each in outcomes.values()) else " WRONG"
            homes = ", ".join(outcomes)
            lines.append(f"| `{_cell(name)}` | {_cell(some.placed.about)} | {homes} | {' or '.join(fates)}{wrong} |")
    return "\n".join(lines) + "\n"


def _shown(fates: Sequence[Fate]) -> str:
    texts = [f"`{fate}`" if fate.code else str(fate) for fate in fates]
    counted = {text: texts.count(text) for text in dict.fromkeys(texts)}
    return ", ".join(text if count == 1 else f"{count} x {text}" for text, count in counted.items()) or "no record"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("`", "'")[:160]


if __name__ == "__main__":
    sys.exit(main())
