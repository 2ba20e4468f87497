"""Uniform masks: exact counts, no preference."""

from __future__ import annotations

import pytest
import torch

from vjepa_lab.batch import Grid
from vjepa_lab.dist import rng
from vjepa_lab.masks.random import Random

GRID = Grid(4, 3, 5)


def test_every_clip_hides_exactly_the_ratio() -> None:
    (painted,) = Random(ratio=0.75).paint(GRID, rng(0, 0, batch=50))
    assert (painted.hidden.flatten(1).sum(1) == 45).all()
    assert (painted.context, painted.target) == (15, 45)


def test_every_cell_is_hidden_equally_often() -> None:
    """4,000 clips: each cell within 5 standard errors of the ratio."""
    (painted,) = Random(ratio=0.6).paint(GRID, rng(0, 0, batch=4000))
    error = (0.6 * 0.4 / 4000) ** 0.5
    assert (painted.hidden.float().mean(0) - 0.6).abs().max() < 5 * error


def test_cells_are_hidden_independently_of_their_neighbours() -> None:
    (painted,) = Random(ratio=0.5).paint(GRID, rng(0, 0, batch=4000))
    both = (painted.hidden[:, 1:] & painted.hidden[:, :-1]).float().mean()
    assert both == pytest.approx(0.5 * 29 / 59, abs=0.005)


def test_extreme_ratios_leave_one_token_on_each_side() -> None:
    for ratio, hidden in ((0.001, 1), (0.999, GRID.n - 1)):
        (painted,) = Random(ratio=ratio).paint(GRID, rng(0, 0, batch=2))
        assert torch.equal(painted.hidden.flatten(1).sum(1), torch.tensor([hidden, hidden]))


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5])
def test_a_ratio_that_leaves_nothing_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio is"):
        Random(ratio=ratio)
