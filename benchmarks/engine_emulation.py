"""bfloat16 on CPUs without instructions for it: the same roundings, at the speed of float32.

There torch computes convolutions and matrix products of bfloat16 tensors a hundred times slower than those of
float32. While :class:`EmulatedBfloat16` is active, they are computed in float32 from the rounded operands and rounded
once: what hardware does, which multiplies bfloat16 exactly and sums in float32. So the *deviations* of a bfloat16 mode
can be measured anywhere; its speed cannot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_SLOW = frozenset(
    {_aten.convolution, _aten.conv2d, _aten.linear, _aten.matmul, _aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm}
)


class EmulatedBfloat16(TorchDispatchMode):
    """Compute the slow operators of bfloat16 tensors in float32, and round their results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(  # type: ignore[override]
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operator of torch."""
        kwargs = dict(kwargs or {})
        tensors = [each for each in args if isinstance(each, Tensor)]
        if func.overloadpacket not in _SLOW or not any(each.dtype == torch.bfloat16 for each in tensors):
            return func(*args, **kwargs)
        self.calls += 1
        out: Tensor | None = kwargs.pop("out", None)
        result: Tensor = func.overloadpacket(*(_widened(each) for each in args), **kwargs)
        return result.to(torch.bfloat16) if out is None else out.copy_(result)


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value
