"""The light classifiers find what is there, choose on rows of their own, and are what they claim to be."""

import pytest
import torch
from torch.nn import functional as F

from vjepa_lab.probes._classifier import fit_classifier


def world(n, k=4, d=12, apart=6.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    mean = apart * torch.randn(k, d, generator=torch.Generator().manual_seed(99)) / d**0.5
    label = torch.arange(n) % k
    return mean[label] + torch.randn(n, d, generator=g), label


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_classes_that_are_apart_are_told_apart_and_noise_is_not(kind):
    test = world(400, seed=2)
    head = fit_classifier(kind, world(400), world(100, seed=1), 4)
    assert (head(test[0]).argmax(1) == test[1]).double().mean() > 0.95
    blind = fit_classifier(kind, world(400, apart=0), world(100, apart=0, seed=1), 4)
    got = (blind(world(2000, apart=0, seed=2)[0]).argmax(1) == world(2000)[1]).double().mean().item()
    assert got == pytest.approx(0.25, abs=0.05)


def test_the_linear_head_is_least_squares_on_one_hot_targets():
    x, y = world(300)
    head = fit_classifier("linear", (x, y), (x, y), 4)
    design = torch.cat((x, torch.ones(300, 1)), 1).double()
    weight = torch.linalg.lstsq(design, F.one_hot(y).double()).solution
    assert torch.allclose(head(x), design @ weight, atol=1e-3)


def test_scale_and_offset_of_the_features_do_not_matter():
    (x, y), (s, t), (z, _) = world(300), world(80, seed=1), world(50, seed=2)
    scale, offset = torch.logspace(-3, 3, 12), 100 * torch.randn(12, generator=torch.Generator().manual_seed(5))
    one = fit_classifier("linear", (x, y), (s, t), 4)(z)
    other = fit_classifier("linear", (x * scale + offset, y), (s * scale + offset, t), 4)(z * scale + offset)
    assert torch.allclose(one, other, atol=1e-2)


def test_a_constant_feature_does_no_harm():
    x, y = world(300)
    wide = torch.cat((x, torch.full((300, 2), 3.0)), 1)
    got = fit_classifier("linear", (wide, y), (wide, y), 4)(torch.cat((x, torch.full((300, 2), 5.0)), 1))
    assert torch.allclose(got, fit_classifier("linear", (x, y), (x, y), 4)(x), atol=1e-5)


def test_more_neighbours_are_chosen_where_labels_are_noisy():
    x, y = world(600, k=2, apart=3.0)
    g = torch.Generator().manual_seed(7)
    noisy = torch.where(torch.rand(600, generator=g) < 0.35, 1 - y, y)
    head = fit_classifier("knn", (x, noisy), world(400, k=2, apart=3.0, seed=1), 2)
    nearest = fit_classifier("knn", (x, noisy), (x, noisy), 2)  # each row is its own neighbour: one is chosen
    test = world(1000, k=2, apart=3.0, seed=2)
    right = [(h(test[0]).argmax(1) == test[1]).double().mean().item() for h in (head, nearest)]
    assert right[0] > right[1] + 0.1


def test_neighbours_vote_by_their_cosine_around_the_mean():
    x, y = world(60)
    z, _ = world(9, seed=1)
    votes = fit_classifier("knn", (x, y), (x, y), 4)(z)  # each row is its own neighbour: one is chosen
    cosine = F.cosine_similarity((z - x.mean(0))[:, None], (x - x.mean(0))[None], dim=2)
    assert torch.equal(votes.argmax(1), y[cosine.argmax(1)])
    few = fit_classifier("knn", (x[:4], y[:4]), (x, y), 4)  # fewer rows than the larger numbers of neighbours
    assert few(z).shape == (9, 4)


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="head: got 'mlp', expected one of linear, knn"):
        fit_classifier("mlp", world(8), world(8), 4)
