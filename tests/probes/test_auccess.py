"""AUCCESS by hand, and what a random order is worth."""

import pytest
import torch

from vjepa_lab.probes._auccess import ATTEMPTS, auccess, by_chance, expected, first_solved, within

BY_HAND = {1: 1.0, 2: 0.850, 5: 0.651, 10: 0.501, 50: 0.152, 100: 0.002, 101: 0.0, torch.inf: 0.0}


@pytest.mark.parametrize("attempt", BY_HAND)
def test_a_task_that_is_solved_at_an_attempt_scores_what_is_known(attempt):
    assert auccess(torch.tensor([attempt])).item() == pytest.approx(BY_HAND[attempt], abs=1e-3)


def test_it_is_the_weighted_sum_of_the_definition():
    attempt = torch.tensor([1.0, 3.0, 3.0, 40.0, torch.inf, 100.0])
    k = torch.arange(1, ATTEMPTS + 1, dtype=torch.float64)
    weight = (k + 1).log() - k.log()
    solved = torch.stack([within(attempt, int(n)).mean() for n in k])
    assert auccess(attempt).mean().item() == pytest.approx(((weight * solved).sum() / weight.sum()).item())
    assert expected(solved).item() == pytest.approx(auccess(attempt).mean().item())


def test_the_highest_scores_are_tried_first_and_equal_ones_in_their_order():
    solved = torch.tensor([False, True, False, True])
    assert first_solved(torch.tensor([0.0, 1.0, 2.0, 3.0]), solved) == 1
    assert first_solved(torch.tensor([0.0, 1.0, 2.0, -3.0]), solved) == 2
    assert first_solved(torch.zeros(4), solved) == 2
    assert first_solved(torch.zeros(4), torch.zeros(4, dtype=torch.bool)) == torch.inf


@pytest.mark.parametrize(("solving", "actions"), [(1, 20), (7, 150), (0, 30), (30, 30)])
def test_a_random_order_is_worth_what_drawing_many_of_them_gives(solving, actions):
    g = torch.Generator().manual_seed(0)
    solved = torch.arange(actions) < solving
    found = torch.stack([first_solved(torch.rand(actions, generator=g), solved) for _ in range(1500)])
    chance = by_chance(solving, actions)
    for k in (1, 5, 20, 100):
        assert chance[k - 1].item() == pytest.approx(within(found, k).mean().item(), abs=0.04)
    assert expected(chance).item() == pytest.approx(auccess(found).mean().item(), abs=0.03)


def test_among_many_actions_it_is_the_chance_of_independent_tries():
    k = torch.arange(1, ATTEMPTS + 1)
    torch.testing.assert_close(by_chance(3_000, 100_000), 1 - 0.97 ** k.double(), atol=1e-3, rtol=0)
