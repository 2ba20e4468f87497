"""How a perturbation moves features among the clean ones: cosines, and neighbours.

The raw cosine is high for any features with a large common offset, however little of the class survives; the centred
one takes the mean of the clean set away first. Both are given, because only their difference shows the trap.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_ROWS = 2048
"rows compared at once"


def cosines(clean: Tensor, changed: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine of features (n, D) with what became of them, raw and without the clean set's mean: float64 (n,) each.

    What has not changed has a cosine of 1, also where nothing is left of it without the mean (constant features).
    """
    a, b = clean.double(), changed.double()
    mean, same = a.mean(0), (a == b).all(1)
    found = F.cosine_similarity(a, b, eps=1e-30), F.cosine_similarity(a - mean, b - mean, eps=1e-30)
    return torch.where(same, 1.0, found[0]), torch.where(same, 1.0, found[1])


def neighbours(query: Tensor, clean: Tensor, unit: Tensor, k: int = 5) -> Tensor:
    """The k rows of ``clean`` (n, D) nearest to each row of ``query`` (n, D) by centred cosine, int64 (n, k).

    Args:
        unit: int64 (n,) videos of the rows, the same for both; rows of a row's own video do not count.

    Raises:
        ValueError: a row has fewer than k rows of other videos.
    """
    largest = int(torch.unique(unit, return_counts=True)[1].max())
    if len(clean) - largest < k:
        raise ValueError(f"neighbours: got {len(clean) - largest} clips of other videos, expected at least {k}")
    mean = clean.double().mean(0)
    known = F.normalize(clean.double() - mean, dim=1)
    out = []
    for rows, own in zip(query.split(_ROWS), unit.split(_ROWS), strict=True):
        near = F.normalize(rows.double() - mean, dim=1) @ known.T
        near[own[:, None] == unit] = -torch.inf
        out.append(near.topk(k, dim=1).indices)
    return torch.cat(out)


def consistency(near: Tensor, label: Tensor) -> Tensor:
    """Share of the neighbours (n, k) that have the label of the row itself, (n,)."""
    return (label[near] == label[:, None]).double().mean(1)


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """Share of the neighbours (n, k) that two sets have in common, (n,)."""
    return (one[:, :, None] == other[:, None, :]).any(2).double().mean(1)
