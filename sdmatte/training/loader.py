"""Batches of samples, composed by loader processes; any step's batch can be had without those before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sdmatte.embeddings import CoordinateFeatures, coordinate_features
from sdmatte.errors import ImageError, PromptError, SDMatteError
from sdmatte.training.options import TrainingOptions
from sdmatte.training.samples import Composer, Sample


@dataclass(frozen=True)
class Batch:
    """Samples of one size.

    Attributes:
        image: ``(B, 3, H, W)`` float32 in [-1, 1].
        prompt: ``(B, 1, H, W)`` float32 in [-1, 1].
        coordinates: Features of the prompts' coordinates.
        opaque: ``(B,)`` float32: 0 for transparent objects.
        alpha: ``(B, 1, H, W)`` float32 in [0, 1].
        unknown: ``(B, 1, H, W)`` float32, 0 or 1.
    """

    image: Tensor
    prompt: Tensor
    coordinates: CoordinateFeatures
    opaque: Tensor
    alpha: Tensor
    unknown: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the same on another device."""
        return Batch(**{item.name: getattr(self, item.name).to(device) for item in fields(self)})

    def part(self, index: int, count: int) -> Batch:
        """Return part ``index`` of ``count`` equal ones."""
        size = self.image.shape[0] // count
        rows = slice(index * size, (index + 1) * size)
        place = self.coordinates
        return Batch(
            self.image[rows],
            self.prompt[rows],
            CoordinateFeatures(place.box[rows], place.points[rows], place.is_points[rows]),
            self.opaque[rows],
            self.alpha[rows],
            self.unknown[rows],
        )


def collate(samples: Sequence[Sample], *, box_channels: int, points_dim: int) -> Batch:
    """Make a batch on the CPU.

    Args:
        samples: Of one size.
        box_channels: As for :func:`~sdmatte.embeddings.coordinate_features`.
        points_dim: As there.
    """
    coordinates = coordinate_features(
        [torch.from_numpy(sample.map.coordinates) for sample in samples],
        [sample.map.is_points for sample in samples],
        box_channels=box_channels,
        points_dim=points_dim,
    )
    return Batch(
        # Each sample's channels lie side by side, and so they do in the batch: convolutions like it on CPUs.
        image=torch.from_numpy(np.stack([s.image.transpose(2, 0, 1) for s in samples])).mul_(2).sub_(1),
        prompt=torch.from_numpy(np.stack([s.map.pixels[None] for s in samples])),
        coordinates=coordinates,
        opaque=torch.tensor([0.0 if s.transparent else 1.0 for s in samples]),
        alpha=torch.from_numpy(np.stack([s.alpha[None] for s in samples])),
        unknown=torch.from_numpy(np.stack([s.unknown[None] for s in samples])),
    )


class _Steps(Dataset[Batch]):
    """Item ``step`` is the batch of that step, for one of the workers."""

    def __init__(
        self, composer: Composer, options: TrainingOptions, dims: tuple[int, int], rank: int, world: int
    ) -> None:
        self._composer, self._options, self._dims, self._rank, self._world = composer, options, dims, rank, world

    def __len__(self) -> int:
        return self._options.steps

    def __getitem__(self, step: int) -> Batch:
        try:
            return self._batch(step)
        except (ImageError, PromptError) as error:  # two arguments: PyTorch could not hand them on between processes
            raise SDMatteError(f"step {step}: {error}") from error

    def _batch(self, step: int) -> Batch:
        stage = self._options.stage(step)
        # The size is one for all workers, so that they finish a step together.
        size = int(np.random.default_rng([self._options.seed, step, 1]).choice(stage.sizes))
        share = stage.batch // self._world
        first = self._options.first_sample(step) + self._rank * share
        samples: list[Sample] = []
        for index in range(first, first + share):
            if self._options.mirrored and len(samples) % 2:
                samples.append(self._composer.mirrored(samples[-1], index))
            else:
                samples.append(self._composer.sample(index, size))
        return collate(samples, box_channels=self._dims[0], points_dim=self._dims[1])


def batches(
    composer: Composer,
    options: TrainingOptions,
    dims: tuple[int, int],
    *,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Return the batches of steps ``start`` and on; loader processes start with the first one asked for.

    Args:
        composer: Makes the samples.
        options: Of the run.
        dims: ``box_channels`` and ``points_dim`` of the model's coordinate embedding.
        start: First step.
        rank: Of this training worker.
        world: Number of training workers; each gets its share of every batch.

    Raises:
        SDMatteError: A batch cannot be divided among the workers and their micro-batches.
    """
    for stage in options.stages:
        if stage.batch % (world * stage.accumulate):
            raise SDMatteError(
                f"a batch of {stage.batch} can't be divided among {world} workers x {stage.accumulate} micro-batches"
            )
    loader = DataLoader(
        _Steps(composer, options, dims, rank, world),
        batch_size=None,
        sampler=range(start, options.steps),
        num_workers=options.workers,
        prefetch_factor=4 if options.workers else None,
        multiprocessing_context="fork" if options.workers else None,
    )
    return _lazily(loader)


def _lazily(loader: Iterable[Batch]) -> Iterator[Batch]:
    # The cores belong to the model. Said here and not in the loader processes: their copy of OpenCV's thread pool has
    # no threads, and waits for them for ever when it is told to change.
    cv2.setNumThreads(1)
    yield from loader
