"""The training loop: resuming, averaging, accumulating, distilling, and sharing batches among workers."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sdmatte.errors import CheckpointError, SDMatteError
from sdmatte.training.loader import Batch, batches
from sdmatte.training.loop import Learner, Trainer
from sdmatte.training.options import Stage, TrainingOptions
from sdmatte.training.samples import Augmentation, Composer, Sample
from support.training import disc, flat, tiny_learner

DIMS = 4, 40  # of the tiny model's coordinate features
FOREGROUNDS = [disc(), disc(30, colour=(0.1, 0.8, 0.2)), disc(50, transparent=True)]
OPTIONS = TrainingOptions(
    stages=(Stage(2, (32,), 4), Stage(4, (32, 48), 2, accumulate=2)),
    learning_rate=3e-3,
    warmup=2,
    learn=("unet", "vae"),
    workers=0,
    save_every=4,
    show_every=5,
)


class Repeated(Composer):
    """A composer that knows only a few samples."""

    count = 1

    def sample(self, index: int, size: int) -> Sample:
        return super().sample(index % self.count, size)


pytestmark = pytest.mark.usefixtures("one_thread")


def composer(kind: type[Composer] = Composer, **how: Any) -> Composer:
    backgrounds = [flat(40), flat(120)]
    return kind([(FOREGROUNDS, 1.0)], [(backgrounds, 1.0)], augmentation=replace(Augmentation(), **how))


def train(folder: Path, options: TrainingOptions = OPTIONS, learner: Learner | None = None, **more: Any) -> Trainer:
    return Trainer(learner or tiny_learner(), more.pop("composer", None) or composer(), options, folder, **more)


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def untimed(folder: Path) -> list[dict[str, float]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in log_of(folder)]


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}


def identical(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def first_batch(size: int = 32, count: int = 4, kind: type[Composer] = Composer) -> Batch:
    return next(batches(composer(kind), TrainingOptions(stages=(Stage(1, (size,), count),), workers=0), DIMS))


# --- stopping and continuing


def test_a_run_that_was_interrupted_equals_one_that_was_not(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    whole.run()
    train(tmp_path / "parts").run(until=3)
    parts = train(tmp_path / "parts", learner=tiny_learner(seed=7))  # what it starts from no longer matters
    assert parts.step == 3
    parts.run()
    assert whole.step == parts.step == 6
    assert identical(parts.learner.network.state_dict(), whole.learner.network.state_dict())
    assert identical(parts.average, whole.average)
    assert untimed(tmp_path / "parts") == untimed(tmp_path / "whole")
    for name in ("checkpoint.safetensors", "weights.safetensors"):
        assert identical(load_file(tmp_path / "parts" / name), load_file(tmp_path / "whole" / name))
    assert [path.name for path in (tmp_path / "parts" / "samples").iterdir()] == ["000005.jpg"]
    assert not list(tmp_path.rglob("*.part"))


def test_memory_layout_survives_a_checkpoint(tmp_path: Path) -> None:
    def channels_last() -> Learner:
        learner = tiny_learner()
        learner.network.vae.to(memory_format=torch.channels_last)
        return learner

    whole = train(tmp_path / "whole", learner=channels_last())
    whole.run(until=2)
    train(tmp_path / "parts", learner=channels_last()).run(until=1)
    parts = train(tmp_path / "parts", learner=channels_last())
    parts.run(until=2)
    assert identical(parts.learner.network.state_dict(), whole.learner.network.state_dict())
    for parameter, state in parts.optimiser.state.items():
        assert state["exp_avg"].stride() == parameter.stride()


@pytest.mark.gpu
def test_a_run_continues_on_the_gpu(tmp_path: Path) -> None:
    """Fused AdamW wants its step counters where its parameters are."""
    device = torch.device("cuda")
    train(tmp_path, device=device).run(until=1)
    trainer = train(tmp_path, device=device)
    trainer.run(until=2)
    assert {float(state["step"]) for state in trainer.optimiser.state.values()} == {2}
    assert all(state["step"].device.type == "cuda" for state in trainer.optimiser.state.values())


def test_a_killed_run_s_log_is_cut_back_to_its_checkpoint(tmp_path: Path) -> None:
    train(tmp_path).run(until=1)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "l1_known": 9.0}\n{"step": 3, "l1_kno')
    train(tmp_path).run(until=2)
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2]
    assert log_of(tmp_path)[1]["l1_known"] < 9


def test_runs_stop_when_told_and_where_told(tmp_path: Path) -> None:
    trainer = train(tmp_path)
    trainer.run(until=0)
    assert trainer.step == 0
    trainer.run(stop=lambda: trainer.step == 1)
    assert trainer.step == 1
    assert train(tmp_path).step == 1
    trainer.run(until=100)
    assert trainer.step == len(log_of(tmp_path)) == 6
    trainer.run()
    assert trainer.step == 6


def test_a_checkpoint_that_is_no_use_is_refused(tmp_path: Path) -> None:
    train(tmp_path).run(until=1)
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors can't .* Missing key.*: choose a new folder"):
        train(tmp_path, learner=tiny_learner(layers_per_block=2))
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"can.t be continued from .SafetensorError"):
        train(tmp_path)


# --- learning


def test_the_loss_falls(tmp_path: Path) -> None:
    options = replace(OPTIONS, stages=(Stage(40, (32,), 1),), learning_rate=1e-2, final_factor=0.1, save_every=100)
    train(tmp_path, options, composer=composer(Repeated, aspects=0.0)).run()
    log = log_of(tmp_path)
    parts = ("l1_known", "l1_unknown", "laplacian_known", "laplacian_unknown")
    first, last = (sum(line[part] for part in parts) for line in (log[0], log[-1]))
    assert last < 0.5 * first
    assert log[-1]["mad"] < 0.5 * log[0]["mad"]
    assert log[0]["rate"] == 5e-3  # half-way through the warm-up
    assert log[-1]["rate"] == pytest.approx(1e-3)
    assert log[0]["size"] == 32


@pytest.mark.parametrize("learn", [("unet",), ("unet", "vae")], ids="+".join)
def test_only_the_parts_that_should_learn_do(tmp_path: Path, learn: Any) -> None:
    trainer = train(tmp_path, replace(OPTIONS, learn=learn))
    before = copied(trainer.learner.network.state_dict())
    trainer.run(until=1)
    after = trainer.learner.network.state_dict()
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == set(learn)
    assert {name.split(".")[0] for name in trainer.average} == set(learn)


def test_weights_are_averaged(tmp_path: Path) -> None:
    trainer = train(tmp_path, replace(OPTIONS, ema=0.2))
    expected = copied(trainer.average)
    for step in range(3):
        trainer.run(until=step + 1)
        decay = min(0.2, (1 + step) / (10 + step))  # 0.1, 0.18, 0.2
        now = dict(trainer.learner.network.named_parameters())
        expected = {name: decay * value + (1 - decay) * now[name].detach() for name, value in expected.items()}
    for name, value in trainer.average.items():
        torch.testing.assert_close(value, expected[name])
    saved = load_file(tmp_path / "weights.safetensors")
    state = trainer.learner.network.state_dict()
    assert identical(saved, {name: trainer.average.get(name, value).detach() for name, value in state.items()})


def test_gradients_are_clipped_and_rates_follow_the_plan(tmp_path: Path) -> None:
    """AdamW's first step is the rate times the sign of the gradient, whatever its size."""
    trainer = train(tmp_path, replace(OPTIONS, weight_decay=0.0, clip=1e-3))
    before = copied(dict(trainer.learner.network.unet.named_parameters()))
    seen: list[Tensor] = []
    trainer.optimiser.register_step_pre_hook(
        lambda *_: seen.append(
            torch.cat([p.grad.flatten() for p in trainer.learner.parameters() if p.grad is not None])
        )
    )
    trainer.run(until=1)
    assert seen[0].norm() == pytest.approx(1e-3, rel=1e-3)
    assert log_of(tmp_path)[0]["gradient"] > 1e-2  # logged before clipping
    moved = [(value.detach() - before[n]).abs().max() for n, value in trainer.learner.network.unet.named_parameters()]
    assert max(moved) == pytest.approx(OPTIONS.learning_rate / 2, rel=1e-3)


