"""Ranks, LiDAR and their intervals on sets of which the answer is known (figures for 25,600 rows)."""

import math

import pytest
import torch

from vjepa_lab.probes._spectrum import Sums, half_width, jackknife, lidar, rankme, ranks

N = 25_600


def isotropic(d, seed=0):
    return torch.randn(N, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("d", "expected"), [(8, 8.00), (64, 63.98), (192, 191.84)])
def test_isotropic_features_have_full_rank(d, expected):
    assert rankme(isotropic(d), centred=False) == pytest.approx(expected, rel=0.01)


def test_features_in_a_subspace_have_its_rank():
    basis = torch.linalg.qr(isotropic(16)[:192])[0].T
    assert rankme(isotropic(16) @ basis, centred=False) == pytest.approx(16.0, rel=0.01)


def test_a_common_offset_hides_everything_unless_it_is_removed():
    z = isotropic(64) + 10
    assert rankme(z, centred=False) == pytest.approx(12.3, rel=0.02)
    assert rankme(z) == pytest.approx(64.0, rel=0.01)


def test_collapsed_features_have_rank_one():
    assert rankme(torch.ones(100, 32), centred=False) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("rows", [20, 300])
def test_it_is_the_entropy_of_the_singular_values(rows):
    z = isotropic(48)[:rows] * torch.logspace(0, -3, 48)
    p = torch.linalg.svdvals(z.double() - z.double().mean(0))
    p = p / p.sum() + 1e-7
    assert rankme(z) == pytest.approx(torch.exp(-(p * p.log()).sum()).item(), rel=1e-4)


@pytest.mark.parametrize("d", [8, 64, 192])
def test_isotropic_features_have_full_rank_by_every_figure(d):
    found = ranks(Sums.of(isotropic(d)))
    assert all(found[name] == pytest.approx(d, rel=0.01) for name in ("rankme", "rankme_uncentred", "effective_rank"))
    assert found["participation_ratio"] == pytest.approx(d / (1 + d / N), rel=0.01)
    assert found["covariance_entropy"] == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=0.005)


def test_figures_of_sums_equal_those_of_rows():
    z = isotropic(24)[:500] * torch.logspace(0, -2, 24) + 3
    halves = Sums.of(z[:200]).plus(Sums.of(z[200:]))
    found = ranks(halves)
    assert found["rankme"] == pytest.approx(rankme(z), rel=1e-6)
    assert found["rankme_uncentred"] == pytest.approx(rankme(z, centred=False), rel=1e-6)
    x = z.double() - z.double().mean(0)
    eigen = torch.linalg.svdvals(x).square()
    p = eigen / eigen.sum()
    assert found["effective_rank"] == pytest.approx(torch.exp(-(p * p.log()).sum()).item(), rel=1e-4)
    assert found["participation_ratio"] == pytest.approx(1 / p.square().sum().item(), rel=1e-6)
    scaled = x / x.square().mean().sqrt()
    expected = 0.5 * math.log(2 * math.pi * math.e) + torch.linalg.slogdet(scaled.T @ scaled / 500)[1].item() / 48
    assert found["covariance_entropy"] == pytest.approx(expected, abs=1e-4)
    assert torch.allclose(halves.plus(Sums.of(z[200:]), -1).square, Sums.of(z[:200]).square)


def test_ten_percent_more_dimensions_are_ten_percent_more_rankme_and_two_more_nats():
    more, fewer = (ranks(Sums.of(isotropic(d)))["rankme"] for d in (110, 100))
    assert more / fewer == pytest.approx(1.10, abs=0.001)
    assert math.log(more) / math.log(fewer) == pytest.approx(1.0207, abs=0.0003)


def test_rows_that_come_twice_change_nothing():
    z = isotropic(16)[:400]
    once, twice = ranks(Sums.of(z)), ranks(Sums.of(torch.cat([z, z])))
    assert twice == pytest.approx(once, rel=1e-6)


def test_constant_features_are_collapsed_by_every_figure():
    found = ranks(Sums.of(torch.full((64, 32), 2.5)))
    assert all(found[name] < 1.1 for name in ("rankme_uncentred", "participation_ratio"))
    assert found["rankme"] < 1.1
    assert found["covariance_entropy"] < -4


def views(between, within, n=4000, q=8):
    """Clips with deviations ``between`` along each axis, and views that differ from their clip by ``within``."""
    g = torch.Generator().manual_seed(0)
    b, w = (torch.tensor(v, dtype=torch.float64) for v in (between, within))
    clip = torch.randn(n, 1, len(b), generator=g, dtype=torch.float64) * b
    return clip + torch.randn(n, q, len(b), generator=g, dtype=torch.float64) * w


def test_lidar_counts_directions_that_tell_clips_apart_not_those_that_jitter():
    """16 axes of signal; 16 of jitter alone, whose means over 8 views keep an eighth of its variance."""
    sample = Sums.of_views(views([1.0] * 16 + [0.0] * 16, [0.2] * 16 + [1.0] * 16))
    signal, jitter = (1 + 0.04 / 8) / (0.04 * 7 / 8), (1 / 8) / (7 / 8)  # B / W of an axis
    p = torch.tensor([signal] * 16 + [jitter] * 16, dtype=torch.float64)
    p = p / p.sum()
    expected = torch.exp(-(p * p.log()).sum()).item()
    assert lidar(sample) == pytest.approx(expected, rel=0.02)
    assert expected < 17.5
    assert ranks(sample)["rankme"] > 24  # which the jitter fools


def test_lidar_does_not_depend_on_scale_or_on_a_linear_map():
    x = views([1.0, 0.5, 0.1, 2.0], [0.3, 0.3, 0.3, 0.3], n=500)
    mix = torch.tensor([[1.0, 0.2, 0, 0], [0, 1, 0.5, 0], [0, 0, 1, 0], [0.3, 0, 0, 1]], dtype=torch.float64)
    reference = lidar(Sums.of_views(x))
    assert lidar(Sums.of_views(1000 * x + 7)) == pytest.approx(reference, rel=1e-6)
    assert lidar(Sums.of_views(x @ mix), delta=1e-9) == pytest.approx(reference, rel=0.01)


def test_intervals_cover_what_they_should():
    """Of 100 samples of 300 rows, the 95 % interval of RankMe holds the mean figure of all in most."""
    g = torch.Generator().manual_seed(0)
    scale = torch.logspace(0, -1, 12)
    found = []
    for _ in range(100):
        z = torch.randn(300, 12, generator=g) * scale
        found.append(jackknife([Sums.of(part) for part in z.chunk(20)], ranks)["rankme"])
    mean = sum(value for value, _, _ in found) / 100
    covered = sum(low <= mean <= high for _, low, high in found)
    assert 88 <= covered <= 99
    assert sum(high - low for _, low, high in found) / 100 < 0.5


def test_one_group_has_no_interval():
    value, low, high = jackknife([Sums.of(isotropic(8)[:50])], ranks)["rankme"]
    assert value > 7
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize(("freedom", "t"), [(5, 2.5706), (9, 2.2622), (19, 2.0930), (10_000, 1.9602)])
def test_intervals_use_students_t(freedom, t):
    """Figures with each group left out, of known variance."""
    without = torch.linspace(-1, 1, freedom + 1, dtype=torch.float64)[:, None]
    expected = t * math.sqrt(freedom * without.var(0, correction=0).item())
    assert half_width(without).item() == pytest.approx(expected, rel=2e-3)
