"""Hide the tokens of highest saliency: the mask of IA-JEPA (arXiv 2605.15466) as its text has it.

At a budget of 40 % this is close to "hide all that moves": the moving part of a clip is seldom larger, and any map of
differences is high on it. It is the arm that the claim about interactions is tested with, not a recommendation; see
``interaction_blocks``. Unlike in the released code (``ia_jepa``), equal tokens are hidden in random order, static clips
are masked uniformly, and the predictor is told where its targets lie, as for every mask here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vjepa_lab.batch import Grid, Rng
from vjepa_lab.masks import Painted, Sight
from vjepa_lab.masks._interaction import (
    Mix,
    check,
    check_kind,
    either,
    look,
    painted,
    shuffled_order,
    tube_order,
)
from vjepa_lab.masks._saliency import MapOptions
from vjepa_lab.registry import MASKS


@MASKS.register
@dataclass
class InteractionTopk:
    """The ``budget`` of most salient tokens."""

    saliency: str = "accel_pixel"
    "map: velocity | accel_official | accel_official_t | accel_pixel | accel_lowpass | accel_patch | accel_matching | \
accel_feature"
    budget: float = 0.4
    "share of the tokens that is hidden, rounded down"
    fallback: float = 0.15
    "share of the frame of the blocks by which clips are masked uniformly"
    maps: MapOptions = field(default_factory=MapOptions)
    mix: Mix = field(default_factory=Mix)

    def __post_init__(self) -> None:
        check("interaction_topk", budget=self.budget, fallback=self.fallback)
        check_kind("interaction_topk", self.saliency)

    def paint(self, grid: Grid, rng: Rng, sight: Sight) -> list[Painted]:
        """One mask that hides the same number of tokens in every clip."""
        seen = look("interaction_topk", self.saliency, self.maps, self.mix, grid, rng, sight)
        order = shuffled_order(seen.saliency.flatten(1), rng.local)
        order = either(seen.uniform, tube_order(grid, self.fallback, rng), order)
        return painted(order, self.budget, grid, seen.saliency, seen.static)
