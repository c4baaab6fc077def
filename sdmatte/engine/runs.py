"""Prompt images are constant over long stretches: their encoder need not compute the same row twice.

A box's prompt image has three different rows and three different columns; that of a mask or of points is constant
outside of it. Where rows are equal over a stretch, so are the rows of every feature map behind a few convolutions,
except near the stretch's ends. Of each such stretch one level of the encoder keeps a few rows, and normalisation
counts them as often as they stand in the picture. That is exact. With each convolution the ends reach further, so
every level keeps more than the one before, until nothing is gained.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

MOST_KEPT = 0.75
"""Share of a feature map from which on all of it is computed."""


@dataclass(frozen=True)
class Counts:
    """How often the rows and columns of a feature map stand in the whole one.

    Attributes:
        rows: ``(H,)`` float32.
        columns: ``(W,)`` float32.
    """

    rows: Tensor
    columns: Tensor


class Axis:
    """Which rows (or columns) a level of the encoder keeps.

    Args:
        varies: ``(N,)`` bool, on the CPU: whether a row differs from one of its neighbours once the level is through.
        shrink: Whether to leave rows out at all.
    """

    def __init__(self, varies: Tensor, *, shrink: bool = True) -> None:
        self._varies = varies
        self.length = len(varies)
        keep = torch.ones_like(varies)
        bounds = (torch.nonzero(torch.diff(varies.int()))[:, 0] + 1).tolist()
        for start, stop in pairwise([0, *bounds, len(varies)]):
            # Pairs of rows are left out, so that strided convolutions still start at even rows. Of the stretch, two or
            # three rows stay before the gap and one or two behind it: such a convolution sees no others around it.
            first, last = -(-(start + 2) // 2) * 2, (stop - 1) // 2 * 2
            if shrink and not varies[start] and last > first:
                keep[first:last] = False
        self.kept = torch.nonzero(keep)[:, 0]
        self.counts = torch.diff(self.kept, append=torch.tensor([len(varies)], device="cpu")).float()

    def whole(self) -> Axis:
        """Return the same axis with nothing left out."""
        return Axis(self._varies, shrink=False)

    def below(self, convolutions: int) -> Axis:
        """Return the axis of the next level, behind a convolution of stride 2 and some of stride 1."""
        pairs = self._varies.view(-1, 2).any(1)
        after = torch.cat([self._varies[2::2], torch.tensor([True], device="cpu")])  # the third row of the kernel
        return Axis(spread(pairs | after, convolutions))

    def gather(self, above: Axis) -> Tensor:
        """Return, for each row that is kept, the row of ``above``'s halved feature map that equals it."""
        return torch.searchsorted(above.kept[::2] // 2, self.kept, right=True) - 1


def first_axis(rows: Tensor, convolutions: int) -> Axis:
    """Return the axis of a prompt image's rows behind some 3 x 3 convolutions.

    Args:
        rows: ``(N, M)``, on the CPU; N is even.
        convolutions: Of stride 1.
    """
    ends = torch.zeros(len(rows), dtype=torch.bool, device="cpu")
    ends[1:] = (rows[1:] != rows[:-1]).any(1)
    ends[:-1] |= ends[1:].clone()  # both rows beside a change
    ends[0] = ends[-1] = True  # the border of zeros is one
    return Axis(spread(ends, convolutions - 1))


def worthwhile(rows: Axis, columns: Axis) -> tuple[Axis, Axis]:
    """Return axes that leave something out only where that pays: gathering and counting cost time, too."""
    share = len(rows.kept) * len(columns.kept) / (rows.length * columns.length)
    return (rows, columns) if share < MOST_KEPT else (rows.whole(), columns.whole())


def spread(varies: Tensor, reach: int) -> Tensor:
    """Return the rows that are at most ``reach`` rows from one that varies."""
    grown = torch.nn.functional.max_pool1d(varies.float()[None, None], 2 * reach + 1, stride=1, padding=reach)
    return grown[0, 0] > 0
