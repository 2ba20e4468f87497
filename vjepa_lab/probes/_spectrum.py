"""How many directions a set of features uses: figures of the spectrum of its second moments.

All figures here are functions of sums over rows (``Sums``), so that a figure without a group of rows costs no second
pass: ``jackknife`` makes its interval of them. Resampling with replacement would not do: rows drawn twice add no
direction, and every rank would come out too small.

Conventions. Singular values are those of the features (n, D), eigenvalues those of their covariance; p is what sums to
one. Everything is in float64.

References: RankMe, Garrido et al. 2023 (uncentred, eps 1e-7); effective rank, Roy and Vetterli 2007; LiDAR, Thilak et
al. 2023 (delta 1e-4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_TINY = 1e-300


class Sums(NamedTuple):
    """Sums over rows z (n, D). Those of two sets add up: ``plus``."""

    count: float
    total: Tensor
    "(D,) sum of z"
    square: Tensor
    "(D, D) sum of z zᵀ"
    within: Tensor | None = None
    "(D, D) where each row is the mean of several views: sum of the covariances of the views of one row"

    @classmethod
    def of(cls, rows: Tensor) -> Sums:
        """Of rows (n, D)."""
        z = rows.double()
        return cls(len(z), z.sum(0), z.T @ z)

    @classmethod
    def of_views(cls, views: Tensor) -> Sums:
        """Of views (n, q, D): the rows are their means."""
        z = views.double()
        mean = z.mean(1)
        rest = (z - mean[:, None]).flatten(0, 1)
        return cls(len(z), mean.sum(0), mean.T @ mean, rest.T @ rest / z.shape[1])

    def plus(self, other: Sums, sign: int = 1) -> Sums:
        """The sums of both sets; with ``sign`` -1, of this set without the other."""
        within = None if self.within is None or other.within is None else self.within + sign * other.within
        return Sums(
            self.count + sign * other.count, self.total + sign * other.total, self.square + sign * other.square, within
        )

    def covariance(self) -> Tensor:
        """(D, D), divided by n."""
        mean = self.total / self.count
        return self.square / self.count - mean[:, None] * mean


def rankme(features: Tensor, *, centred: bool = True, eps: float = 1e-7) -> float:
    """Effective rank exp(entropy of the normalised singular values) of features (n, D): RankMe.

    The published definition is uncentred, where one offset common to all features hides everything else; ``centred``
    removes the mean first. Between 1 (collapsed) and min(n, D).
    """
    z = features.to("cpu" if features.device.type == "mps" else features.device, torch.float64)  # MPS lacks float64
    if centred:
        z = z - z.mean(0)
    gram = z.T @ z if z.shape[0] > z.shape[1] else z @ z.T  # the smaller one: many times faster than svdvals
    return _perplexity(torch.linalg.eigvalsh(gram).clamp_min(0).sqrt(), eps)


def ranks(sums: Sums, *, eps: float = 1e-7) -> dict[str, float]:
    """Figures of rows, by name.

    ``rankme`` (centred) and ``rankme_uncentred``; ``effective_rank``: exp(entropy) of the normalised eigenvalues of
    the covariance; ``participation_ratio``: (sum of eigenvalues)² over the sum of their squares;
    ``covariance_entropy``: of the Gaussian with this covariance, in nats per dimension, after the features are scaled
    to a mean variance of 1: 1.42 where all directions are used alike, less otherwise.
    """
    eigen = torch.linalg.eigvalsh(sums.covariance()).clamp_min(0)
    raw = torch.linalg.eigvalsh(sums.square).clamp_min(0)
    scaled = eigen / eigen.mean().clamp_min(_TINY)
    return {
        "rankme": _perplexity(eigen.sqrt(), eps),
        "rankme_uncentred": _perplexity(raw.sqrt(), eps),
        "effective_rank": _perplexity(eigen, eps),
        "participation_ratio": (eigen.sum().square() / eigen.square().sum().clamp_min(_TINY)).item(),
        "covariance_entropy": 0.5 * math.log(2 * math.pi * math.e) + 0.5 * (scaled + eps).log().mean().item(),
    }


def lidar(sums: Sums, *, delta: float = 1e-4, eps: float = 1e-7) -> float:
    """Effective rank of what tells rows apart beyond what the views of one row differ by: LiDAR.

    Sums of ``Sums.of_views``. exp(entropy) of the normalised eigenvalues of W^-1/2 B W^-1/2, where B is the covariance
    of the means and W that within a row plus ``delta``, relative to the mean variance, on its diagonal. Directions that
    only jitter count for RankMe, and not here.
    """
    assert sums.within is not None, "sums of views"
    between, within = sums.covariance(), sums.within / sums.count
    scale = (between + within).diagonal().mean().clamp_min(_TINY)
    root = torch.linalg.cholesky(within / scale + delta * torch.eye(len(within), dtype=within.dtype))
    half = torch.linalg.solve_triangular(root, between / scale, upper=False)
    whitened = torch.linalg.solve_triangular(root, half.T, upper=False)
    return _perplexity(torch.linalg.eigvalsh((whitened + whitened.T) / 2).clamp_min(0), eps)


def jackknife(
    groups: Sequence[Sums], figures: Callable[[Sums], dict[str, float]]
) -> dict[str, tuple[float, float, float]]:
    """Figures of all groups together, each with its 95 % interval, from the figures with each group left out.

    Groups are of about equal size and independent of each other. Intervals are symmetric, by Student's t; NaN for one
    group.
    """
    whole = groups[0]
    for group in groups[1:]:
        whole = whole.plus(group)
    values = figures(whole)
    if len(groups) < 2:
        return {name: (value, math.nan, math.nan) for name, value in values.items()}
    without = [[*figures(whole.plus(group, -1)).values()] for group in groups]
    halves = half_width(torch.tensor(without, dtype=torch.float64)).tolist()
    return {name: (v, v - half, v + half) for (name, v), half in zip(values.items(), halves, strict=True)}


def half_width(without: Tensor) -> Tensor:
    """Half the 95 % interval (M,) of figures, of what they are with each of G groups left out (G, M)."""
    freedom = len(without) - 1
    return _student(freedom) * (freedom * without.var(0, correction=0)).sqrt()


def _perplexity(values: Tensor, eps: float) -> float:
    """exp(entropy) of values that are 0 or more, normalised."""
    p = values / values.sum().clamp_min(_TINY) + eps
    return torch.exp(-(p * p.log()).sum()).item()


def _student(freedom: int) -> float:
    """97.5 % quantile of Student's t, within 0.2 % from 5 degrees of freedom on (expansion around the normal)."""
    z = 1.959964
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
