"""Ridge regression in closed form from streaming sums.

The sums (counts, means, products) of features and targets are all that a linear fit and its R² need. They add up over
batches and over ranks, so a fit over several processes equals the fit over one, and no feature is kept. Sums are
float64. The strength of the penalty is chosen on a split of its own, never on the one that is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vjepa_lab import dist

STRENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class Sums:
    """Running sums of one split: features x (n, D) and targets y (n, K)."""

    def __init__(self) -> None:
        self._sums: list[Tensor] | None = None

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in rows of features (n, D) and targets (n, K)."""
        device = "cpu" if x.device.type == "mps" else x.device  # MPS has no float64
        x, y = x.to(device, torch.float64), y.to(device, torch.float64)
        one = x.new_ones(len(x), 1)
        rows = torch.cat([one, x], 1)
        new = [rows.T @ rows, rows.T @ y, (y * y).sum(0), y.sum(0)]
        self._sums = new if self._sums is None else [a + b for a, b in zip(self._sums, new, strict=True)]

    def reduced(self) -> Moments:
        """Sum over ranks, as centred moments. A collective call.

        Raises:
            ValueError: fewer than two rows.
        """
        assert self._sums is not None, "no rows were added"
        return _moments(*(dist.sum_over_ranks(s.clone()) for s in self._sums))

    def moments(self) -> Moments:
        """Centred moments of the rows of this rank alone.

        Raises:
            ValueError: fewer than two rows.
        """
        assert self._sums is not None, "no rows were added"
        return _moments(*self._sums)


def _moments(gram: Tensor, cross: Tensor, yy: Tensor, y: Tensor) -> Moments:
    n = gram[0, 0].item()
    if n < 2:
        raise ValueError(f"ridge: got {n:.0f} rows, expected at least 2")
    mean_x, mean_y = gram[0, 1:] / n, y / n
    return Moments(
        n=n,
        mean_x=mean_x,
        mean_y=mean_y,
        xx=gram[1:, 1:] / n - torch.outer(mean_x, mean_x),
        xy=cross[1:] / n - torch.outer(mean_x, mean_y),
        yy=yy / n - mean_y * mean_y,
    )


class Moments(NamedTuple):
    """Centred second moments of a split: xx (D, D), xy (D, K), yy (K,)."""

    n: float
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor

    def r2(self, weight: Tensor, bias: Tensor) -> Tensor:
        """R² (K,) of the predictions x @ weight + bias, from the moments alone. NaN where a target is constant."""
        shift = self.mean_x @ weight + bias - self.mean_y
        error = self.yy - 2 * (weight * self.xy).sum(0) + (weight * (self.xx @ weight)).sum(0) + shift * shift
        spread = self.yy.clamp_min(0)
        constant = spread <= 1e-12 * (self.yy + self.mean_y * self.mean_y).clamp_min(1e-30)
        return torch.where(constant, torch.nan, 1 - error / spread.clamp_min(1e-300))


class Fit(NamedTuple):
    """A fitted ridge: predictions are x @ weight + bias."""

    weight: Tensor
    bias: Tensor
    strength: Tensor
    "chosen penalty per target (K,), as a share of the mean feature variance"


def fit(train: Moments, select: Moments, strengths: Sequence[float] = STRENGTHS) -> Fit:
    """Fit on ``train`` for every strength; keep, for each target, the one with the best R² on ``select``."""
    d = train.xx.shape[0]
    values, vectors = torch.linalg.eigh(train.xx)
    scale = values.clamp_min(0).sum() / d
    rotated = vectors.T @ train.xy
    candidates, scores = [], []
    for strength in strengths:
        weight = vectors @ (rotated / (values.clamp_min(0) + strength * scale + 1e-300)[:, None])
        bias = train.mean_y - train.mean_x @ weight
        candidates.append((weight, bias))
        scores.append(select.r2(weight, bias).nan_to_num(-torch.inf))
    best = torch.stack(scores).argmax(0)
    weight = torch.stack([candidates[b][0][:, k] for k, b in enumerate(best.tolist())], 1)
    bias = torch.stack([candidates[b][1][k] for k, b in enumerate(best.tolist())])
    return Fit(weight, bias, torch.tensor(strengths, dtype=torch.float64)[best.cpu()])
