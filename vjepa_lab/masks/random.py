"""Hide tokens at random, each independent of its neighbours. The baseline, and the template to copy.

Easy to solve by copying from the neighbouring tokens, which is why V-JEPA hides large blocks instead
(arXiv 2404.08471).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vjepa_lab.batch import Grid, Rng
from vjepa_lab.masks import Painted, Sight
from vjepa_lab.registry import MASKS


@MASKS.register
@dataclass
class Random:
    """A random subset of all tokens."""

    ratio: float = 0.75
    "share of the tokens that is hidden"

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"mask 'random': ratio is {self.ratio}, expected a number between 0 and 1")

    def paint(self, grid: Grid, rng: Rng, sight: Sight | None = None) -> list[Painted]:
        """One mask that hides the same number of tokens in every clip."""
        count = min(max(round(self.ratio * grid.n), 1), grid.n - 1)
        order = rng.local.uniform(grid.n).argsort(dim=1, stable=True)
        hidden = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :count], True)
        return [Painted(hidden.view(-1, *grid), context=grid.n - count, target=count)]
