"""Roles and maps of tokens, painted over frames.

Context stays as it is, targets are orange, what is neither is dark. Maps go from clear over violet to yellow; their
full colour is the highest value of the clip.
"""

from __future__ import annotations

import matplotlib
import numpy as np
import torch
from torch import Tensor

from vjepa_lab.batch import Grid, MaskPair

NEITHER, CONTEXT, TARGET = 0, 1, 2
"what a token is to a mask"
KEY = "as it is: context; orange: target; dark: neither"
TINTS = {NEITHER: ((12, 13, 16), 0.82), CONTEXT: ((0, 0, 0), 0.0), TARGET: ((255, 122, 24), 0.62)}
"colour, and its share of what is drawn"


def roles_of(pair: MaskPair, grid: Grid) -> Tensor:
    """int64 (B, t, h, w): ``NEITHER``, ``CONTEXT`` or ``TARGET``."""
    roles = torch.full((len(pair.context), grid.n), NEITHER, device=pair.context.device)
    return roles.scatter_(1, pair.context, CONTEXT).scatter_(1, pair.target, TARGET).unflatten(1, grid)


def frames_of(clip: Tensor) -> np.ndarray:
    """uint8 (3, F, H, W) -> (F, H, W, 3)."""
    return clip.permute(1, 2, 3, 0).contiguous().numpy()


def masked(frames: np.ndarray, roles: Tensor) -> np.ndarray:
    """Frames uint8 (F, H, W, 3) under the roles (t, h, w) of their tokens."""
    colour = torch.tensor([TINTS[role][0] for role in range(len(TINTS))], dtype=torch.float32)[roles]
    share = torch.tensor([TINTS[role][1] for role in range(len(TINTS))])[roles]
    return _blend(frames, colour, share)


def heated(frames: np.ndarray, values: Tensor) -> np.ndarray:
    """Frames uint8 (F, H, W, 3), in grey, under a map (t, h, w)."""
    unit = _unit(values)
    grey = frames.mean(-1, keepdims=True).repeat(3, -1) * 0.6
    return _blend(grey, torch.from_numpy(_colours(unit)) * 255, 0.9 * unit.sqrt())


def plain(values: Tensor, *, highest: float | None = None) -> list[np.ndarray]:
    """A map (t, h, w) without the frames: one picture uint8 (h, w, 3) per tubelet. ``highest``: has the full colour."""
    return list((_colours(_unit(values, highest)) * 255).round().astype(np.uint8))


def _unit(values: Tensor, highest: float | None = None) -> Tensor:
    top = float(values.max()) if highest is None else highest
    return (values.float() / top if top > 0 else torch.zeros_like(values, dtype=torch.float32)).clamp(0, 1)


def _colours(unit: Tensor) -> np.ndarray:
    """Values in [0, 1] (...) -> float32 (..., 3)."""
    return matplotlib.colormaps["inferno"](unit.numpy())[..., :3].astype(np.float32)


def _blend(frames: np.ndarray, colour: Tensor, share: Tensor) -> np.ndarray:
    """``colour`` (t, h, w, 3), 0 to 255, laid over frames (F, H, W, 3) by ``share`` (t, h, w)."""
    at = np.ix_(*(np.arange(n) * k // n for n, k in zip(frames.shape[:3], Grid(*share.shape), strict=True)))
    alpha = share.numpy()[at][..., None]
    return (frames * (1 - alpha) + colour.numpy()[at] * alpha).round().clip(0, 255).astype(np.uint8)
