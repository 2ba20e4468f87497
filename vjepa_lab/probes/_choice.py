"""Choices between two: which rows of a split are partners, and which of two scores is higher, ties counted one half."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Partners(NamedTuple):
    """Rows that belong together: int64 (P,) each, in the order of their pairs' numbers."""

    first: Tensor
    second: Tensor


def partners(pair: Tensor, first: Tensor) -> Partners:
    """All pairs of which both rows are there.

    Args:
        pair: int64 (n,) number of the pair of each row.
        first: bool (n,) which of the two it is.

    Raises:
        ValueError: no pair is complete, or a pair has two rows of one kind.
    """
    one, other = torch.nonzero(first).flatten(), torch.nonzero(~first).flatten()
    for rows in (one, other):
        number, count = pair[rows].unique(return_counts=True)
        if (count > 1).any():
            raise ValueError(f"pair {int(number[count > 1][0])}: got two rows of one kind, expected one of each")
    one, other = one[torch.isin(pair[one], pair[other])], other[torch.isin(pair[other], pair[one])]
    if not len(one):
        raise ValueError("got no pair with both of its rows, expected at least one")
    return Partners(one[pair[one].argsort()], other[pair[other].argsort()])


def wins(difference: Tensor) -> Tensor:
    """1 where it is above 0, one half where it is 0, else 0; float64."""
    return (difference.double().sign() + 1) / 2


def prefers(scores: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """1 where class a has the higher score of the two, 0 where b has, one half for a tie: float64 (n,)."""
    return wins((scores.gather(1, a[:, None]) - scores.gather(1, b[:, None]))[:, 0])
