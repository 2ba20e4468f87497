"""Where in a clip something moves, and where the motion changes: one number per token.

Notation: frames x[t] in [0, 1]. What is defined by frames t-1, t, t+1 belongs to frame t, and frames without a value
have 0. A map is averaged over the pixels of a token, then over its frames (``accel_matching``: the larger frame).

    velocity          mean_c |x[t+1] - x[t]|                          motion itself, the control
    accel_official    mean_ct | |x[t+1]-x[t]| - |x[t]-x[t-1]| |       IA-JEPA's code: one plane for all tubelets
    accel_official_t  the same, not averaged over time
    accel_pixel       mean_c |x[t+1] - 2 x[t] + x[t-1]|               IA-JEPA's text
    accel_lowpass     accel_pixel of blurred frames
    accel_patch       accel_pixel of the patches' means
    accel_matching    what one constant velocity leaves unexplained   _matching.py: finds collisions best
    accel_feature     |z[k+1] - 2 z[k] + z[k-1]| over the mean step   z: features of the target encoder, tubelet k

An edge that moves at constant speed has a large second difference, so that ``accel_pixel`` and its kin mark almost
everything that moves. ``accel_matching`` does not, at more cost.

Reference: IA-JEPA (arXiv 2605.15466) and its code (santoshpaidi/IA-JEPA).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from vjepa_lab.batch import Grid
from vjepa_lab.masks._matching import dominant_shift, matching_gap, shifted

Kind = Literal[
    "velocity",
    "accel_official",
    "accel_official_t",
    "accel_pixel",
    "accel_lowpass",
    "accel_patch",
    "accel_matching",
    "accel_feature",
]
KINDS: tuple[str, ...] = get_args(Kind)
# Statistics that clips are normalised with (data/transforms.py, a layer that masks do not see).
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class MapOptions:
    """Details of single saliency maps."""

    sigma: float | None = None
    "accel_lowpass: deviation of the blur in pixels; null: the side of a token"
    radius: int = 5
    "accel_matching: largest speed that is searched, in pixels per frame after shrinking"
    shrink: int = 0
    "accel_matching: average so many pixels across into one; 0: as few as bring the shorter side to 128 pixels or less"
    warmup: int | None = None
    "accel_feature: steps, 1 or more, during which clips are masked uniformly; null: a tenth of the training"

    def __post_init__(self) -> None:
        if self.sigma is not None and self.sigma <= 0:
            raise ValueError(f"maps.sigma is {self.sigma}, expected more than 0, or null")
        if self.radius < 1:
            raise ValueError(f"maps.radius is {self.radius}, expected at least 1")
        if self.shrink < 0:
            raise ValueError(f"maps.shrink is {self.shrink}, expected 0 or more")
        if self.warmup is not None and self.warmup < 1:
            raise ValueError(
                f"maps.warmup is {self.warmup}, expected at least 1, or null: features of an untrained encoder"
            )


def rgb(clip: Tensor) -> Tensor:
    """A normalised clip (B, 3, F, H, W) in [0, 1]."""
    mean, std = (torch.tensor(x, device=clip.device).view(3, 1, 1, 1) for x in (_MEAN, _STD))
    return clip.float() * std + mean


def saliency(kind: str, frames: Tensor, grid: Grid, options: MapOptions | None = None) -> Tensor:
    """The map ``kind``, any but ``accel_feature``, of ``frames`` (B, 3, F, H, W) in [0, 1]: float32 (B, t, h, w)."""
    options = options or MapOptions()
    cut, patch = _whole_tokens(frames, grid)
    if kind == "accel_matching":
        side = min(cut.shape[-2:])
        shrink = options.shrink or 2 ** max(math.ceil(math.log2(side / 128)), 0)
        return _matching(cut.mean(1), grid, options.radius, shrink)
    if kind == "velocity":
        return velocity(frames, grid)
    if kind == "accel_official":
        second = _change_of_change(cut).mean(2, keepdim=True)
        return _tokens(second, Grid(1, grid.h, grid.w)).expand(-1, grid.t, -1, -1)
    if kind == "accel_patch":
        return _tokens(_in_time(_second, _patch_means(cut, grid)), grid)
    if kind == "accel_lowpass":
        return _tokens(_in_time(lambda x: _blur(_second(x, signed=True), options.sigma or patch).abs(), cut), grid)
    return _tokens(_in_time({"accel_official_t": _change_of_change, "accel_pixel": _second}[kind], cut), grid)


def velocity(frames: Tensor, grid: Grid, *, compensate: bool = False) -> Tensor:
    """``velocity`` of frames (B, 3, F, H, W): float32 (B, t, h, w). ``compensate``: relative to what most of the
    picture does, so that a panning camera is no motion (what comes into view has 0)."""
    cut, _ = _whole_tokens(frames, grid)
    after, before = cut[:, :, 1:], cut[:, :, :-1]
    if compensate and cut.shape[2] > 1:
        after, inside = shifted(after, dominant_shift(cut.mean(1)))
        speed = (after - before).abs() * inside
    else:
        speed = (after - before).abs()
    return _tokens(F.pad(speed, (0, 0, 0, 0, 0, 1)), grid)


def of_features(features: Tensor, grid: Grid) -> Tensor:
    """``accel_feature`` of features (B, N, D) of the target encoder: float32 (B, t, h, w)."""
    z = features.float().unflatten(1, grid)  # (B, t, h, w, D)
    step = z[:, 1:] - z[:, :-1]
    length = step.norm(dim=-1)
    out = torch.zeros(z.shape[:-1], device=z.device)
    if grid.t > 2:
        out[:, 1:-1] = (step[:, 1:] - step[:, :-1]).norm(dim=-1) / ((length[:, 1:] + length[:, :-1]) / 2 + 1e-6)
    return out


def _whole_tokens(frames: Tensor, grid: Grid) -> tuple[Tensor, int]:
    """What fills tokens of ``frames`` (B, 3, F, H, W), and the side of a token in pixels."""
    count, height, width = frames.shape[2:]
    tubelet, patch = count // grid.t, height // grid.h
    assert width // grid.w == patch, f"{tuple(frames.shape)} does not make {grid}"
    return frames[:, :, : grid.t * tubelet, : grid.h * patch, : grid.w * patch], patch


def _in_time(map_: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``map_``, which loses the first and the last frame, with zeros in their places."""
    return F.pad(map_(x), (0, 0, 0, 0, 1, 1)) if x.shape[2] > 2 else torch.zeros_like(x)


