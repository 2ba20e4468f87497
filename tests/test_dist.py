"""Seeds are stable, and random numbers are functions of (seed, step) and the row."""

import torch

from vjepa_lab import dist


def test_derived_seeds_are_the_same_on_every_machine():
    assert dist.derive(0, "masks", 1) == dist.derive(0, "masks", 1)
    assert dist.derive(0, "masks", 1) == 2165267517688004098
    assert len({dist.derive(s, p, n) for s in (0, 1) for p in ("masks", "slot") for n in range(50)}) == 200


def test_the_generators_of_a_step_depend_on_seed_and_step():
    def draw(seed, step):
        rng = dist.rng(seed, step, batch=2)
        return torch.rand(3, generator=rng.shared), rng.local.uniform(3)

    for again, first in zip(draw(0, 1), draw(0, 1), strict=True):
        assert torch.equal(again, first)
    for other in (draw(0, 2), draw(1, 1)):
        for a, b in zip(other, draw(0, 1), strict=True):
            assert not torch.equal(a, b)


def test_one_process_is_rank_zero_of_one_and_sums_are_what_they_were(monkeypatch):
    x = torch.arange(3.0)
    assert (dist.rank(), dist.world()) == (0, 1)
    assert torch.equal(dist.sum_over_ranks(x.clone()), x)
    assert torch.equal(dist.gather_rows(x[:, None]), x[:, None])
    assert dist.is_main_process()
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert not dist.is_main_process()