def test_micro_batches_sum_up_to_their_batch(tmp_path: Path) -> None:
    """Exactly (but for rounding) where they have the same regions; else the losses are means of their means."""
    Repeated.count = 2
    options = replace(OPTIONS, stages=(Stage(1, (32,), 4),))
    gradients = []
    for parts in (1, 2):
        stages = (replace(options.stages[0], accumulate=parts),)
        trainer = train(tmp_path / str(parts), replace(options, stages=stages), composer=composer(Repeated))
        kept: dict[str, Tensor] = {}
        trainer.optimiser.register_step_pre_hook(
            lambda *_, trainer=trainer, kept=kept: kept.update(
                (name, value.grad.clone())
                for name, value in trainer.learner.named_parameters()
                if value.grad is not None
            )
        )
        trainer.run()
        gradients.append(kept)
    Repeated.count = 1
    assert gradients[0].keys() == gradients[1].keys()
    scale = max(float(value.abs().max()) for value in gradients[0].values())
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-3, atol=1e-5 * scale)
    whole, halves = (log_of(tmp_path / name)[0] for name in "12")
    for name in ("l1_known", "l1_unknown", "laplacian_known", "laplacian_unknown", "mad"):
        assert halves[name] == pytest.approx(whole[name], rel=1e-4)


