"""3 x 3 convolutions in a quarter of the multiplications, on CPUs in float32.

Winograd's minimal filtering F(4 x 4, 3 x 3) (Lavin and Gray 2015, arXiv 1509.09308): each tile of 4 x 4 outputs costs
36 products per pair of channels instead of 144, as 36 matrix products over all tiles; the transforms around them are
sums. Rounding errors are about four times those of a direct convolution in float32 (tests hold that). Tiles are worked
off in strips that fit the cache, and what stands before the convolution (normalisation, activation) happens inside
of them, so that activations cross memory once.

Nearest-neighbour upsampling by 2 followed by a 3 x 3 convolution is four convolutions of the small picture, one per
parity of the output's row and column, with kernels of only 2 x 2 taps: they share the input's transform, and 11 of
their 36 products vanish. That makes 5.8 times fewer multiplications than a direct convolution, and the upsampled
picture never exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sdmatte.engine.memory import scratch

TILE = 4
"""Side of a tile of outputs."""

POINTS = TILE + 2
"""Side of a transformed tile."""

STRIP_BYTES = 16_000_000
"""What the transformed tiles of one strip take, input and output together: about half of a server's last cache."""

FEWEST_TILES = 256
"""Tiles of a strip at least: shorter matrix products don't reach the machine's speed."""

