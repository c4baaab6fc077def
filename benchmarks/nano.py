"""How good the bundled model is, against its targets: `make eval-nano`, or `make eval-nano MODEL=folder` for another.

Measured on 240 drawn scenes of object families that were never trained on, and on twelve objects of real photographs
(benchmarks/photographs/README.md: reference mattes, not ground truth); prompts by the paper's protocol. Prints tables,
and last each target with `met` or `MISSED`. Exits with 0 if all are met, 1 if not, 2 if the model can't be loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))  # for `benchmarks`, when run as a script

from benchmarks.nano_set import KINDS, SCENES, Kind, Picture, build, error, fingerprint
from sdmatte.configs import BUNDLED
from sdmatte.errors import CheckpointError, SDMatteError

if TYPE_CHECKING:
    from sdmatte import SDMatte

MODEL = BUNDLED
TIMED_SIZE = 512
TIMED_BATCHES = 5


@dataclass(frozen=True, slots=True)
class Target:
    """A figure and what it may be at most."""

    figure: str
    limit: float
    meaning: str


TARGETS = (
    *(
        Target(f"mad_{kind}_{where}", limit, f"MAD, {kind} prompts, {where}")
        for kind, limit in (("box", 0.03), ("mask", 0.012), ("points", 0.05))
        for where in ("scenes", "photographs")
    ),
    Target("box_to_grabcut_scenes", 0.5, "MAD with boxes / GrabCut's, scenes"),
    Target("box_to_grabcut_photographs", 0.5, "MAD with boxes / GrabCut's, photographs"),
    Target("mad_transparent", 0.06, "MAD, transparent objects, box prompts"),
    *(
        Target(f"selection_{kind}", 0.5, f"MAD against the prompted / the other objects, {kind} prompts")
        for kind in KINDS
    ),
    Target("parameters", 12e6, "parameters in use at inference"),
    Target("bytes", 25e6, "bytes of the weights file"),
    Target("seconds", 1.0, f"seconds per object at {TIMED_SIZE} px, median"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One matte of the model.

    Attributes:
        picture: Its name.
        set: `scenes` or `photographs`.
        index: Of the object among the picture's.
        thing: Its name.
        kind: Of the prompt.
        first: The object is the picture's main one, which the means are over.
        transparent: The object is transparent.
        mad: Against the prompted object.
        others: Mean of the MAD against each of the scene's other objects; None where there are none.
        alpha: The matte, `(h, w)` uint8.
    """

    picture: str
    set: str
    index: int
    thing: str
    kind: Kind
    first: bool
    transparent: bool
    mad: float
    others: float | None
    alpha: NDArray[np.uint8] = field(repr=False, compare=False)


def matte(model: SDMatte, pictures: Sequence[Picture], batch: int) -> Iterator[Row]:
    """Matte everything.

    Args:
        model: Takes boxes, masks and points.
        pictures: Of :func:`benchmarks.nano_set.build`.
        batch: Objects per forward pass.

    Yields:
        A row for each prompt, picture by picture.
    """
    for picture in pictures:
        wanted = [(index, thing, kind) for index, thing in enumerate(picture.things) for kind in thing.prompts]
        prompts = [thing.prompts[kind] for _, thing, kind in wanted]
        mattes = model.predict([picture.image], [prompts], batch_size=batch)[0]
        for (index, thing, kind), alpha in zip(wanted, mattes, strict=True):
            # Objects of photographs contain each other (the cup in the coffee set): nothing to tell apart.
            rest = [each for each in picture.things if each is not thing and picture.set == "scenes"]
            yield Row(
                picture.name,
                picture.set,
                index,
                thing.name,
                kind,
                first=len(thing.prompts) == len(KINDS),
                transparent=thing.transparent,
                mad=error(alpha, thing),
                others=statistics.fmean(error(alpha, each) for each in rest) if rest else None,
                alpha=np.rint(alpha * 255).astype(np.uint8),
            )


