"""The parts of `make bench-engine`: each measures something of a plan into its results."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.engine_baseline import PlainMatter
from benchmarks.engine_emulation import EmulatedBfloat16
from benchmarks.engine_objects import (
    BATCH,
    FOUR_PROMPTS,
    ONE_PROMPT,
    Weights,
    asked,
    bundled,
    mattes,
    seeded,
)  # fmt: skip
from benchmarks.engine_peak import computes_bfloat16, measure
from benchmarks.engine_profile import table
from benchmarks.engine_public import PublicCode
from benchmarks.engine_timing import PLAIN, Side, alternate, deviation, engine_side, plain_side, tell
from benchmarks.engine_work import Passes, count
from sdmatte.devices import Precision, choose_device, choose_dtype

if TYPE_CHECKING:
    from benchmarks.engine import Plan, Results

NO_BFLOAT16 = "not measurable: this CPU has no bfloat16 instructions"


def default_precision(device: str) -> Precision:
    """Return what `auto` stands for on a device."""
    return choose_dtype("auto", choose_device(device))[0]  # type: ignore[return-value]


def precisions(device: str) -> tuple[Precision, ...]:
    """Return the precisions that a device computes in itself, the default first."""
    native: list[Precision] = ["float32", "bfloat16"] if computes_bfloat16(device) else ["float32"]
    default = default_precision(device)
    return (default, *(each for each in native if each != default))


def peaks(plan: Plan, results: Results) -> None:
    """Measure the machine's peaks in each precision that it computes in."""
    for name in precisions(plan.device):
        tell(f"peak of {name}")
        results.peaks[name] = measure(plan.device, getattr(torch, name), plan.peak_shrink)


def nano(plan: Plan, results: Results) -> None:
    """Time the bundled model's batch, and measure its deviations on photographs in every mode."""
    weights, size = bundled(), plan.nano_size
    batch = asked(BATCH)
    sides = {PLAIN: plain_side(weights.plain(size, plan.device))}
    sides |= {name: engine_side(weights.engine(size, plan.device, name)) for name in precisions(plan.device)}
    results.comparisons["nano"] = alternate(
        f"{weights.name}, {size} px, batch of {len(BATCH)}", sides, [batch] * plan.nano_rounds, list(sides)
    )
    results.work["nano"] = count(weights.configs, size).needed(len(batch), len(BATCH))
    for side in sorted({min(weights.configs.input_size, size), size}):
        _nano_deviations(plan, results, weights, side)


def _nano_deviations(plan: Plan, results: Results, weights: Weights, size: int) -> None:
    """Compare every mode with the baseline: boxes, masks and points of the photographs' objects."""
    names = list(mattes())[: plan.objects]
    questions = [group for name in names for group in asked(tuple((name, kind) for kind in ("box", "mask", "points")))]
    plain = plain_side(weights.plain(size, plan.device))
    tell(f"deviations of {weights.name} at {size} px")
    expected = [alpha for each in questions for alpha in plain([each]).alphas]
    for name, emulated in _modes(plan):
        if emulated and size > weights.configs.input_size:
            continue
        with _arithmetic(emulated) as mode:
            engine = engine_side(weights.engine(size, plan.device, name))
            found = [alpha for each in questions for alpha in engine([each]).alphas]
        label = f"{weights.name}, {size} px, {name}{_how(mode)}"
        results.deviations[label] = deviation(expected, found)


def released(plan: Plan, results: Results) -> None:
    """Time the released configuration with one prompt per image and with four; deviations on the way."""
    tell(f"drawing the weights of {plan.config}")
    weights = seeded(plan.config)
    matter = weights.plain(plan.size, plan.device)
    sides: dict[str, Side] = {PLAIN: plain_side(matter)}
    sides |= {name: engine_side(weights.engine(plan.size, plan.device, name)) for name in precisions(plan.device)}
    on_gpu = torch.device(plan.device).type == "cuda"
    if not on_gpu:  # libraries and threads; at the full size it would cost minutes
        matter.input_size = matter.network.stride
        sides[PLAIN](asked(ONE_PROMPT[0]))
        matter.input_size = plan.size
    warm = [name for name in sides if on_gpu or name != PLAIN]
    _compare(plan, results, f"{weights.name}, {plan.size} px", sides, warm, count(weights.configs, plan.size))
    sides.clear()
    gc.collect()
    if on_gpu:
        _memory(plan, results, weights)
    if not computes_bfloat16(plan.device):
        _emulated(plan, results, weights, matter)


