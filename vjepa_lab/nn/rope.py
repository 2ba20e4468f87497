"""Rotary position embedding over time, height and width.

A head of width ``head_dim`` holds three segments of ``2 * ((head_dim // 3) // 2)`` numbers, one per axis (time, height,
width), and a rest that is not rotated. In each segment adjacent pairs are turned by the position times a frequency.

Decisions. The table of angles depends on the grid alone, so it is built once per grid in float64, kept in float32, and
shared by all layers, by queries and keys, and by both encoders; the table of chosen tokens is a gather of its rows.
The sign of the rotation lives in the sine table, so that an application is one product and a fused multiply-add with
the neighbour, and its gradient is another application.

Two layouts of the frequencies. ``exact`` gives both members of a pair the same angle: a rotation, so norms are kept and
attention depends on offsets alone. ``released`` is that of the published V-JEPA 2 weights, which repeat the list of
frequencies end to end, so that the members of a pair get different angles: neither property holds, and those weights
need it.

Rows and columns may be scaled to those of a reference frame (``reference``, V-JEPA 2.1): then the first and the last
row and column of any grid have the positions that they had at the reference resolution. Time is never scaled.

Reference: released file src/models/utils/modules.py (``rotate_queries_or_keys``), for V-JEPA 2.1 the file of that name
under app/vjepa_2_1; V-JEPA 2 paper, section 2.1.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vjepa_lab.batch import Grid

Layout = Literal["released", "exact"]


class RopeTable(NamedTuple):
    """Cosines and signed sines (negative at even places), float32: 1 and 0 where a dimension is not rotated."""

    cos: Tensor
    "(N, head_dim) for a full grid, (B, 1, K, head_dim) for chosen tokens"
    sin: Tensor
    "same shape"


def tables(
    grid: Grid,
    ids: Tensor | None = None,
    *,
    head_dim: int,
    layout: Layout = "exact",
    reference: int | None = None,
    base: float = 10000.0,
    device: torch.device | str = "cpu",
) -> RopeTable:
    """Table for all tokens of ``grid``, (N, head_dim), or for the tokens ``ids`` (B, K), (B, 1, K, head_dim).

    Args:
        reference: rows and columns of the frame to whose positions those of ``grid`` are scaled; None: not scaled.

    Raises:
        ValueError: ``layout`` is neither ``released`` nor ``exact``.
    """
    table = _of_grid(grid, head_dim, layout, reference, base, torch.device(device))
    if ids is None:
        return table
    return RopeTable(table.cos[ids].unsqueeze(1), table.sin[ids].unsqueeze(1))


def at(positions: Tensor, *, head_dim: int, layout: Layout = "exact", base: float = 10000.0) -> RopeTable:
    """Table for any positions (..., 3) along (time, height, width): (..., head_dim). Position 0 is no rotation.

    Raises:
        ValueError: ``layout`` is neither ``released`` nor ``exact``.
    """
    if layout not in ("released", "exact"):
        raise ValueError(f"rope layout: expected 'released' or 'exact', got '{layout}'")
    pairs = (head_dim // 3) // 2
    place = torch.arange(2 * pairs, device=positions.device)
    exponent = (place % pairs if layout == "released" else place // 2) if pairs else place
    frequency = base ** (-exponent.double() / max(pairs, 1))
    angle = positions.double()[..., None] * frequency  # (..., 3, 2 * pairs)
    angle = angle.flatten(-2)
    sin = torch.sin(angle)
    sin[..., 0::2].neg_()
    rest = head_dim - angle.shape[-1]
    cos = F.pad(torch.cos(angle), (0, rest), value=1.0)
    sin = F.pad(sin, (0, rest), value=0.0)
    return RopeTable(cos.float(), sin.float())


def apply(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries and keys (..., N, head_dim). Computed and returned in float32 if ``x`` is narrower."""
    if torch.compiler.is_compiling():
        return torch.addcmul(x * cos, _swap(x), sin)  # the compiler makes one kernel of this
    return _Rotate.apply(x, cos, sin)  # type: ignore[return-value]


class _Rotate(torch.autograd.Function):
    """x cos + swap(x) sin without the swapped copy. The gradient is such a rotation too, of swapped sines."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # pyright: ignore
        ctx.save_for_backward(cos, sin)
        # Dense, whatever the strides of x: attention reads it faster so.
        out = x.new_empty(x.shape, dtype=torch.result_type(x, cos))
        torch.mul(x, cos, out=out)
        end = x.shape[-1] // 2 * 2
        out[..., 0:end:2].addcmul_(x[..., 1:end:2], sin[..., 0:end:2])
        out[..., 1:end:2].addcmul_(x[..., 0:end:2], sin[..., 1:end:2])
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore
        cos, sin = ctx.saved_tensors
        return apply(grad, cos, _swap(sin)), None, None


def _swap(x: Tensor) -> Tensor:
    """(x0, x1, x2, x3, ...) -> (x1, x0, x3, x2, ...) along the last axis; a last one without a partner becomes 0."""
    odd = x.shape[-1] % 2
    swapped = x[..., : x.shape[-1] - odd].unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return F.pad(swapped, (0, 1)) if odd else swapped


@lru_cache(maxsize=32)
def _of_grid(
    grid: Grid, head_dim: int, layout: Layout, reference: int | None, base: float, device: torch.device
) -> RopeTable:
    # Built outside inference mode: a table first met in validation is later saved for a backward pass.
    with torch.inference_mode(False):
        axes = [torch.arange(n, dtype=torch.float64, device="cpu") for n in grid]
        if reference is not None:
            for axis in axes[1:]:
                axis.mul_((reference - 1) / max(len(axis) - 1, 1))  # of a single cell the position is 0 anyway
        positions = torch.cartesian_prod(*axes)  # (N, 3), raster order
        table = at(positions, head_dim=head_dim, layout=layout, base=base)
        return RopeTable(table.cos.to(device), table.sin.to(device))
