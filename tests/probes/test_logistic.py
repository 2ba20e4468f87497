"""The logistic regression finds the minimum that a general optimiser finds, also with fewer rows than features."""

import math

import pytest
import torch
from torch.nn import functional as F

from vjepa_lab.probes import _logistic
from vjepa_lab.probes._logistic import fit_logistic


def rows(n, d, seed=0, apart=1.0):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    x[:, 0] += apart * (2 * y - 1)
    return x, y


def plain(x, y, strength):
    """Log odds of the rows themselves by a general optimiser."""
    x = (x - x.mean(0)) / x.std(0, unbiased=False)
    w = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [w], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        search.zero_grad()
        loss = F.binary_cross_entropy_with_logits(x @ w[1:] + w[0], y.double()) + strength / 2 * w[1:].square().sum()
        loss.backward()
        return loss

    search.step(closure)
    return (x @ w[1:] + w[0]).detach()


@pytest.mark.parametrize(("n", "d"), [(200, 7), (30, 80)])
@pytest.mark.parametrize("strength", [1.0, 1e-2])
def test_the_fit_is_the_minimum(monkeypatch, n, d, strength):
    monkeypatch.setattr(_logistic, "STRENGTHS", (strength,))
    x, y = rows(n, d)
    assert torch.allclose(fit_logistic((x, y), (x, y))(x), plain(x, y, strength), atol=1e-5)


def test_a_scalar_is_told_as_often_as_can_be():
    """Means -1 and 1 with deviation 1: the best possible is Phi(1)."""
    head = fit_logistic(rows(4000, 4), rows(1000, 4, seed=1))
    x, y = rows(20_000, 4, seed=2)
    got = ((head(x) > 0) == (y > 0)).double().mean().item()
    assert got == pytest.approx(0.5 * (1 + math.erf(1 / math.sqrt(2))), abs=0.01)


def test_the_penalty_is_chosen_where_nothing_was_fitted():
    """With 300 features of noise for 60 rows, the weak penalty fits the rows and the chosen one says little."""
    head = fit_logistic(rows(60, 300, apart=0), rows(60, 300, seed=1, apart=0))
    assert head(rows(60, 300, seed=2, apart=0)[0]).abs().max() < 1


def test_scale_offset_and_constant_features_do_not_matter():
    (x, y), (s, t), (z, _) = rows(100, 5), rows(40, 5, seed=1), rows(20, 5, seed=2)
    scale, offset = torch.logspace(-3, 3, 5, dtype=torch.float64), torch.full((5,), 50.0, dtype=torch.float64)

    def moved(v):
        return torch.cat((v * scale + offset, torch.full((len(v), 1), 3.0, dtype=torch.float64)), 1)

    one = fit_logistic((x, y), (s, t))(z)
    assert torch.allclose(fit_logistic((moved(x), y), (moved(s), t))(moved(z)), one, atol=1e-6)


def test_separable_rows_have_finite_odds():
    x, y = rows(50, 3, apart=20)
    assert fit_logistic((x, y), (x, y))(x).abs().max() < 1e3


def test_one_class_alone_is_refused():
    x, _ = rows(10, 2)
    with pytest.raises(ValueError, match="got 0 of 10 rows of one class, expected both classes"):
        fit_logistic((x, torch.zeros(10)), (x, torch.zeros(10)))
