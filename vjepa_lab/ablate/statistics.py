"""Intervals over few seeds, paired differences, and what many comparisons are worth.

A handful of seeds is too few for a bootstrap (resampling three values gives ten different means), so intervals are
Student's t: mean ± t(n - 1) sd / sqrt(n), which takes the values of seeds to be about normal. Arms share weights and
data of a seed, so differences are taken seed by seed and the interval is that of their mean. p is two-sided.

Holm's correction keeps the chance of any false alarm in a family of comparisons below the level, whatever their
dependence.

Reference: Abramowitz and Stegun, 26.7.3 and 26.7.4 (Student's t for whole degrees of freedom); S. Holm, 1979.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
"of all intervals"


class Mean(NamedTuple):
    """A mean over seeds with its interval, NaN where there is none (one seed)."""

    value: float
    low: float
    high: float
    p: float
    "of the mean being 0"
    n: int


def mean(values: Sequence[float]) -> Mean:
    """Mean of the values of n seeds with Student's interval; all NaN if a value is not finite."""
    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    if not n or not np.isfinite(x).all():
        return Mean(math.nan, math.nan, math.nan, math.nan, n)
    centre = float(x.mean())
    if n == 1:
        return Mean(centre, math.nan, math.nan, math.nan, 1)
    error = float(x.std(ddof=1)) / math.sqrt(n)
    if error == 0:
        return Mean(centre, centre, centre, float(centre == 0), n)
    half = quantile(LEVEL, n - 1) * error
    return Mean(centre, centre - half, centre + half, 1 - inside(abs(centre) / error, n - 1), n)


def paired(one: Sequence[float], other: Sequence[float]) -> Mean:
    """Mean of ``one - other`` seed by seed.

    Raises:
        ValueError: not equally many.
    """
    if len(one) != len(other):
        raise ValueError(f"paired: expected a value of each seed for both, got {len(one)} and {len(other)}")
    return mean([a - b for a, b in zip(one, other, strict=True)])


def holm(p: Sequence[float]) -> list[float]:
    """Corrected p of each comparison of a family; NaN stay, and do not count."""
    out = [math.nan] * len(p)
    order = sorted((i for i in range(len(p)) if math.isfinite(p[i])), key=lambda i: p[i])
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p[i]))
        out[i] = largest
    return out


def inside(t: float, df: int) -> float:
    """P(|T| < t) of Student's T with ``df`` degrees of freedom."""
    angle = math.atan(t / math.sqrt(df))
    cosine, sine = math.cos(angle), math.sin(angle)
    if df % 2:
        term, total = cosine, 0.0
        for k in range(1, df - 1, 2):
            total += term
            term *= cosine**2 * (k + 1) / (k + 2)
        return 2 / math.pi * (angle + sine * total)
    term, total = 1.0, 0.0
    for k in range(0, df - 1, 2):
        total += term
        term *= cosine**2 * (k + 1) / (k + 2)
    return sine * total


def quantile(level: float, df: int) -> float:
    """The t with P(|T| < t) = ``level``, by bisection."""
    low, high = 0.0, 1.0
    while inside(high, df) < level:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle, df) < level else (low, middle)
    return (low + high) / 2
