"""Figures and intervals against closed forms; units, not rows, are what is resampled."""

import math

import pytest
import torch

from vjepa_lab.probes._stats import accuracy, area, auroc, bootstrap, over_seeds, r2, weights


def test_accuracy_has_the_interval_of_a_binomial():
    correct = torch.arange(400) % 4 != 0
    estimate = accuracy(correct, torch.arange(400))
    assert estimate.value == 0.75
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert estimate.low == pytest.approx(0.75 - half, abs=0.01)
    assert estimate.high == pytest.approx(0.75 + half, abs=0.01)
    assert estimate.units == 400


def test_rows_of_one_unit_are_not_independent():
    correct = torch.rand(100, generator=torch.Generator().manual_seed(0)) < 0.6
    once = accuracy(correct, torch.arange(100))
    often = accuracy(correct.repeat_interleave(50), torch.arange(100).repeat_interleave(50))
    assert often == once  # fifty copies of a video say no more than one
    alone = accuracy(correct.repeat_interleave(50), torch.arange(5000))
    assert alone.high - alone.low < 0.2 * (once.high - once.low)


def test_r2_is_one_minus_error_over_spread_averaged_or_pooled():
    g = torch.Generator().manual_seed(0)
    y = torch.randn(300, 2, generator=g) * torch.tensor([10.0, 0.1]) + 1000
    p = y + torch.randn(300, 2, generator=g) * torch.tensor([1.0, 0.1])
    per = 1 - (y - p).double().square().sum(0) / (y.double() - y.double().mean(0)).square().sum(0)
    assert r2(p, y, torch.arange(300)).value == pytest.approx(per.mean().item(), abs=1e-6)
    pooled = r2(p, y, torch.arange(300), weighting="variance").value
    assert pooled > 0.98 > r2(p, y, torch.arange(300)).value


def test_a_constant_prediction_has_no_r2_and_a_constant_target_is_left_out():
    y = torch.randn(500, 1, generator=torch.Generator().manual_seed(1))
    assert -0.01 < r2(y.mean().expand(500, 1), y, torch.arange(500)).value < 1e-12
    both = torch.cat([y, torch.full((500, 1), 3.0)], 1)
    assert r2(both, both, torch.arange(500)).value == pytest.approx(1.0)


def test_the_area_counts_pairs_and_ties_as_one_half():
    g = torch.Generator().manual_seed(2)
    score, label = torch.randint(5, (60,), generator=g), torch.rand(60, generator=g) < 0.4
    pairs = [(p > n) + 0.5 * (p == n) for p in score[label].tolist() for n in score[~label].tolist()]
    assert area(score, label) == pytest.approx(sum(pairs) / len(pairs))
    estimate = auroc(score, label, torch.arange(60))
    assert estimate.low < estimate.value < estimate.high
    assert math.isnan(area(score, torch.ones(60)))


def test_models_on_one_split_are_resampled_alike():
    assert torch.equal(weights(20, samples=10), weights(20, samples=10))
    assert (weights(20, samples=10).sum(1) == 20).all()
    a = torch.rand(50, 1, generator=torch.Generator().manual_seed(3))
    moved = bootstrap(a + 1, torch.arange(50), lambda s: s[:, 0])
    plain = bootstrap(a, torch.arange(50), lambda s: s[:, 0])
    assert moved.low - plain.low == pytest.approx(50, abs=1e-6)


def test_seeds_are_averaged_and_their_spread_is_told():
    a, b = (accuracy(torch.arange(100) < k, torch.arange(100)) for k in (40, 60))
    both = over_seeds([a, b])
    assert both.value == pytest.approx(0.5)
    assert both.sd == pytest.approx(0.1414, abs=1e-3)
    assert math.isnan(over_seeds([a]).sd)
