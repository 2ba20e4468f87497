"""Entropy by neighbours and by clusters, against closed forms."""

import math

import pytest
import torch

from vjepa_lab.probes._entropy import clusters, evenness, neighbour_terms, neighbours


def points(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def entropy(x, k=5):
    terms, constant = neighbour_terms(x, k=k)
    return terms.mean().item() + constant


@pytest.mark.parametrize(("d", "deviation"), [(1, 1.0), (2, 3.0), (4, 0.1)])
def test_neighbours_find_the_entropy_of_a_gaussian(d, deviation):
    expected = d * math.log(deviation * math.sqrt(2 * math.pi * math.e))
    assert entropy(deviation * points(4000, d)) == pytest.approx(expected, abs=0.05 * d)


def test_neighbours_find_the_entropy_of_a_uniform_square():
    x = 3 * torch.rand(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert entropy(x) == pytest.approx(math.log(9), abs=0.06)


def test_neighbour_terms_equal_a_loop():
    x, k = points(60, 3), 4
    terms, constant = neighbour_terms(x, k=k)
    volume = math.pi**1.5 / math.gamma(2.5)
    for i in range(60):
        away = sorted(math.dist(x[i].tolist(), x[j].tolist()) for j in range(60) if j != i)
        assert terms[i].item() == pytest.approx(3 * math.log(away[k - 1]), abs=1e-6)
    harmonic = sum(1 / m for m in range(k, 60))  # digamma(n) - digamma(k)
    assert constant == pytest.approx(harmonic + math.log(volume), abs=1e-9)


def test_length_does_not_matter_and_collapse_shows():
    x = points(300, 8)
    terms, constant = neighbours(x)
    again, _ = neighbours(x * torch.linspace(0.5, 9, 300)[:, None])
    assert torch.allclose(terms, again, atol=1e-6)
    near, _ = neighbours(1e-3 * x + 1)
    assert near.mean() < terms.mean() - 5 * math.log(10)
    same, _ = neighbours(torch.ones(300, 8))
    assert torch.isfinite(same).all()
    assert same.mean() < near.mean()
    assert math.isfinite(constant)


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="more than k=5 rows, got 5"):
        neighbour_terms(points(5, 2), k=5)


def test_clusters_are_those_that_were_planted():
    centres = 50 * points(256, 8)
    x = centres.repeat(6, 1) + points(6 * 256, 8, seed=1)
    label = clusters(x, count=256, seed=0)
    assert evenness(torch.bincount(label, minlength=256), 256) > 0.97
    same = label[:256]
    assert sum(torch.equal(label[i * 256 : (i + 1) * 256], same) for i in range(6)) >= 1
    assert len(same.unique()) > 230
    assert torch.equal(label, clusters(x, count=256, seed=0))


def test_one_point_is_one_cluster():
    label = clusters(torch.ones(40, 3), count=256, seed=0)
    assert evenness(torch.bincount(label, minlength=256), 256) == 0


def test_evenness_is_the_normalised_entropy():
    assert evenness(torch.tensor([5, 5, 5, 5]), 4).item() == pytest.approx(1)
    assert evenness(torch.tensor([[3, 1], [4, 0]]), 2).tolist() == pytest.approx([0.8112781, 0.0], abs=1e-6)
