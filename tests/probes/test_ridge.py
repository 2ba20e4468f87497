"""The ridge from sums equals least squares on the rows, and adds up over batches and ranks."""

import pytest
import torch

from vjepa_lab.probes._ridge import Sums, fit

torch.manual_seed(0)


def sums(x, y, pieces=1):
    s = Sums()
    for a, b in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
        s.add(a, b)
    return s.reduced()


def world(n=400, d=12, k=3, noise=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(d, k, generator=torch.Generator().manual_seed(99))
    x = torch.randn(n, d, generator=generator) + 2
    return x, x @ weight + 5 + noise * torch.randn(n, k, generator=generator)


def test_without_penalty_it_is_least_squares():
    x, y = world()
    fitted = fit(sums(x, y), sums(x, y), strengths=[0.0])
    design = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    expected = torch.linalg.lstsq(design, y.double()).solution
    assert torch.allclose(fitted.weight, expected[:-1], atol=1e-8)
    assert torch.allclose(fitted.bias, expected[-1], atol=1e-7)


@pytest.mark.parametrize("strength", [1e-3, 1.0])
def test_the_penalty_is_that_of_the_textbook(strength):
    x, y = world()
    fitted = fit(sums(x, y), sums(x, y), strengths=[strength])
    a, b = (x - x.mean(0)).double(), (y - y.mean(0)).double()
    scale = a.square().mean()
    expected = torch.linalg.solve(a.T @ a / len(a) + strength * scale * torch.eye(12), a.T @ b / len(a))
    assert torch.allclose(fitted.weight, expected, atol=1e-6)


def test_r2_from_moments_is_r2_from_rows():
    train, test = world(seed=1), world(seed=2)
    fitted = fit(sums(*train), sums(*train))
    x, y = (t.double() for t in test)
    error = (x @ fitted.weight + fitted.bias - y).square().sum(0)
    expected = 1 - error / (y - y.mean(0)).square().sum(0)
    assert torch.allclose(sums(*test).r2(fitted.weight, fitted.bias), expected, atol=1e-9)


def test_batches_and_ranks_add_up(monkeypatch):
    x, y = world()
    whole, pieces = sums(x, y), sums(x, y, pieces=7)
    for a, b in zip(whole[1:], pieces[1:], strict=True):
        assert torch.allclose(a, b)
    from vjepa_lab import dist

    other = Sums()
    other.add(x[:150], y[:150])
    rest = Sums()
    rest.add(x[150:], y[150:])
    queue = list(rest._sums)
    monkeypatch.setattr(dist, "sum_over_ranks", lambda t: t + queue.pop(0))
    for a, b in zip(whole[1:], other.reduced()[1:], strict=True):
        assert torch.allclose(a, b)


def test_the_strength_is_chosen_on_the_selection_split_per_target():
    x, _ = world(n=30, d=25, noise=0)
    y = torch.stack([x[:, 0], torch.randn(30, generator=torch.Generator().manual_seed(5))], 1)
    xs, _ = world(n=500, d=25, seed=3)
    ys = torch.stack([xs[:, 0], torch.randn(500, generator=torch.Generator().manual_seed(6))], 1)
    fitted = fit(sums(x, y), sums(xs, ys))
    assert fitted.strength[0] < 1e-3
    assert fitted.strength[1] == 1.0  # noise wants the strongest penalty


def test_a_constant_target_has_no_r2_and_noise_has_about_none():
    x, _ = world(n=2000)
    noise = torch.randn(2000, 1, generator=torch.Generator().manual_seed(7))
    y = torch.cat([torch.full((2000, 1), 3.0), noise], 1)
    fitted = fit(sums(x[:1000], y[:1000]), sums(x[:1000], y[:1000]))
    r2 = sums(x[1000:], y[1000:]).r2(fitted.weight, fitted.bias)
    assert r2[0].isnan()
    assert abs(r2[1]) < 0.05


def test_more_features_than_rows_is_no_failure():
    x, y = world(n=20, d=50)
    fitted = fit(sums(x, y), sums(x, y))
    assert torch.isfinite(fitted.weight).all()
