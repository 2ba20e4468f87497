"""Hide a few large blocks, each of one size per step and at its own place in every clip.

Two of these make the released recipe: eight blocks of 15 % of the frame ("short-range") and two of 70 %
("long-range"), all of them as long as the clip (V-JEPA, arXiv 2404.08471; V-JEPA 2, arXiv 2506.09985,
table 9; released file src/masks/multiseq_multiblock3d.py).

Decisions:

- Block sizes follow the released arithmetic to the rounding, given three uniform numbers. These are ``rng.shared``'s,
  so that all ranks have the same block size and like amounts of work. Positions are ``rng.local``'s.
- The number of ids that ``keep: random`` keeps is a function of the block size and the grid alone: the 5 % quantile of
  the visible and of the hidden counts over reference draws with that block size. That is near what truncation to the
  poorest of 24 rows leaves in the released code, but it does not vary with the batch. Mean context and target ids of
  2,048: short-range 557 and 1,025 against 499 and 963, long-range 153 and 1,430 against 126 and 1,438.
- The released code draws again when the blocks leave nothing visible. Here every row paints up to four candidates
  at once and takes the first that leaves something; a row without one (about 1 in 10^5 at the unluckiest released
  size) is given one context token. Where so few blocks cannot cover the grid there is one candidate.
- ``inv_block`` of the released code, which swaps context and target, is left out: no released run uses it.

Letters: B clips, n blocks, t h w token axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import torch
from torch import Tensor

from vjepa_lab.batch import Grid, Rng, Rows
from vjepa_lab.masks import Painted, Sight
from vjepa_lab.masks._rectangular import Complement
from vjepa_lab.registry import MASKS

_CANDIDATES = 4
_REFERENCE_ROWS = 1024
_QUANTILE = 0.05


@MASKS.register
@dataclass
class Multiblock:
    """``blocks`` blocks per clip. Ranges are drawn from uniformly, once per step."""

    blocks: int = 8
    "blocks per clip; they may overlap"
    scale: Any = 0.15
    "share of the frame that a block covers, in (0, 1]: a number, or a range [low, high]"
    temporal: Any = 1.0
    "share of the clip's tubelets that a block lasts, in (0, 1]: a number, or a range [low, high]"
    aspect: tuple[float, float] = (0.75, 1.5)
    "height / width of a block: a range [low, high]"
    max_temporal_keep: float = 1.0
    "share of the tubelets, from the first, that may be context; later ones are always hidden"
    max_keep: int | None = None
    "upper limit of context ids"
    complement: Complement = "none"
    "target: predict all that is not context (released full_complement); context: the reverse (pred_full_complement)"

    def __post_init__(self) -> None:
        self.scale = _range("scale", self.scale, 1.0)
        self.temporal = _range("temporal", self.temporal, 1.0)
        self.aspect = _range("aspect", self.aspect, math.inf)
        if self.blocks < 1:
            raise ValueError(f"mask 'multiblock': blocks is {self.blocks}, expected at least 1")
        if not 0 < self.max_temporal_keep <= 1:
            raise ValueError(f"mask 'multiblock': max_temporal_keep is {self.max_temporal_keep}, expected (0, 1]")
        if self.max_keep is not None and self.max_keep < 1:
            raise ValueError(f"mask 'multiblock': max_keep is {self.max_keep}, expected at least 1 or null")
        if self.complement not in get_args(Complement):
            expected = ", ".join(get_args(Complement))
            raise ValueError(f"mask 'multiblock': complement is {self.complement!r}, expected one of {expected}")

    def paint(self, grid: Grid, rng: Rng, sight: Sight | None = None) -> list[Painted]:
        """One mask per clip, painted for all clips at once."""
        size = self.size(grid, torch.rand(3, generator=rng.shared).tolist())
        frames = max(1, int(grid.t * self.max_temporal_keep))
        hidden = _place(grid, size, self.blocks, frames, rng.local)
        context, target = _reference_counts(grid, size, self.blocks, frames)
        return [Painted(hidden, context, target, self.max_keep, self.complement)]

    def size(self, grid: Grid, uniform: Sequence[float]) -> Grid:
        """Block size in tokens from three numbers in [0, 1): duration, area, aspect, in the released order.

        Differs from the released code only where that would make a block without any cell: here it has one.
        """
        temporal, scale, aspect = (
            low + u * (high - low)
            for u, (low, high) in zip(uniform, (self.temporal, self.scale, self.aspect), strict=True)
        )
        area = int(grid.h * grid.w * scale)
        height = round(math.sqrt(area * aspect))
        width = round(math.sqrt(area / aspect))
        return Grid(max(1, int(grid.t * temporal)), min(max(1, height), grid.h), min(max(1, width), grid.w))


def cover(grid: Grid, size: Grid, starts: Sequence[Tensor]) -> Tensor:
    """Cells that lie in any block: bool (..., t, h, w) from the first t, h, w of each, three int64 (..., n)."""
    inside = []
    for cells, length, start in zip(grid, size, starts, strict=True):
        offset = torch.arange(cells, device=start.device) - start[..., None]
        inside.append(((offset >= 0) & (offset < length)).float())
    return torch.einsum("...nt,...nh,...nw->...thw", inside[0], inside[1], inside[2]) > 0


def _place(grid: Grid, size: Grid, blocks: int, frames: int, rows: Rows) -> Tensor:
    """bool (B, t, h, w): blocks at random places; tubelets from ``frames`` on are hidden as well."""
    # Points that are one block apart along every axis need a block each: fewer blocks leave something visible.
    needed = math.prod(math.ceil(n / length) for n, length in zip((frames, grid.h, grid.w), size, strict=True))
    candidates = _CANDIDATES if blocks >= needed else 1
    starts = [rows.integers(n - length + 1, candidates, blocks) for n, length in zip(grid, size, strict=True)]
    hidden = cover(grid, size, starts)
    hidden[:, :, frames:] = True
    if candidates == 1:
        return hidden[:, 0]
    first = hidden.flatten(2).all(dim=2).int().argmin(dim=1)
    return hidden[torch.arange(rows.count, device=rows.device), first]


@lru_cache(maxsize=4096)
def _reference_counts(grid: Grid, size: Grid, blocks: int, frames: int) -> tuple[int, int]:
    """Context and target ids that 95 % of clips with this block size can give without borrowing."""
    hidden = _place(grid, size, blocks, frames, Rows(0, 0, _REFERENCE_ROWS)).flatten(1).sum(dim=1).sort().values
    low = int(_QUANTILE * _REFERENCE_ROWS)
    return max(1, grid.n - int(hidden[-1 - low])), int(hidden[low])


def _range(field: str, value: object, most: float) -> tuple[float, float]:
    """(low, high) of a field that is a number or a pair, as a config gives it."""
    pair = value if isinstance(value, Sequence) and not isinstance(value, str) else (value, value)
    numbers = [float(x) for x in pair if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(pair) != 2 or len(numbers) != 2 or not 0 < numbers[0] <= numbers[1] <= most:
        bounds = f"0 < low <= high <= {most:g}" if most < math.inf else "0 < low <= high"
        raise ValueError(f"mask 'multiblock': {field} is {value!r}, expected a number or [low, high] with {bounds}")
    return numbers[0], numbers[1]