class Wrapped(nn.Module):
    """Stands for DistributedDataParallel: tells for each forward pass whether gradients are exchanged after it."""

    def __init__(self, learner: nn.Module) -> None:
        super().__init__()
        self.learner, self.exchanged, self._apart = learner, [], False

    def forward(self, *inputs: Any) -> Any:
        self.exchanged.append(not self._apart)
        return self.learner(*inputs)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        self._apart = True
        yield
        self._apart = False


def test_workers_exchange_gradients_once_per_step(tmp_path: Path) -> None:
    wrapped: list[Wrapped] = []

    def wrap(learner: nn.Module) -> nn.Module:
        wrapped.append(Wrapped(learner))
        return wrapped[0]

    train(tmp_path, replace(OPTIONS, stages=(Stage(2, (32,), 3, accumulate=3),)), wrap=wrap).run()
    assert wrapped[0].exchanged == [False, False, True] * 2


def test_only_worker_0_writes(tmp_path: Path) -> None:
    options = replace(OPTIONS, stages=(Stage(1, (32,), 2),))
    train(tmp_path, options, rank=1, world=2).run()
    assert not list(tmp_path.iterdir())


def test_bfloat16_leaves_the_weights_in_float32(tmp_path: Path) -> None:
    trainer = train(tmp_path, replace(OPTIONS, precision="bfloat16"))
    before = copied(trainer.average)
    trainer.run(until=1)
    assert all(value.dtype == torch.float32 for value in trainer.learner.parameters())
    assert any(not torch.equal(value, before[name]) for name, value in trainer.average.items())
    train(tmp_path / "exact").run(until=1)
    low, exact = (log_of(folder)[0]["l1_known"] for folder in (tmp_path, tmp_path / "exact"))
    assert low != exact
    assert low == pytest.approx(exact, rel=0.1)


def test_a_gradient_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    trainer = train(tmp_path)
    trainer.run(until=1)
    with torch.no_grad():
        trainer.learner.network.unet.conv_in.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(SDMatteError, match="norm is nan after 1 steps; continue from the last checkpoint"):
        trainer.run()
    again = train(tmp_path)
    assert again.step == 1
    again.run(until=2)


# --- distillation


def test_distillation_teaches_the_student_only(tmp_path: Path) -> None:
    teacher = tiny_learner(seed=5)
    taught = copied(teacher.network.state_dict())
    student = train(tmp_path / "student", replace(OPTIONS, distillation=0.5), teacher=teacher)
    alone = train(tmp_path / "alone")
    for trainer in (student, alone):
        trainer.run(until=1)
    assert identical(teacher.network.state_dict(), taught)
    assert all(value.grad is None and not value.requires_grad for value in teacher.parameters())
    ours, theirs = student.learner.network.state_dict(), alone.learner.network.state_dict()
    moved = {name.split(".")[1] for name, value in ours.items() if not torch.equal(value, theirs[name])}
    assert {"down_blocks", "mid_block", "up_blocks"} <= moved
    assert log_of(tmp_path / "student")[0]["distillation"] > 0
    assert "distillation" not in log_of(tmp_path / "alone")[0]


def test_a_student_equal_to_its_teacher_has_nothing_to_learn_from_it(tmp_path: Path) -> None:
    train(tmp_path, teacher=tiny_learner()).run(until=1)
    assert log_of(tmp_path)[0]["distillation"] == 0


