"""How long people wait for a run's report: written, opened in a real browser from disk, sorted and filtered.

    make report-speed            2,000 objects and 20, all with pictures

The objects are parts of the demo's photographs, each a file of its own, with drawn alphas and scores (tests/support).
The page opens on its part with the objects; it is there once the tiles of the first screen have their pictures, twice
painted. Figures against targets come last; the exit code is 1 when one is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # the helpers of the tests

from pipeline.report import write_report  # noqa: E402
from support.browser import browser_page, chromium  # noqa: E402
from support.demo_run import demo_run  # noqa: E402
from support.report_run import large_run  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.runs import RunDirectory

OPEN = 3.0
"""Seconds from navigation until the first screen of objects is there."""

REACT = 0.2
"""Seconds from a change of order, filter or view until the next frame; median of the browsers, the slowest change."""

FILES = 600
"""Files of a report with 2,000 objects."""

_ROUNDS = 5

_PICTURES_THERE = """async () => {
  const seen = [...document.querySelectorAll("#grid .layer img")].filter((image) => {
    const box = image.parentNode.getBoundingClientRect();
    return box.width && box.top < innerHeight;
  });
  await Promise.all(seen.map((image) => image.decode()));
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return [performance.now(), new Set(seen.map((image) => image.src)).size];
}"""

_REACTION = """([id, event, value]) => new Promise((done) => {
  const begin = performance.now();
  const field = document.getElementById(id);
  if (event === "click") field.querySelector(value).click();
  else { field.value = value; field.dispatchEvent(new Event(event)); }
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - begin)));
})"""

_CHANGES = (
    ("sort", "change", "label"),
    ("sort", "change", "best"),
    ("search", "input", "person"),
    ("search", "input", ""),
    ("kind", "change", "mask"),
    ("kind", "change", ""),
    ("quality-low", "input", "0.5"),
    ("quality-low", "input", ""),
    ("views", "click", "[data-view=alpha]"),
    ("views", "click", "[data-view=prompt]"),
    ("sort", "change", "worst"),
)


def main() -> int:
    """Measure, print, and say whether all targets are met."""
    parser = argparse.ArgumentParser(description="Time until a run's report can be used.")
    parser.add_argument("--objects", type=int, default=2000, help="of the large report (default %(default)s)")
    parser.add_argument("--keep", help="folder for the runs; default a temporary one")
    options = parser.parse_args()
    if chromium() is None:
        print("no Chromium is installed; on Debian and Ubuntu: apt-get install chromium", file=sys.stderr)
        return 2
    figures: list[tuple[str, float, float, str]] = []
    with _folder(options.keep) as folder:
        source = demo_run(str(folder / "source"), folder / "corpus", sheet=0, objects=0)
        for count in (20, options.objects):
            figures += _measure(folder, source, count)
    return _verdict(figures)


@contextmanager
def _folder(keep: str | None) -> Iterator[Path]:
    if keep:
        yield Path(keep).absolute()
        return
    with tempfile.TemporaryDirectory(prefix="report-speed-") as folder:
        yield Path(folder)


def _measure(folder: Path, source: RunDirectory, count: int) -> list[tuple[str, float, float, str]]:
    place = folder / f"{count}"
    run, shards = large_run(str(place / "run"), source, place / "photos", count)
    begin = time.perf_counter()
    uri = Path(write_report(run.path, run.reconcile(shards)))
    seconds = time.perf_counter() - begin
    files = [file for file in uri.parent.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(
        f"{count:,} objects: report written in {seconds:.1f} s ({1000 * seconds / count:.0f} ms per object), "
        f"{len(files)} files, {size / 1e6:.1f} MB, of which the page {uri.stat().st_size / 1e6:.2f} MB",
        flush=True,
    )
    opened, sheets = [], 0
    rounds: list[list[float]] = []
    for _ in range(_ROUNDS):
        with browser_page() as tab:  # each time a new browser: nothing is cached in it
            tab.page.goto(f"{uri.as_uri()}#objects", wait_until="commit")
            tab.page.wait_for_selector("html[data-ready] #grid .tile")
            at, sheets = tab.page.evaluate(_PICTURES_THERE)
            opened.append(at / 1000)
            rounds.append([tab.page.evaluate(_REACTION, list(change)) / 1000 for change in _CHANGES])
            if tab.errors or tab.refused:
                print(f"the browser complains: {tab.errors} {tab.refused}", file=sys.stderr)
                opened.append(float("inf"))
    reactions = [statistics.median(change) for change in zip(*rounds, strict=True)]
    slowest = max(range(len(_CHANGES)), key=reactions.__getitem__)
    print(
        f"  opened in {statistics.median(opened):.2f} s (median of {_ROUNDS} new browsers, "
        f"{min(opened):.2f} to {max(opened):.2f}), {sheets} sheets for the first screen; "
        f"reaction {1000 * statistics.median(reactions):.0f} ms (median of {len(_CHANGES)} changes), slowest "
        f"{1000 * reactions[slowest]:.0f} ms ({' '.join(_CHANGES[slowest])}), "
        f"{1000 * max(map(max, rounds)):.0f} ms at most in any browser",
        flush=True,
    )
    found = [
        (f"open, {count:,} objects, slowest", max(opened), OPEN, "s"),
        (f"react, {count:,} objects, slowest change", max(reactions), REACT, "s"),
    ]
    return found if count < 1000 else [*found, (f"files, {count:,} objects", len(files), FILES, "")]


def _verdict(figures: list[tuple[str, float, float, str]]) -> int:
    print(f"\n{'':42}{'measured':>10}{'target':>10}")
    for name, measured, target, unit in figures:
        digits = 2 if unit else 0
        words = f"{measured:.{digits}f} {unit}", f"{target:g} {unit}"
        print(f"{name:42}{words[0]:>10}{words[1]:>10}  {'pass' if measured <= target else 'MISSED'}")
    return int(any(not measured <= target for _, measured, target, _ in figures))


if __name__ == "__main__":
    sys.exit(main())
