"""Hide the end of the clip: the context is the past alone, as for a causal model.

Exactly ``ratio`` of the tokens is hidden, so that the strategy compares with the others: the last tubelets as a whole,
and in the tubelet where the budget ends a part of the picture in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vjepa_lab.batch import Grid, Rng
from vjepa_lab.masks import Painted, Sight
from vjepa_lab.masks._interaction import check, first_of, tube_order
from vjepa_lab.registry import MASKS


@MASKS.register
@dataclass
class Future:
    """The last ``ratio`` of the tokens."""

    ratio: float = 0.4
    "share of the tokens that is hidden"
    scale: float = 0.15
    "share of the frame of the blocks in the first tubelet that is hidden, where that is hidden in part"

    def __post_init__(self) -> None:
        check("future", ratio=self.ratio, scale=self.scale)

    def paint(self, grid: Grid, rng: Rng, sight: Sight | None = None) -> list[Painted]:
        """One mask that hides the same number of tokens in every clip."""
        count = min(max(round(self.ratio * grid.n), 1), grid.n - 1)
        within = tube_order(Grid(1, grid.h, grid.w), self.scale, rng)  # (B, h * w)
        time = torch.arange(grid.t, device=within.device).flip(0).view(1, -1, 1)
        order = (time * (grid.h * grid.w) + within.unsqueeze(1)).flatten(1)
        hidden = first_of(order, torch.ones_like(order, dtype=torch.bool), count)
        return [Painted(hidden.unflatten(1, grid), grid.n - count, count)]
