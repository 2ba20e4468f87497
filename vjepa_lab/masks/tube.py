"""Hide the same random cells in every tubelet, so that no token can be copied from the time before or after.

Reference: tube masking of VideoMAE (arXiv 2203.12602).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vjepa_lab.batch import Grid, Rng
from vjepa_lab.masks import Painted, Sight
from vjepa_lab.registry import MASKS


@MASKS.register
@dataclass
class Tube:
    """A random subset of the cells of the image plane, hidden over the whole clip."""

    ratio: float = 0.75
    "share of the cells that is hidden"

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"mask 'tube': ratio is {self.ratio}, expected a number between 0 and 1")

    def paint(self, grid: Grid, rng: Rng, sight: Sight | None = None) -> list[Painted]:
        """One mask that hides the same number of tokens in every clip.

        Raises:
            ValueError: the image plane has fewer than two cells.
        """
        cells = grid.h * grid.w
        if cells < 2:
            raise ValueError(f"mask 'tube': {grid} has {cells} cells per tubelet, expected at least 2")
        count = min(max(round(self.ratio * cells), 1), cells - 1)
        order = rng.local.uniform(cells).argsort(dim=1, stable=True)
        plane = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :count], True)
        hidden = plane.view(-1, 1, grid.h, grid.w).expand(-1, grid.t, -1, -1)
        return [Painted(hidden, context=grid.n - count * grid.t, target=count * grid.t)]
