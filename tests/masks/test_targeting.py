"""Where maps and masks land on colliding discs whose collisions are known; thresholds as the studies have them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from vjepa_lab.data.transforms import MEAN, STD
from vjepa_lab.dist import rng
from vjepa_lab.masks import Sight
from vjepa_lab.masks._saliency import MapOptions, saliency, velocity
from vjepa_lab.registry import MASKS

FEW, MANY = 10, 40
counts = pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])


class World:
    """Films of the bench, and what strategies do to them."""

    def __init__(self, bench: ModuleType, count: int, pan: int, patch: int = 8) -> None:
        self.bench = bench
        self.films = bench.films(count, pan=pan, patch=patch)
        self.frames = torch.stack([film.frames for film in self.films])
        self.grid = bench.grid_of(self.films[0])

    def map(self, kind: str, **options: Any) -> Any:
        return self.bench.target(list(saliency(kind, self.frames, self.grid, MapOptions(**options))), self.films)

    def hidden(self, **entry: Any) -> torch.Tensor:
        mean, std = (torch.tensor(x).view(3, 1, 1, 1) for x in (MEAN, STD))
        sight = Sight((self.frames - mean) / std)
        return MASKS.build(entry).paint(self.grid, rng(0, 0, batch=len(self.films)), sight)[0].hidden

    def mask(self, **entry: Any) -> Any:
        return self.bench.cover(list(self.hidden(**entry)), self.films)


@counts
def test_matching_tells_collisions_from_motion_and_second_differences_hardly(targeting: ModuleType, count: int) -> None:
    world = World(targeting, count, pan=0)
    matching, pixel = world.map("accel_matching"), world.map("accel_pixel")
    assert matching.auc >= 0.90
    assert matching.precision >= 0.45
    assert matching.event_auc >= 0.70
    assert matching.free_auc > matching.auc, "what it takes for collisions are, in part, hits of a wall"
    assert pixel.auc <= 0.68
    assert world.map("accel_lowpass").auc >= 0.72
    assert world.map("velocity").auc <= 0.60


@counts
def test_matching_tells_them_apart_under_a_panning_camera(targeting: ModuleType, count: int) -> None:
    world = World(targeting, count, pan=1)
    assert world.map("accel_matching").auc >= 0.75
    assert world.mask(name="interaction_topk", saliency="accel_matching", budget=0.1).lift >= 2.0


@counts
def test_masks_hide_more_of_a_collision_than_of_other_motion_where_they_can(targeting: ModuleType, count: int) -> None:
    world = World(targeting, count, pan=0)
    assert world.mask(name="interaction_topk", saliency="accel_matching", budget=0.1).lift >= 2.5
    assert world.mask(name="interaction_topk", budget=0.1).lift <= 1.7
    blocks, literal = world.mask(name="interaction_blocks"), world.mask(name="interaction_topk")
    assert blocks.ratio == pytest.approx(0.4, abs=1e-3)
    assert blocks.lift >= 1.6
    assert literal.lift <= 1.1
    assert literal.visible <= 0.07
    assert blocks.before > literal.before + 0.2


@counts
@pytest.mark.parametrize("patch", [8, 16])
def test_two_fifths_of_the_motion_stay_visible_on_every_film(targeting: ModuleType, count: int, patch: int) -> None:
    world = World(targeting, count, pan=0, patch=patch)
    hidden = world.hidden(name="interaction_blocks")
    speed = velocity(world.frames, world.grid).flatten(1)
    moving = speed >= 0.1 * speed.amax(1, keepdim=True)
    visible = (moving & ~hidden.flatten(1)).sum(1) / moving.sum(1)
    still = (~moving & hidden.flatten(1)).sum(1)
    exhausted = (~moving & ~hidden.flatten(1)).sum(1) == 0
    assert ((visible >= 0.4) | exhausted).all()
    assert (still > 0).all()
    assert world.mask(name="interaction_blocks").least_visible >= 0.28


def test_compensation_lets_the_floor_work_under_a_panning_camera(targeting: ModuleType) -> None:
    world = World(targeting, FEW, pan=1)
    with_, without = (world.mask(name="interaction_blocks", compensate_global=c) for c in (True, False))
    assert with_.visible > without.visible + 0.02
    assert with_.lift > without.lift + 0.05


def test_an_oracle_scores_what_it_should(targeting: ModuleType) -> None:
    """The measures themselves: truth as a map and as a mask, its opposite, and a constant."""
    films = targeting.films(3)
    truth = [film.interacting.float() for film in films]
    assert targeting.target(truth, films)[:3] == (1.0, 1.0, 1.0)
    assert targeting.target([-x for x in truth], films)[:3] == (0.0, 0.0, 0.0)
    assert targeting.target([0 * x for x in truth], films)[:2] == (0.5, 0.5)
    masked = targeting.cover([film.interacting for film in films], films)
    assert (masked.interacting, masked.bystanding) == (1.0, 0.0)
    assert targeting.cover([film.moving for film in films], films)[3:] == (0.0, 0.0, 0.0)


def test_the_chance_of_a_positive_above_a_negative_equals_the_count_of_pairs(targeting: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    positive, negative = (torch.randint(0, 6, (n,), generator=generator).float() for n in (13, 17))
    pairs = [(p > n) + 0.5 * (p == n) for p in positive.tolist() for n in negative.tolist()]
    assert targeting.auc(positive, negative) == pytest.approx(sum(pairs) / len(pairs))
