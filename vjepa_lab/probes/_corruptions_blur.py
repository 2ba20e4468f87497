"""Corruptions that mix pixels with their neighbours, and the filters that they and others are made of.

All take a clip x, float32 (3, F, H, W) from 0 to 1, the parameters of a severity, draws, and ``scale``, the shorter
side of the frames over the 224 pixels that the published constants, lengths in pixels among them, are for.

Decisions.
- Beyond its edges a frame goes on as its mirror image (Gaussian blur, displacements) or as its last pixel (the rest).
- The rim of the defocus disc is a ramp one pixel wide: radii below a pixel, which small frames lead to, then still
  blur, and grow with the severity.
- Glass: in the published code pixels swap places with random neighbours, one after the other, several times over. Here
  every pixel looks as far away as the sum of so many random steps. One pane stands before the whole clip.
- A moving camera draws a one-sided Gaussian trail (as ImageMagick does), at one random angle for the clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vjepa_lab.probes._perturb import Draws


def smooth(x: Tensor, sigma: float, *, radius: int | None = None) -> Tensor:
    """Gaussian blur of the last two axes of x (..., H, W); the kernel ends at ``radius``, 4 sigma if not given."""
    radius = int(4 * sigma + 0.5) if radius is None else radius
    if radius == 0:
        return x
    rows, columns = (_kernel(n, sigma, radius, x) for n in x.shape[-2:])
    return rows @ (x @ columns.T)


def _kernel(n: int, sigma: float, radius: int, like: Tensor) -> Tensor:
    """Matrix (n, n) that blurs a line of n pixels, mirrored at its ends as often as it takes."""
    offset = torch.arange(-radius, radius + 1, device=like.device)
    weight = torch.exp(-0.5 * (offset.double() / sigma) ** 2)
    weight = (weight / weight.sum()).to(like.dtype)
    at = (torch.arange(n, device=like.device)[:, None] + offset) % (2 * n)
    at = torch.where(at < n, at, 2 * n - 1 - at)
    return like.new_zeros(n, n).scatter_add_(1, at, weight.expand(n, -1))


def displaced(x: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
    """Each pixel of x (C, F, H, W) looks ``dy`` rows down and ``dx`` columns right, (H, W) in pixels, bilinearly."""
    _, _, h, w = x.shape
    row = torch.arange(h, device=x.device)[:, None] + dy
    column = torch.arange(w, device=x.device) + dx
    grid = torch.stack(((2 * column + 1) / w - 1, (2 * row + 1) / h - 1), -1)
    flat = F.grid_sample(x.flatten(0, 1)[None], grid[None], padding_mode="reflection", align_corners=False)
    return flat.view_as(x)


def trail(x: Tensor, radius: float, sigma: float, angle: float) -> Tensor:
    """Smear x (..., H, W) along a line of ``2 radius`` pixels that starts at each pixel; weights fall as a Gaussian."""
    steps = torch.arange(int(2 * radius + 0.5) + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    down, right = (steps * math.sin(angle)).round().long(), (steps * math.cos(angle)).round().long()
    h, w = x.shape[-2:]
    top, left = max(0, -int(down.min())), max(0, -int(right.min()))
    padding = (left, max(0, int(right.max())), top, max(0, int(down.max())))
    padded = F.pad(x.reshape(1, -1, h, w), padding, mode="replicate")
    out = torch.zeros_like(padded[..., :h, :w])
    for dy, dx, weight in zip(down.tolist(), right.tolist(), weights.tolist(), strict=True):
        out.add_(padded[..., top + dy : top + dy + h, left + dx : left + dx + w], alpha=weight)
    return out.view_as(x)


def gaussian_blur(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """Gaussian of deviation p[0] pixels of 224."""
    return smooth(x, p[0] * scale)


def blur_11(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """Gaussian kernel of 11 pixels of the picture as it is, deviation p[0]."""
    return smooth(x, p[0], radius=5)


def defocus_blur(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """Average over a disc of radius p[0], its rim softened by a Gaussian of deviation p[1]."""
    radius = p[0] * scale
    half = math.ceil(radius) + 1
    line = torch.arange(-half, half + 1, device=x.device, dtype=x.dtype)
    disc = smooth((radius + 0.5 - torch.hypot(line[:, None], line)).clamp(0, 1), p[1] * scale)
    disc /= disc.sum()
    flat = F.pad(x.flatten(0, 1)[:, None], (half,) * 4, mode="replicate")
    return F.conv2d(flat, disc[None, None]).view_as(x)


def glass_blur(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """Blur by p[0], look up to p[1] pixels away along each axis p[2] times over, blur by p[0] again."""
    reach, times = int(p[1]), int(p[2])
    steps = (draws.uniform(times, 2, *x.shape[-2:]) * (2 * reach + 1)).floor() - reach
    dy, dx = steps.sum(0) * scale
    return smooth(displaced(smooth(x, p[0] * scale), dy, dx), p[0] * scale)


def motion_blur(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """A trail of radius p[0] and deviation p[1] at an angle within 45 degrees of the horizontal."""
    angle = math.pi / 4 * draws.uniform(1, low=-1).item()
    return trail(x, p[0] * scale, p[1] * scale, angle)


def zoom_blur(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """Average of the frame and of its enlargements by 1, 1 + p[1], 1 + 2 p[1] ... below p[0]."""
    _, _, h, w = x.shape
    factors = [1 + i * p[1] for i in range(round((p[0] - 1) / p[1]))]
    row = torch.arange(h, device=x.device, dtype=x.dtype)[:, None].expand(h, w) - (h - 1) / 2
    column = torch.arange(w, device=x.device, dtype=x.dtype).expand(h, w) - (w - 1) / 2
    total = x.clone()
    for factor in factors:
        shrink = 1 / factor - 1
        total += displaced(x, shrink * row, shrink * column)
    return total / (len(factors) + 1)
