"""Faults injected into labelling runs, and what they leave behind: `make chaos`.

    python benchmarks/chaos.py                         # all faults, three seeds each; writes docs/chaos.md
    python benchmarks/chaos.py --only driver-kill --only zombie --seeds 1

Each case labels a small corpus with the bundled model, as processes of their own; a fault strikes at a random moment
(from the seed), and the same command is given again until the run is complete. Then the run is reconciled, and all
its records are read back. Exit code 0: nothing was lost, doubled or unexpected anywhere; 1: something was, or a fault
could not be injected; 2: no such fault; 130: interrupted. Linux only: it looks for processes in /proc.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # for `support`: servers that the tests use, too
sys.path.insert(0, str(Path(__file__).parent.parent))  # for `benchmarks`, when run as a script

from benchmarks.chaos_case import Case
from benchmarks.chaos_faults import FAULTS, ON_DISK, ON_S3, Unavailable
from benchmarks.chaos_job import QUIET, ROOT, Corpus, NotInjected, Outcome, look, make_corpus
from support.s3.moto_store import moto_store
from support.s3.store import Store

SEEDS = 3
ATTEMPTS = 4
"""How often a case is tried whose job was faster than the fault."""

PAGE = ROOT / "docs" / "chaos.md"


@dataclass(frozen=True)
class Result:
    """What came out of one case.

    Attributes:
        fault: Its name.
        seed: Of its moment.
        where: `disk` or `S3`.
        jobs: How often the command was given.
        seconds: Of the case as a whole.
        outcome: None where there was no fault, and `notes` say why.
        notes: Of the case.
        available: Whether this machine can do that to a run.
    """

    fault: str
    seed: int
    where: str
    jobs: int
    seconds: float
    outcome: Outcome | None
    notes: tuple[str, ...] = ()
    available: bool = True

    @property
    def passed(self) -> bool:
        """Whether the fault struck, and the run is exact all the same; or can't be injected on this machine."""
        return not self.available if self.outcome is None else self.outcome.exact

    def cells(self) -> list[str]:
        """Return the row of the table."""
        head = [self.fault, str(self.seed), self.where, str(self.jobs)]
        found = self.outcome
        if found is None:
            numbers = ["not injected" if self.available else "skipped", "", "", ""]
        else:
            numbers = [str(number) for number in (found.lost, found.doubled, found.unexpected, found.discarded)]
        faults = () if found is None else found.faults[:3]
        return [*head, *numbers, f"{self.seconds:.0f}", " ".join("; ".join([*self.notes, *faults]).split())]


HEADS = ("fault", "seed", "on", "jobs", "lost", "doubled", "unexpected", "discarded", "s", "notes")


def run_case(name: str, seed: int, corpus: Corpus, folder: Path, store: Store) -> Result:
    """Inject one fault into one run, complete it, and look at what is there."""
    start = time.monotonic()
    on_s3 = name in ON_S3 or (name not in ON_DISK and seed % 3 == 2)
    where, reason = ("S3" if on_s3 else "disk"), ""
    for attempt in range(ATTEMPTS):
        rng = random.Random(f"{name} {seed} {attempt}")
        place = store if on_s3 else None
        with Case(folder / f"{name}-{seed}-{attempt}", corpus, rng, place, earlier=attempt) as case:
            try:
                FAULTS[name](case)
            except NotInjected as error:
                reason = str(error)
                continue
            except Unavailable as error:
                return Result(name, seed, where, 0, time.monotonic() - start, None, (str(error),), available=False)
            case.finish()
            outcome = look(case.run, corpus, sum(case.discarded.values()))
            outcome = replace(outcome, faults=(*case.breaches, *outcome.faults))
            notes = tuple(case.notes)
            jobs = len(case.jobs)
        shutil.rmtree(case.folder, ignore_errors=not outcome.exact)
        return Result(name, seed, where, jobs, time.monotonic() - start, outcome, notes)
    return Result(name, seed, where, 0, time.monotonic() - start, None, (reason,))


