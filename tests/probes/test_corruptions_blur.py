"""Blurs are averages with the kernels they claim."""

import math

import pytest
import torch
from torch.nn import functional as F

from vjepa_lab.probes._corruptions import CORRUPTIONS, corrupt
from vjepa_lab.probes._corruptions_blur import defocus_blur, displaced, glass_blur, smooth, trail, zoom_blur
from vjepa_lab.probes._perturb import Draws

BLURS = [("defocus_blur", 5), ("glass_blur", 5), ("motion_blur", 5), ("zoom_blur", 5), ("gaussian_blur", 5)]
BLURS.append(("blur_11", 1))


def spike(side=61):
    x = torch.zeros(3, 1, side, side)
    x[:, :, side // 2, side // 2] = 1
    return x


def noise(side=40):
    return torch.rand(3, 2, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("kind", "levels"), BLURS)
def test_a_constant_picture_is_not_changed(kind, levels):
    for side in (8, 224):
        x = torch.tensor([0.2, 0.5, 0.9]).view(3, 1, 1, 1).expand(3, 2, side, side)
        for severity in range(1, levels + 1):
            assert (corrupt(x, kind, severity, keys="v") - x).abs().max() < 1e-5


@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.7])
def test_smoothing_is_a_gaussian_with_mirrored_edges(sigma):
    x, radius = noise(), int(4 * sigma + 0.5)
    line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    mirrored = torch.cat((x[..., :radius].flip(3), x, x[..., -radius:].flip(3)), 3)
    mirrored = torch.cat((mirrored[:, :, :radius].flip(2), mirrored, mirrored[:, :, -radius:].flip(2)), 2)
    expected = F.conv2d(mirrored.flatten(0, 1)[:, None], kernel[None, None]).view_as(x)
    assert torch.allclose(smooth(x, sigma), expected, atol=1e-5)


def test_smoothing_far_beyond_the_picture_gives_its_mean():
    x = noise(12)
    assert torch.allclose(smooth(x, 200.0), x.mean((2, 3), keepdim=True).expand_as(x), atol=1e-4)


def test_the_blur_of_the_action_probe_has_eleven_pixels_at_every_size():
    line = torch.exp(-0.5 * (torch.arange(-5, 6) / 2.0) ** 2)
    line /= line.sum()
    for side in (31, 97):
        out = corrupt(spike(side), "blur_11", 1, keys="v")[0, 0]
        at = side // 2
        assert torch.allclose(out[at - 5 : at + 6, at - 5 : at + 6], torch.outer(line, line), atol=1e-6)
        assert (out > 0).sum() == 121


@pytest.mark.parametrize("radius", [0.5, 3.0, 10.0])
def test_defocus_spreads_a_point_over_a_disc(radius):
    out = defocus_blur(spike(), (radius, 0.1), Draws(), 1.0)[0, 0].double()
    y = torch.arange(61.0).double() - 30
    distance = torch.hypot(y[:, None], y)
    assert out.sum().item() == pytest.approx(1, abs=1e-5)
    assert (out[distance > radius + 0.5] == 0).all()
    if radius >= 3:
        assert (out * distance.square()).sum().item() == pytest.approx(radius**2 / 2, rel=0.06)  # of a uniform disc


def test_a_moving_camera_draws_a_one_sided_gaussian():
    out = trail(spike(), 5, 3.0, 0.0)[0, 0]
    weights = torch.exp(-0.5 * (torch.arange(11) / 3.0) ** 2)
    weights /= weights.sum()
    assert torch.allclose(out[30, 20:31].flip(0), weights, atol=1e-6)
    assert out.sum().item() == pytest.approx(1, abs=1e-5)
    slanted = trail(spike(), 5, 3.0, math.pi / 4)[0, 0].nonzero() - 30
    assert (slanted[:, 0] == slanted[:, 1]).all()
    assert slanted.min() == -7  # 10 px along the diagonal


def test_motion_blur_stays_within_45_degrees():
    for key in range(8):
        at = corrupt(spike(224)[:, :, :, :], "motion_blur", 5, keys=str(key))[0, 0].nonzero() - 112
        away = at[at.abs().sum(1) > 10].double()
        assert (away[:, 0].abs() <= away[:, 1].abs() + 1).all()


def test_zoom_blur_of_a_ramp_about_the_centre_is_a_flatter_ramp():
    side, (most, step) = 41, (1.21, 0.02)
    row = (torch.arange(side) - 20) / 50
    x = row.view(1, 1, side, 1).expand(3, 1, side, side)
    factors = [1.0] + [1 + step * i for i in range(round((most - 1) / step))]
    expected = sum(1 / f for f in factors) / len(factors) * row
    out = zoom_blur(x, (most, step), Draws(), 1.0)
    assert torch.allclose(out[0, 0, :, 20], expected, atol=1e-5)


def test_displacement_reads_where_it_points():
    x = noise(20)
    moved = displaced(x, torch.full((20, 20), 3.0), torch.full((20, 20), -2.0))
    assert torch.allclose(moved[:, :, :-3, 2:], x[:, :, 3:, :-2], atol=1e-5)
    half = displaced(x, torch.zeros(20, 20), torch.full((20, 20), 0.5))
    assert torch.allclose(half[..., :-1], (x[..., 1:] + x[..., :-1]) / 2, atol=1e-5)


def test_glass_moves_pixels_by_the_sum_of_its_steps_and_no_further():
    side, (_, reach, times) = 60, CORRUPTIONS["glass_blur"].levels[2]
    ramp = (torch.arange(side) / 100).view(1, 1, side, 1).expand(3, 1, side, side)
    moved = 100 * (glass_blur(ramp, (0.0, reach, times), Draws("glass"), 1.0) - ramp)[0, 0, 10:-10]
    assert moved.abs().max() <= reach * times + 1e-3
    assert moved.var().item() == pytest.approx(times * ((2 * reach + 1) ** 2 - 1) / 12, rel=0.1)
    assert (moved - moved.round()).abs().max() < 1e-3
