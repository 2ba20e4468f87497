"""Action supervision: what a budget does to the gradient, and that it leaves everything else alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vjepa_lab import dist
from vjepa_lab.inverse import InverseHead, inverse_loss, keep, unfreeze
from vjepa_lab.nn.encoder import Encoder


def slope(p: float, normalise, *, batch: int = 16, draws: int = 800) -> float:
    """Of the mean gradient under the budget against the gradient of the whole batch, for a linear head."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(draws, batch, 5, generator=g)
    y = x @ torch.ones(5, 3) + torch.randn(draws, batch, 3, generator=g)
    weight = torch.zeros(5, 3).requires_grad_()
    (full,) = torch.autograd.grad(sum(inverse_loss(a @ weight, b) for a, b in zip(x, y, strict=True)), weight)
    kept = [keep(p, seed=1, step=s, batch=batch) for s in range(draws)]
    parts = zip(x, y, kept, strict=True)
    (part,) = torch.autograd.grad(sum(inverse_loss(a @ weight, b, m, normalise=normalise) for a, b, m in parts), weight)
    return ((part * full).sum() / full.square().sum()).item()


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
def test_dividing_by_the_batch_scales_the_objective_by_the_budget_and_dividing_by_the_kept_does_not(p):
    """O-P: 0.83, 1, 1 against 0.1, 0.5, 1; the 0.815 = 1 - 0.9^16 of the first is due to batches without any."""
    assert slope(p, "kept") == pytest.approx(1 - (1 - p) ** 16, abs=0.03)
    assert slope(p, "batch") == pytest.approx(p, abs=0.03)


class Toy(nn.Module):
    """A trunk with dropout, which draws from the global generator, its own objective and a head."""

    def __init__(self, seed: int = 0, head: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.trunk = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(0.2), nn.Linear(8, 8))
        self.decoder = nn.Linear(8, 6)
        torch.manual_seed(1000 + head)
        self.head = InverseHead(width=8, action_dim=2, widths=(12, 8))
        torch.manual_seed(2000 + seed)


def trained(weight: float, p: float | None, *, normalise="kept", steps: int = 40, head: int = 0) -> dict[str, Tensor]:
    """Weights of the trunk after some steps; p None: no mask at all."""
    toy = Toy(head=head)
    optimizer = torch.optim.AdamW(toy.parameters(), lr=1e-2, weight_decay=0.05)
    for step in range(steps):
        now, action = torch.randn(16, 6), torch.randn(16, 2)
        then = now.clone()
        then[:, :2] += action
        f, g = toy.trunk(now), toy.trunk(then)
        loss = (toy.decoder(f) - now).square().mean()
        if weight:
            kept = None if p is None else keep(p, seed=5, step=step, batch=16)
            loss = loss + weight * inverse_loss(toy.head(f, g), action, kept, normalise=normalise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: value.clone() for name, value in toy.trunk.state_dict().items()}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("normalise", ["kept", "batch"])
def test_no_budget_is_bit_for_bit_no_objective(normalise):
    assert equal(trained(0.5, 0.0, normalise=normalise), trained(0.0, None))
    assert not equal(trained(0.5, 0.3, normalise=normalise), trained(0.0, None))


@pytest.mark.parametrize("normalise", ["kept", "batch"])
def test_the_whole_budget_is_bit_for_bit_no_mask(normalise):
    assert equal(trained(0.5, 1.0, normalise=normalise), trained(0.5, None))
    assert not equal(trained(0.5, 0.9, normalise=normalise), trained(0.5, None))


def test_without_budget_the_head_is_of_no_consequence_and_with_it_it_is():
    assert equal(trained(0.5, 0.0, head=1), trained(0.5, 0.0, head=2))
    assert not equal(trained(0.5, 1.0, head=1), trained(0.5, 1.0, head=2))


def test_the_draw_is_of_its_own_and_of_the_stated_share():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    kept = torch.stack([keep(0.3, seed=0, step=s, batch=64) for s in range(200)])
    assert torch.equal(torch.get_rng_state(), before)
    assert kept.double().mean().item() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(kept[7], keep(0.3, seed=0, step=7, batch=64))
    assert torch.equal(kept[7, :16], keep(0.3, seed=0, step=7, batch=16)), "rows, not batches, are drawn"
    assert not torch.equal(kept[7], keep(0.3, seed=1, step=7, batch=64))
    with pytest.raises(ValueError, match=r"budget: got 1.5, expected a share from 0 to 1"):
        keep(1.5, seed=0, step=0, batch=4)


def test_the_loss_is_the_mean_distance_of_those_that_take_part():
    predicted, actions = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 0.0]]), torch.zeros(3, 2)
    kept = torch.tensor([True, True, False])
    assert inverse_loss(predicted, actions).item() == pytest.approx(14 / 3)
    assert inverse_loss(predicted, actions, kept).item() == pytest.approx(14 / 2)
    assert inverse_loss(predicted, actions, kept, normalise="batch").item() == pytest.approx(14 / 3)
    assert inverse_loss(predicted, actions, torch.zeros(3, dtype=torch.bool)).item() == 0
    with pytest.raises(ValueError, match=r"normalise: got 'mean', expected kept or batch"):
        inverse_loss(predicted, actions, kept, normalise="mean")  # type: ignore[arg-type]


def test_processes_divide_by_what_takes_part_in_all_of_them(monkeypatch):
    """Two processes with 1 and 3 samples that take part: the mean of their losses is that of one process."""
    g = torch.Generator().manual_seed(0)
    predicted, actions = torch.randn(8, 2, generator=g), torch.randn(8, 2, generator=g)
    kept = torch.tensor([False, True, False, False, True, True, False, True])
    whole = inverse_loss(predicted, actions, kept)
    monkeypatch.setattr(dist, "world", lambda: 2)
    monkeypatch.setattr(dist, "sum_over_ranks", lambda count: kept.sum().to(count.dtype))
    halves = [inverse_loss(predicted[i], actions[i], kept[i]) for i in (slice(4), slice(4, 8))]
    assert sum(halves) / 2 == pytest.approx(whole.item())


def test_one_that_does_not_take_part_does_no_harm_even_if_it_is_not_finite():
    predicted = torch.tensor([[1.0], [float("inf")]], requires_grad=True)
    inverse_loss(predicted, torch.zeros(2, 1), torch.tensor([True, False])).backward()
    assert predicted.grad is not None
    assert predicted.grad[0].item() == 2


@pytest.mark.parametrize(("last", "blocks"), [(0, []), (2, [1, 2]), (3, [0, 1, 2])])
def test_the_last_blocks_learn_and_nothing_before_them(last, blocks):
    encoder = Encoder(width=24, depth=3, heads=2, patch=8)
    learning = unfreeze(encoder, last)
    assert [i for i in range(3) if all(p.requires_grad for p in encoder.blocks[i].parameters())] == blocks
    assert [i for i in range(3) if any(p.requires_grad for p in encoder.blocks[i].parameters())] == blocks
    assert all(p.requires_grad == bool(last) for p in encoder.norm.parameters())
    assert {id(p) for p in learning} == {id(p) for p in encoder.parameters() if p.requires_grad}
    assert len(unfreeze(encoder, None)) == len(list(encoder.parameters()))
    with pytest.raises(ValueError, match="unfreeze_last: got 4, expected 0 to 3 blocks, or null for all"):
        unfreeze(encoder, 4)
