"""Figures with their uncertainty: a value, and its 95 % interval by the bootstrap over videos or episodes.

What is resampled are units (videos, episodes), never frames, tokens or pairs: those of one unit are not independent.
A figure that is a function of sums over rows (an accuracy, an R²) needs the sums of each unit alone, and all resamples
are one matrix product. The resamples depend on the number of units and the seed only, so that two models measured on
the same split are resampled alike and their difference has an interval too.

R² is per dimension, around the mean of the evaluated set, never clipped; dimensions that hardly vary are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vjepa_lab import dist

SAMPLES = 2000
_DRAWS = 500
"resamples of figures that are no function of sums"


class Estimate(NamedTuple):
    """A measured figure."""

    value: float
    low: float = math.nan
    "lower end of the 95 % interval, NaN where there is none"
    high: float = math.nan
    units: int = 0
    "videos or episodes it was measured on"
    sd: float = math.nan
    "standard deviation over the seeds of the probe, NaN for one seed"


@lru_cache(maxsize=1)  # the figures of a split are resampled alike
def weights(units: int, *, samples: int = SAMPLES, seed: int = 0) -> Tensor:
    """How often each unit occurs in each resample: float64 (samples, units), each row sums to ``units``. To be read."""
    generator = torch.Generator().manual_seed(dist.derive("bootstrap", seed, units))
    drawn = torch.randint(units, (samples, units), generator=generator)
    return torch.zeros(samples, units, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(samples, units, dtype=torch.float64)
    )


def sums_of_units(rows: Tensor, unit: Tensor) -> Tensor:
    """Sums of rows (n, P) over the rows of each unit, float64 (U, P); units are numbered in any way, int64 (n,)."""
    _, dense = torch.unique(unit.cpu(), return_inverse=True)
    out = torch.zeros(int(dense.max()) + 1, rows.shape[1], dtype=torch.float64)
    return out.index_add_(0, dense, rows.cpu().double())


def bootstrap(
    parts: Tensor,
    unit: Tensor,
    statistic: Callable[[Tensor], Tensor],
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Estimate:
    """A figure that is a function of sums.

    Args:
        parts: (n, P) summands of every row.
        unit: int64 (n,) which video or episode a row belongs to.
        statistic: sums (R, P) -> figures (R,).
    """
    summed = sums_of_units(parts, unit)
    value = statistic(summed.sum(0, keepdim=True))[0].item()
    units = len(summed)
    if units < 2:
        return Estimate(value, units=units)
    return Estimate(value, *interval(statistic(weights(units, samples=samples, seed=seed) @ summed)), units)


def interval(resampled: Tensor) -> tuple[float, float]:
    """Middle 95 % of the resampled figures; those that are not defined (NaN) are left out."""
    finite = resampled[torch.isfinite(resampled)]
    if not len(finite):
        return math.nan, math.nan
    low, high = torch.quantile(finite, torch.tensor([0.025, 0.975], dtype=finite.dtype)).tolist()
    return low, high


def share(part: Tensor, whole: Tensor, unit: Tensor) -> Estimate:
    """Sum of a part over the sum of the whole, of rows (n,)."""
    parts = torch.stack([part.double().cpu(), whole.double().cpu()], 1)
    return bootstrap(parts, unit, lambda s: s[:, 0] / s[:, 1])


def accuracy(correct: Tensor, unit: Tensor) -> Estimate:
    """Mean over rows (n,): the share that is right (bool, or a score from 0 to 1), or of any figure of a row."""
    return share(correct, torch.ones(len(correct)), unit)


def r2(
    prediction: Tensor, target: Tensor, unit: Tensor, *, weighting: Literal["uniform", "variance"] = "uniform"
) -> Estimate:
    """R² of predictions (n, K): the mean over dimensions (``uniform``), or of all of them pooled (``variance``).

    Dimensions whose variance is below 1e-6 of the largest are left out (see ``varying``); NaN if none is left.
    """
    parts, figure = r2_parts(prediction, target, weighting=weighting)
    return bootstrap(parts, unit, figure)


def r2_parts(
    prediction: Tensor, target: Tensor, *, weighting: Literal["uniform", "variance"] = "uniform"
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """R² as ``bootstrap`` wants it: summands of every row (n, P), and what their sums (R, P) make, (R,)."""
    used = varying(target)
    y, p = target.double().cpu()[:, used], prediction.double().cpu()[:, used]
    k = y.shape[1]
    centre = y.mean(0)  # sums of squares of what is far from 0 would cancel
    y, p = y - centre, p - centre
    parts = torch.cat([(y - p).square(), y, y.square(), torch.ones(len(y), 1, dtype=torch.float64)], 1)

    def figure(s: Tensor) -> Tensor:
        error, total, square, n = s[:, :k], s[:, k : 2 * k], s[:, 2 * k : 3 * k], s[:, 3 * k :]
        spread = square - total.square() / n
        if weighting == "variance":
            return 1 - error.sum(1) / spread.sum(1)
        return (1 - error / spread).mean(1)

    return parts, figure


def varying(target: Tensor) -> Tensor:
    """bool (K,): dimensions of targets (n, K) whose variance is at least 1e-6 of the largest one."""
    variance = target.double().cpu().var(0, unbiased=False)
    return variance > 1e-6 * variance.max().clamp_min(1e-300)


def area(score: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve: the chance that a positive has the larger score, ties one half; NaN for one class."""
    score, positive = score.double().cpu(), positive.cpu().bool()
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return math.nan
    _, inverse, counts = torch.unique(score, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    rank = (ends - (counts.double() - 1) / 2)[inverse]  # ties share the middle rank
    return ((rank[positive].sum() - n * (n + 1) / 2) / (n * m)).item()


def auroc(score: Tensor, positive: Tensor, unit: Tensor, *, seed: int = 0) -> Estimate:
    """Area under the ROC curve of scores (n,), with its interval over units."""
    _, dense = torch.unique(unit.cpu(), return_inverse=True)
    units = int(dense.max()) + 1
    members = [torch.nonzero(dense == u).flatten() for u in range(units)]
    generator = torch.Generator().manual_seed(dist.derive("bootstrap", seed, units))
    drawn = torch.randint(units, (_DRAWS, units), generator=generator).tolist()
    picks = (torch.cat([members[u] for u in row]) for row in drawn)
    resampled = torch.tensor([area(score[i], positive[i]) for i in picks], dtype=torch.float64)
    return Estimate(area(score, positive), *interval(resampled), units)


def over_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """Mean over the seeds of a probe, with their deviation; the interval is the mean of the intervals."""
    columns = torch.tensor([e[:3] for e in estimates], dtype=torch.float64)
    value, low, high = columns.mean(0).tolist()
    sd = columns[:, 0].std().item() if len(estimates) > 1 else math.nan
    return Estimate(value, low, high, estimates[0].units, sd)
