"""Every number of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sdmatte.errors import SDMatteError

Part = Literal["unet", "vae"]


@dataclass(frozen=True)
class Stage:
    """A part of the run.

    Attributes:
        steps: Optimiser steps.
        sizes: Sides of the square input, pixels; each step draws one.
        batch: Samples per step, over all workers.
        accumulate: Micro-batches that a worker splits its share into.
    """

    steps: int
    sizes: tuple[int, ...]
    batch: int
    accumulate: int = 1


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; the defaults are the paper's recipe (arXiv 2508.00443, public configurations).

    Attributes:
        stages: In order.
        learning_rate: Of AdamW, after the warm-up.
        warmup: Steps of linear warm-up.
        final_factor: What the learning rate has been multiplied by at the last step; the decay is exponential.
        weight_decay: Of AdamW.
        clip: Greatest norm of the gradient.
        ema: Decay of the exponential moving average of the weights; it is what gets evaluated and exported.
        learn: Parts that learn. The paper freezes the autoencoder; a model without pre-training learns both.
        precision: Autocast type; weights and optimiser stay float32.
        distillation: Weight of the feature loss against a teacher (LiteSDMatte: 0.01).
        seed: Of the samples and of the initial weights.
        mirrored: Every second sample is the mirror image of the one before it, with a prompt of its own: half the work
            of the loader processes, where a small model waits for them.
        workers: Loader processes per training worker.
        save_every: Steps between checkpoints.
        show_every: Steps between sample pictures in the log.
    """

    stages: tuple[Stage, ...] = (Stage(steps=30_501, sizes=(512,), batch=8),)
    learning_rate: float = 5e-5
    warmup: int = 200
    final_factor: float = 5e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    learn: tuple[Part, ...] = ("unet",)
    precision: Literal["float32", "bfloat16"] = "float32"
    distillation: float = 0.01
    seed: int = 0
    mirrored: bool = False
    workers: int = 1
    save_every: int = 200
    show_every: int = 200

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage(self, step: int) -> Stage:
        """Return the stage that a step (from 0) belongs to.

        Raises:
            SDMatteError: The run has no such step.
        """
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        raise SDMatteError(f"the run has {self.steps} steps; there is no step {step + self.steps}")

    def first_sample(self, step: int) -> int:
        """Return the index of the first sample of a step: how many the steps before it took."""
        taken = 0
        for stage in self.stages:
            taken += stage.batch * min(step, stage.steps)
            step = max(0, step - stage.steps)
        return taken

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up, then exponential decay to ``final_factor``."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - 1 - self.warmup)
        return self.learning_rate * float(self.final_factor**progress)
