"""Fog, frost and snow cover the scene as their formulas say, with textures of the claimed kind."""

import math

import pytest
import torch

from vjepa_lab.probes._corruptions import CORRUPTIONS, corrupt
from vjepa_lab.probes._corruptions_weather import frost_texture, plasma, snow
from vjepa_lab.probes._perturb import Draws


def constant(value, side=224, frames=1):
    return torch.full((3, frames, side, side), value)


def test_plasma_spans_nought_to_one_and_is_periodic():
    field = plasma(128, 1.7, Draws("p"))
    assert field.min() == 0
    assert field.max() == 1
    inside = (field[1:] - field[:-1]).abs().mean()
    seam = (field[0] - field[-1]).abs().mean()
    assert seam < 2 * inside


def test_plasma_is_smoother_the_faster_it_decays():
    rough, fine = (plasma(128, decay, Draws("p")) for decay in (1.4, 2.0))
    steps = [(f[1:] - f[:-1]).std() / f.std() for f in (rough, fine)]
    assert steps[0] > 1.5 * steps[1]


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_fog_keeps_the_brightest_value_and_veils_by_its_amount(severity):
    amount, c = CORRUPTIONS["fog"].levels[severity - 1][0], 0.6
    out = corrupt(constant(c), "fog", severity, keys="v")
    assert out.max() <= c + 1e-6
    assert out.min() >= c * c / (c + amount) - 1e-6
    x = constant(c)
    x[:, :, 100:] = 0.2
    veiled = corrupt(x, "fog", severity, keys="v")
    # What differs between two scenes under the same fog shrinks by most / (most + amount).
    assert torch.allclose((out - veiled)[:, :, 100:], constant((c - 0.2) * c / (c + amount))[:, :, 100:], atol=1e-5)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_frost_is_a_weighted_sum(severity):
    scene, ice = CORRUPTIONS["frost"].levels[severity - 1]
    on_black = corrupt(constant(0.0), "frost", severity, keys="v")
    on_grey = corrupt(constant(0.2), "frost", severity, keys="v")
    free = on_grey < 1
    assert torch.allclose(on_grey[free], (on_black + scene * 0.2)[free], atol=1e-5)
    assert on_black.max() <= ice + 1e-6


def test_frost_leaves_clear_glass_in_the_middle_and_is_thick_at_the_edges():
    textures = torch.stack([frost_texture(96, 160, Draws("f", i)) for i in range(8)])
    assert textures.min() >= 0
    assert textures.max() <= 1
    middle, rim = textures[:, 32:64, 50:110].mean(), textures[:, :8].mean()
    assert rim > middle + 0.2
    assert textures.std() > 0.15
    assert not torch.equal(textures[0], textures[1])


def test_snow_on_black_is_white_flakes_and_falls_in_the_streaks_direction():
    out = snow(constant(0.0, frames=2), (0.1, 0.3, 3, 0.5, 10, 4, 1.0), Draws("s"), 1.0)
    assert torch.equal(out[0], out[1])
    assert out.min() == 0
    assert 0.005 < (out > 0.2).double().mean() < 0.2


def test_snow_bleaches_what_lies_behind():
    level, keep = 0.3, 0.8
    out = corrupt(constant(level), "snow", 1, keys="v")
    free = keep * level + (1 - keep) * max(level, 1.5 * level + 0.5)
    assert out.min().item() == pytest.approx(free, abs=1e-4)


def test_weather_looks_alike_at_every_size():
    for kind in ("snow", "frost", "fog"):
        small, large = (corrupt(constant(0.2, side), kind, 3, keys="v")[:, 0] for side in (112, 224))
        shrunk = torch.nn.functional.avg_pool2d(large, 2)
        together = torch.corrcoef(torch.stack((small.flatten(), shrunk.flatten())))[0, 1]
        assert together > 0.97, kind


def test_wide_frames_are_covered_too():
    x = torch.full((3, 2, 40, 100), 0.3)
    for kind in ("snow", "frost", "fog"):
        out = corrupt(x, kind, 3, keys="v")
        assert out.shape == x.shape
        assert math.isfinite(out.sum().item())
        assert out[..., 90:].std() > 0.01
