"""The parts of `make bench-engine`: each measures something of a plan into its results."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from benchmarks.engine_emulation import EmulatedBfloat16
from benchmarks.engine_objects import (
    BATCH,
    FOUR_PROMPTS,
    ONE_PROMPT,
    Weights,
    asked,
    mattes,
    weights,
)  # fmt: skip
from benchmarks.engine_peak import computes_bfloat16, measure
from benchmarks.engine_process import Process, plain_process
from benchmarks.engine_profile import table
from benchmarks.engine_public import public_process, require_checkout, write_configs
from benchmarks.engine_timing import PLAIN, Side, alternate, deviation, engine_side, tell
from benchmarks.engine_work import Passes, count
from sdmatte.configs import BUNDLED
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
    model, size = weights(BUNDLED), plan.nano_size
    batch = asked(BATCH)
    with plain_process(model, plan.device, plan.threads) as plain:
        sides = {PLAIN: plain.side(size)}
        sides |= {name: engine_side(model.engine(size, plan.device, name)) for name in precisions(plan.device)}
        title = f"{model.name}, {size} px, batch of {len(BATCH)}"
        results.comparisons["nano"] = alternate(title, sides, [batch] * plan.nano_rounds, list(sides))
        results.work["nano"] = count(model.configs, size).needed(len(batch), len(BATCH))
        for side in sorted({min(model.configs.input_size, size), size}):
            _nano_deviations(plan, results, model, side, plain)


def _nano_deviations(plan: Plan, results: Results, model: Weights, size: int, plain: Process) -> None:
    """Compare every mode with the baseline: boxes, masks and points of the photographs' objects."""
    names = list(mattes())[: plan.objects]
    questions = [group for name in names for group in asked(tuple((name, kind) for kind in ("box", "mask", "points")))]
    tell(f"deviations of {model.name} at {size} px")
    expected = plain.side(size)(questions).alphas
    for name, emulated in _modes(plan):
        if emulated and size > model.configs.input_size:
            continue
        with _arithmetic(emulated) as mode:
            engine = engine_side(model.engine(size, plan.device, name))
            found = [alpha for each in questions for alpha in engine([each]).alphas]
        results.deviations[f"{model.name}, {size} px, {name}{_how(mode)}"] = deviation(expected, found)


def released(plan: Plan, results: Results) -> None:
    """Time the released configuration with one prompt per image and with four; deviations on the way."""
    with _seeded(plan.config) as model, plain_process(model, plan.device, plan.threads) as plain:
        sides = {PLAIN: plain.side(plan.size)}
        sides |= {name: engine_side(model.engine(plan.size, plan.device, name)) for name in precisions(plan.device)}
        on_gpu = torch.device(plan.device).type == "cuda"
        if not on_gpu:  # libraries and threads; at the full size it would cost minutes
            plain.side(64)(asked(ONE_PROMPT[0]))
        warm = [name for name in sides if on_gpu or name != PLAIN]
        _compare(plan, results, f"{model.name}, {plan.size} px", sides, warm, count(model.configs, plan.size))
        sides.clear()
        gc.collect()
        if on_gpu:
            _memory(plan, results, model)
        if not computes_bfloat16(plan.device):
            _emulated(plan, results, model, plain)


@contextmanager
def _seeded(config: str) -> Iterator[Weights]:
    """Draw name-seeded weights into a temporary file."""
    with TemporaryDirectory(prefix="bench-engine-") as folder:
        tell(f"drawing the weights of {config}")
        yield weights(config, Path(folder) / "weights.float32")


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


def _emulated(plan: Plan, results: Results, model: Weights, plain: Process) -> None:
    """Measure the deviations of bfloat16 at a smaller size, with emulated arithmetic."""
    size = plan.emulated_size
    label = f"{model.name}, {size} px, bfloat16"
    tell(f"deviations of {label}, emulated")
    questions = [group for wanted in ONE_PROMPT[:2] for group in asked(wanted)]
    expected = plain.side(size)(questions).alphas
    with EmulatedBfloat16() as mode:
        found = engine_side(model.engine(size, plan.device, "bfloat16"))(questions).alphas
    results.deviations[label + _how(mode)] = deviation(expected, found)


def _memory(plan: Plan, results: Results, model: Weights) -> None:
    """Measure the peak memory of a batch of four objects on a GPU, the weights included."""
    questions = asked(FOUR_PROMPTS[0])
    for name in precisions(plan.device):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(plan.device)
        engine = model.engine(plan.size, plan.device, name)
        torch.cuda.reset_peak_memory_stats(plan.device)
        engine_side(engine)(questions)
        results.memory[name] = (torch.cuda.max_memory_allocated(plan.device) - before) / 2**30
        del engine
        gc.collect()


def against(plan: Plan, results: Results, folder: Path, configs: Path | None) -> None:
    """Time the released configuration beside a checkout of the public code, in the baseline's place."""
    require_checkout(folder)
    with _seeded("sdmatte") as model, TemporaryDirectory(prefix="bench-engine-") as temporary:
        used = configs or write_configs(Path(temporary) / "configs")
        with public_process(folder, model, used, plan.device, plan.threads) as public:
            sides = {PLAIN: public.side(plan.size)}
            sides |= {
                each: engine_side(model.engine(plan.size, plan.device, each)) for each in precisions(plan.device)
            }
            warm = [name for name in sides if name != PLAIN or torch.device(plan.device).type == "cuda"]
            where = f"{model.name}, {plan.size} px, beside {folder.name}"
            _compare(plan, results, where, sides, warm, count(model.configs, plan.size))


def profiles(plan: Plan) -> str:
    """Return the engine's time by operator, with the released configuration and with the bundled model."""
    tables = []
    with _seeded(plan.config) as big:
        for model, size, questions in (
            (big, plan.size, asked(ONE_PROMPT[0])),
            (weights(BUNDLED), plan.nano_size, asked(BATCH)),
        ):
            objects = sum(len(each.prompts) for each in questions)
            title = f"{model.name}, {size} px, {objects} object{'s' * (objects > 1)}"
            tell(f"profile: {title}")
            side = engine_side(model.engine(size, plan.device))
            tables.append(table(f"{title}, engine", partial(side, questions), plan.device))
            del side
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
