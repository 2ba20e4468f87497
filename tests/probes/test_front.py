"""The front of fidelity and action: domination, area, certainty, and the worlds in which the coordinates are known."""

import math

import pytest
import torch

from vjepa_lab.probes import _pairs, _stats
from vjepa_lab.probes._front import front, hypervolume, membership, spearman


def test_the_dominated_are_not_on_the_front_and_equals_are_together():
    points = torch.tensor([[40.0, 0.0], [20.0, 0.2], [17.0, 1.0], [18.0, 0.1], [17.0, 1.0], [20.0, 0.1]])
    assert front(points).tolist() == [True, True, True, False, True, False]


def test_the_area_is_that_of_rectangles_by_hand():
    points = torch.tensor([[12.0, 0.9], [14.0, 0.4], [11.0, 0.3], [9.0, 2.0]])
    by_hand = 2 * (0.9 + 0.1) + 2 * (0.4 + 0.1)
    assert hypervolume(points).item() == pytest.approx(by_hand, abs=1e-6), "one lies below the reference, one inside"
    assert hypervolume(torch.tensor([[9.0, 0.5]])) == 0
    assert hypervolume(points[:3].flip(0)).item() == pytest.approx(by_hand, abs=1e-6)


def test_the_area_agrees_with_counting_points():
    g = torch.Generator().manual_seed(0)
    points = torch.rand(7, 2, generator=g)
    darts = torch.rand(200_000, 1, 2, generator=g)
    hit = (darts <= points).all(-1).any(-1).double().mean().item()
    assert hypervolume(points, (0.0, 0.0)).item() == pytest.approx(hit, abs=0.005)


def test_the_areas_of_many_resamples_are_those_of_each():
    points = torch.rand(5, 6, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([40.0, 1.0])
    points[:, 1, 0] = points[:, 0, 0]  # as wide as another
    each = [hypervolume(p).item() for p in points]
    assert hypervolume(points).tolist() == pytest.approx(each)
    assert each == pytest.approx([hypervolume(p[front(p)]).item() for p in points])


def test_membership_is_how_often_a_model_is_on_the_front():
    """The second figure is better by 0 + noise of 1, so that the first model is dominated half of the time."""
    g = torch.Generator().manual_seed(0)
    resampled = torch.zeros(4000, 2, 2)
    resampled[:, 1, 0] = 1
    resampled[:, 1, 1] = torch.randn(4000, generator=g)
    found = membership(resampled)
    assert found[1] == 1
    assert found[0].item() == pytest.approx(0.5, abs=0.03)


def test_ranks_correlate_as_they_should():
    up = torch.tensor([[1.0, 10.0], [2.0, 11.0], [30.0, 12.0], [31.0, 400.0]])
    assert spearman(up) == (1.0, 4)
    assert spearman(up * torch.tensor([1.0, -1.0])).rho == -1
    ties = torch.tensor([[1.0, 1.0], [1.0, 2.0], [2.0, 3.0], [3.0, 4.0]])
    assert spearman(ties).rho == pytest.approx(4.5 / math.sqrt(4.5 * 5), abs=1e-12), "the first two share rank 1.5"
    assert math.isnan(spearman(torch.tensor([[1.0, 1.0], [1.0, 2.0]])).rho)


def test_reconstruction_and_action_pull_apart_as_their_closed_forms_say():
    """O-PARETO: pictures show four large distractions and a small state, which alone is moved by the action."""
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.float64))[0]

    def world(n: int):
        """Pictures (n, 6) before and after an action (n, 2); the distractions are drawn anew."""
        s = torch.randn(n, 2, generator=g, dtype=torch.float64)
        a = torch.randn(n, 2, generator=g, dtype=torch.float64)
        d = 10 * torch.randn(2, n, 4, generator=g, dtype=torch.float64)
        return torch.cat([d[0], s], 1) @ basis.T, torch.cat([d[1], s + a], 1) @ basis.T, a

    train, test = world(20_000), world(20_000)
    principal = torch.linalg.eigh(train[0].T @ train[0])[1][:, -4:]
    encoders = {
        "reconstruction": principal,
        "state": basis[:, 4:],
        "random": torch.linalg.qr(torch.randn(6, 3, generator=g, dtype=torch.float64))[0],
    }
    found, errors = {}, {}
    for name, encoder in encoders.items():
        (x, y), (x2, y2) = (
            (_pairs.joined(now @ encoder, then @ encoder, "concat"), action) for now, then, action in (train, test)
        )
        fitted, _ = _pairs.linear((x, y), (x2, y2))
        action = _stats.r2(_pairs.predicted(fitted, x2), y2, torch.arange(len(y2)) // 100).value
        decoder = torch.linalg.lstsq(train[0] @ encoder, train[0]).solution
        errors[name] = (test[0] @ encoder @ decoder - test[0]).square().mean().item()
        found[name] = (10 * math.log10(60**2 / errors[name]), action)
    assert errors["reconstruction"] == pytest.approx(2 / 6, rel=0.02)
    assert errors["state"] == pytest.approx(400 / 6, rel=0.02)
    assert found["reconstruction"][0] == pytest.approx(40.3, abs=0.1)
    assert found["state"][0] == pytest.approx(17.3, abs=0.1)
    assert found["reconstruction"][1] == pytest.approx(0, abs=0.02)
    assert found["state"][1] == pytest.approx(1, abs=0.001)
    assert found["state"][0] < found["random"][0] < found["reconstruction"][0]
    points = torch.tensor([*found.values(), (17.0, 0.1)], dtype=torch.float64)
    assert front(points).tolist() == [True, True, True, False]
