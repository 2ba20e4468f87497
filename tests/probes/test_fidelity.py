"""Fidelity of pictures: closed forms, the difference between two means, and a slow reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vjepa_lab.probes._fidelity import WINDOW, psnr, squared_error, ssim


def numbers(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def recovered(noise: float, *, side: int = 8, n: int = 2000) -> float:
    """PSNR of pictures behind an orthonormal linear encoder, noise on what it gives, and a least-squares decoder."""
    width = 3 * side * side
    basis = torch.linalg.qr(torch.randn(width, width, generator=numbers(), dtype=torch.float64))[0]
    x = torch.rand(n, width, generator=numbers(1), dtype=torch.float64)
    decoder = torch.linalg.lstsq(x @ basis, x).solution
    latent = x @ basis + noise * torch.randn(n, width, generator=numbers(2), dtype=torch.float64)
    pictures = [p.view(n, 3, side, side) for p in (latent @ decoder, x)]
    return psnr(squared_error(*pictures)).mean().item()


@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_noise_behind_an_orthonormal_encoder_costs_what_it_must(noise):
    """O-DEC: -20 log10 sigma, 40 and 20 dB."""
    assert recovered(noise) == pytest.approx(-20 * math.log10(noise), abs=0.1)


def test_without_noise_nothing_is_lost():
    assert recovered(0.0, n=500) > 200


def test_the_mean_over_frames_is_not_that_of_the_mean_error():
    error = torch.tensor([0.1, 0.001])
    assert psnr(error).mean().item() == pytest.approx(20.0, abs=1e-5)
    assert psnr(error.mean()).item() == pytest.approx(12.97, abs=0.01)


def test_an_exact_frame_is_infinite_without_a_cap():
    same = torch.rand(2, 3, 4, 4, generator=numbers())
    assert psnr(squared_error(same, same)).tolist() == [math.inf, math.inf]
    assert psnr(squared_error(same, same), 60.0).tolist() == [60.0, 60.0]
    assert psnr(torch.tensor([0.01]), 60.0).item() == pytest.approx(20)


def test_each_picture_has_an_error_of_its_own():
    a = torch.zeros(3, 3, 5, 7)
    b = a.clone()
    b[1] = 0.5
    b[2, 0, 0, 0] = 1.0
    assert squared_error(a, b).tolist() == pytest.approx([0, 0.25, 1 / 105])


def slow_ssim(a: Tensor, b: Tensor) -> float:
    """Of one picture (3, H, W), place by place."""
    g = torch.tensor([math.exp(-((i - 5) ** 2) / 4.5) for i in range(11)], dtype=torch.float64)
    window = torch.outer(g, g) / g.sum() ** 2
    found = []
    for x, y in zip(a.double(), b.double(), strict=True):
        for row in range(x.shape[0] - 10):
            for column in range(x.shape[1] - 10):
                p, q = (z[row : row + 11, column : column + 11] for z in (x, y))
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                cov = (window * (p - mp) * (q - mq)).sum()
                above = (2 * mp * mq + 0.01**2) * (2 * cov + 0.03**2)
                found.append((above / ((mp**2 + mq**2 + 0.01**2) * (vp + vq + 0.03**2))).item())
    return sum(found) / len(found)


def test_structural_similarity_is_that_of_the_slow_reference():
    a = torch.rand(3, 3, 14, 13, generator=numbers())
    b = (a + 0.2 * torch.randn(3, 3, 14, 13, generator=numbers(1))).clamp(0, 1)
    assert ssim(a, b).tolist() == pytest.approx([slow_ssim(x, y) for x, y in zip(a, b, strict=True)], abs=1e-4)
    assert ssim(a, a).tolist() == pytest.approx([1, 1, 1], abs=1e-6)


def test_of_flat_pictures_brightness_alone_counts():
    flat = torch.ones(1, 3, WINDOW, WINDOW)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert ssim(0.2 * flat, 0.6 * flat).item() == pytest.approx(expected, abs=1e-3)


def test_pictures_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match=r"ssim: got pictures of \(10, 16\) pixels, expected at least 11 a side"):
        ssim(torch.zeros(1, 3, 10, 16), torch.zeros(1, 3, 10, 16))
