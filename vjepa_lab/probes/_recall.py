"""Class-mean recall: how often the rows of a class are got right, averaged over the classes and not over the rows.

A scorer that favours common classes does well on rows and badly here. What is averaged over are the classes that occur
among the rows; in a resample, those that occur in it.

Reference: Damen et al. 2022, for which this is the measure of anticipation (with the five highest scores).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vjepa_lab.probes._stats import Estimate, interval, weights

_RESAMPLES = 100
"at once"


def class_mean(hit: Tensor, label: Tensor, unit: Tensor) -> Estimate:
    """Mean over classes of the mean of ``hit`` over the rows of a class, with its interval over units.

    Args:
        hit: (n,) bool, or a score from 0 to 1.
        label: int64 (n,) class of each row.
        unit: int64 (n,) which video a row belongs to.
    """
    hit = hit.cpu().double()
    _, label = torch.unique(label.cpu(), return_inverse=True)
    _, unit = torch.unique(unit.cpu(), return_inverse=True)
    classes, units = int(label.max()) + 1, int(unit.max()) + 1

    def figures(weight: Tensor) -> Tensor:
        """For row weights (R, n)."""
        empty = weight.new_zeros(len(weight), classes)
        count = empty.index_add(1, label, weight)
        recall = empty.index_add(1, label, weight * hit) / count  # NaN where a class does not occur
        return recall.nanmean(1)

    value = figures(torch.ones(1, len(hit), dtype=torch.float64)).item()
    if units < 2:
        return Estimate(value, units=units)
    resampled = [figures(w[:, unit]) for w in weights(units).split(_RESAMPLES)]
    return Estimate(value, *interval(torch.cat(resampled)), units)
