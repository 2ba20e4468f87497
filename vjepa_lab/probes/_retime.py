"""Clips whose frames come in another order, or none: what a sense of time is measured by.

- ``reverse``: the same frames backwards.
- ``shuffle``: the same frames in a random order, never the given one.
- ``static``: the frame in the middle throughout: appearance without motion.
- ``noise``: uniform noise: neither.

The result is a function of the clip's key and the clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from vjepa_lab.probes._perturb import Draws, per_clip

Kind = Literal["reverse", "shuffle", "static", "noise"]


def retime(clip: Tensor, kind: Kind, *, keys: str | Sequence[str]) -> Tensor:
    """The clip (3, F, H, W), or batch of clips, with its frames rearranged.

    Args:
        clip: uint8, or floats from 0 to 1, with one key for a clip and B of them for a batch.
        kind: reverse | shuffle | static | noise.
        keys: names of the clips: the draws depend on them, not on the batch.

    Raises:
        ValueError: no such kind, or a clip of the wrong shape, type or range.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"retime: got '{kind}', expected one of {', '.join(get_args(Kind))}")

    def rearrange(x: Tensor, draws: Draws) -> Tensor:
        frames = x.shape[1]
        if kind == "reverse":
            return x.flip(1)
        if kind == "static":
            return x[:, frames // 2].unsqueeze(1).expand_as(x)
        if kind == "noise":
            return draws.uniform(*x.shape)
        order, given = draws.permutation(frames), torch.arange(frames, device=x.device)
        return x[:, order.roll(1) if torch.equal(order, given) else order]

    return per_clip(clip, keys, ("retime", kind), rearrange)
