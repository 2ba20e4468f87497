"""Occlusions: parts of a clip hidden in its pixels, so that encoders of every patch size see the same input.

Three kinds at three severities; severity 0 gives back the very tensor. What is hidden shows the mean colour of the
clip. The result is a function of (key, kind, severity) and the clip.

- ``moving_block``: a block with a quarter, 40 or 55 % of the height and width crosses the frame once, from one side to
  the opposite one through the middle, in a random direction. It stays inside the frame, so its share of the area is
  6.25, 16 and 30.25 % of every frame.
- ``temporal_dropout``: 25, 50, 75 % of the frames, drawn without replacement; at least two are left. ``fill``
  ``previous`` shows the last frame that is left in place of a hidden one (before the first of them: the first).
- ``patch_dropout``: boxes of 2 frames x 16 x 16 pixels, each hidden with probability 30, 60, 90 %. Boxes at the far
  edges are cut off where 16 does not divide the side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vjepa_lab.probes._perturb import Draws, per_clip

Fill = Literal["mean", "previous"]

LEVELS: dict[str, tuple[float, ...]] = {
    "moving_block": (0.25, 0.40, 0.55),
    "temporal_dropout": (0.25, 0.50, 0.75),
    "patch_dropout": (0.3, 0.6, 0.9),
}
"kind -> side of the block, share of the frames, probability of a box, at severity 1, 2, 3"
_BOX = (2, 16, 16)
"frames, rows and columns of a dropped box"


def occlude(clip: Tensor, kind: str, severity: int, *, keys: str | Sequence[str], fill: Fill = "mean") -> Tensor:
    """The clip (3, F, H, W), or batch of clips, with a part hidden.

    Args:
        clip: uint8, or floats from 0 to 1, with one key for a clip and B of them for a batch.
        kind: moving_block | temporal_dropout | patch_dropout.
        severity: 1 to 3; 0 changes nothing.
        keys: names of the clips: the draws depend on them, not on the batch.
        fill: what hidden frames show (temporal_dropout only; the others always show the mean colour).

    Raises:
        ValueError: no such kind, severity or fill, or a clip of the wrong shape, type or range.
    """
    if kind not in LEVELS:
        raise ValueError(f"occlusion: got '{kind}', expected one of {', '.join(LEVELS)}")
    if not 0 <= severity <= 3:
        raise ValueError(f"severity of {kind}: got {severity}, expected 0 to 3")
    if fill not in ("mean", "previous"):
        raise ValueError(f"fill: got '{fill}', expected mean or previous")
    if fill == "previous" and kind != "temporal_dropout":
        raise ValueError(f"fill: got 'previous' for {kind}, expected mean; only temporal_dropout hides whole frames")
    if severity == 0:
        return clip
    amount = LEVELS[kind][severity - 1]

    def perturb(x: Tensor, draws: Draws) -> Tensor:
        if kind == "temporal_dropout":
            return _drop_frames(x, amount, draws, fill)
        hidden = moving_block(x, amount, draws) if kind == "moving_block" else patch_dropout(x, amount, draws)
        return torch.where(hidden, _mean_colour(x), x)

    return per_clip(clip, keys, ("occlusion", kind, severity), perturb)


def moving_block(x: Tensor, side: float, draws: Draws) -> Tensor:
    """What the block hides of x (3, F, H, W): bool (F, H, W)."""
    frames, h, w = x.shape[1:]
    high, wide = round(side * h), round(side * w)
    angle = 2 * math.pi * draws.uniform(1).item()
    # The centre runs along a chord of the square in which it may lie, as seen with all sides of length 1.
    reach = 1 / max(abs(math.cos(angle)), abs(math.sin(angle)))
    along = torch.linspace(-1, 1, frames, device=x.device) if frames > 1 else torch.zeros(1, device=x.device)
    top = ((1 + along * reach * math.sin(angle)) / 2 * (h - high)).round()[:, None]
    left = ((1 + along * reach * math.cos(angle)) / 2 * (w - wide)).round()[:, None]
    row, column = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
    rows, columns = (row >= top) & (row < top + high), (column >= left) & (column < left + wide)
    return rows[:, :, None] & columns[:, None, :]


def patch_dropout(x: Tensor, rate: float, draws: Draws) -> Tensor:
    """Which pixels of x (3, F, H, W) lie in dropped boxes: bool (F, H, W)."""
    size = x.shape[1:]
    dropped = draws.uniform(*(-(-n // box) for n, box in zip(size, _BOX, strict=True))) < rate
    for axis, box in enumerate(_BOX):
        dropped = dropped.repeat_interleave(box, axis)
    return dropped[: size[0], : size[1], : size[2]]


def dropped_frames(frames: int, share: float, draws: Draws) -> Tensor:
    """Which frames are hidden: bool (F,), round(share F) of them, but two at least are left (where there are two)."""
    count = min(round(share * frames), max(frames - 2, 0))
    hidden = torch.zeros(frames, dtype=torch.bool, device=draws.device)
    hidden[draws.permutation(frames)[:count]] = True
    return hidden


def _drop_frames(x: Tensor, share: float, draws: Draws, fill: Fill) -> Tensor:
    hidden = dropped_frames(x.shape[1], share, draws)
    if fill == "mean":
        return torch.where(hidden[:, None, None], _mean_colour(x), x)
    left = torch.where(hidden, -1, torch.arange(len(hidden), device=x.device))
    shown = left.cummax(0).values
    return x[:, torch.where(shown < 0, (~hidden).int().argmax(), shown)]


def _mean_colour(x: Tensor) -> Tensor:
    return x.mean((1, 2, 3), keepdim=True)
