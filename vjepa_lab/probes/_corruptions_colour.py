"""Corruptions that treat every pixel by itself: noise, and changes of colour.

All take a clip x, float32 (3, F, H, W) from 0 to 1, the parameters of a severity, draws, and a scale (side / 224) that
these do not need. Noise is drawn anew for every frame, as a sensor does; colours change for the whole clip alike.

Decisions.
- Salt and pepper fall on the three colours of a pixel independently, as in the published set.
- Shot noise is the exact Poisson law of the pixel's 8-bit level, by inversion of its distribution: the same numbers
  on every device.
- Hue and saturation stay what they are when the brightness (the largest of the three colours) changes, which needs no
  conversion to HSV: colours are scaled by the ratio of the new brightness to the old.

Reference: Hendrycks and Dietterich 2019, whose constants ``_corruptions.py`` lists.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vjepa_lab.probes._perturb import Draws


def gaussian_noise(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """Add normal noise of deviation p[0]."""
    return x + p[0] * draws.normal(*x.shape)


def speckle_noise(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """Multiply by 1 + normal noise of deviation p[0]."""
    return x + x * (p[0] * draws.normal(*x.shape))


def impulse_noise(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """A share p[0] of the values becomes 0 or 1, half of them each."""
    u = draws.uniform(*x.shape)
    return torch.where(u < p[0] / 2, 0.0, torch.where(u < p[0], 1.0, x))


def shot_noise(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """Count photons: Poisson(p[0] x) / p[0]."""
    levels = torch.arange(256, dtype=torch.float64) * (p[0] / 255)
    most = int(p[0] + 10 * p[0] ** 0.5 + 10)
    count = torch.arange(most, dtype=torch.float64)
    log_mass = count * levels.clamp_min(1e-300).log()[:, None] - levels[:, None] - torch.lgamma(count + 1)
    # The distributions of all levels, one behind the other on a line: level + P(count <= k), in increasing order.
    line = (log_mass.exp().cumsum(1).clamp_max(1.0) + torch.arange(256.0, dtype=torch.float64)[:, None]).flatten()
    level = (x * 255).round().long()
    at = level + draws.uniform(*x.shape).to(torch.float64)
    found = torch.searchsorted(line.to(x.device), at, right=True) - level * most
    return found.clamp_max(most - 1).float() / p[0]


def brightness(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """Raise the largest of the three colours by p[0], up to full white, and the others in proportion."""
    value = x.amax(0, keepdim=True)
    new = (value + p[0]).clamp_max(1)
    return torch.where(value > 0, x * (new / value.clamp_min(1e-6)), new)


def contrast(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """Shrink the distance from the clip's mean colour by the factor p[0]."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + p[0] * (x - mean)


def saturate(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """Saturation s becomes p[0] s + p[1], hue and brightness stay; what is grey has the hue of red."""
    high, low = x.amax(0, keepdim=True), x.amin(0, keepdim=True)
    range_ = high - low
    old = range_ / high.clamp_min(1e-6)
    new = (p[0] * old + p[1]).clamp(0, 1)
    toward = torch.where(
        range_ > 0, (high - x) / range_.clamp_min(1e-6), x.new_tensor([0.0, 1.0, 1.0]).view(3, 1, 1, 1)
    )
    return high - toward * (new * high)
