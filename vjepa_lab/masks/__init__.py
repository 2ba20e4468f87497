"""Masks: which tokens of a clip the context encoder sees and which the predictor predicts.

A strategy is one file of this folder: a registered dataclass whose ``paint`` returns booleans. ``sample`` is the only
entry point for training; it makes ids of them. ``traced`` gives what was painted beside the ids, to look at. Masks are
sampled in the training step, on its device, from random numbers that are functions of (seed, step, row): there is no
state to save and nothing to send between processes.

Letters: B clips, t h w token axes, K context ids, M target ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vjepa_lab.batch import Grid, MaskPair, Rng
from vjepa_lab.masks._rectangular import Keep, Painted, rectangular

__all__ = ["Keep", "Painted", "Sight", "Strategy", "Traced", "sample", "traced"]


class Sight(NamedTuple):
    """What a strategy may look at, beside its random numbers."""

    clip: Tensor | None = None
    "(B, 3, F, H, W) as the encoder gets it, None where the caller has no pixels"
    step: int = 0
    "optimizer steps that have been taken"
    steps: int = 1
    "optimizer steps of the whole training"
    features: Callable[[], Tensor] | None = None
    "gives the target encoder's features of the clip, (B, N, D), at the price of its forward pass; None: no encoder"
    event: Tensor | None = None
    "(B, E) times of annotated events in frames from the clip's first, NaN where there are fewer; None: not known"


class Strategy(Protocol):
    """A way to choose the hidden cells of a clip."""

    def paint(self, grid: Grid, rng: Rng, sight: Sight) -> list[Painted]:
        """One or more masks for ``rng.local.count`` clips, on ``rng.local.device``.

        Sizes come from ``rng.shared``, so that all ranks do like amounts of work; positions from ``rng.local``.
        """
        ...


class Traced(NamedTuple):
    """A painted mask and the ids that it became."""

    painted: Painted
    pair: MaskPair


def sample(
    strategies: Sequence[Strategy],
    grid: Grid,
    rng: Rng,
    sight: Sight = Sight(),  # noqa: B008 (a NamedTuple)
    keep: Keep = "random",
    notes: dict[str, Tensor] | None = None,
) -> list[MaskPair]:
    """Masks of one micro-batch: a pair of ids (B, K) and (B, M) for each painted mask, in the order of the strategies.

    Args:
        strategies: what paints.
        grid: the tokens of a clip.
        rng: random numbers of the micro-batch.
        sight: what strategies may look at.
        keep: which ids of ragged masks are kept.
        notes: is given what the strategies note about the batch: ``static/<i>``, the share of its clips in which
            nothing moves, so that mask i was painted without looking.

    Raises:
        ValueError: as ``traced``.
    """
    drawn = [trace for masks in traced(strategies, grid, rng, sight, keep) for trace in masks]
    if notes is not None:
        for i, (painted, _) in enumerate(drawn):
            if painted.static is not None:
                notes[f"static/{i}"] = painted.static.float().mean()
    return [trace.pair for trace in drawn]


@torch.no_grad()
def traced(
    strategies: Sequence[Strategy],
    grid: Grid,
    rng: Rng,
    sight: Sight = Sight(),  # noqa: B008 (a NamedTuple)
    keep: Keep = "random",
) -> list[list[Traced]]:
    """The same masks with what was painted, the masks of each strategy in a list.

    Raises:
        ValueError: ``keep`` is unknown, the grid has fewer than two tokens, or a strategy is not shown what it needs.
    """
    if grid.n < 2:
        raise ValueError(f"masks: {grid} has {grid.n} tokens, expected at least 2: one to see and one to predict")
    drawn = []
    # Under autocast, maps and so masks would depend on the precision of the training.
    with torch.autocast(rng.local.device.type, enabled=False):
        for strategy in strategies:
            drawn.append([])
            for painted in strategy.paint(grid, rng, sight):
                assert painted.hidden.dtype == torch.bool
                assert painted.hidden.shape == (rng.local.count, *grid)
                drawn[-1].append(Traced(painted, rectangular(painted, keep, rng)))
    return drawn