@contextmanager
def prepared() -> Iterator[tuple[Path, Store]]:
    """Yield a folder and an object store, and set the environment; all is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    before = dict(os.environ)
    try:
        with moto_store(folder / "store", "chaos") as store:
            for name in ("RAY_ADDRESS", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
                os.environ.pop(name, None)
            os.environ |= {**QUIET, **store.environment, "RAY_TMPDIR": str(folder / "ray")}
            os.environ |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
            (folder / "ray").mkdir()
            yield folder, store
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def verdict(results: Sequence[Result]) -> str:
    """Return the line that counts."""
    found = [result.outcome for result in results if result.outcome is not None]
    lost, doubled, unexpected = (
        sum(getattr(each, key) for each in found) for key in ("lost", "doubled", "unexpected")
    )
    return f"lost {lost} / doubled {doubled} / unexpected {unexpected} (targets 0)"


def page(results: Sequence[Result], seconds: float) -> str:
    """Return docs/chaos.md."""
    rows = [list(HEADS), ["---"] * len(HEADS), *(result.cells() for result in results)]
    table = "\n".join(f"| {' | '.join(cell.replace('|', ' ') for cell in row)} |" for row in rows)
    described = "\n".join(f"- **{name}**: {(function.__doc__ or '').strip()}" for name, function in FAULTS.items())
    injected = sum(result.outcome is not None for result in results)
    missing = len(results) - injected
    corpus = make_corpus()
    return f"""# Faults, and what they leave behind

Written by `make chaos`, which takes about {max(1, round(seconds / 60))} minutes on {os.cpu_count()} CPU cores.

A corpus of {len(corpus.expected)} objects in {len(corpus.shards)} tar shards is labelled with the bundled model, with
a commit for every four images. A fault strikes at a random moment, which the seed decides; then the same command is
given again until the run is complete. The run is reconciled, and its records are read back as any Parquet reader
would: each object must have exactly one record, of the status that it has without a fault.

**{verdict(results)}**, in {injected} of {len(results)} cases{f"; {missing} were not injected" if missing else ""}.

{described}

`jobs` counts how often the command was given, those included that the fault consists of, and one that finds the run
complete. `discarded` are records in data files whose commit was not there, or came too late: they were made again. The
store is moto behind a proxy that injects faults (`tests/support/faulty_store.py`).

{table}

Not tried: faults of a real cloud's network, hardware that returns wrong bytes, several faults of different kinds at
once.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the matrix, print it, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", action="append", metavar="FAULT", help=f"one of: {', '.join(FAULTS)}; may be repeated"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="cases of each fault (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, help="page to write (default: docs/chaos.md, by all faults with all seeds)"
    )
    arguments = parser.parse_args(argv)
    names = arguments.only or list(FAULTS)
    if unknown := set(names) - FAULTS.keys():
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    if arguments.seeds < 1:
        parser.error("--seeds must be at least 1")
    start, results = time.monotonic(), []
    try:
        with prepared() as (folder, store):
            corpus = make_corpus()
            print("  ".join(f"{head:>10}" for head in HEADS), flush=True)
            for name in names:
                for seed in range(1, arguments.seeds + 1):
                    results.append(run_case(name, seed, corpus, folder, store))
                    print("  ".join(f"{cell:>10}" for cell in results[-1].cells()), flush=True)
    except KeyboardInterrupt:
        print("chaos: stopped", file=sys.stderr)
        return 130
    seconds = time.monotonic() - start
    out = arguments.out or (PAGE if not arguments.only and arguments.seeds >= SEEDS else None)
    if out is not None:
        out.write_text(page(results, seconds), encoding="utf-8")
    failed = [f"{result.fault} {result.seed}" for result in results if not result.passed]
    print(f"{len(results)} cases in {seconds / 60:.1f} minutes" + (f"; failed: {', '.join(failed)}" if failed else ""))
    print(verdict(results))
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
