"""Multi-block masks whose tubes lie where motion changes, in place of anywhere.

One of the published strategy's two entries becomes this one, the other stays uniform:

    masks:
      - {name: interaction_multiblock}
      - {name: multiblock, blocks: 2, scale: 0.7}

Full-length tubes of 15 % of the frame are centred on cells drawn, without replacement, in proportion to their highest
saliency in time.

Decision: ``multiblock`` has a number of blocks, and covers more or less as they overlap. Here tubes are added until
``budget`` is hidden, the last one cut, so that a count can be stated that does not depend on the batch. The default is
what three tubes cover on average.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vjepa_lab.batch import Grid, Rng
from vjepa_lab.masks import Painted, Sight
from vjepa_lab.masks._interaction import Mix, check, check_kind, either, look, painted, tube_order
from vjepa_lab.masks._saliency import MapOptions
from vjepa_lab.registry import MASKS

_CENTRES = 64


@MASKS.register
@dataclass
class InteractionMultiblock:
    """Tubes of ``scale`` of the frame at salient places, until ``budget`` is hidden."""

    saliency: str = "accel_matching"
    "map: velocity | accel_official | accel_official_t | accel_pixel | accel_lowpass | accel_patch | accel_matching | \
accel_feature"
    budget: float = 0.3
    "share of the tokens that is hidden, rounded down"
    scale: float = 0.15
    "share of the frame that a tube covers"
    maps: MapOptions = field(default_factory=MapOptions)
    mix: Mix = field(default_factory=Mix)

    def __post_init__(self) -> None:
        check("interaction_multiblock", budget=self.budget, scale=self.scale)
        check_kind("interaction_multiblock", self.saliency)

    def paint(self, grid: Grid, rng: Rng, sight: Sight) -> list[Painted]:
        """One mask that hides the same number of tokens in every clip."""
        seen = look("interaction_multiblock", self.saliency, self.maps, self.mix, grid, rng, sight)
        highest = seen.saliency.amax(1).flatten(1)  # (B, h * w)
        u = rng.local.uniform(highest.shape[1]).clamp(min=2**-25)
        # Gumbel top-k; cells without saliency come last, in random order.
        keys = highest.clamp(min=1e-9).log() - (-u.log()).log()
        centres = keys.argsort(dim=1, descending=True, stable=True)[:, :_CENTRES]
        order = tube_order(grid, self.scale, rng, centres)
        order = either(seen.uniform, tube_order(grid, self.scale, rng), order)
        return painted(order, self.budget, grid, seen.saliency, seen.static)
