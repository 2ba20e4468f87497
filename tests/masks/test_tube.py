"""Tube masks: the same cells in every tubelet, exact counts."""

from __future__ import annotations

import pytest

from vjepa_lab.batch import Grid
from vjepa_lab.dist import rng
from vjepa_lab.masks.tube import Tube

GRID = Grid(4, 5, 4)


def test_the_same_cells_are_hidden_in_every_tubelet() -> None:
    (painted,) = Tube().paint(GRID, rng(0, 0, batch=20))
    assert (painted.hidden == painted.hidden[:, :1]).all()
    assert not (painted.hidden == painted.hidden[:1]).all(), "clips have tubes of their own"


def test_every_clip_hides_exactly_the_ratio() -> None:
    (painted,) = Tube(ratio=0.9).paint(GRID, rng(0, 0, batch=20))
    assert (painted.hidden.flatten(1).sum(1) == 72).all()
    assert (painted.context, painted.target) == (8, 72)


def test_every_cell_is_hidden_equally_often() -> None:
    (painted,) = Tube(ratio=0.6).paint(GRID, rng(0, 0, batch=4000))
    error = (0.6 * 0.4 / 4000) ** 0.5
    assert (painted.hidden[:, 0].float().mean(0) - 0.6).abs().max() < 5 * error


def test_a_plane_of_one_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Tube().paint(Grid(8, 1, 1), rng(0, 0, batch=2))


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_ratio_that_leaves_nothing_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio is"):
        Tube(ratio=ratio)
