"""Two figures of several models that pull apart (fidelity of pixels, knowledge of actions): who is beaten in both?

A model is dominated where another is at least as good in both figures and better in one. What is not dominated is the
front. How sure it is is told by resampling: coordinates of all models under the same resamples of the episodes
(``_stats.weights``) say how often each is on the front.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

REFERENCE = (10.0, -0.1)
"PSNR in dB and action R² of a model that is worth nothing"


class Rank(NamedTuple):
    """Spearman's correlation, and of how many models it is."""

    rho: float
    n: int


def front(points: Tensor) -> Tensor:
    """bool (..., M): which of the points (..., M, 2) no other dominates. Equal points are on the front together."""
    one, two = points.unsqueeze(-2), points.unsqueeze(-3)  # does two dominate one?
    dominated = (two >= one).all(-1) & (two > one).any(-1)
    return ~dominated.any(-1)


def hypervolume(points: Tensor, reference: tuple[float, float] = REFERENCE) -> Tensor:
    """Area that points (..., M, 2) dominate, down to the reference: float64 (...); those not above it add nothing."""
    above = (points.double() - torch.tensor(reference, dtype=torch.float64)).clamp_min(0)
    order = above[..., 0].argsort(-1, descending=True)
    widths, heights = (above[..., k].gather(-1, order) for k in (0, 1))
    best = torch.cummax(heights, -1).values  # of all that are at least as wide
    added = best.diff(dim=-1, prepend=torch.zeros_like(best[..., :1]))
    return (widths * added).sum(-1)


def membership(resampled: Tensor) -> Tensor:
    """How often each point is on the front, float64 (M,): of coordinates (R, M, 2), one row for each resample."""
    return front(resampled).double().mean(0)


def spearman(points: Tensor) -> Rank:
    """Correlation of the ranks of two figures (M, 2); ties share the middle rank. NaN where a figure never differs."""
    ranks = torch.stack([_ranks(points[:, 0]), _ranks(points[:, 1])], 1)
    centred = ranks - ranks.mean(0)
    spread = centred.square().sum(0)
    rho = (
        (centred[:, 0] * centred[:, 1]).sum() / spread.prod().sqrt() if (spread > 0).all() else torch.tensor(torch.nan)
    )
    return Rank(rho.item(), len(points))


def _ranks(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum(0).double() - (counts.double() - 1) / 2)[inverse]
