"""Noise has the law it claims, and colours change as closed forms say."""

import colorsys
import math

import pytest
import torch

from vjepa_lab.probes._corruptions import corrupt

MILLION = (3, 1, 600, 600)


@pytest.mark.parametrize(("severity", "expected"), list(enumerate([21.94, 18.41, 14.94, 12.14, 9.98], 1)))
def test_noise_on_mid_grey_has_the_known_psnr(severity, expected):
    grey = torch.full(MILLION, 0.5)
    error = corrupt(grey, "gaussian_noise", severity, keys="v").double() - 0.5
    assert -10 * math.log10(error.square().mean().item()) == pytest.approx(expected, abs=0.05)


def test_the_noise_of_the_action_probe_has_deviation_015():
    error = corrupt(torch.full(MILLION, 0.5), "noise_015", 1, keys="v").double() - 0.5
    assert -10 * math.log10(error.square().mean().item()) == pytest.approx(-20 * math.log10(0.15), abs=0.05)


@pytest.mark.parametrize(("severity", "amount"), list(enumerate([0.03, 0.06, 0.09, 0.17, 0.27], 1)))
def test_impulses_hit_their_share_half_black_half_white(severity, amount):
    n = math.prod(MILLION)
    out = corrupt(torch.full(MILLION, 0.4), "impulse_noise", severity, keys="v")
    black, white = (out == 0).double().mean().item(), (out == 1).double().mean().item()
    assert black + white == pytest.approx(amount, abs=5 * math.sqrt(amount / n))
    assert black / (black + white) == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(amount * n))
    assert (out[(out != 0) & (out != 1)] == 0.4).all()
    # Where the value was black already, only the white half can be seen.
    on_black = corrupt(torch.zeros(MILLION), "impulse_noise", severity, keys="v")
    assert (on_black != 0).double().mean().item() == pytest.approx(amount / 2, abs=5 * math.sqrt(amount / n))


@pytest.mark.parametrize("photons", [60, 3])
@pytest.mark.parametrize("level", [0, 26, 77])
def test_shot_noise_is_poisson(photons, level):
    severity = {60: 1, 3: 5}[photons]
    out = corrupt(torch.full((3, 1, 300, 300), level / 255), "shot_noise", severity, keys="v").double() * photons
    count, rate, n = out.round(), photons * level / 255, out.numel()
    assert (count - out).abs().max() < 1e-4
    most = min(photons, int(rate + 8 * rate**0.5 + 3))
    for k in range(most):  # counts of ``photons`` and above are full white
        share = (count == k).double().mean().item()
        mass = math.exp(-rate + (k * math.log(rate) if k else 0) - math.lgamma(k + 1)) if rate else float(k == 0)
        assert share == pytest.approx(mass, abs=5 * math.sqrt(mass * (1 - mass) / n) + 1e-6), k


def test_speckle_grows_with_the_light():
    clip = torch.cat((torch.full((3, 1, 200, 100), 0.1), torch.full((3, 1, 200, 100), 0.4)), 3)
    error = corrupt(clip, "speckle_noise", 1, keys="v") - clip
    assert error[..., :100].std().item() == pytest.approx(0.015, rel=0.02)
    assert error[..., 100:].std().item() == pytest.approx(0.06, rel=0.02)


def colours(n=400):
    return torch.rand(3, 1, 1, n, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("severity", "c"), list(enumerate([0.1, 0.2, 0.3, 0.4, 0.5], 1)))
def test_brightness_rises_by_c_until_white_and_hue_and_saturation_stay(severity, c):
    x = torch.cat((colours(), torch.zeros(3, 1, 1, 1)), 3)
    out = corrupt(x, "brightness", severity, keys="v")
    for before, after in zip(x.flatten(1).T.tolist(), out.flatten(1).T.tolist(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb(h, s, min(v + c, 1)), abs=1e-5)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_saturation_changes_as_in_hsv(severity):
    scale, shift = [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)][severity - 1]
    x = torch.cat((colours(), torch.full((3, 1, 1, 1), 0.6)), 3)
    out = corrupt(x, "saturate", severity, keys="v")
    for before, after in zip(x.flatten(1).T.tolist(), out.flatten(1).T.tolist(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb(h, min(scale * s + shift, 1), v), abs=1e-5)


def test_contrast_shrinks_the_deviation_and_keeps_the_mean_of_each_colour():
    x = torch.rand(3, 4, 20, 20, generator=torch.Generator().manual_seed(1))
    for severity, factor in enumerate([0.4, 0.3, 0.2, 0.1, 0.05], 1):
        out = corrupt(x, "contrast", severity, keys="v")
        assert torch.allclose(out.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=1e-6)
        assert torch.allclose(out.std((1, 2, 3)), factor * x.std((1, 2, 3)), atol=1e-6)
