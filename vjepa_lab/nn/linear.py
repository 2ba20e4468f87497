"""``nn.Linear``, computed by oneDNN where that is the faster library: float32 on a CPU with AVX-512.

There torch multiplies with MKL, which on AMD processors keeps to AVX2: half of what the cores can do, forward and
backward. oneDNN, which every CPU build of torch also holds, uses their whole width. Both are float32 throughout; sums
are added in another order, as between any two libraries. On other devices, in other precisions, under autocast and
under ``torch.compile`` this is ``nn.Linear`` and nothing else.

Decision. torch reaches oneDNN's matrix product of plain float32 tensors through one operator, ``_linear_pointwise``,
which its compiler emits. It is not part of the documented interface, so it is looked up once and done without if it
is missing.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Linear(nn.Linear):
    """x W^T + b, (..., in) -> (..., out)."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, (..., in) -> (..., out); see the module's text for how."""
    if torch.compiler.is_compiling() or not _suits_onednn(x, weight):
        return F.linear(x, weight, bias)
    return _OneDnnLinear.apply(x, weight, bias)  # type: ignore[return-value]


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and _onednn_pays()
    )


@lru_cache(maxsize=1)
def _onednn_pays() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a b^T + bias, (..., in) and (out, in) -> (..., out)."""
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # pyright: ignore
        ctx.save_for_backward(x, weight)
        ctx.with_bias = bias is not None
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # pyright: ignore
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            _product(grad, weight.t()) if for_x else None,
            _product(rows.t(), x.flatten(0, -2).t()) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )
