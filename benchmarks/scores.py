"""What the scores of the bundled model's mattes are worth, against their targets: `make score-report`.

Measured on the fixed evaluation set (benchmarks/nano_set.py: 240 drawn scenes, and twelve objects of photographs), no
image of which any calibration was fitted to, with the stage that labelling runs use and the bundled calibrations;
single pass, and with the mirrored image as the second pass. Errors are mean absolute differences over the image; of
photographs, where their reference mattes are known. Prints tables, and last each target with `met` or `MISSED`. Exits
with 0 if all are met, 1 if not, 2 if there are no calibrations for the bundled model.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))  # for `benchmarks`, when run as a script

from benchmarks.nano_set import SCENES, Kind, Picture, build, error, fingerprint
from pipeline.masks import decode_png, encode_mask
from pipeline.quality.figures import ScoreFigures, figures
from sdmatte.configs import BUNDLED
from sdmatte.prompts import Box, Mask, Points

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.config import LabelConfig
    from sdmatte.model import SDMatte

PASSES = {"single": "none", "second": "flip"}
"""What is measured, with its `quality.second`."""

ROUNDS = 25
"""Alternations of runs with and without scoring."""

MOST_COST = 0.15
"""Of the time of a run without second pass, that scoring may cost."""

LEAST = {"single": {"spearman": 0.85, "worst_share": 0.6}, "second": {"spearman": 0.9, "worst_share": 0.6}}
MOST_ECE = 0.2


@dataclass(frozen=True, slots=True)
class Scored:
    """One matte with its score.

    Attributes:
        set: `scenes` or `photographs`.
        picture: Name of the picture.
        thing: Name of the object.
        kind: Of the prompt.
        first: The object is the picture's main one.
        predicted: Predicted mean absolute error.
        true: The true one.
    """

    set: str
    picture: str
    thing: str
    kind: Kind
    first: bool
    predicted: float
    true: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, what was measured, and whether that meets it."""

    meaning: str
    value: float
    limit: float
    at_least: bool

    @property
    def met(self) -> bool:
        """Whether the figure meets the target; NaN never does."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{self.meaning:66}{self.value:9.3f}  {sign} {self.limit:g}  {'met' if self.met else 'MISSED'}"


def run_config(second: str, calibration: str = "auto") -> LabelConfig:
    """Return the configuration of a run of the bundled model; nothing is read or written at its paths."""
    from pipeline.config import LabelConfig

    return LabelConfig.model_validate(
        {
            "input": {"kind": "folder", "path": "none"},
            "model": {"source": BUNDLED, "device": "cpu"},
            "quality": {"second": second, "calibration": calibration},
            "output": {"path": "none"},
        }
    )


def engine_rows(pictures: Sequence[Picture]) -> pa.Table:
    """Return pictures with all their prompts as the rows that the stage takes."""
    import pyarrow as pa

    from pipeline.schema import IMAGE_ROWS

    rows = []
    for number, picture in enumerate(pictures):
        buffer = io.BytesIO()
        Image.fromarray(picture.image).save(buffer, "PNG", compress_level=1)
        height, width = picture.image.shape[:2]
        prompts = [
            prompt_struct(prompt, 1000 * number + at)
            for at, prompt in enumerate(prompt for thing in picture.things for prompt in thing.prompts.values())
        ]
        rows.append(
            {"shard": "set", "image_key": picture.name, "image_uri": picture.name, "image_id": number}
            | {"image": buffer.getvalue(), "image_width": width, "image_height": height, "prompts": prompts}
        )
    return pa.Table.from_pylist(rows, IMAGE_ROWS)


def prompt_struct(prompt: Box | Mask | Points, number: int) -> dict[str, Any]:
    """Return a prompt as engine rows carry it."""
    shared = {"record_id": number, "transparent": prompt.transparent, "repairs": []}
    match prompt:
        case Box(x0, y0, x1, y1):
            return shared | {"kind": "box", "box": [x0, y0, x1, y1]}
        case Points(xy):
            return shared | {"kind": "points", "points": [list(point) for point in xy]}
        case _:
            return shared | {"kind": "mask", "mask": encode_mask(prompt.binary())}


def score(pictures: Sequence[Picture], second: str, model: SDMatte) -> Iterator[Scored]:
    """Label pictures as a run does, and hold each score against the true error."""
    from pipeline.stages.matte import MatteImages

    stage = MatteImages(run_config(second), "scores", model=model)
    for picture in pictures:
        records = stage.label(engine_rows([picture])).to_pylist()
        wanted = [(thing, kind) for thing in picture.things for kind in thing.prompts]
        for (thing, kind), record in zip(wanted, records, strict=True):
            assert record["status"] == "ok", record["error_message"]
            assert record["calibration_matches"], "there is no bundled calibration for this model and second pass"
            matte = decode_png(record["alpha"]["bytes"]).astype(np.float32) / np.float32(255)
            yield Scored(
                picture.set, picture.name, thing.name, kind, "points" in thing.prompts,
                record["predicted_mad"], error(matte, thing),
            )  # fmt: skip


def cost(pictures: Sequence[Picture], model: SDMatte, rounds: int = ROUNDS) -> tuple[float, float, float]:
    """Return the median seconds of labelling photographs with scoring and without, and what scoring adds.

    That is the median over rounds of their quotient, less 1: other load on the machine changes slowly, and is on both
    sides of it. Both in turn in this process, on the same rows. Without: features are not computed, and nothing is
    predicted.
    """
    from pipeline.quality.features import Features
    from pipeline.stages import matte

    rows = engine_rows([picture for picture in pictures if picture.set == "photographs"])
    stages = [matte.MatteImages(run_config("none", use), "scores", model=model) for use in ("auto", "none")]
    nothing = mock.patch.multiple(matte, features=lambda *_: Features(0.0, None), prepare=lambda *_: ())
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for side in (0, 1) if number % 2 else (1, 0):
            with nothing if side else nullcontext():
                start = time.perf_counter()
                stages[side].label(rows)
                seconds = time.perf_counter() - start
            if number:  # the first round does what is only done once
                taken[side].append(seconds)
    quotients = [with_scores / without for with_scores, without in zip(*taken, strict=True)]
    return statistics.median(taken[0]), statistics.median(taken[1]), statistics.median(quotients) - 1


def arrays(rows: Sequence[Scored]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return predicted and true errors."""
    return np.array([row.predicted for row in rows]), np.array([row.true for row in rows])


