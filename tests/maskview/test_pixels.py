"""Roles and maps of tokens end up on the right pixels."""

from __future__ import annotations

import numpy as np
import torch

from vjepa_lab.batch import Grid, MaskPair
from vjepa_lab.maskview import _pixels
from vjepa_lab.maskview._pixels import CONTEXT, NEITHER, TARGET

GRID = Grid(2, 2, 3)


def frames() -> np.ndarray:
    """(4, 8, 12, 3): two frames per tubelet, tokens of 4 x 4 pixels."""
    noise = torch.randint(60, 200, (4, 8, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return noise.numpy()


def test_ids_become_roles() -> None:
    pair = MaskPair(torch.tensor([[0, 5], [1, 2]]), torch.tensor([[1, 11], [0, 3]]))
    roles = _pixels.roles_of(pair, GRID)
    assert roles.shape == (2, *GRID)
    assert roles[0].flatten().tolist() == [CONTEXT, TARGET, 0, 0, 0, CONTEXT, 0, 0, 0, 0, 0, TARGET]
    assert roles[1].flatten()[:4].tolist() == [TARGET, CONTEXT, CONTEXT, TARGET]


def test_context_stays_as_it_is_targets_turn_orange_and_the_rest_dark() -> None:
    roles = torch.full(GRID, NEITHER)
    roles[0, 1, 2], roles[1, 0, 0] = CONTEXT, TARGET
    before, after = frames().astype(int), _pixels.masked(frames(), roles).astype(int)
    assert (after[:2, 4:, 8:] == before[:2, 4:, 8:]).all()
    orange = after[2:, :4, :4] - before[2:, :4, :4]
    assert orange[..., 0].mean() > 30 > -20 > orange[..., 2].mean()
    dark = np.ones((4, 8, 12), dtype=bool)
    dark[:2, 4:, 8:] = dark[2:, :4, :4] = False
    assert (after[dark] < 0.35 * before[dark] + 12).all()


def test_a_map_of_zeros_leaves_the_frames_grey_and_its_highest_value_is_bright() -> None:
    clear = _pixels.heated(frames(), torch.zeros(GRID))
    assert (clear == clear[..., :1]).all()
    values = torch.zeros(GRID)
    values[1, 1, 0] = 0.02
    hot = _pixels.heated(frames(), values)
    assert (hot[:2] == clear[:2]).all()
    assert (hot[2:, 4:, :4, 0].astype(int) > clear[2:, 4:, :4, 0].astype(int) + 60).all()
    assert (hot[2:, :4] == clear[2:, :4]).all()


def test_a_plain_map_is_one_pixel_per_token_and_its_scale_may_be_given() -> None:
    values = torch.arange(12.0).view(GRID) / 24
    own, whole = _pixels.plain(values), _pixels.plain(values, highest=1.0)
    assert [picture.shape for picture in own] == [(2, 3, 3)] * 2
    assert own[1][1, 2].sum() > whole[1][1, 2].sum()
    assert (own[0][0, 0] == whole[0][0, 0]).all()
