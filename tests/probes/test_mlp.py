"""The networks of a probe: trained together as they would be alone, and fit for what they are asked."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vjepa_lab import dist
from vjepa_lab.probes import _mlp

FAST = {"widths": (16, 8), "steps": 60, "batch": 32}


def data(n: int = 300, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = 3 + 5 * torch.randn(n, 6, generator=g)
    return x, torch.stack([x[:, 0] * 100 + 7, (x[:, 1] - 3).abs()], 1)


def plain(x: Tensor, y: Tensor, seed: int, *, widths, steps, batch) -> nn.Sequential:
    """One network, by torch's own modules."""
    g = torch.Generator().manual_seed(dist.derive("mlp", seed))
    sizes = [x.shape[1], *widths, y.shape[1]]
    linear = [nn.Linear(n, m) for n, m in pairwise(sizes)]
    for layer in linear:
        both = (2 * torch.rand(layer.in_features + 1, layer.out_features, generator=g) - 1) / layer.in_features**0.5
        layer.weight.data, layer.bias.data = both[:-1].T.clone(), both[-1].clone()
    net = nn.Sequential(linear[0], nn.GELU(), linear[1], nn.GELU(), linear[2])
    x, y = ((v - v.mean(0)) / v.std(0, unbiased=False) for v in (x, y))
    rows = torch.randint(len(x), (steps, batch), generator=g)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-4)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.5e-3 * (1 + math.cos(math.pi * step / steps))
        loss = F.mse_loss(net(x[rows[step]]), y[rows[step]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def test_networks_trained_together_are_those_trained_one_by_one_by_plain_modules():
    x, y = data()
    together = _mlp.fit(x, y, seeds=(0, 5), **FAST)
    for k, seed in enumerate((0, 5)):
        net = plain(x, y, seed, **FAST)
        with torch.no_grad():
            alone = net((x - x.mean(0)) / x.std(0, unbiased=False)) * y.std(0, unbiased=False) + y.mean(0)
        assert torch.allclose(together(x)[k], alone, rtol=1e-3, atol=2e-2 * float(y.std()))
    assert not torch.allclose(together(x)[0], together(x)[1], rtol=1e-3)


def test_predictions_are_in_the_units_of_the_targets_and_bent_relations_are_learned():
    x, y = data(2000)
    net = _mlp.fit(x, y, seeds=(0,), widths=(64, 32), steps=400, batch=128, lr=3e-3)
    new, truth = data(500, seed=1)
    error = (net(new)[0] - truth).square().mean(0) / truth.var(0)
    assert (error < 0.05).all(), error
    linear = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1)], 1), y).solution
    bent = torch.cat([new, torch.ones(len(new), 1)], 1) @ linear
    assert (bent - truth)[:, 1].square().mean() / truth[:, 1].var() > 0.8, "a linear fit does not do"


def test_a_fit_is_a_function_of_its_arguments_and_leaves_random_numbers_alone():
    x, y = data()
    torch.manual_seed(3)
    one = _mlp.fit(x, y, seeds=(0,), **FAST)(x)
    after = torch.rand(1)
    with torch.no_grad():
        two = _mlp.fit(x, y, seeds=(0,), **FAST)(x)
    torch.manual_seed(3)
    assert torch.equal(one, two)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize("column", ["x", "y"])
def test_columns_that_never_change_do_no_harm(column):
    x, y = data()
    (x if column == "x" else y)[:, 0] = 4.0
    found = _mlp.fit(x, y, seeds=(0,), **FAST)(x)
    assert found.isfinite().all()
    if column == "y":
        assert torch.allclose(found[0, :, 0].mean(), torch.tensor(4.0), atol=0.5)


def test_logits_are_the_log_odds_of_events():
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2, (4000, 1), generator=g).float()
    y = (torch.rand(4000, 1, generator=g) < torch.where(x > 0, 0.8, 0.1)).float()
    net = _mlp.fit(x, y, seeds=(0, 1), widths=(8,), steps=400, batch=512, lr=1e-2, logits=True)
    odds = [y[x == v].mean().item() for v in (0, 1)]
    expected = torch.tensor([math.log(p / (1 - p)) for p in odds])
    assert torch.allclose(net(torch.tensor([[0.0], [1.0]]))[..., 0], expected.expand(2, -1), atol=0.15)
