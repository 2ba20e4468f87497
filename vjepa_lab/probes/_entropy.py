"""Entropy of features from samples: by the distances of neighbours, and by how tokens spread over clusters.

Neither assumes a shape of the distribution, unlike the entropy of a Gaussian with the same covariance.

References: Kozachenko and Leonenko 1987; k-means++, Arthur and Vassilvitskii 2007.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK = 1024
_NEAREST = 1e-12
"distances are taken as at least so large: of equal rows the entropy would be minus infinity"


def neighbours(rows: Tensor, *, k: int = 5, dimensions: int = 32) -> tuple[Tensor, float]:
    """Summands (n,) and the constant whose mean plus constant is the differential entropy of rows (n, D), in nats.

    Rows are scaled to length 1 and projected on their first ``dimensions`` principal axes, one less than D at most:
    they lie on a sphere.
    """
    z = F.normalize(rows.double(), dim=1)
    z = z - z.mean(0)
    d = max(min(dimensions, z.shape[1] - 1, len(z) - 1), 1)
    axes = torch.linalg.eigh(z.T @ z).eigenvectors[:, -d:]
    return neighbour_terms(z @ axes, k=k)


def neighbour_terms(points: Tensor, *, k: int) -> tuple[Tensor, float]:
    """As ``neighbours``, of points (n, d) as they are.

    Raises:
        ValueError: not more than ``k`` points.
    """
    n, d = points.shape
    if n <= k:
        raise ValueError(f"entropy by neighbours: expected more than k={k} rows, got {n}")
    x = points.double()
    away = [torch.cdist(part, x).kthvalue(k + 1, dim=1).values for part in x.split(_CHUNK)]  # the first is itself
    ball = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    digamma = torch.digamma(torch.tensor([n, k], dtype=torch.float64))
    return d * torch.cat(away).clamp_min(_NEAREST).log(), (digamma[0] - digamma[1]).item() + ball


def clusters(points: Tensor, *, count: int, seed: int, rounds: int = 10) -> Tensor:
    """Nearest of ``count`` centres, int64 (n,), found by k-means from centres drawn as k-means++ does.

    Fewer points than ``count`` get as many centres as there are points. Equal for equal ``seed``.
    """
    x = points.float()
    generator = torch.Generator().manual_seed(seed)
    count = min(count, len(x))
    centres = x[torch.randint(len(x), (1,), generator=generator)]
    square = (x - centres).square().sum(1)
    for _ in range(count - 1):
        if not square.max() > 0:  # no more different points
            break
        edges = square.double().cumsum(0)
        at = torch.searchsorted(edges, torch.rand(1, generator=generator, dtype=torch.float64) * edges[-1])
        new = x[at.clamp_max(len(x) - 1)]
        centres = torch.cat([centres, new])
        square = torch.minimum(square, (x - new).square().sum(1))
    label = _nearest(x, centres)
    for _ in range(rounds):
        size = torch.bincount(label, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, label, x)
        centres = torch.where(size[:, None] > 0, sums / size[:, None].clamp_min(1), centres)
        before, label = label, _nearest(x, centres)
        if torch.equal(before, label):
            break
    return label


def evenness(counts: Tensor, most: int) -> Tensor:
    """Entropy of counts (..., K), normalised by log(most): 1 where ``most`` places are taken alike, 0 where one is."""
    p = counts.double() / counts.sum(-1, keepdim=True).clamp_min(1)
    return torch.special.entr(p).sum(-1) / math.log(most)


def _nearest(x: Tensor, centres: Tensor) -> Tensor:
    return torch.cat([torch.cdist(part, centres).argmin(1) for part in x.split(16 * _CHUNK)])
