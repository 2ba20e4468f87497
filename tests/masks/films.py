"""Small films with exactly known motion, float32 (1, 3, F, H, W) in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SIZE, RADIUS = 96, 9


def disc_at(offsets: Sequence[tuple[float, float]], *, size: int = SIZE, texture: int = 0) -> Tensor:
    """A textured disc before an even grey, ``offsets`` (down, right) of its centre from the middle in every frame.

    Texture and rim are functions of the exact place, so that whole-pixel steps repeat the same pixels.
    """
    generator = torch.Generator().manual_seed(texture)
    wave = 2 * torch.rand(5, 2, generator=generator, dtype=torch.float64) - 1
    phase = 6 * torch.rand(5, generator=generator, dtype=torch.float64)
    pixels = torch.arange(size, dtype=torch.float64) - size // 2
    frames = []
    for down, right in offsets:
        y, x = torch.meshgrid(pixels - down, pixels - right, indexing="ij")
        cover = (RADIUS + 0.5 - (x * x + y * y).sqrt()).clamp(0, 1)
        value = sum((w[0] * x + w[1] * y + p).cos() for w, p in zip(wave, phase, strict=True))
        frames.append(0.5 + cover * (value / 10))
    return torch.stack(frames).float().expand(1, 3, -1, -1, -1).contiguous()


def straight(velocity: tuple[float, float], frames: int = 16) -> list[tuple[float, float]]:
    """Offsets at constant velocity (down, right), the middle of the film in the middle of the picture."""
    return [((t - frames // 2) * velocity[0], (t - frames // 2) * velocity[1]) for t in range(frames)]


def bent(before: tuple[float, float], after: tuple[float, float], frame: int, frames: int = 16) -> list:
    """Offsets of a disc that is in the middle at ``frame``, with another velocity before than after."""
    return [
        ((t - frame) * (before if t < frame else after)[0], (t - frame) * (before if t < frame else after)[1])
        for t in range(frames)
    ]


def textured(height: int, width: int, seed: int = 0) -> Tensor:
    """A smooth random picture (H, W) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 1, height // 4 + 2, width // 4 + 2, generator=generator)
    return torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")[0, 0]