def _compare(
    plan: Plan, results: Results, where: str, sides: Mapping[str, Side], warm: Sequence[str], passes: Passes
) -> None:
    """Time sides with one prompt per image and with four, and compare their alphas."""
    for key, wanted, rounds in zip(("one", "four"), (ONE_PROMPT, FOUR_PROMPTS), plan.rounds, strict=True):
        questions = [asked(wanted[number % len(wanted)]) for number in range(rounds)]
        objects = len(wanted[0])
        title = f"{where}, {objects} prompt{'s' * (objects > 1)} per image"
        results.comparisons[key] = alternate(title, sides, questions, warm)
        results.work[key] = passes.needed(1, objects)
    both = [results.comparisons[key] for key in ("one", "four")]
    found = {side: [alpha for each in both for alpha in each.alphas(side)] for side in sides}
    for name in sides:
        if name != PLAIN:
            results.deviations[f"{where}, {name}"] = deviation(found[PLAIN], found[name])


def _emulated(plan: Plan, results: Results, weights: Weights, matter: PlainMatter) -> None:
    """Measure the deviations of bfloat16 at a smaller size, with emulated arithmetic."""
    size = plan.emulated_size
    label = f"{weights.name}, {size} px, bfloat16"
    tell(f"deviations of {label}, emulated")
    questions = [group for wanted in ONE_PROMPT[:2] for group in asked(wanted)]
    matter.input_size = size
    expected = plain_side(matter)(questions).alphas
    with EmulatedBfloat16() as mode:
        found = engine_side(weights.engine(size, plan.device, "bfloat16"))(questions).alphas
    results.deviations[label + _how(mode)] = deviation(expected, found)


def _memory(plan: Plan, results: Results, weights: Weights) -> None:
    """Measure the peak memory of a batch of four objects on a GPU, weights of that one model included."""
    questions = asked(FOUR_PROMPTS[0])
    for name in precisions(plan.device):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(plan.device)
        model = weights.engine(plan.size, plan.device, name)
        torch.cuda.reset_peak_memory_stats(plan.device)
        engine_side(model)(questions)
        results.memory[name] = (torch.cuda.max_memory_allocated(plan.device) - before) / 2**30
        del model
        gc.collect()


def against(plan: Plan, results: Results, folder: Path, configs: Path | None, threads: int) -> None:
    """Time the released configuration beside a checkout of the public code, in the baseline's place."""
    with PublicCode(folder, plan.size, plan.device, threads, configs) as public:
        weights = seeded("sdmatte")
        sides: dict[str, Side] = {PLAIN: public}
        sides |= {name: engine_side(weights.engine(plan.size, plan.device, name)) for name in precisions(plan.device)}
        where, passes = f"{weights.name}, {plan.size} px, {folder.name}", count(weights.configs, plan.size)
        del weights  # the engine keeps what it needs; the public code's process holds all of it once more
        warm = [name for name in sides if name != PLAIN or torch.device(plan.device).type == "cuda"]
        _compare(plan, results, where, sides, warm, passes)


def profiles(plan: Plan) -> str:
    """Return the time by operator of the engine and of the baseline: released configuration, and bundled model."""
    tables = []
    for weights, size, questions in ((seeded(plan.config), plan.size, asked(ONE_PROMPT[0])),
                                     (bundled(), plan.nano_size, asked(BATCH))):  # fmt: skip
        matter = weights.plain(size, plan.device)
        model = weights.engine(size, plan.device)
        objects = sum(len(each.prompts) for each in questions)
        for name, side in ((f"engine, {model.precision}", engine_side(model)), ("baseline", plain_side(matter))):
            title = f"{weights.name}, {size} px, {objects} object{'s' * (objects > 1)}, {name}"
            tell(f"profile: {title}")
            tables.append(table(title, lambda side=side, questions=questions: side(questions), plan.device))
        del matter, model
        gc.collect()
    return "\n\n\n".join(tables)


def _modes(plan: Plan) -> Iterator[tuple[Precision, bool]]:
    """Yield each precision, and whether its arithmetic has to be emulated."""
    yield from ((name, False) for name in precisions(plan.device))
    if not computes_bfloat16(plan.device):
        yield "bfloat16", True


def _arithmetic(emulated: bool) -> AbstractContextManager[EmulatedBfloat16 | None]:
    return EmulatedBfloat16() if emulated else nullcontext()


def _how(mode: EmulatedBfloat16 | None) -> str:
    """Say that a mode was emulated, if any operator had to be."""
    return " (emulated)" if mode is not None and mode.calls else ""
