"""Retention by hand, paired over the same videos, and nothing where there is nothing to retain."""

import pytest
import torch

from vjepa_lab.probes._retention import retained


def test_figures_are_those_of_the_definition():
    clean = torch.tensor([1, 1, 1, 1, 0]).repeat(20)
    right = torch.tensor([1, 1, 0, 0, 0]).repeat(20)
    got = dict(retained(right, clean, torch.arange(100), 5))
    assert got["top1"].value == pytest.approx(0.4)
    assert got["retention"].value == pytest.approx(0.5)
    assert got["retention_corrected"].value == pytest.approx((0.4 - 0.2) / (0.8 - 0.2))
    assert got["retention"].low < 0.5 < got["retention"].high


def test_unchanged_answers_retain_all_without_any_doubt():
    clean = (torch.rand(60, generator=torch.Generator().manual_seed(0)) < 0.7).double()
    got = dict(retained(clean, clean, torch.arange(60), 4))
    for name in ("retention", "retention_corrected"):  # videos are resampled together
        assert (got[name].value, got[name].low, got[name].high) == (1, 1, 1)


def test_a_guess_retains_itself_and_chance_takes_it_away():
    g = torch.Generator().manual_seed(1)
    clean = (torch.rand(4000, generator=g) < 0.9).double()
    guess = (torch.rand(4000, generator=g) < 0.25).double()
    got = dict(retained(guess, clean, torch.arange(4000) // 40, 4))
    assert got["retention"].value == pytest.approx(0.25 / 0.9, abs=0.03)
    assert got["retention_corrected"].value == pytest.approx(0, abs=0.04)


def test_an_encoder_at_chance_has_nothing_to_retain():
    guess = torch.tensor([1, 0, 0, 0]).repeat(25)
    assert set(dict(retained(guess, guess, torch.arange(100), 4))) == {"top1"}
    assert set(dict(retained(guess, torch.zeros(100), torch.arange(100), 4))) == {"top1"}
