"""What the strategies that look at pixels share: when they look, what they fall back to, and exact counts.

A clip is painted uniformly, in blocks and with the same counts, where there is nothing to see (a static clip), where
it is not time yet (features of an encoder that has learnt nothing; the mixing probability of a curriculum), and both
kinds of rows live in one batch.

Order, not threshold: a strategy says in which order the tokens of a clip are hidden, and ``first_of`` hides exactly as
many as asked. Ties are broken by numbers of ``rng.local``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vjepa_lab.batch import Grid, Rng, Rows
from vjepa_lab.masks import Painted, Sight
from vjepa_lab.masks._saliency import KINDS, MapOptions, of_features, rgb, saliency
from vjepa_lab.masks.multiblock import Multiblock

STATIC = 1e-4
"a clip whose largest saliency is below this is static"
_TUBES = 64
"tubes that are drawn to fill a budget; what they leave uncovered is hidden last, in random order"


@dataclass
class Mix:
    """How many clips are painted by what is seen in them; the others are painted uniformly."""

    probability: float = 1.0
    "share of the clips, once ``end`` is reached"
    start: int = 0
    "optimizer steps before which the share is 0"
    end: int = 0
    "optimizer step from which it is whole; linear in between"

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"mix.probability is {self.probability}, expected 0 to 1")
        if not 0 <= self.start <= max(self.start, self.end) or (self.end and self.end < self.start):
            raise ValueError(f"mix: start is {self.start} and end is {self.end}, expected 0 <= start <= end")

    def at(self, step: int) -> float:
        """The share after ``step`` optimizer steps."""
        if step >= max(self.start, self.end):
            return self.probability
        return self.probability * max(step - self.start, 0) / (self.end - self.start) if self.end > self.start else 0.0


class Seen(NamedTuple):
    """What looking at a batch of clips has given."""

    saliency: Tensor
    "float32 (B, t, h, w), 0 or more"
    frames: Tensor
    "float32 (B, 3, F, H, W) in [0, 1]"
    uniform: Tensor
    "bool (B,): rows to paint uniformly"
    static: Tensor
    "bool (B,): those of them in which nothing moves"


def check(name: str, **shares: float) -> None:
    """Raises ValueError unless every one of ``shares`` is in (0, 1)."""
    for field, value in shares.items():
        if not 0 < value < 1:
            raise ValueError(f"mask '{name}': {field} is {value}, expected a number between 0 and 1")


def check_kind(name: str, kind: str) -> None:
    """Raises ValueError unless ``kind`` is a saliency map."""
    if kind not in KINDS:
        raise ValueError(f"mask '{name}': saliency is {kind!r}, expected one of {', '.join(KINDS)}")


def look(name: str, kind: str, maps: MapOptions, mix: Mix, grid: Grid, rng: Rng, sight: Sight) -> Seen:
    """The saliency of a batch of clips, and in which of them it counts.

    Raises:
        ValueError: no pixels to look at, or ``accel_feature`` without an encoder.
    """
    frames = pixels(name, sight)
    trusted = rng.local.uniform() < mix.at(sight.step)
    if kind != "accel_feature":
        seen = saliency(kind, frames, grid, maps)
    elif sight.step < (maps.warmup if maps.warmup is not None else math.ceil(sight.steps / 10)):
        nothing = torch.zeros(len(frames), *grid, device=frames.device)
        return Seen(nothing, frames, torch.ones_like(trusted), torch.zeros_like(trusted))
    elif sight.features is None:
        raise ValueError(f"mask '{name}': saliency accel_feature needs the features of an encoder, and there is none")
    else:
        seen = of_features(sight.features(), grid)
    least, most = seen.flatten(1).aminmax(dim=1)
    static = (most < STATIC) | (least == most)
    return Seen(seen, frames, static | ~trusted, static)


def pixels(name: str, sight: Sight) -> Tensor:
    """The clips in [0, 1], (B, 3, F, H, W).

    Raises:
        ValueError: there are none.
    """
    if sight.clip is None:
        raise ValueError(f"mask '{name}' looks at the pixels of a clip, and got none: pass Sight(clip)")
    return rgb(sight.clip)


def first_of(order: Tensor, members: Tensor, count: int | Tensor) -> Tensor:
    """bool (B, N): of the ``members`` (B, N) of every row, the ``count`` (a number, or one per row) lowest in
    ``order`` (B, N), all of them where there are fewer. Of equal ones, the earlier."""
    # Two stable sorts: by order, then members first.
    ids = order.argsort(dim=1, stable=True)
    ids = ids.gather(1, (~members).gather(1, ids).int().argsort(dim=1, stable=True))
    rank = torch.empty_like(ids).scatter_(1, ids, torch.arange(ids.shape[1], device=ids.device).expand_as(ids))
    return members & (rank < (count.unsqueeze(1) if isinstance(count, Tensor) else count))


def hidden_count(budget: float, grid: Grid) -> int:
    """How many tokens a share of them is: rounded down, at least one, and never all."""
    return min(max(int(budget * grid.n), 1), grid.n - 1)


def painted(order: Tensor, budget: float, grid: Grid, saliency: Tensor, static: Tensor | None = None) -> list[Painted]:
    """One mask that hides the ``budget`` of tokens that come first in ``order`` (B, N), in every clip as many."""
    count = hidden_count(budget, grid)
    hidden = first_of(order, torch.ones_like(order, dtype=torch.bool), count)
    return [Painted(hidden.unflatten(1, grid), grid.n - count, count, static=static, saliency=saliency)]


def shuffled_order(values: Tensor, rows: Rows) -> Tensor:
    """Ranks (B, N), 0 for the largest of ``values`` (B, N); equal ones in random order."""
    shuffle = rows.uniform(values.shape[1]).argsort(dim=1, stable=True)
    ids = shuffle.gather(1, values.gather(1, shuffle).argsort(dim=1, descending=True, stable=True))
    return torch.empty_like(ids).scatter_(1, ids, torch.arange(ids.shape[1], device=ids.device).expand_as(ids))


def tube_order(grid: Grid, scale: float, rng: Rng, centres: Tensor | None = None) -> Tensor:
    """An order (B, N) that hides one full-length tube of ``scale`` of the frame after the other, each at its place.

    The size is drawn once for the batch as ``multiblock`` does. Within a tube the order is random.

    Args:
        grid: the tokens of a clip.
        scale: share of the frame.
        rng: random numbers.
        centres: cells (row * w + column) on which tubes are centred, as near as the border allows, int64 (B, n);
            None: anywhere.
    """
    size = Multiblock(blocks=1, scale=scale).size(grid, torch.rand(3, generator=rng.shared).tolist())
    if centres is None:
        starts = [rng.local.integers(n - length + 1, _TUBES) for n, length in zip(grid[1:], size[1:], strict=True)]
    else:
        places = (centres // grid.w, centres % grid.w)
        starts = [
            (place - length // 2).clamp(0, n - length)
            for place, n, length in zip(places, grid[1:], size[1:], strict=True)
        ]
    inside = []
    for n, length, start in zip(grid[1:], size[1:], starts, strict=True):
        offset = torch.arange(n, device=start.device) - start[..., None]
        inside.append((offset >= 0) & (offset < length))
    covered = inside[0].unsqueeze(3) & inside[1].unsqueeze(2)  # (B, tubes, h, w)
    tubes = covered.shape[1]
    first = torch.where(covered.any(1), covered.int().argmax(1), tubes)
    first = first.unsqueeze(1).expand(-1, grid.t, -1, -1).flatten(1)
    return shuffled_order(-first.float(), rng.local)


def either(uniform: Tensor, order: Tensor, other: Tensor) -> Tensor:
    """``order`` (B, N) in the rows that are ``uniform`` (B,), ``other`` in the rest."""
    return torch.where(uniform.unsqueeze(1), order, other)
