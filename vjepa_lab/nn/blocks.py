"""Pre-norm transformer block: attention and MLP, each a residual branch; and how its weights begin.

``Block`` is called with plain tensors, ``block(x, cos, sin)``, so that activation checkpointing, compilation and
sharding can be put around it from outside.

Reference: released files src/models/utils/modules.py and src/models/vision_transformer.py. The SwiGLU branch is an
option that no released model uses; its output projection is ``fc3``, and that is the one rescaled by depth here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vjepa_lab.nn.attention import Attention, Backend, KeyValues
from vjepa_lab.nn.linear import Linear

MlpKind = Literal["gelu", "swiglu"]


class Mlp(nn.Module):
    """Linear, exact GELU, linear: (..., D) -> (..., D)."""

    def __init__(self, *, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    @property
    def out(self) -> nn.Linear:
        """The projection that writes to the residual stream."""
        return self.fc2

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """fc3(silu(fc1 x) * fc2 x): (..., D) -> (..., D).

    The inner width is two thirds of ``hidden``, up to a multiple of 8: about as many parameters as ``Mlp``.
    """

    def __init__(self, *, width: int, hidden: int) -> None:
        super().__init__()
        hidden = math.ceil(int(2 * hidden / 3) / 8) * 8
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(width, hidden)
        self.fc3 = Linear(hidden, width)

    @property
    def out(self) -> nn.Linear:
        """The projection that writes to the residual stream."""
        return self.fc3

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.silu(self.fc1(x)) * self.fc2(x))


class DropPath(nn.Module):
    """Stochastic depth: in training, drops a sample's branch with probability ``rate``, else scales it up.

    Raises:
        ValueError: ``rate`` is outside [0, 1).
    """

    def __init__(self, *, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"drop_path: expected a rate in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * (mask / keep)


class Block(nn.Module):
    """One pre-norm block (B, N, D) -> (B, N, D)."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        mlp_hidden: int,
        mlp: MlpKind = "gelu",
        drop_path: float = 0.0,
        attention: Backend = "sdpa",
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if mlp not in ("gelu", "swiglu"):
            raise ValueError(f"mlp: expected 'gelu' or 'swiglu', got '{mlp}'")
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width=width, heads=heads, backend=attention)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = (Mlp if mlp == "gelu" else SwiGLU)(width=width, hidden=mlp_hidden)
        self.drop_path = DropPath(rate=drop_path)

    def forward(
        self, x: Tensor, cos: Tensor | None = None, sin: Tensor | None = None, last: int | None = None
    ) -> Tensor:
        """``cos`` and ``sin`` are a ``rope.RopeTable``; with ``last``, only the last so many tokens are returned."""
        y = self.attn(self.norm1(x), cos, sin, last)
        if last is not None:
            x = x[:, -last:]
        x = x + self.drop_path(y)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class CausalBlock(Block):
    """A block over a sequence of frames, each of which sees itself and those before: (B, T*n, D) -> (B, T*n, D)."""

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, frames: int, past: tuple[KeyValues, ...] | None = None
    ) -> Tensor | tuple[Tensor, KeyValues]:
        """``frames`` is T. ``past`` is what earlier calls gave of the frames before these, ``()`` at first: with it,
        keys and values of these frames are returned as well."""
        y, kept = self.attn.over_frames(self.norm1(x), cos, sin, frames, past)
        x = x + self.drop_path(y)
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x if kept is None else (x, kept)


def stack(
    *,
    depth: int,
    width: int,
    heads: int,
    mlp_hidden: int,
    mlp: MlpKind = "gelu",
    drop_path: float = 0.0,
    attention: Backend = "sdpa",
) -> nn.ModuleList:
    """``depth`` blocks; the drop-path rate rises linearly from 0 in the first to ``drop_path`` in the last."""
    rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
    return nn.ModuleList(
        Block(width=width, heads=heads, mlp_hidden=mlp_hidden, mlp=mlp, drop_path=rate, attention=attention)
        for rate in rates
    )


@torch.no_grad()
def init_weights(module: nn.Module, blocks: Iterable[nn.Module]) -> None:
    """Initialise every layer in ``module`` in place: weights N(0, 0.02), biases 0, layer norms 1 and 0.

    The two projections of block i (from 0) that write to the residual stream are then divided by sqrt(2 (i + 1)).
    The released code truncates at +-2, a hundred deviations, which is no truncation.
    """
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv3d)):
            nn.init.normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            part.reset_parameters()
    for i, block in enumerate(blocks):
        assert isinstance(block, Block)
        for linear in (block.attn.proj, block.mlp.out):
            linear.weight.div_(math.sqrt(2 * (i + 1)))
