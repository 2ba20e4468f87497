"""The mask of the released IA-JEPA code, its peculiarities included. For reproducing it; do not draw conclusions.

What it does (santoshpaidi/IA-JEPA at 742a1e5): the absolute value of the first difference of frames is differenced
again, averaged over channels and *all* of time, so that one plane of the image decides for every tubelet; it may be
multiplied by 5 for each annotated collision in a tubelet; the highest 40 % are hidden, in the order of the tokens where
they are equal; of a static clip, whichever tokens come first.

``gt_boost`` reads the labels that the representation is tested on. It is off here.
``gt_index: buggy`` takes the frame number of an event in the recording for one in the clip, as the code does: with 16
frames out of 128, all events after the first 16 frames are ignored, and earlier ones land too late.

Not part of a mask, and not reproduced: the released runs also leave out positions and mask tokens in the predictor, and
compare with a baseline that hides 60 %.

Use ``interaction_topk`` with ``saliency: accel_official`` for the same map without labels, in a fair comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vjepa_lab.batch import Grid, Rng
from vjepa_lab.masks import Painted, Sight
from vjepa_lab.masks._interaction import check, painted, pixels
from vjepa_lab.masks._saliency import saliency
from vjepa_lab.registry import MASKS


@MASKS.register
@dataclass
class IaJepa:
    """The ``budget`` of tokens at which the whole clip changes its changes most."""

    budget: float = 0.4
    "share of the tokens that is hidden, rounded down"
    gt_boost: bool = False
    "multiply the saliency of tubelets with an annotated event by 5: a leak of labels"
    gt_index: Literal["fixed", "buggy"] = "fixed"
    "frame numbers of events: fixed (of the clip) | buggy (of the recording, taken for those of the clip)"
    recorded: int = 128
    "frames of the recording over which the frames of the clip are spread"

    def __post_init__(self) -> None:
        check("ia_jepa", budget=self.budget)
        if self.gt_index not in ("fixed", "buggy"):
            raise ValueError(f"mask 'ia_jepa': gt_index is {self.gt_index!r}, expected fixed or buggy")
        if self.recorded < 2:
            raise ValueError(f"mask 'ia_jepa': recorded is {self.recorded}, expected at least 2")

    def paint(self, grid: Grid, rng: Rng, sight: Sight) -> list[Painted]:
        """One mask that hides the same number of tokens in every clip.

        Raises:
            ValueError: no pixels, or ``gt_boost`` without events.
        """
        frames = pixels("ia_jepa", sight)
        values = saliency("accel_official", frames, grid)
        if self.gt_boost:
            if sight.event is None:
                raise ValueError("mask 'ia_jepa': gt_boost needs annotated events, and their times are not known")
            values = values * 5.0 ** self.events_per_tubelet(sight.event, grid, frames.shape[2])[..., None, None]
        return painted(-values.flatten(1), self.budget, grid, values)

    def events_per_tubelet(self, event: Tensor, grid: Grid, frames: int) -> Tensor:
        """(B, t): events (B, E), in frames of the clip, that fall into each tubelet."""
        if self.gt_index == "buggy":
            event = event * (self.recorded - 1) / (frames - 1)  # their numbers in the recording
        at = event.round()
        known = at.isfinite() & (at >= 0) & (at < frames)
        tubelet = torch.where(known, at, 0).long() // (frames // grid.t)
        return torch.zeros(len(event), grid.t, device=event.device).scatter_add_(
            1, tubelet.clamp(max=grid.t - 1), known.float()
        )