def _second(x: Tensor, *, signed: bool = False) -> Tensor:
    """(Absolute) second difference of the frames: (B, C, F, H, W) -> (B, C, F - 2, H, W)."""
    out = torch.sub(x[:, :, 2:] + x[:, :, :-2], x[:, :, 1:-1], alpha=2)
    return out if signed else out.abs_()


def _change_of_change(x: Tensor) -> Tensor:
    """Absolute difference of successive absolute differences, (B, C, F, H, W) -> (B, C, F - 2, H, W) or no frames."""
    return (x[:, :, 1:] - x[:, :, :-1]).abs_().diff(dim=2).abs_() if x.shape[2] > 2 else torch.zeros_like(x)


def _tokens(x: Tensor, grid: Grid) -> Tensor:
    """Means over channels, frames and pixels of every token: (B, C, F, H, W) -> (B, t, h, w)."""
    return F.adaptive_avg_pool3d(x.mean(1), grid)


def _patch_means(x: Tensor, grid: Grid) -> Tensor:
    """(B, C, F, H, W) -> (B, C, F, h, w)."""
    return F.adaptive_avg_pool3d(x, (x.shape[2], grid.h, grid.w))


def _matching(brightness: Tensor, grid: Grid, radius: int, shrink: int) -> Tensor:
    if shrink > 1:
        brightness = F.avg_pool2d(brightness, shrink)
    frames = F.adaptive_avg_pool2d(matching_gap(brightness, radius=radius), grid[1:])  # (B, F, h, w)
    return frames.unflatten(1, (grid.t, -1)).amax(2)


def _blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur over rows and columns, cut at 3 sigma, pixels at the edge repeated: two products of matrices."""
    rows, columns = (_blur_matrix(n, sigma, x.device) for n in x.shape[-2:])
    return rows @ x @ columns.T


def _blur_matrix(n: int, sigma: float, device: torch.device) -> Tensor:
    """(n, n): row i holds the weights with which the pixels of a line make pixel i."""
    reach = math.ceil(3 * sigma)
    offset = torch.arange(-reach, reach + 1, device=device)
    weight = torch.exp(-0.5 * (offset / sigma) ** 2)
    at = (torch.arange(n, device=device)[:, None] + offset).clamp(0, n - 1)
    return torch.zeros(n, n, device=device).scatter_add_(1, at, (weight / weight.sum()).expand(n, -1))
