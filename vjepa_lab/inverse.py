"""Inverse dynamics as an auxiliary objective: a head that tells the action from the features of two frames.

The objective of a training becomes L + lambda * L_ID. The head is thrown away in the end; what it has made of the
encoder is measured by a fresh probe (``probes/inverse_dynamics``). A budget p says how much supervision there is: each
sample takes part in L_ID with probability p, by a draw of its own (``keep``) that disturbs no other random number.

Decisions:
- ``normalise: kept`` divides by the samples that take part, so that p changes how many samples teach and not how
  strongly. ``batch`` divides by all of them, which scales lambda by p: with small budgets that is most of the effect.
- p = 0 leaves the rest of the training bit for bit as it is without the objective, and p = 1 is the plain mean.
- Under several processes the number that take part is that of all of them.
- Actions are standardised by the statistics of the data, so that lambda means the same whatever their units.

Reference: arXiv 2606.07687, where the normalisation is not stated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vjepa_lab import dist
from vjepa_lab.nn.encoder import Encoder

Normalise = Literal["kept", "batch"]


class InverseHead(nn.Module):
    """Features of a pair -> standardised action (B, A): of the frame before and of that after, (B, D) each, or of a
    clip of both, (B, D).

    Args:
        width: D.
        parts: 2 or 1, how many features it reads.
        action_dim: A.
        widths: of the hidden layers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, width: int, action_dim: int, widths: Sequence[int] = (256, 128), parts: int = 2) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(action_dim))
        self.register_buffer("std", torch.ones(action_dim))
        sizes = [parts * width, *widths, action_dim]
        self.layers = nn.ModuleList(nn.Linear(sizes[i], sizes[i + 1]) for i in range(len(sizes) - 1))

    def forward(self, *features: Tensor) -> Tensor:
        x = torch.cat(features, -1)
        for layer in self.layers[:-1]:
            x = F.gelu(layer(x))
        return self.layers[-1](x)

    @torch.no_grad()
    def fit(self, mean: Tensor, std: Tensor) -> None:
        """Set what actions are standardised with, (A,) each."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def standardised(self, actions: Tensor) -> Tensor:
        """Actions (..., A) as the head tells them."""
        return (actions - self.mean) / self.std


def keep(budget: float, *, seed: int, step: int, batch: int, device: torch.device | str = "cpu") -> Tensor:
    """Which samples of micro-batch ``step`` take part: bool (batch,), each with probability ``budget``.

    A function of (seed, step, global row): it draws from no generator that anything else draws from, and does not
    depend on how a batch is split over processes.

    Raises:
        ValueError: the budget is no probability.
    """
    if not 0 <= budget <= 1:
        raise ValueError(f"budget: got {budget}, expected a share from 0 to 1")
    rng = dist.rng(seed, step, batch=batch, device=device, purpose="inverse dynamics")
    return rng.local.uniform() < budget


def inverse_loss(
    predicted: Tensor,
    actions: Tensor,
    kept: Tensor | None = None,
    *,
    normalise: Normalise = "kept",
    batch: int | None = None,
) -> Tensor:
    """Mean of the squared distance between predicted and true actions (B, A) over the samples that take part.

    The mean over the processes of what this returns is the loss of all their samples; gradients are averaged likewise.
    A collective call where ``kept`` is given.

    Args:
        kept: bool (B,) the samples that take part; None: all.
        normalise: divide by those that take part (at least one), or by all.
        batch: how many all are, where only some are given; None: as many as given.

    Raises:
        ValueError: an unknown ``normalise``.
    """
    if normalise not in ("kept", "batch"):
        raise ValueError(f"normalise: got '{normalise}', expected kept or batch")
    error = (predicted - actions).square().sum(-1)
    if kept is None:
        return error.sum() / len(error)
    total = torch.where(kept, error, 0.0).sum()
    if normalise == "batch":
        return total / (batch or len(error))
    count = dist.sum_over_ranks(kept.sum().to(error.dtype))
    return total * dist.world() / count.clamp_min(1)


def unfreeze(encoder: Encoder, last: int | None) -> list[nn.Parameter]:
    """Let the last blocks of an encoder learn, with the norms behind them, and freeze the rest; None: all of it learns.

    Returns:
        what learns.

    Raises:
        ValueError: there are not so many blocks.
    """
    if last is not None and not 0 <= last <= encoder.depth:
        raise ValueError(f"unfreeze_last: got {last}, expected 0 to {encoder.depth} blocks, or null for all")
    encoder.requires_grad_(last is None)
    if last:
        first = encoder.depth - last
        for number in range(first, encoder.depth):
            encoder.blocks[number].requires_grad_()
            encoder.norm_of(number).requires_grad_()
    return [p for p in encoder.parameters() if p.requires_grad]
