"""Draws are functions of their parts alone; a perturbed clip does not know its batch."""

import math

import pytest
import torch

from vjepa_lab.probes._perturb import Draws, per_clip


def test_draws_are_a_function_of_their_parts():
    assert torch.equal(Draws("a", 1).uniform(5), Draws("a", 1).uniform(5))
    assert not torch.equal(Draws("a", 1).uniform(5), Draws("a", 2).uniform(5))
    draws = Draws("a", 1)
    assert not torch.equal(draws.uniform(5), draws.uniform(5))


def test_uniform_and_normal_have_their_moments():
    n = 200_000
    u = Draws("moments").uniform(n, low=-1, high=3).double()
    assert u.min() >= -1
    assert u.max() < 3
    assert u.mean().item() == pytest.approx(1, abs=5 * 4 / math.sqrt(12 * n))
    z = Draws("moments").normal(n + 1).double()
    assert z.shape == (n + 1,)
    assert z.mean().item() == pytest.approx(0, abs=5 / math.sqrt(n))
    assert z.var().item() == pytest.approx(1, abs=5 * math.sqrt(2 / n))
    assert (z.abs() > 1.959964).double().mean().item() == pytest.approx(0.05, abs=0.0025)
    assert (z[: n // 2] * z[n // 2 : n]).mean().abs() < 5 / math.sqrt(n / 2)  # the two of a pair are independent


def test_a_permutation_has_every_number_once():
    p = Draws("p").permutation(50)
    assert p.sort().values.tolist() == list(range(50))
    assert p.tolist() != list(range(50))


def shift(x, draws):
    return x + draws.uniform(1)


def test_a_clip_does_not_know_its_batch():
    clip = torch.randint(0, 256, (3, 3, 2, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together = per_clip(clip, ["a", "b", "c"], ("shift",), shift)
    assert together.dtype == torch.uint8
    for i, key in enumerate("abc"):
        assert torch.equal(together[i], per_clip(clip[i], key, ("shift",), shift))
    assert not torch.equal(per_clip(clip[0], "a", ("shift",), shift), per_clip(clip[0], "a", ("other",), shift))


def test_values_are_cut_off_and_rounded_for_pixels_only():
    clip = torch.full((3, 1, 2, 2), 0.5)
    assert torch.equal(per_clip(clip, "k", (), lambda x, _: x + 1), torch.ones_like(clip))
    assert torch.equal(per_clip(clip, "k", (), lambda x, _: x + 0.001), clip + 0.001)
    pixels = torch.full((3, 1, 2, 2), 100, dtype=torch.uint8)
    assert torch.equal(per_clip(pixels, "k", (), lambda x, _: x + 0.6 / 255), pixels + 1)
    assert torch.equal(per_clip(pixels, "k", (), lambda x, _: x), pixels)


@pytest.mark.parametrize(
    ("clip", "keys", "message"),
    [
        (torch.zeros(2, 3, 1, 4, 4), "one", r"expected \(3, F, H, W\) with one key"),
        (torch.zeros(2, 3, 1, 4, 4), ["a"], r"got 1 keys"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.int64), "a", "expected uint8"),
        (torch.full((3, 1, 4, 4), 1.5), "a", "before they are normalised"),
        (torch.full((3, 1, 4, 4), math.nan), "a", "expected floats from 0 to 1"),
    ],
)
def test_what_is_no_picture_is_refused(clip, keys, message):
    with pytest.raises(ValueError, match=message):
        per_clip(clip, keys, (), lambda x, _: x)
