"""Masks: which tokens of a clip the context encoder sees and which the predictor predicts.

A strategy is one file of this folder: a registered dataclass whose ``paint`` returns booleans. ``sample`` is the only
entry point for training; it makes ids of them. Masks are sampled in the training step, on its device, from random
numbers that are functions of (seed, step, row): there is no state to save and nothing to send between processes.

Letters: B clips, t h w token axes, K context ids, M target ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from vjepa_lab.batch import Grid, MaskPair, Rng
from vjepa_lab.masks._rectangular import Keep, Painted, rectangular

__all__ = ["Keep", "Painted", "Strategy", "sample"]


class Strategy(Protocol):
    """A way to choose the hidden cells of a clip."""

    def paint(self, grid: Grid, rng: Rng, clip: Tensor | None) -> list[Painted]:
        """One or more masks for ``rng.local.count`` clips, on ``rng.local.device``.

        Sizes come from ``rng.shared``, so that all ranks do like amounts of work; positions from ``rng.local``.
        ``clip`` is (B, 3, F, H, W) as the encoder gets it, None where the caller has no pixels.
        """
        ...


def sample(
    strategies: Sequence[Strategy], grid: Grid, rng: Rng, clip: Tensor | None = None, keep: Keep = "random"
) -> list[MaskPair]:
    """Masks of one micro-batch: a pair of ids (B, K) and (B, M) for each painted mask, in the order of the strategies.

    Raises:
        ValueError: ``keep`` is unknown, or the grid has fewer than two tokens.
    """
    if grid.n < 2:
        raise ValueError(f"masks: {grid} has {grid.n} tokens, expected at least 2: one to see and one to predict")
    pairs = []
    for strategy in strategies:
        for painted in strategy.paint(grid, rng, clip):
            assert painted.hidden.dtype == torch.bool
            assert painted.hidden.shape == (rng.local.count, *grid)
            pairs.append(rectangular(painted, keep, rng))
    return pairs
