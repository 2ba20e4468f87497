"""Full-length tubes at salient places, in an exact number of tokens."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from vjepa_lab.batch import Grid
from vjepa_lab.dist import rng
from vjepa_lab.masks import Sight
from vjepa_lab.masks._saliency import MapOptions
from vjepa_lab.masks.interaction_multiblock import InteractionMultiblock

GRID = Grid(8, 12, 12)


def test_tubes_last_as_long_as_the_clip_and_hide_the_turn(films: ModuleType) -> None:
    frames = films.disc_at(films.bent((0, 3), (3, 0), 8)).expand(32, -1, -1, -1, -1)
    hidden = InteractionMultiblock(maps=MapOptions(shrink=2)).paint(GRID, rng(0, 0, batch=32), Sight(frames))[0].hidden
    assert hidden.flatten(1).sum(1).unique().tolist() == [int(0.3 * GRID.n)]
    through = hidden.sum(1)
    assert ((through == 0) | (through == GRID.t)).float().mean() > 0.85
    share = hidden.float().mean((0, 1))
    assert share[5:7, 5:7].min() > 0.9
    assert share[:2].mean() < 0.25


def test_half_of_the_tubes_are_where_half_of_the_saliency_is() -> None:
    """Two equal places, a budget of one tube: each clip hides one, and as often the one as the other."""
    frames = torch.zeros(600, 3, 4, 12, 12)
    frames[:, :, 1, 2, 2] = frames[:, :, 1, 9, 9] = 1
    strategy = InteractionMultiblock(saliency="accel_pixel", budget=0.02, scale=0.03)
    hidden = strategy.paint(Grid(2, 12, 12), rng(0, 0, batch=600), Sight(frames))[0].hidden
    at = [hidden[:, :, i : i + 2, i : i + 2].flatten(1).any(1) for i in (1, 8)]
    assert (at[0] ^ at[1]).float().mean() > 0.9
    assert at[0].float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_a_wrong_field_is_refused() -> None:
    with pytest.raises(ValueError, match="scale is 0"):
        InteractionMultiblock(scale=0)
