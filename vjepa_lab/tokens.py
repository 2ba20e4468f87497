"""Tokens with their places, and what is done with them whichever encoder gave them: averages, windows, pixel scales.

Letters: B clips, F frames, W windows, N = t*h*w tokens of the grid, M predicted ones, D width.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vjepa_lab.batch import Grid

Pool = Literal["mean", "tubelet", "none"]
Last = Literal["shift", "hold", "drop"]


class Features(NamedTuple):
    """Tokens and where they are."""

    tokens: Tensor
    "(B, N, D), in raster order of the grid"
    grid: Grid


class Windows(NamedTuple):
    """Features of a long video, window by window."""

    tokens: Tensor
    "float32 (B, W, N, D), or as pooled: (B, W, D), (B, W, t, D)"
    starts: tuple[int, ...]
    "(W,) first frame of each window"
    grid: Grid
    "of one window"


class Future(NamedTuple):
    """Features of a clip and of what comes after it. An anticipation probe reads both, joined on tokens."""

    context: Tensor
    "float32 (B, N, D)"
    predicted: Tensor
    "float32 (B, steps * M, D) with M = tubelets * h * w"
    ids: Tensor
    "int64 (B, M): positions of the predicted tokens on the grid of the clip, extended in time"


class Statistics(NamedTuple):
    """Mean and deviation per colour, as shares of full white, of the pixels that a network was trained on."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, F, H, W) from 0 to 255 -> float32, normalised."""
        mean, std = self._columns(pixels)
        return pixels.to(torch.float32).sub(mean).div_(std)

    def restore(self, clip: Tensor) -> Tensor:
        """The inverse of ``normalise``, without rounding."""
        mean, std = self._columns(clip)
        return clip.to(torch.float32).mul(std).add_(mean)

    def _columns(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(x, device=clip.device).view(3, 1, 1, 1) * 255 for x in self)
        return mean, std


IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def pooled(features: Features, pool: Pool, cells: int = 1) -> Tensor:
    """Tokens (B, N, D) averaged over all of them (``mean``: (B, D)), over the tokens of each tubelet (``tubelet``:
    (B, t, D)), or left as they are (``none``).

    Args:
        cells: average within each of at most cells x cells regions only, and put these side by side (D * R in place of
            D): what is known of places survives.
    """
    if pool not in ("mean", "tubelet", "none"):
        raise ValueError(f"pool: got '{pool}', expected mean, tubelet or none")
    tokens, grid = features
    if cells > 1 and pool != "none":
        regions = pool_cells(features, cells)
        return regions.mean(1) if pool == "mean" else regions
    if pool == "mean":
        return tokens.mean(1)
    return tokens.unflatten(1, (grid.t, -1)).mean(2) if pool == "tubelet" else tokens


def pool_cells(features: Features, cells: int) -> Tensor:
    """Average tokens (B, N, D) of each tubelet over at most cells x cells regions: (B, t, D * R)."""
    tokens, grid = features
    b, _, d = tokens.shape
    planes = tokens.reshape(b * grid.t, grid.h, grid.w, d).permute(0, 3, 1, 2)
    regions = F.adaptive_avg_pool2d(planes, (min(cells, grid.h), min(cells, grid.w)))
    return regions.reshape(b, grid.t, -1)


def window_starts(total: int, frames: int, stride: int, last: Last = "shift") -> tuple[int, ...]:
    """First frames of the windows that cover ``total`` frames; a video shorter than one window is one window.

    Args:
        last: where whole windows leave frames over at the end: ``shift`` adds a window that ends on the last frame,
            ``hold`` one that goes on at the stride and holds the last frame, ``drop`` none.
    """
    if last not in ("shift", "hold", "drop"):
        raise ValueError(f"last: got '{last}', expected shift, hold or drop")
    if min(total, frames, stride) < 1:
        raise ValueError(f"windows: expected at least one frame, got {total} of {frames} frames every {stride}")
    starts = list(range(0, max(total - frames, 0) + 1, stride))
    if starts[-1] + frames < total:
        if last == "shift":
            starts.append(total - frames)
        elif last == "hold" and starts[-1] + stride < total:
            starts.append(starts[-1] + stride)
    return tuple(starts)
