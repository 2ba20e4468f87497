"""The end of the clip is hidden, and an exact share of it."""

from __future__ import annotations

import pytest
import torch

from vjepa_lab.batch import Grid
from vjepa_lab.dist import rng
from vjepa_lab.masks.future import Future

GRID = Grid(8, 6, 6)


@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.5, 0.9])
def test_no_token_is_hidden_before_one_that_is_visible_but_in_one_tubelet(ratio: float) -> None:
    painted = Future(ratio=ratio).paint(GRID, rng(0, 0, batch=5))[0]
    count = round(ratio * GRID.n)
    per_tubelet = painted.hidden.flatten(2).sum(2)
    whole, rest = divmod(count, 36)
    expected = [0] * (8 - whole - (rest > 0)) + [rest] * (rest > 0) + [36] * whole
    assert per_tubelet.tolist() == [expected] * 5
    assert (painted.context, painted.target) == (GRID.n - count, count)


def test_the_tubelet_in_part_is_hidden_in_blocks_at_random_places() -> None:
    hidden = Future(ratio=0.4).paint(GRID, rng(0, 0, batch=200))[0].hidden[:, 4].float()  # 7 of 36 cells
    assert (hidden.flatten(1).sum(1) == 7).all()
    neighbours = (hidden[:, :, 1:] * hidden[:, :, :-1]).sum((1, 2)).mean()
    assert neighbours > 2.5  # 7 scattered cells have 1.0
    assert hidden.mean(0).min() > 0.02


def test_clips_differ() -> None:
    hidden = Future().paint(GRID, rng(0, 0, batch=2))[0].hidden
    assert not torch.equal(hidden[0], hidden[1])


def test_a_wrong_ratio_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask 'future': ratio is 1\.5"):
        Future(ratio=1.5)
