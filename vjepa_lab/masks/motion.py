"""Hide what moves: speed in place of acceleration. The control without which a gain of the interaction masks says
nothing about interactions.

Everything but the map is that of ``interaction_topk``. With ``compensate``, motion is relative to most of the picture,
so that a panning camera is not one large moving object.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vjepa_lab.batch import Grid, Rng
from vjepa_lab.masks import Painted, Sight
from vjepa_lab.masks._interaction import Mix, check, either, look, painted, shuffled_order, tube_order
from vjepa_lab.masks._saliency import MapOptions, velocity
from vjepa_lab.registry import MASKS


@MASKS.register
@dataclass
class Motion:
    """The ``budget`` of tokens that change fastest."""

    budget: float = 0.4
    "share of the tokens that is hidden, rounded down"
    compensate: bool = False
    "measure motion relative to what most of the picture does"
    fallback: float = 0.15
    "share of the frame of the blocks by which clips are masked uniformly"
    mix: Mix = field(default_factory=Mix)

    def __post_init__(self) -> None:
        check("motion", budget=self.budget, fallback=self.fallback)

    def paint(self, grid: Grid, rng: Rng, sight: Sight) -> list[Painted]:
        """One mask that hides the same number of tokens in every clip."""
        seen = look("motion", "velocity", MapOptions(), self.mix, grid, rng, sight)
        speed = velocity(seen.frames, grid, compensate=True) if self.compensate else seen.saliency
        order = shuffled_order(speed.flatten(1), rng.local)
        order = either(seen.uniform, tube_order(grid, self.fallback, rng), order)
        return painted(order, self.budget, grid, speed, seen.static)
