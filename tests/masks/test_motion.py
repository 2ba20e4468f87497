"""The control hides what moves, at constant velocity as well, and with compensation not what the camera moves."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from vjepa_lab.batch import Grid
from vjepa_lab.data.transforms import MEAN, STD
from vjepa_lab.dist import rng
from vjepa_lab.masks import Sight
from vjepa_lab.masks.interaction_topk import InteractionTopk
from vjepa_lab.masks.motion import Motion

GRID = Grid(8, 12, 12)


def sight(frames: torch.Tensor) -> Sight:
    mean, std = (torch.tensor(x).view(3, 1, 1, 1) for x in (MEAN, STD))
    return Sight((frames - mean) / std)


def test_it_is_topk_of_the_velocity() -> None:
    noise = sight(torch.rand(2, 3, 16, 96, 96, generator=torch.Generator().manual_seed(0)))
    ours, theirs = (s.paint(GRID, rng(0, 0, batch=2), noise)[0] for s in (Motion(), InteractionTopk("velocity")))
    assert torch.equal(ours.hidden, theirs.hidden)


def test_with_compensation_a_disc_that_the_camera_follows_moves_and_its_background_does_not(films: ModuleType) -> None:
    plane = films.textured(96, 112, 3)
    disc = films.disc_at([(0, 0)] * 16)[0, 0]
    pan = torch.stack([plane[:, t : t + 96] for t in range(16)])
    clip = sight(torch.where(disc != 0.5, disc, pan).expand(1, 3, -1, -1, -1))
    covered = (disc != 0.5).view(8, 2, 12, 8, 12, 8).float().mean((1, 3, 5)) > 0.5
    shares = [
        Motion(budget=0.06, compensate=c).paint(GRID, rng(0, 0, batch=1), clip)[0].hidden[0][covered].float().mean()
        for c in (False, True)
    ]
    assert shares[0] < 0.1
    assert shares[1] > 0.9


def test_a_wrong_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="mask 'motion': budget is 0"):
        Motion(budget=0)