def seconds_per_object(model: SDMatte, pictures: Sequence[Picture], batch: int) -> float:
    """Return the median over batches of one box each in `batch` pictures, decoding of their files left out."""
    single = [picture for picture in pictures if picture.set == "scenes"][:batch]
    images, prompts = [each.image for each in single], [[each.things[0].prompts["box"]] for each in single]
    model.predict(images, prompts, batch_size=batch)  # what is only done once
    taken = []
    for _ in range(TIMED_BATCHES):
        start = time.perf_counter()
        model.predict(images, prompts, batch_size=batch)
        taken.append((time.perf_counter() - start) / len(single))
    return statistics.median(taken)


def size_of(source: str) -> dict[str, float]:
    """Return `parameters` in use at inference, and `bytes` of the weights file (none for `untrained:`).

    The text encoder does not count: for the empty caption its output is a constant, and the model lets go of it.
    """
    import torch

    from sdmatte.configs import ModelConfigs
    from sdmatte.locate import locate
    from sdmatte.model import UNTRAINED
    from sdmatte.network import Network

    if source.startswith(UNTRAINED):
        configs, sizes = ModelConfigs.released(source.removeprefix(UNTRAINED)), {}
    else:
        files = locate(source)
        configs, sizes = files.configs, {"bytes": float(files.weights.stat().st_size)}
    with torch.device("meta"):
        network = Network(configs)
    used = [parameter for part in (network.vae, network.unet) for parameter in part.parameters()]
    return {"parameters": float(sum(parameter.numel() for parameter in used)), **sizes}


def figures_of(rows: Sequence[Row], pictures: Sequence[Picture]) -> dict[str, float]:
    """Reduce mattes and baselines to the figures of the tables; what nothing was measured for is missing.

    A ratio is that of the means, so that pictures on which the denominator happens to be small do not decide it.
    """
    figures: dict[str, float] = {}

    def put(name: str, values: Iterable[float]) -> None:
        if found := list(values):
            figures[name] = statistics.fmean(found)

    for where in ("scenes", "photographs"):
        things = [thing for picture in pictures if picture.set == where for thing in picture.things if thing.baselines]
        for kind in KINDS:
            put(
                f"mad_{kind}_{where}",
                (row.mad for row in rows if (row.set, row.kind, row.first) == (where, kind, True)),
            )
        for method in things[0].baselines if things else ():
            put(f"{method}_{where}".replace(" ", "_"), (thing.baselines[method] for thing in things))
        if f"mad_box_{where}" in figures and figures.get(f"grabcut_box_{where}"):
            figures[f"box_to_grabcut_{where}"] = figures[f"mad_box_{where}"] / figures[f"grabcut_box_{where}"]
    put("mad_transparent", (row.mad for row in rows if row.transparent and row.kind == "box"))
    for kind in KINDS:
        pairs = [(row.mad, row.others) for row in rows if row.kind == kind and row.others is not None]
        if others := sum(other for _, other in pairs):
            figures[f"selection_{kind}"] = sum(own for own, _ in pairs) / others
    return figures


def judge(figures: dict[str, float]) -> list[tuple[Target, float | None, bool]]:
    """Return each target with its figure (None if it was not measured) and whether it is met; NaN never is."""
    return [
        (target, figures.get(target.figure), figures.get(target.figure, float("nan")) <= target.limit)
        for target in TARGETS
    ]


def tables(figures: dict[str, float], rows: Sequence[Row]) -> str:
    """Lay out what was measured: per method and set, per family of objects, per object of the photographs."""
    methods = {
        **{f"model, {kind}": f"mad_{kind}" for kind in KINDS},
        **{f"the {kind} itself": f"prompt_{kind}" for kind in KINDS},
        "GrabCut, box": "grabcut_box",
        "closed form, mask": "closed_form_mask",
        "an empty matte": "nothing",
    }
    lines = [f"{'mean MAD':28}{'scenes':>13}{'photographs':>13}"]
    for label, name in methods.items():
        values = [figures.get(f"{name}_{where}") for where in ("scenes", "photographs")]
        lines.append(f"{label:28}" + "".join("            -" if v is None else f"{v:13.4f}" for v in values))
    for where, title in (("scenes", "family"), ("photographs", "photographed object")):
        chosen = [row for row in rows if row.set == where and row.first]
        lines += ["", f"{title:28}{'objects':>8}" + "".join(f"{kind:>9}" for kind in KINDS)]
        for name in sorted({row.thing for row in chosen}):
            mads = [[row.mad for row in chosen if (row.thing, row.kind) == (name, kind)] for kind in KINDS]
            lines.append(f"{name:28}{len(mads[0]):8}" + "".join(f"{statistics.fmean(each):9.4f}" for each in mads))
    return "\n".join(lines)


