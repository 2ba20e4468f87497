"""Centring shows what a common offset hides: features that are stable and mean nothing."""

import pytest
import torch

from vjepa_lab.probes._classifier import fit_classifier
from vjepa_lab.probes._neighbours import consistency, cosines, neighbours, overlap

CLASSES = 20


def occluded(n=4000, noise=0.02):
    """z = 5 u + one-hot of the class + noise; occlusion takes the class away."""
    g = torch.Generator().manual_seed(0)
    label = torch.arange(n) % CLASSES
    u = torch.zeros(32)
    u[-1] = 5
    noises = noise * torch.randn(2, n, 32, generator=g)
    return u + torch.eye(CLASSES, 32)[label] + noises[0], u + noises[1], label


def test_stable_and_dead_features_are_told_by_the_centred_cosine_alone():
    clean, hidden, label = occluded()
    raw, centred = cosines(clean, hidden)
    assert raw.mean().item() == pytest.approx(5 / 26**0.5, abs=0.01)
    assert centred.mean().item() == pytest.approx(0, abs=0.01)
    third = torch.arange(len(label)) // CLASSES % 3
    train, select = ((clean[third == i], label[third == i]) for i in (0, 1))
    for kind in ("linear", "knn"):
        head = fit_classifier(kind, train, select, CLASSES)
        right = (head(clean[third == 2]).argmax(1) == label[third == 2]).double().mean()
        dead = (head(hidden[third == 2]).argmax(1) == label[third == 2]).double().mean().item()
        assert right == 1
        assert dead == pytest.approx(1 / CLASSES, abs=0.04)


def test_cosines_are_those_of_the_definition():
    a, b = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(1))
    raw, centred = cosines(a, b)
    mean = a.mean(0)
    for i in range(30):
        assert raw[i].item() == pytest.approx((a[i] @ b[i] / a[i].norm() / b[i].norm()).item(), abs=1e-5)
        c, d = a[i] - mean, b[i] - mean
        assert centred[i].item() == pytest.approx((c @ d / c.norm() / d.norm()).item(), abs=1e-5)


def test_neighbours_are_the_nearest_of_other_videos():
    g = torch.Generator().manual_seed(2)
    clean, query = torch.randn(40, 6, generator=g), torch.randn(40, 6, generator=g)
    unit = torch.arange(40) // 2
    got = neighbours(query, clean, unit, k=3)
    mean = clean.mean(0)
    for i in range(40):
        cosine = torch.nn.functional.cosine_similarity(query[i : i + 1] - mean, clean - mean)
        order = [j for j in cosine.argsort(descending=True).tolist() if unit[j] != unit[i]]
        assert got[i].tolist() == order[:3]


def test_neighbours_of_the_right_class_and_shared_neighbours_are_counted():
    near = torch.tensor([[1, 2], [0, 3], [3, 1], [0, 1]])
    assert consistency(near, torch.tensor([0, 0, 1, 1])).tolist() == [0.5, 0.5, 0.5, 0.0]
    assert overlap(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[3, 2, 9], [7, 8, 9]])).tolist() == [
        pytest.approx(2 / 3),
        0,
    ]


def test_occlusion_that_leaves_no_class_leaves_neighbours_of_any_class():
    clean, hidden, label = occluded(800)
    unit = torch.arange(800)
    before, after = neighbours(clean, clean, unit), neighbours(hidden, clean, unit)
    assert consistency(before, label).mean() == 1
    assert consistency(after, label).mean() < 0.15
    assert overlap(before, after).mean() < 0.1
    assert overlap(before, before).mean() == 1


def test_too_few_clips_are_refused():
    with pytest.raises(ValueError, match="got 4 clips of other videos, expected at least 5"):
        neighbours(torch.randn(5, 2), torch.randn(5, 2), torch.arange(5))