_G = torch.tensor(
    [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64, device="cpu"
) / torch.tensor([24.0, 24, 24, 24, 24, 24], dtype=torch.float64, device="cpu").unsqueeze(1)


@dataclass(frozen=True)
class Affine:
    """What stands before a convolution: ``silu(x * scale + shift)``.

    Attributes:
        scale: ``(B, C)`` float32.
        shift: ``(B, C)`` float32.
        activate: Whether SiLU follows.
    """

    scale: Tensor
    shift: Tensor
    activate: bool = True


@dataclass(frozen=True)
class _Kernel:
    """One transformed kernel: the points where it is not zero, and which of the output's pixels it makes.

    Attributes:
        products: ``(rows, columns, C, O)``.
        row: First point of each tile column that is not zero.
        column: Likewise.
        parity: Row and column of the outputs modulo the scale.
    """

    products: Tensor
    row: int
    column: int
    parity: tuple[int, int]


class Winograd:
    """A 3 x 3 convolution with stride 1 and a border of zeros, or one after upsampling by 2.

    Args:
        weight: ``(O, C, 3, 3)`` float32.
        upsample: Whether nearest-neighbour upsampling by 2 comes first.
    """

    def __init__(self, weight: Tensor, *, upsample: bool = False) -> None:
        self.outputs = weight.shape[0]
        self.scale = 2 if upsample else 1
        self._kernels = [_Kernel(_points(weight), 0, 0, (0, 0))]
        if upsample:
            self._kernels = [
                _Kernel(_points(phase(weight, p, q))[p : p + 5, q : q + 5].contiguous(), p, q, (p, q))
                for p in (0, 1)
                for q in (0, 1)
            ]

    def __call__(self, x: Tensor, bias: Tensor | None, before: Affine | None = None) -> Tensor:
        """Convolve.

        Args:
            x: ``(B, C, H, W)`` float32, channels last in memory.
            bias: ``(O,)`` or ``(B, O)``.
            before: Applied to ``x`` first.

        Returns:
            ``(B, O, scale * H, scale * W)``, channels last in memory.
        """
        pixels = x.permute(0, 2, 3, 1).contiguous()
        batch, height, width, channels = pixels.shape
        down, across = -(-height // TILE), -(-width // TILE)
        out = pixels.new_empty(batch, down * TILE * self.scale, across * TILE * self.scale, self.outputs)
        tiles = max(FEWEST_TILES, STRIP_BYTES // (4 * POINTS**2 * (channels + self.outputs)))
        samples = max(1, min(batch, tiles // (down * across)))  # several small samples make one strip
        rows = max(1, min(down, tiles // across))
        biases = None if bias is None else bias.expand(batch, self.outputs)
        for first in range(0, batch, samples):
            at = slice(first, min(first + samples, batch))
            for top in range(0, down, rows):
                self._strip(pixels, out, at, range(top, min(top + rows, down)), biases, before)
        out = out[:, : height * self.scale, : width * self.scale].contiguous()  # sides that are no multiples of 4
        return out.permute(0, 3, 1, 2)

    def _strip(
        self, pixels: Tensor, out: Tensor, at: slice, rows: range, biases: Tensor | None, before: Affine | None
    ) -> None:
        """Compute some rows of tiles of some samples."""
        _, _, width, channels = pixels.shape
        n, r, across, o = at.stop - at.start, len(rows), -(-width // TILE), self.outputs
        wide = across * TILE + 2
        padded, half, spare, full, spare_full, product, part, spare_part, spare_out = scratch(
            (n, r * TILE + 2, wide, channels),
            (POINTS, n, r, wide, channels),
            (2, n, r, wide, channels),
            (POINTS, POINTS, n, r, across, channels),
            (2, POINTS, n, r, across, channels),
            (POINTS, POINTS, n, r, across, o),
            (TILE, POINTS, n, r, across, o),
            (2, POINTS, n, r, across, o),
            (2, TILE, n, r, across, o),
        )
        _fill(padded, pixels, at, rows.start * TILE - 1, before)
        _input_transform([_every(padded, 1, k, r) for k in range(POINTS)], half, spare)
        _input_transform([_every(half, 3, k, across) for k in range(POINTS)], full.transpose(0, 1), spare_full)
        target = out[at, rows.start * TILE * self.scale : rows.stop * TILE * self.scale]
        for kernel in self._kernels:
            self._multiply(kernel, full, product, None if biases is None else biases[at])
            _output_transform(product, part, spare_part)
            p, q = kernel.parity
            cells = target.view(n, r, TILE, self.scale, across, TILE, self.scale, o)[:, :, :, p, :, :, q]
            _output_transform(part.transpose(0, 1), cells.permute(4, 2, 0, 1, 3, 5), spare_out)

    def _multiply(self, kernel: _Kernel, full: Tensor, product: Tensor, biases: Tensor | None) -> None:
        """Multiply each point of the tiles with the kernel's matrix there; the other points are zero."""
        rows, columns, channels, o = kernel.products.shape
        down, across = slice(kernel.row, kernel.row + rows), slice(kernel.column, kernel.column + columns)
        if (rows, columns) == (POINTS, POINTS):
            factors = kernel.products.view(POINTS**2, channels, o)
            torch.bmm(full.view(POINTS**2, -1, channels), factors, out=product.view(POINTS**2, -1, o))
        else:
            product[0 if kernel.row else POINTS - 1].zero_()
            product[:, 0 if kernel.column else POINTS - 1].zero_()
            for point, row in enumerate(range(down.start, down.stop)):
                tiles = full[row, across].flatten(1, -2)
                torch.bmm(tiles, kernel.products[point], out=product[row, across].view(columns, -1, o))
        if biases is not None:
            product[1, 1] += biases[:, None, None]  # the one point that adds to every pixel of a tile alike


def phase(weight: Tensor, p: int, q: int) -> Tensor:
    """Return the kernel on the small picture that makes rows ``2i + p`` and columns ``2j + q`` of the upsampled one.

    Args:
        weight: ``(O, C, 3, 3)``, of the convolution after upsampling.
        p: 0 or 1.
        q: 0 or 1.

    Returns:
        ``(O, C, 3, 3)`` float64; the last row is zero for ``p == 0``, the first for ``p == 1``, columns likewise.
    """
    fold = torch.tensor([[[1, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]])
    fold = fold.to(weight.device, torch.float64)
    return torch.einsum("ai,ocij,bj->ocab", fold[p], weight.double(), fold[q])


def _points(weight: Tensor) -> Tensor:
    """Transform kernels: ``(O, C, 3, 3)`` to ``(6, 6, C, O)`` float32."""
    g = _G.to(weight.device)
    return torch.einsum("ai,ocij,bj->abco", g, weight.double(), g).float().contiguous()


def _fill(padded: Tensor, pixels: Tensor, at: slice, top: int, before: Affine | None) -> None:
    """Copy rows from ``top`` on, with zeros around the picture; normalise and activate on the way."""
    height, width = pixels.shape[1:3]
    first, last = max(top, 0), min(top + padded.shape[1], height)
    padded[:, : first - top].zero_()
    padded[:, last - top :].zero_()
    padded[:, :, 0].zero_()
    padded[:, :, width + 1 :].zero_()
    inner = padded[:, first - top : last - top, 1 : width + 1]
    source = pixels[at, first:last]
    if before is None:
        inner.copy_(source)
        return
    torch.addcmul(before.shift[at, None, None], source, before.scale[at, None, None], out=inner)
    if before.activate:
        F.silu(inner, inplace=True)


def _every(x: Tensor, dim: int, start: int, count: int) -> Tensor:
    """Return every fourth slice along a dimension."""
    index: list[slice] = [slice(None)] * x.ndim
    index[dim] = slice(start, start + TILE * (count - 1) + 1, TILE)
    return x[tuple(index)]


def _input_transform(d: Sequence[Tensor], out: Tensor, spare: Tensor) -> None:
    """Apply B^T of F(4, 3) (Lavin and Gray 2015, section 4.2): six inputs to six points."""
    a, b = spare
    torch.sub(d[4], d[2], alpha=4, out=a)
    torch.sub(d[3], d[1], alpha=4, out=b)
    torch.add(a, b, out=out[1])
    torch.sub(a, b, out=out[2])
    torch.sub(a, d[2], out=a)
    torch.add(a, d[0], alpha=4, out=out[0])
    torch.sub(d[5], b, out=b)
    torch.sub(b, d[3], alpha=4, out=out[5])
    torch.sub(d[4], d[2], out=a)
    torch.sub(d[3], d[1], out=b)
    torch.add(a, b, alpha=2, out=out[3])
    torch.sub(a, b, alpha=2, out=out[4])


def _output_transform(m: Tensor, out: Tensor, spare: Tensor) -> None:
    """Apply A^T of F(4, 3) (Lavin and Gray 2015, section 4.2): six points to four outputs."""
    a, b = spare
    torch.add(m[1], m[2], out=a)
    torch.add(m[3], m[4], out=b)
    torch.add(a, b, alpha=4, out=out[2])
    torch.add(a, b, out=a)
    torch.add(a, m[0], out=out[0])
    torch.sub(m[1], m[2], out=a)
    torch.sub(m[3], m[4], out=b)
    torch.add(a, b, alpha=2, out=out[1])
    torch.add(a, m[5], out=a)
    torch.add(a, b, alpha=8, out=out[3])
