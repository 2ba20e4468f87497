"""The recommended mask, step by step: seeds, blocks, fill, floor."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from torch import Tensor

from vjepa_lab.batch import Grid
from vjepa_lab.data.transforms import MEAN, STD
from vjepa_lab.dist import rng
from vjepa_lab.masks import Sight
from vjepa_lab.masks._saliency import rgb, velocity
from vjepa_lab.masks.interaction_blocks import MOVING, InteractionBlocks

GRID = Grid(8, 12, 12)


def turning(films: ModuleType, batch: int = 4) -> Sight:
    frames = torch.cat([films.disc_at(films.bent((0, 3), (3, 0), 8), texture=i) for i in range(batch)])
    mean, std = (torch.tensor(x).view(3, 1, 1, 1) for x in (MEAN, STD))
    return Sight((frames - mean) / std)


def seeds(cells: list[tuple[int, int, int]], values: list[float], batch: int = 1) -> Tensor:
    out = torch.zeros(batch, *GRID)
    for cell, value in zip(cells, values, strict=True):
        out[(slice(None), *cell)] = value
    return out


def test_every_seed_hides_a_block_around_itself() -> None:
    map_ = seeds([(3, 5, 5), (7, 0, 11)], [1.0, 0.5])
    blocks = InteractionBlocks()._blocks(map_, GRID, rng(0, 0, batch=1)).view(*GRID)
    expected = torch.zeros(GRID, dtype=torch.bool)
    expected[2:5, 4:7, 4:7] = True
    expected[6:8, 0:2, 10:12] = True
    assert torch.equal(blocks, expected)


def test_on_a_grid_of_eight_cells_a_block_is_one_token_in_space() -> None:
    grid = Grid(8, 8, 8)
    map_ = torch.zeros(1, *grid)
    map_[0, 3, 4, 5] = 1
    blocks = InteractionBlocks()._blocks(map_, grid, rng(0, 0, batch=1)).view(*grid)
    assert blocks.nonzero().tolist() == [[t, 4, 5] for t in (2, 3, 4)]


def test_blocks_stop_at_the_cap_exactly() -> None:
    map_ = torch.rand(5, *GRID, generator=torch.Generator().manual_seed(0))
    assert InteractionBlocks()._blocks(map_, GRID, rng(0, 0, batch=5)).sum(1).tolist() == [int(0.15 * GRID.n)] * 5


@pytest.mark.parametrize(("power", "share"), [(1.0, 3 / 4), (2.0, 9 / 10)])
def test_seeds_are_drawn_in_proportion_to_a_power_of_the_saliency(power: float, share: float) -> None:
    """Two seeds far apart, 3 to 1, and a cap of one block: how often the larger is taken."""
    rows = 1000
    map_ = seeds([(3, 2, 2), (3, 9, 9)], [0.3, 0.1], rows)
    strategy = InteractionBlocks(power=power, cap=27.5 / GRID.n)
    blocks = strategy._blocks(map_, GRID, rng(0, 0, batch=rows)).view(rows, *GRID)
    assert (blocks.flatten(1).sum(1) == 27).all()
    larger = blocks[:, 3, 2, 2].float().mean().item()
    assert larger == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / rows))


@pytest.mark.parametrize("fill", ["tubes", "random"])
@pytest.mark.parametrize("budget", [0.2, 0.4, 0.6])
def test_every_clip_hides_the_budget_exactly_and_the_turn_of_the_disc(
    films: ModuleType, fill: str, budget: float
) -> None:
    strategy = InteractionBlocks(budget=budget, fill=fill)  # type: ignore[arg-type]
    painted = strategy.paint(GRID, rng(0, 0, batch=4), turning(films))[0]
    assert painted.hidden.flatten(1).sum(1).tolist() == [int(budget * GRID.n)] * 4
    assert painted.hidden[:, 4, 5:7, 5:7].float().mean() > 0.9


def test_a_filling_tube_lasts_as_long_as_the_clip(films: ModuleType) -> None:
    """Hidden cells are hidden throughout, but for blocks, the cut tube and what the floor gave back."""
    hidden = InteractionBlocks(floor=0.0).paint(GRID, rng(0, 0, batch=4), turning(films))[0].hidden
    tokens = InteractionBlocks(floor=0.0, fill="random").paint(GRID, rng(0, 0, batch=4), turning(films))[0].hidden
    through, scattered = ((x.sum(1) == GRID.t).float().mean().item() for x in (hidden, tokens))
    assert through > 0.25
    assert scattered < 0.02


def moving(sight: Sight) -> Tensor:
    assert sight.clip is not None
    speed = velocity(rgb(sight.clip), GRID, compensate=True).flatten(1)
    return speed >= MOVING * speed.amax(1, keepdim=True)


def test_the_floor_leaves_two_fifths_of_what_moves_visible_and_the_counts_alone(films: ModuleType) -> None:
    sight = turning(films)
    moves = moving(sight)
    least = 1.0
    for step in range(4):
        draw = {"batch": 4}
        bare = InteractionBlocks(floor=0.0).paint(GRID, rng(0, step, **draw), sight)[0].hidden.flatten(1)
        kept = InteractionBlocks().paint(GRID, rng(0, step, **draw), sight)[0].hidden.flatten(1)
        assert kept.sum(1).tolist() == bare.sum(1).tolist()
        visible = [(moves & ~mask).sum(1) / moves.sum(1) for mask in (bare, kept)]
        least = min(least, visible[0].min().item())
        assert (visible[1] >= 0.4).all()
        enough = visible[0] >= 0.4
        assert torch.equal(kept[enough], bare[enough])
        # What was given back moves, what was hidden for it does not.
        assert not ((bare & ~kept) & ~moves).any()
        assert not ((kept & ~bare) & moves).any()
    assert least < 0.4, "the floor had nothing to do"


def test_what_the_floor_gives_back_is_the_least_salient(films: ModuleType) -> None:
    strategy, sight = InteractionBlocks(floor=0.9), turning(films, 1)
    from vjepa_lab.masks._interaction import look

    seen = look("interaction_blocks", "accel_matching", strategy.maps, strategy.mix, GRID, rng(0, 0, batch=1), sight)
    hidden = torch.ones(1, GRID.n, dtype=torch.bool).scatter_(1, (~moving(sight)).float().topk(600).indices, False)
    kept = strategy._keep_motion(hidden, seen, torch.arange(GRID.n)[None], GRID, rng(0, 0, batch=1))
    flat, given = seen.saliency.flatten(1), hidden & ~kept
    assert given.any()
    assert flat[given].max() <= flat[kept & moving(sight)].min()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"cap": 0.5}, "cap is 0.5, expected at most the budget"),
        ({"block": (3, 2, 3)}, "expected odd numbers"),
        ({"power": 0.0}, "power is 0.0"),
        ({"fill": "blocks"}, "fill is 'blocks'"),
        ({"floor": 1.0}, "floor is 1.0"),
        ({"saliency": "flow"}, "saliency is 'flow'"),
    ],
)
def test_a_wrong_field_is_refused(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        InteractionBlocks(**wrong)