def verdicts(figures: dict[str, float]) -> str:
    """Lay out the targets."""
    lines = []
    for target, value, met in judge(figures):
        shown = "not measured" if value is None else f"{value:,.0f}" if target.limit > 1e3 else f"{value:.4f}"
        limit = f"{target.limit:,.0f}" if target.limit > 1e3 else f"{target.limit:g}"
        lines.append(f"{target.meaning:66}{shown:>13}  <= {limit:>10}  {'met' if met else 'MISSED'}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="as in SDMatte.from_pretrained (default: %(default)s)")
    parser.add_argument("--input-size", type=int, help="of the model, pixels (default: its own); seconds are at 512")
    parser.add_argument("--batch", type=int, default=4, help="objects per forward pass")
    parser.add_argument("--scenes", type=int, default=SCENES, help="fewer for a quick look, which never passes")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that draw the scenes")
    parser.add_argument("--out", type=Path, help="file for the figures, and for each matte's, as JSON")
    parser.add_argument("--sheet", type=Path, help="folder for contact sheets: scenes.png, photographs.png")
    arguments = parser.parse_args(argv)

    start = time.perf_counter()
    from sdmatte import SDMatte  # only now: torch takes seconds

    try:  # first, so that a wrong name or size fails at once
        cost = size_of(arguments.model)
        model = SDMatte.from_pretrained(arguments.model, input_size=arguments.input_size)
    except SDMatteError as error:
        hint = "\nName a trained model with --model." if isinstance(error, CheckpointError) else ""
        print(f"{arguments.model}: {error}{hint}", file=sys.stderr)
        return 2
    measured = {"model": arguments.model, "weights_sha256": model.weights_sha256, "input_size": model.input_size}
    pictures = build(arguments.scenes, arguments.workers)
    print(f"{len(pictures)} pictures ready after {time.perf_counter() - start:.0f} s", flush=True)
    rows = list(matte(model, pictures, arguments.batch))
    if model.input_size != TIMED_SIZE:
        model = SDMatte.from_pretrained(arguments.model, input_size=TIMED_SIZE)
    figures = {**figures_of(rows, pictures), **cost}
    figures["seconds"] = seconds_per_object(model, pictures, arguments.batch)

    several = sum(len(picture.things) > 1 for picture in pictures if picture.set == "scenes")
    boxes = [row for row in rows if row.kind == "box"]
    print(
        f"{len(rows)} mattes at {measured['input_size']} px after {time.perf_counter() - start:.0f} s; "
        f"{several} scenes with several objects, "
        f"{sum(row.transparent for row in boxes)} transparent objects; scenes {fingerprint(pictures[0])}\n"
    )
    print(tables(figures, rows) + "\n")
    if arguments.out:
        named = [each.name for each in fields(Row) if each.name != "alpha"]
        mattes = [{name: getattr(row, name) for name in named} for row in rows]
        report = {**measured, "scenes": arguments.scenes, "figures": figures, "mattes": mattes}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.sheet:
        from benchmarks.nano_sheets import write_sheets

        write_sheets(rows, pictures, arguments.sheet)
    print(verdicts(figures))
    if arguments.scenes != SCENES:
        print(f"MISSED: these are {arguments.scenes} of the {SCENES} scenes that the targets are about")
        return 1
    return 0 if all(met for _, _, met in judge(figures)) else 1


if __name__ == "__main__":
    sys.exit(main())
