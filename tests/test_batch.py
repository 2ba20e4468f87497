"""Grids count tokens; row numbers depend on the row alone and look uniform."""

import torch

from vjepa_lab.batch import Grid, Rows


def test_a_grid_counts_what_fills_a_token():
    assert Grid.of(16, 256, 256, tubelet=2, patch=16) == (8, 16, 16)
    assert Grid.of(16, 256, 256, tubelet=2, patch=16).n == 2048
    assert Grid.of(7, 70, 33, tubelet=2, patch=16) == (3, 4, 2)


def test_a_row_draws_the_same_numbers_however_the_batch_is_split():
    whole = Rows(5, 0, 8)
    halves = [Rows(5, 0, 4), Rows(5, 4, 4)]
    for shape in ((3,), (2, 5), (1,)):
        assert torch.equal(whole.uniform(*shape), torch.cat([h.uniform(*shape) for h in halves]))


def test_rows_calls_and_keys_give_different_numbers():
    first, other = Rows(5, 0, 2), Rows(6, 0, 2)
    a, b, c = first.uniform(64), first.uniform(64), other.uniform(64)
    assert (a[0] != a[1]).all()
    assert (a != b).all()
    assert (a != c).all()


def test_row_numbers_are_uniform_and_uncorrelated():
    u = Rows(99, 0, 1000).uniform(1000)
    assert u.min() >= 0
    assert u.max() < 1
    n = u.numel()
    assert abs(u.mean() - 0.5) < 5 / (12 * n) ** 0.5
    counts = torch.histc(u, 50, 0, 1)
    chi2 = ((counts - n / 50) ** 2 / (n / 50)).sum()
    assert chi2 < 49 + 5 * (2 * 49) ** 0.5
    for shifted in (u.roll(1, 0), u.roll(1, 1)):
        r = torch.corrcoef(torch.stack([u.flatten(), shifted.flatten()]))[0, 1]
        assert abs(r) < 5 / n**0.5


def test_integers_cover_the_range_and_stay_inside():
    drawn = Rows(1, 0, 500).integers(3, 20)
    assert drawn.min() == 0
    assert drawn.max() == 2
    assert (torch.bincount(drawn.flatten()) - 10000 / 3).abs().max() < 300
