"""Corruptions by weather: snow, frost and fog.

All take a clip x, float32 (3, F, H, W) from 0 to 1, the parameters of a severity, draws, and a scale (side / 224).
What lies before the scene is made at 224 pixels on the shorter side, where the published constants hold, and then
resized to the frames: flakes and crystals have the same size relative to the picture at every resolution.

Decisions.
- Snow is one layer of flakes for a clip. It falls along the direction of its streaks by 1/16 of the side per frame and
  comes in again on the other side.
- Fog is one plasma fractal for a clip (midpoint displacement on a torus).
- Frost needs no pictures: its texture is procedural, ridges of value noise at five scales, bent by a slower noise, in a
  bluish white, thicker towards the edges of the frame. The published set takes crops of six photographs instead, so
  figures for this type do not compare with figures on ImageNet-C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vjepa_lab.probes._corruptions_blur import trail
from vjepa_lab.probes._perturb import Draws

_SIDE = 224
_FALL = _SIDE // 16
"pixels of 224 that snow falls in a frame"


def snow(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """Flakes N(p[0], p[1]), enlarged p[2] times, those above p[3] kept, streaked by a trail of radius p[4] and
    deviation p[5], over a scene that keeps a share p[6] of itself and is bleached for the rest."""
    mean, deviation, zoom, threshold, radius, sigma, keep = p
    h, w = _reference(x)
    flakes = mean + deviation * draws.normal(1, 1, math.ceil(h / zoom), math.ceil(w / zoom))
    flakes = F.interpolate(flakes, scale_factor=zoom, mode="bilinear", align_corners=True)[0, 0, :h, :w]
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    angle = draws.uniform(1, low=-3 * math.pi / 4, high=-math.pi / 4).item()
    flakes = trail(flakes, radius, sigma, angle)
    flakes = flakes + flakes.flip(0, 1)
    step = (-_FALL * math.sin(angle), -_FALL * math.cos(angle))
    falling = torch.stack(
        [flakes.roll((round(t * step[0]), round(t * step[1])), (0, 1)) for t in range(x.shape[1])]
    )  # (F, h, w)
    grey = (x * x.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1)).sum(0, keepdim=True)
    bleached = torch.maximum(x, 1.5 * grey + 0.5)
    return (keep * x + (1 - keep) * bleached).clamp(0, 1) + _resized(falling, x)


def fog(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """Add p[0] times a plasma of decay p[1], and scale the sum back to the brightness of the clip."""
    h, w = _reference(x)
    field = plasma(1 << (max(h, w) - 1).bit_length(), p[1], draws)[:h, :w]
    most = x.max()
    return (x + p[0] * _resized(field[None], x)) * most / (most + p[0])


def frost(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """p[0] times the scene plus p[1] times the frost on the window."""
    h, w = _reference(x)
    crystals = _resized(frost_texture(h, w, draws)[None], x)
    colour = x.new_tensor([0.82, 0.92, 1.0]).view(3, 1, 1, 1)
    return p[0] * x + p[1] * colour * crystals


def plasma(size: int, decay: float, draws: Draws) -> Tensor:
    """Plasma fractal (size, size) from 0 to 1, periodic; ``size`` is a power of two.

    Midpoint displacement: from coarse to fine, a new point is the mean of its four neighbours plus a uniform step
    whose size is divided by ``decay`` from scale to scale.
    """
    field = torch.zeros(size, size, device=draws.device)
    step, wibble = size, 1.0
    while step > 1:
        half = step // 2
        n = size // step
        corners = field[::step, ::step]
        rows = corners + corners.roll(-1, 0)
        noise = draws.uniform(3, n, n, low=-wibble, high=wibble)
        centres = (rows + rows.roll(-1, 1)) / 4 + noise[0]
        field[half::step, half::step] = centres
        # A point between two corners also lies between two centres.
        across, down = corners + corners.roll(-1, 1), corners + corners.roll(-1, 0)
        field[::step, half::step] = (across + centres + centres.roll(1, 0)) / 4 + noise[1]
        field[half::step, ::step] = (down + centres + centres.roll(1, 1)) / 4 + noise[2]
        step, wibble = half, wibble / decay
    field -= field.min()
    return field / field.max().clamp_min(1e-12)


def frost_texture(h: int, w: int, draws: Draws) -> Tensor:
    """Frost (h, w) from 0 (clear glass) to 1 (thick ice)."""

    def noise(cell: float) -> Tensor:
        """Value noise that changes over ``cell`` pixels, from about 0 to 1."""
        coarse = draws.uniform(1, 1, math.ceil(h / cell) + 3, math.ceil(w / cell) + 3)
        fine = F.interpolate(coarse, scale_factor=cell, mode="bicubic", align_corners=False)[0, 0]
        return fine[int(cell) : int(cell) + h, int(cell) : int(cell) + w]

    bend = 14 * (torch.stack((noise(24), noise(24))) - 0.5)
    ridges, total = torch.zeros(h, w, device=draws.device), 0.0
    for octave, cell in enumerate((48, 24, 12, 6, 3)):
        weight = 0.7**octave
        ridges += weight * (1 - (2 * noise(cell) - 1).abs()) ** 3
        total += weight
    row = (torch.arange(h, device=draws.device)[:, None] + bend[0]).round().long().clamp(0, h - 1)
    column = (torch.arange(w, device=draws.device) + bend[1]).round().long().clamp(0, w - 1)
    bent = (ridges / total)[row, column]
    y = torch.linspace(-1, 1, h, device=draws.device)[:, None]
    edge = torch.maximum(y.abs().expand(h, w), torch.linspace(-1, 1, w, device=draws.device).abs().expand(h, w))
    return (1.4 * bent + 0.45 * edge**2 - 0.1).clamp(0, 1)


def _reference(x: Tensor) -> tuple[int, int]:
    """Height and width of the frames of x when their shorter side has 224 pixels."""
    h, w = x.shape[-2:]
    return round(_SIDE * h / min(h, w)), round(_SIDE * w / min(h, w))


def _resized(layers: Tensor, x: Tensor) -> Tensor:
    """Layers (F | 1, h, w) at the size of the frames of x: (1, F | 1, H, W)."""
    size = list(x.shape[-2:])
    return F.interpolate(layers[None], size=size, mode="bilinear", antialias=True, align_corners=False)