def test_the_features_are_those_of_the_blocks() -> None:
    learner = tiny_learner()
    batch = first_batch()
    alpha, features = learner(batch, True)
    assert alpha.shape == (4, 1, 32, 32)
    assert alpha.dtype == torch.float32
    assert [tuple(maps.shape) for maps in features] == [
        (4, 8, 4, 4),
        (4, 16, 4, 4),
        (4, 16, 4, 4),
        (4, 16, 8, 8),
        (4, 8, 8, 8),
    ]
    again, none = learner(batch)
    assert not none
    assert torch.equal(again, alpha)
    assert torch.equal(
        learner.network(batch.image, batch.prompt, batch.coordinates, batch.opaque, learner.text), alpha
    )


# --- batches


def test_workers_share_the_global_batch() -> None:
    options = replace(OPTIONS, stages=(Stage(2, (32,), 4), Stage(2, (32, 48), 2)))
    whole, first, second = (
        list(batches(composer(), options, DIMS, rank=rank, world=world)) for rank, world in ((0, 1), (0, 2), (1, 2))
    )
    assert [len(batch.image) for batch in whole] == [4, 4, 2, 2]
    pictures = set()
    for both, ours, theirs in zip(whole, first, second, strict=True):
        assert torch.equal(torch.cat([ours.image, theirs.image]), both.image)
        assert torch.equal(torch.cat([ours.alpha, theirs.alpha]), both.alpha)
        assert torch.equal(torch.cat([ours.coordinates.box, theirs.coordinates.box]), both.coordinates.box)
        pictures |= {sample.numpy().tobytes() for sample in both.image}
    assert len(pictures) == 12


def test_batches_are_the_same_from_any_process_and_any_start() -> None:
    options = replace(OPTIONS, workers=2)
    here = list(batches(composer(), OPTIONS, DIMS))
    elsewhere = list(batches(composer(), options, DIMS, start=2))
    assert len(here) == 6
    assert len(elsewhere) == 4
    for ours, theirs in zip(here[2:], elsewhere, strict=True):
        for name in ("image", "prompt", "opaque", "alpha", "unknown"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))
        assert torch.equal(ours.coordinates.points, theirs.coordinates.points)


def test_a_batch_holds_its_samples() -> None:
    batch = first_batch(count=8)
    maker = composer()
    for index in range(8):
        sample = maker.sample(index, 32)
        np.testing.assert_allclose((batch.image[index].numpy() + 1) / 2, sample.image.transpose(2, 0, 1), atol=1e-6)
        np.testing.assert_array_equal(batch.prompt[index, 0], sample.map.pixels)
        np.testing.assert_array_equal(batch.alpha[index, 0], sample.alpha)
        np.testing.assert_array_equal(batch.unknown[index, 0], sample.unknown)
        assert batch.opaque[index] == (not sample.transparent)
        assert batch.coordinates.is_points[index] == sample.map.is_points
    half = batch.part(1, 2)
    assert torch.equal(half.image, batch.image[4:])
    assert torch.equal(half.coordinates.box, batch.coordinates.box[4:])
    assert torch.equal(half.to(torch.device("cpu")).unknown, batch.unknown[4:])


# --- options


def test_options_that_cannot_work_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SDMatteError, match="a batch of 4 can't be divided among 3 workers x 1 micro-batches"):
        train(tmp_path, world=3)
    with pytest.raises(SDMatteError, match="training at 36 px: this model's input must be a multiple of 8 px"):
        train(tmp_path, replace(OPTIONS, stages=(Stage(1, (32, 36), 2),)))


def test_rates_rise_and_fall() -> None:
    options = TrainingOptions(stages=(Stage(60, (32,), 1), Stage(41, (32,), 1)), warmup=20, learning_rate=2.0)
    assert options.steps == 101
    assert options.rate(0) == 0.1
    assert options.rate(19) == options.rate(20) == 2
    assert options.rate(60) == pytest.approx(2 * 5e-3**0.5)
    assert options.rate(100) == pytest.approx(2 * 5e-3)


def test_steps_belong_to_stages() -> None:
    first, second = OPTIONS.stages
    assert [OPTIONS.stage(step) for step in range(6)] == [first] * 2 + [second] * 4
    assert [OPTIONS.first_sample(step) for step in range(7)] == [0, 4, 8, 10, 12, 14, 16]
    with pytest.raises(SDMatteError, match="the run has 6 steps; there is no step 6"):
        OPTIONS.stage(6)
