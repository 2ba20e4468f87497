"""AUCCESS, the score of PHYRE: how soon a list of attempts solves a task.

With s_k the share of tasks solved within k attempts, it is sum_k w_k s_k / sum_k w_k for k = 1 .. 100, where
w_k = ln(k + 1) - ln(k): 1 for tasks solved at once, 0.850 at the second attempt, 0.501 at the tenth, 0 after the
hundredth.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ATTEMPTS = 100


def auccess(attempt: Tensor) -> Tensor:
    """Score of each task (n,), of the attempt (from 1) that solved it; infinite: none did."""
    late = (attempt.double().clamp(max=ATTEMPTS + 1).log() / math.log(ATTEMPTS + 1)).clamp(max=1)
    return 1 - late


def within(attempt: Tensor, most: int) -> Tensor:
    """Which tasks are solved within so many attempts, float64 (n,)."""
    return (attempt <= most).double()


def first_solved(score: Tensor, solved: Tensor) -> Tensor:
    """The attempt (from 1) at which a task is solved if the highest scores are tried first; infinite if nothing does.

    Args:
        score: (A,) of the actions; of equal ones the earlier comes first.
        solved: bool (A,).
    """
    order = score.argsort(descending=True, stable=True)
    hits = torch.nonzero(solved[order]).flatten()
    return hits[0].double() + 1 if len(hits) else torch.tensor(torch.inf, dtype=torch.float64)


def by_chance(solving: int, actions: int) -> Tensor:
    """Chance that one of the first k attempts solves a task, float64 (ATTEMPTS,) for k = 1 ..., if the actions,
    so many of which solve it, are tried in a random order. For many actions it is 1 - (1 - solving / actions)^k.
    """
    k = torch.arange(ATTEMPTS, dtype=torch.float64)
    miss = ((actions - solving - k).clamp_min(0) / (actions - k).clamp_min(1)).where(k < actions, 1.0)
    return 1 - miss.cumprod(0)


def expected(chance: Tensor) -> Tensor:
    """AUCCESS of chances (ATTEMPTS,) to have solved a task within k attempts."""
    k = torch.arange(1, ATTEMPTS + 1, dtype=torch.float64)
    weight = ((k + 1) / k).log()
    return (weight * chance).sum() / weight.sum()
