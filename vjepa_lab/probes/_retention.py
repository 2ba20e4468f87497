"""What is left of an accuracy when clips are degraded, on the very same videos.

``retention`` is the share of the clean accuracy that is left. What a guess would get is left of any encoder, so
``retention_corrected`` takes chance away from both: (a - 1/K) / (clean - 1/K). Both are given only where the clean
accuracy lies above chance with its interval: whoever guesses has nothing to retain, and would retain all of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vjepa_lab.probes import _stats
from vjepa_lab.probes._stats import Estimate


def retained(right: Tensor, clean: Tensor, unit: Tensor, classes: int) -> Iterator[tuple[str, Estimate]]:
    """``top1``, ``retention`` and ``retention_corrected``, the latter two where the clean accuracy is above chance.

    Args:
        right: which rows are right (n,), or in which share of several degradations, 0 to 1.
        clean: which are right without degradation (n,).
        unit: int64 (n,) videos.
        classes: K.
    """
    yield "top1", _stats.accuracy(right, unit)
    whole, chance = _stats.accuracy(clean, unit), 1 / classes
    if not whole.low > chance:
        return
    parts = torch.stack((right.double(), clean.double(), torch.ones(len(clean), dtype=torch.float64)), 1)
    yield "retention", _stats.bootstrap(parts, unit, lambda s: s[:, 0] / s[:, 1])
    yield (
        "retention_corrected",
        _stats.bootstrap(parts, unit, lambda s: (s[:, 0] / s[:, 2] - chance) / (s[:, 1] / s[:, 2] - chance)),
    )
