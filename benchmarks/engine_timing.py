"""Sides of a comparison, timed in turn, and how far their alphas are apart."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.engine_objects import Asked
from sdmatte.model import SDMatte

Alpha = NDArray[np.float32]

PLAIN = "baseline"
"""Name of the side that the others are held against."""


@dataclass(frozen=True)
class Answer:
    """The mattes of all objects that were asked for, in order, and the seconds that they took."""

    alphas: list[Alpha]
    seconds: float


Side = Callable[[Sequence[Asked]], Answer]


def tell(text: str) -> None:
    """Say on stderr how far a measurement is."""
    print(text, file=sys.stderr, flush=True)


def timed(matte: Callable[[Sequence[Asked]], list[Alpha]]) -> Side:
    """Return a side that measures the wall-clock time of `matte`; its results are NumPy arrays, so GPUs are done."""

    def side(asked: Sequence[Asked]) -> Answer:
        start = time.perf_counter()
        alphas = matte(asked)
        return Answer(alphas, time.perf_counter() - start)

    return side


def engine_side(model: SDMatte) -> Side:
    """Return the engine: all images as one batch, then all objects as one."""

    def matte(asked: Sequence[Asked]) -> list[Alpha]:
        encoded = model.encode([each.image for each in asked])
        return model.matte(
            [(image, prompt) for image, each in zip(encoded, asked, strict=True) for prompt in each.prompts]
        )

    return timed(matte)


@dataclass(frozen=True)
class Deviation:
    """How far alphas are from the baseline's in float32; 1 is a step of an 8-bit alpha.

    Attributes:
        objects: How many.
        mean: Of `255 |difference|` over all pixels of all objects.
        p999: Its 99.9th percentile.
        worst: Its largest value.
    """

    objects: int
    mean: float
    p999: float
    worst: float


def deviation(plain: Sequence[Alpha], others: Sequence[Alpha]) -> Deviation:
    """Compare alphas with those of the baseline, pixels of all objects together; NaN stays NaN."""
    pairs = zip(plain, others, strict=True)
    apart = np.concatenate([np.abs(one - other).ravel() for one, other in pairs]).astype(np.float64) * 255
    return Deviation(len(plain), float(apart.mean()), float(np.percentile(apart, 99.9)), float(apart.max()))


@dataclass(frozen=True)
class Comparison:
    """What the sides took for the same objects, in turn.

    Attributes:
        title: What was computed.
        images: Per round.
        objects: Per round.
        answers: Of each side, one per round.
        warm_up: Of each side, the seconds of its first call, which no figure counts.
    """

    title: str
    images: int
    objects: int
    answers: Mapping[str, list[Answer]]
    warm_up: Mapping[str, float] = field(default_factory=dict)

    def seconds(self, side: str) -> list[float]:
        """Return the seconds per object of each round."""
        return [answer.seconds / self.objects for answer in self.answers[side]]

    def ratios(self, side: str) -> list[float]:
        """Return, per round, how many times as many objects a side finishes as the baseline does."""
        pairs = zip(self.answers[PLAIN], self.answers[side], strict=True)
        return [plain.seconds / other.seconds for plain, other in pairs]

    def ratio(self, side: str) -> float:
        """Return the median of the rounds' ratios: other load on the machine is on both sides of each."""
        return statistics.median(self.ratios(side))

    def alphas(self, side: str) -> list[Alpha]:
        """Return the mattes of all rounds, in order."""
        return [alpha for answer in self.answers[side] for alpha in answer.alphas]

    def figures(self) -> dict[str, Any]:
        """Return the figures as plain values, without the alphas."""
        sides = {
            side: {"seconds_per_object": self.seconds(side), "warm_up_seconds": self.warm_up.get(side)}
            | ({} if side == PLAIN else {"ratios": self.ratios(side), "ratio": self.ratio(side)})
            for side in self.answers
        }
        return {"title": self.title, "images": self.images, "objects": self.objects, "sides": sides}


def alternate(
    title: str, sides: Mapping[str, Side], rounds: Sequence[Sequence[Asked]], warm: Sequence[str] = ()
) -> Comparison:
    """Time the sides in turn; who begins changes from round to round.

    Args:
        title: Of the comparison.
        sides: By name; one of them is :data:`PLAIN`.
        rounds: What to matte in each round; images and objects are as many in all of them.
        warm: Sides that get the first round once before, not counted: what they prepare once (kernels, transformed
            weights) is no part of their speed.
    """
    names = list(sides)
    warm_up = {}
    for name in warm:
        warm_up[name] = sides[name](rounds[0]).seconds
        tell(f"{title}: {name}, first call {warm_up[name]:.2f} s")
    answers: dict[str, list[Answer]] = {name: [] for name in names}
    for number, asked in enumerate(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            answers[name].append(sides[name](asked))
            tell(f"{title}: round {number + 1} of {len(rounds)}, {name} {answers[name][-1].seconds:.2f} s")
    objects = {sum(len(each.prompts) for each in asked) for asked in rounds}
    images = {len(asked) for asked in rounds}
    assert len(objects) == len(images) == 1, "rounds differ in size"
    return Comparison(title, images.pop(), objects.pop(), answers, warm_up)
