"""RankMe on sets of which the answer is known (figures for 25,600 rows)."""

import pytest
import torch

from vjepa_lab.probes._spectrum import rankme

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
