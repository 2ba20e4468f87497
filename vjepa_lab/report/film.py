"""What features look like: the first three principal components of the tokens of a few clips, as colours.

The components are those of all clips together, so a colour means the same in each of them: parts that an encoder takes
to be alike have like colours, across frames and across clips.

Decision. A component's sign is arbitrary; here its largest entry is positive, so that two drawings of the same features
are equal. Colours span the middle 98 % of a component's values; directions in which nothing varies are grey.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vjepa_lab.tokens import IMAGENET, Features


class Sees(Protocol):
    """What is asked of an encoder (``features.FrozenEncoder`` is one)."""

    def tokens(self, clip: Tensor) -> Features: ...


class PcaFilm(NamedTuple):
    """Clips and, beside each frame, its tokens."""

    frames: Tensor
    "uint8 (C, F, H, W, 3)"
    colours: Tensor
    "uint8 (C, F, H, W, 3): three components of the token at each pixel"
    share: tuple[float, float, float]
    "of the tokens' variance, per component"

    @property
    def strips(self) -> Tensor:
        """Frame and components side by side, uint8 (C, F, H, 2 * W, 3)."""
        return torch.cat((self.frames, self.colours), 3)


@torch.no_grad()
def pca_film(encoder: Sees, clips: Tensor) -> PcaFilm:
    """Components of the tokens of clips (C, 3, F, H, W), uint8 or normalised.

    Raises:
        ValueError: the clips have another shape, or as the encoder's ``tokens``.
    """
    if clips.ndim != 5 or clips.shape[1] != 3:
        raise ValueError(f"clips: expected (C, 3, F, H, W), got {tuple(clips.shape)}")
    found = [encoder.tokens(clip[None]) for clip in clips]  # one by one: these are few, and memory may be short
    grid = found[0].grid
    tokens = torch.cat([f.tokens for f in found]).double().cpu()  # (C, N, D)
    values, share = components(tokens.flatten(0, 1))
    planes = _as_colours(values, 1e-6 * tokens.abs().max()).view(len(clips), grid.t, grid.h, grid.w, 3)
    count, height, width = clips.shape[2:]
    time = torch.arange(count) * grid.t // count
    rows, columns = torch.arange(height) * grid.h // height, torch.arange(width) * grid.w // width
    colours = planes[:, time][:, :, rows][:, :, :, columns]
    shown = clips if clips.dtype == torch.uint8 else IMAGENET.restore(clips).clamp(0, 255).round().to(torch.uint8)
    return PcaFilm(shown.permute(0, 2, 3, 4, 1).cpu(), colours, share)


def components(x: Tensor) -> tuple[Tensor, tuple[float, float, float]]:
    """Rows (n, D) in float64 along their first three principal axes, (n, 3), and the share of variance of each.

    Where there are fewer than three axes, the others are 0.
    """
    centred = x - x.mean(0)
    values, axes = torch.linalg.eigh(centred.T @ centred)
    values, axes = values.flip(0)[:3].clamp(min=0), axes.flip(1)[:, :3]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    along = centred @ (axes * largest.sign())
    total = centred.square().sum()
    share = values / total if total > 0 else torch.zeros_like(values)
    missing = 3 - along.shape[1]
    along = torch.nn.functional.pad(along, (0, missing))
    first, second, third = torch.nn.functional.pad(share, (0, missing)).tolist()
    return along, (first, second, third)


def _as_colours(values: Tensor, rounding: Tensor) -> Tensor:
    """Components (n, 3) -> uint8 (n, 3). What varies by less than ``rounding``, or than 1e-4 of the first, is flat."""
    ends = torch.tensor([0.01, 0.99], dtype=values.dtype)
    low, high = torch.quantile(values[:: max(1, len(values) // 100_000)], ends, dim=0)
    width = high - low
    flat = width <= torch.maximum(1e-4 * width[0], rounding)
    unit = ((values - low) / torch.where(flat, torch.ones_like(width), width)).clamp(0, 1)
    return (torch.where(flat, torch.full_like(unit, 0.5), unit) * 255).round().to(torch.uint8)
