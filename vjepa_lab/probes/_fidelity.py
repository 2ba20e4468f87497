"""How close a picture is to another: peak signal-to-noise ratio and structural similarity, of pixels in [0, 1].

Decisions.
- PSNR is a property of one frame; what is reported is its mean over frames. The PSNR of the mean error over all frames
  is another figure (errors of 0.1 and 0.001 in turns: 20.0 dB and 13.0 dB), and is called pooled.
- A frame that is met exactly has no finite PSNR, and one such frame would be the mean. ``cap`` bounds it: 60 dB is
  about what rounding to 8 bits costs.
- SSIM has the window of its authors, a Gaussian of 11 pixels and deviation 1.5, on places where it lies inside the
  picture; colours are averaged.

Reference: Wang, Bovik, Sheikh and Simoncelli, Image quality assessment: from error visibility to structural similarity,
2004.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 11
_DEVIATION = 1.5
_C1, _C2 = 0.01**2, 0.03**2


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error of each picture: (n, 3, H, W) twice -> float64 (n,), in main memory."""
    return (a - b).square().flatten(1).mean(1).cpu().double()


def psnr(error: Tensor, cap: float | None = None) -> Tensor:
    """Decibels of mean squared errors (...), at most ``cap``; infinite for 0 without one."""
    decibels = -10 * error.double().log10()
    return decibels if cap is None else decibels.clamp(max=cap)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each picture: (n, 3, H, W) twice -> float64 (n,), in main memory.

    Raises:
        ValueError: the pictures are smaller than the window.
    """
    if min(a.shape[-2:]) < WINDOW:
        raise ValueError(f"ssim: got pictures of {tuple(a.shape[-2:])} pixels, expected at least {WINDOW} a side")
    n, c, height, width = a.shape
    planes = [x.reshape(n * c, 1, height, width).float() for x in (a, b)]
    x, y = planes
    mx, my, xx, yy, xy = (_blurred(p) for p in (x, y, x * x, y * y, x * y))
    vx, vy, cov = xx - mx * mx, yy - my * my, xy - mx * my
    near = (2 * mx * my + _C1) * (2 * cov + _C2) / ((mx * mx + my * my + _C1) * (vx + vy + _C2))
    return near.view(n, -1).mean(1).cpu().double()


def _blurred(planes: Tensor) -> Tensor:
    """Weighted means around each place, where the window fits: (n, 1, H, W) -> (n, 1, H - 10, W - 10)."""
    place = torch.arange(WINDOW, dtype=planes.dtype, device=planes.device) - WINDOW // 2
    line = torch.exp(-place.square() / (2 * _DEVIATION**2))
    line = line / line.sum()
    return F.conv2d(F.conv2d(planes, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))