def tables(scored: dict[str, list[Scored]]) -> tuple[str, dict[str, dict[str, ScoreFigures]]]:
    """Lay out the figures of each pass, over all, per set, kind of prompt, and rank of the object."""
    slices = {
        "all": lambda _: True,
        "scenes": lambda row: row.set == "scenes",
        "photographs": lambda row: row.set == "photographs",
        **{f"{kind} prompts": (lambda row, kind=kind: row.kind == kind) for kind in ("box", "mask", "points")},
        "main objects": lambda row: row.first,
    }
    head = f"{'':24}{'records':>8}{'MAD':>8}{'predicted':>10}{'Spearman':>9}{'worst 20 %':>11}{'(oracle)':>9}"
    lines, found = [head + f"{'ECE/MAD':>9}{'AURC':>8}{'random':>8}{'oracle':>8}"], {}
    for name, rows in scored.items():
        found[name] = {}
        for label, chosen in slices.items():
            part = [row for row in rows if chosen(row)]
            if len(part) < 3:
                continue
            each = found[name][label] = figures(*arrays(part))
            lines.append(
                f"{name + ', ' + label:24}{each.records:8}{each.mean_mad:8.4f}{each.mean_predicted:10.4f}"
                f"{each.spearman:9.3f}{each.worst_share:11.1%}{each.worst_share_oracle:9.1%}{each.ece_relative:9.1%}"
                f"{each.aurc:8.4f}{each.aurc_random:8.4f}{each.aurc_oracle:8.4f}"
            )
    return "\n".join(lines), found


def judge(found: dict[str, dict[str, ScoreFigures]], ratio: float) -> list[Verdict]:
    """Hold the figures over all records against their targets."""
    verdicts = []
    for name, limits in LEAST.items():
        each = found[name]["all"]
        titles = {"spearman": "Spearman of predicted and true MAD", "worst_share": "share of error in the worst fifth"}
        verdicts += [
            Verdict(f"{titles[figure]}, {name} pass", getattr(each, figure), limit, at_least=True)
            for figure, limit in limits.items()
        ]
        title = f"expected calibration error / mean MAD, {name} pass"
        verdicts.append(Verdict(title, each.ece_relative, MOST_ECE, at_least=False))
    verdicts.append(Verdict("cost of scoring / time without it, single pass", ratio, MOST_COST, at_least=False))
    return verdicts


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=SCENES, help="fewer for a quick look, which never passes")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that draw the scenes")
    parser.add_argument("--out", type=Path, help="file for the figures, and for each matte's, as JSON")
    parser.add_argument("--plots", type=Path, help="folder for quality_reliability.png and quality_risk_coverage.png")
    arguments = parser.parse_args(argv)

    start = time.perf_counter()
    from pipeline.quality.calibration import choose
    from pipeline.stages.matte import identity
    from sdmatte import SDMatte  # only now: torch takes seconds

    model = SDMatte.from_pretrained(BUNDLED, device="cpu")
    for second in PASSES.values():
        chosen = choose(run_config(second), identity(model))
        if chosen is None or not chosen.matches(identity(model), run_config(second)):
            print(
                f"no bundled calibration is for {BUNDLED}, second pass {second}: make calibrate-nano", file=sys.stderr
            )
            return 2
        print(f"second pass {second}: calibration {chosen.id}")
    pictures = build(arguments.scenes, arguments.workers)
    print(f"{len(pictures)} pictures ready after {time.perf_counter() - start:.0f} s", flush=True)
    scored = {name: list(score(pictures, second, model)) for name, second in PASSES.items()}
    with_scores, without, ratio = cost(pictures, model)
    print(f"measured after {time.perf_counter() - start:.0f} s; scenes {fingerprint(pictures[0])}\n")
    text, found = tables(scored)
    print(f"{text}\n\nphotographs labelled in {with_scores:.3f} s with scoring, {without:.3f} s without (medians)\n")
    if arguments.out:
        report = {
            "figures": {name: {part: asdict(each) for part, each in parts.items()} for name, parts in found.items()},
            "seconds": {"with_scoring": with_scores, "without": without, "added": ratio},
            "mattes": {name: [asdict(row) for row in rows] for name, rows in scored.items()},
        }
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.plots:
        from benchmarks.score_plots import write_plots

        write_plots({name: arrays(rows) for name, rows in scored.items()}, arguments.plots)
    verdicts = judge(found, ratio)
    print("\n".join(map(str, verdicts)))
    if arguments.scenes != SCENES:
        print(f"MISSED: these are {arguments.scenes} of the {SCENES} scenes that the targets are about")
        return 1
    return 0 if all(verdict.met for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
