"""Hide blocks of space and time around the places where motion changes, and leave enough of the motion to see.

1. Seeds are drawn without replacement in proportion to saliency^power. Each hides a block around itself, until ``cap``
   of all tokens is hidden (fewer, where fewer tokens have a saliency above 0).
2. The rest of the budget is filled with small full-length tubes at random places. Without them most of what is hidden
   would be easy to find out by copying; with single tokens in their place (``fill: random``) it still is.
3. The motion floor: where less than ``floor`` of the moving tokens would be visible, the least salient ones that are
   hidden change places with tokens that do not move, the next ones that step 2 would have hidden. Moving is what has
   at least 0.1 of the clip's highest speed. A context without motion cannot foretell a collision.

Counts are exact: every clip hides int(budget * N) tokens. On colliding discs seen by a camera at rest this hides 92 %
of the tokens of a collision and leaves 41 % of the moving ones visible; hiding the top 40 % leaves none to 10 %
(``tools/bench/masks.py targeting``).

Decisions.

- Blocks of 3 tubelets by 3 x 3 tokens are single tokens in space on grids of 8 x 8 and below.
- The last block and the last tube are cut at random, so that counts hold.
- With ``compensate_global`` speed is measured relative to most of the picture; otherwise a panning camera makes every
  token a moving one, and there is nothing to change places with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vjepa_lab.batch import Grid, Rng
from vjepa_lab.masks import Painted, Sight
from vjepa_lab.masks._interaction import (
    Mix,
    Seen,
    check,
    check_kind,
    either,
    first_of,
    hidden_count,
    look,
    shuffled_order,
    tube_order,
)
from vjepa_lab.masks._saliency import MapOptions, velocity
from vjepa_lab.registry import MASKS

MOVING = 0.1
"tokens with this share of the clip's highest speed move"


@MASKS.register
@dataclass
class InteractionBlocks:
    """Blocks at salient places up to ``cap``, tubes at random places up to ``budget``."""

    saliency: str = "accel_matching"
    "map: velocity | accel_official | accel_official_t | accel_pixel | accel_lowpass | accel_patch | accel_matching | \
accel_feature"
    budget: float = 0.4
    "share of the tokens that is hidden, rounded down"
    cap: float = 0.15
    "share of the tokens that is hidden by blocks at salient places"
    power: float = 2.0
    "seeds are drawn in proportion to saliency^power"
    block: tuple[int, int, int] | None = None
    "tubelets, rows and columns of a block, odd; null: 3, 3, 3, or 3, 1, 1 on grids of up to 8 rows or columns"
    fill: Literal["tubes", "random"] = "tubes"
    "the rest of the budget: full-length tubes, or single tokens"
    fill_scale: float = 0.08
    "share of the frame that a tube covers"
    floor: float = 0.4
    "share of the moving tokens that stays visible, where there is enough else to hide; 0: any"
    compensate_global: bool = True
    "measure motion, for the floor, relative to what most of the picture does"
    fallback: float = 0.15
    "share of the frame of the blocks by which clips are masked uniformly"
    maps: MapOptions = field(default_factory=MapOptions)
    mix: Mix = field(default_factory=Mix)

    def __post_init__(self) -> None:
        name = "interaction_blocks"
        check(name, budget=self.budget, cap=self.cap, fill_scale=self.fill_scale, fallback=self.fallback)
        check_kind(name, self.saliency)
        if self.cap > self.budget:
            raise ValueError(f"mask '{name}': cap is {self.cap}, expected at most the budget, {self.budget}")
        if self.power <= 0:
            raise ValueError(f"mask '{name}': power is {self.power}, expected more than 0")
        if self.block is not None and any(side < 1 or side % 2 == 0 for side in self.block):
            raise ValueError(f"mask '{name}': block is {self.block}, expected odd numbers, so that it has a centre")
        if self.fill not in ("tubes", "random"):
            raise ValueError(f"mask '{name}': fill is {self.fill!r}, expected tubes or random")
        if not 0 <= self.floor < 1:
            raise ValueError(f"mask '{name}': floor is {self.floor}, expected 0 or more and less than 1")

    def paint(self, grid: Grid, rng: Rng, sight: Sight) -> list[Painted]:
        """One mask that hides the same number of tokens in every clip."""
        seen = look("interaction_blocks", self.saliency, self.maps, self.mix, grid, rng, sight)
        count = hidden_count(self.budget, grid)
        everywhere = torch.ones(rng.local.count, grid.n, dtype=torch.bool, device=rng.local.device)
        blocks = self._blocks(seen.saliency, grid, rng)
        if self.fill == "tubes":
            fill = tube_order(grid, self.fill_scale, rng)
        else:
            fill = shuffled_order(torch.zeros_like(everywhere, dtype=torch.float32), rng.local)
        hidden = first_of(torch.where(blocks, -1, fill), everywhere, count)
        if self.floor:
            hidden = self._keep_motion(hidden, seen, fill, grid, rng)
        uniform = first_of(tube_order(grid, self.fallback, rng), everywhere, count)
        hidden = either(seen.uniform, uniform, hidden)
        hidden = hidden.unflatten(1, grid)
        return [Painted(hidden, grid.n - count, count, static=seen.static, saliency=seen.saliency)]

    def _blocks(self, saliency: Tensor, grid: Grid, rng: Rng) -> Tensor:
        """Step 1: bool (B, N)."""
        flat = saliency.flatten(1)
        u = rng.local.uniform(grid.n).clamp(min=2**-25)
        order = shuffled_order(self.power * flat.log() - (-u.log()).log(), rng.local).float()  # Gumbel top-k
        order = torch.where(flat > 0, order, torch.inf)
        sides = self.block or ((3, 3, 3) if min(grid.h, grid.w) > 8 else (3, 1, 1))
        # The first seed in whose block a token lies.
        halves = [side // 2 for side in sides]
        first = -F.max_pool3d(-order.view(-1, 1, *grid), sides, stride=1, padding=halves).flatten(1)
        return first_of(shuffled_order(-first, rng.local), first < torch.inf, int(self.cap * grid.n))

    def _keep_motion(self, hidden: Tensor, seen: Seen, fill: Tensor, grid: Grid, rng: Rng) -> Tensor:
        """Step 3: ``hidden`` (B, N) with as many tokens."""
        speed = velocity(seen.frames, grid, compensate=self.compensate_global).flatten(1)
        moving = speed >= MOVING * speed.amax(1, keepdim=True)
        still = ~moving & ~hidden
        wanted = (moving.sum(1) * self.floor - 1e-4).ceil().long() - (moving & ~hidden).sum(1)
        swapped = torch.minimum(wanted.clamp(min=0), still.sum(1))
        shown = first_of(shuffled_order(-seen.saliency.flatten(1), rng.local), moving & hidden, swapped)
        return (hidden & ~shown) | first_of(fill, still, swapped)
