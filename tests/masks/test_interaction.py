"""What the strategies that look share: order and counts, the fallback of static clips, warm-up, mixing, symmetry."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from vjepa_lab.batch import Grid, Rows
from vjepa_lab.data.transforms import MEAN, STD
from vjepa_lab.dist import rng
from vjepa_lab.masks import Painted, Sight, sample
from vjepa_lab.masks._interaction import Mix, first_of, shuffled_order, tube_order
from vjepa_lab.masks._saliency import rgb, saliency
from vjepa_lab.masks.multiblock import Multiblock
from vjepa_lab.registry import MASKS

GRID = Grid(8, 12, 12)
LOOKING = ["interaction_topk", "interaction_blocks", "interaction_multiblock", "motion"]
every = pytest.mark.parametrize("name", LOOKING)


def normalised(frames: Tensor) -> Tensor:
    mean, std = (torch.tensor(x).view(3, 1, 1, 1) for x in (MEAN, STD))
    return (frames - mean) / std


def turning(films: ModuleType) -> Tensor:
    """Two films with a disc that turns, one without any motion, as an encoder gets them."""
    turns = [films.disc_at(films.bent((0, 3), (3, 0), 8)), films.disc_at(films.bent((0, 2), (0, -2), 7), texture=1)]
    return normalised(torch.cat([*turns, films.disc_at([(0, 0)] * 16)]))


def paint(entry: dict, sight: Sight, step: int = 0) -> Painted:
    return MASKS.build(entry).paint(GRID, rng(0, step, batch=len(sight.clip)), sight)[0]


@every
def test_a_static_clip_falls_back_to_uniform_blocks_of_the_exact_size_and_is_counted(
    name: str, films: ModuleType
) -> None:
    clip, notes = turning(films), {}
    (pair,) = sample([MASKS.build({"name": name})], GRID, rng(0, 0, batch=3), Sight(clip), notes=notes)
    painted = paint({"name": name}, Sight(clip))
    assert painted.static is not None
    assert painted.static.tolist() == [False, False, True]
    assert notes["static/0"].item() == pytest.approx(1 / 3)
    count = int((0.3 if name == "interaction_multiblock" else 0.4) * GRID.n)
    assert painted.hidden.flatten(1).sum(1).tolist() == [count] * 3
    assert (pair.context.shape[1], pair.target.shape[1]) == (GRID.n - count, count)
    # Full-length tubes: but for the last one, which is cut, a cell is hidden in all tubelets or in none.
    through = painted.hidden[2].sum(0)
    assert ((through == 0) | (through == GRID.t)).float().mean() > 0.8


@every
def test_constant_pictures_have_the_exact_count_too(name: str) -> None:
    painted = paint({"name": name}, Sight(torch.zeros(2, 3, 16, 96, 96)))
    assert painted.static is not None
    assert painted.static.all()
    assert painted.hidden.flatten(1).sum(1).unique().tolist() == [painted.target]


@pytest.mark.parametrize(
    ("name", "kind"), [("motion", "velocity"), ("ia_jepa", "accel_official"), ("interaction_blocks", "accel_matching")]
)
def test_the_map_that_decided_is_handed_on(name: str, kind: str, films: ModuleType) -> None:
    clip = turning(films)
    assert torch.equal(paint({"name": name}, Sight(clip)).saliency, saliency(kind, rgb(clip), GRID))


def test_what_nobody_looks_at_leaves_no_note() -> None:
    notes: dict[str, Tensor] = {}
    sample([MASKS.build({"name": "random"})], GRID, rng(0, 0, batch=2), notes=notes)
    assert notes == {}


@every
def test_without_the_curriculum_a_clip_is_painted_as_if_nothing_were_seen(name: str, films: ModuleType) -> None:
    """The same mask whatever the clip shows, until the ramp begins; another one once it has ended."""
    entry = {"name": name, "mix": {"start": 10, "end": 20}}
    clip = turning(films)
    before = [paint(entry, Sight(x, step=10)).hidden for x in (clip, clip.roll(24, -1))]
    assert torch.equal(*before)
    after = [paint(entry, Sight(x, step=20)).hidden for x in (clip, clip.roll(24, -1))]
    assert not torch.equal(after[0][0], after[1][0])
    assert torch.equal(after[0], paint({"name": name}, Sight(clip)).hidden)


def test_half_way_up_the_ramp_half_of_the_clips_are_painted_by_what_is_seen(films: ModuleType) -> None:
    clip = turning(films)[:1].expand(400, -1, -1, -1, -1)[:, :, :, ::8, ::8]
    grid = Grid(8, 12, 12)
    strategy = MASKS.build({"name": "interaction_topk", "mix": {"probability": 0.8, "start": 100, "end": 200}})
    top = MASKS.build({"name": "interaction_topk"})
    numbers = {"batch": 400}
    mixed = strategy.paint(grid, rng(0, 0, **numbers), Sight(clip, step=150))[0].hidden
    seen = top.paint(grid, rng(0, 0, **numbers), Sight(clip, step=150))[0].hidden
    share = (mixed == seen).flatten(1).all(1).float().mean().item()
    assert share == pytest.approx(0.4, abs=0.08)


def test_the_share_of_a_ramp() -> None:
    ramp = Mix(probability=0.5, start=10, end=20)
    assert [ramp.at(step) for step in (0, 10, 15, 20, 99)] == [0, 0, 0.25, 0.5, 0.5]
    assert Mix().at(0) == 1
    assert [Mix(start=5).at(step) for step in (4, 5)] == [0, 1]


@pytest.mark.parametrize("wrong", [{"probability": 1.5}, {"start": -1}, {"start": 5, "end": 3}])
def test_a_ramp_that_cannot_be_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="mix"):
        MASKS.build({"name": "motion", "mix": wrong})


def test_features_are_not_asked_for_during_the_warm_up_and_decide_after_it(films: ModuleType) -> None:
    entry = {"name": "interaction_topk", "saliency": "accel_feature"}
    clip, asked = turning(films), []

    def features() -> Tensor:
        asked.append(1)
        z = torch.zeros(3, *GRID, 4)
        z[:, 4, 5, 6] = 1  # a token that jumps, and jumps back
        return z.flatten(1, 3)

    before = paint(entry, Sight(clip, step=9, steps=100, features=features))
    assert not asked
    assert before.static is not None
    assert not before.static.any()
    after = paint(entry, Sight(clip, step=10, steps=100, features=features))
    assert len(asked) == 1
    assert after.hidden[:, 3:6, 5, 6].all()
    earlier = {**entry, "maps": {"warmup": 2}}
    assert paint(earlier, Sight(clip, step=2, steps=100, features=features)).hidden[:, 3:6, 5, 6].all()


def test_features_without_an_encoder_are_refused_after_the_warm_up(films: ModuleType) -> None:
    with pytest.raises(ValueError, match="accel_feature needs the features of an encoder"):
        paint({"name": "motion"} | {"name": "interaction_topk", "saliency": "accel_feature"}, Sight(turning(films), 5))


DRAW_NOTHING = [
    {"name": "ia_jepa"},
    {"name": "motion"},
    *({"name": "interaction_topk", "saliency": kind} for kind in ("accel_matching", "accel_pixel", "accel_lowpass")),
]
"on clips without ties"


@pytest.mark.parametrize("entry", DRAW_NOTHING, ids=lambda entry: entry.get("saliency", entry["name"]))
def test_the_mask_of_a_mirrored_or_reordered_clip_is_the_mirrored_or_reordered_mask(entry: dict) -> None:
    clip = torch.rand(3, 3, 16, 96, 96, generator=torch.Generator().manual_seed(0))
    hidden = paint(entry, Sight(normalised(clip))).hidden
    for axis in (-1, -2):
        assert torch.equal(paint(entry, Sight(normalised(clip.flip(axis)))).hidden, hidden.flip(axis))
    order = torch.tensor([2, 0, 1])
    assert torch.equal(paint(entry, Sight(normalised(clip[order]))).hidden, hidden[order])
    assert not torch.equal(hidden, hidden.flip(-1))


@pytest.mark.parametrize("name", LOOKING)
def test_context_and_target_are_disjoint_and_cover_the_clip(name: str, films: ModuleType) -> None:
    (pair,) = sample([MASKS.build({"name": name})], GRID, rng(0, 0, batch=3), Sight(turning(films)))
    both = torch.cat([pair.context, pair.target], 1).sort(1).values
    assert torch.equal(both, torch.arange(GRID.n).expand(3, -1))


def test_masks_do_not_depend_on_autocast(films: ModuleType) -> None:
    sight = Sight(turning(films))
    plain = sample([MASKS.build({"name": "interaction_blocks"})], GRID, rng(0, 0, batch=3), sight)
    with torch.autocast("cpu", torch.bfloat16):
        cast = sample([MASKS.build({"name": "interaction_blocks"})], GRID, rng(0, 0, batch=3), sight)
    assert torch.equal(plain[0].target, cast[0].target)


def plain_first_of(order: list[float], members: list[bool], count: int) -> list[bool]:
    ranked = sorted((value, i) for i, value in enumerate(order) if members[i])
    chosen = {i for _, i in ranked[:count]}
    return [i in chosen for i in range(len(order))]


def test_the_first_of_an_order_equal_a_loop_over_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    order = torch.randint(0, 5, (30, 12), generator=generator)
    members = torch.rand(30, 12, generator=generator) < 0.6
    counts = torch.randint(0, 12, (30,), generator=generator)
    got = first_of(order, members, counts)
    expected = [plain_first_of(*row) for row in zip(order.tolist(), members.tolist(), counts.tolist(), strict=True)]
    assert got.tolist() == expected
    assert first_of(order, members, 3).tolist() == first_of(order, members, torch.full((30,), 3)).tolist()


def test_equal_values_are_ranked_in_random_order() -> None:
    ranks = shuffled_order(torch.zeros(2000, 4), Rows(0, 0, 2000))
    assert (ranks.sort(1).values == torch.arange(4)).all()
    counts = torch.stack([(ranks == i).sum(0) for i in range(4)])
    assert ((counts - 500).abs() < 100).all()
    assert shuffled_order(torch.tensor([[0.1, 0.9, 0.5]]), Rows(0, 0, 1)).tolist() == [[2, 0, 1]]


def test_tubes_are_whole_rectangles_one_after_the_other_where_they_are_asked_for() -> None:
    grid = Grid(2, 9, 10)
    centres = torch.tensor([[6 * 10 + 7, 0]])
    ids = tube_order(grid, 0.15, rng(0, 0, batch=1), centres).argsort()[0].tolist()
    size = Multiblock(blocks=1, scale=0.15).size(grid, torch.rand(3, generator=rng(0, 0, batch=1).shared).tolist())
    area = size.h * size.w
    tubes = [{(i % 90 // 10, i % 10) for i in ids[n * 2 * area :][: 2 * area]} for n in (0, 1)]
    for tube, middle in zip(tubes, [(6, 7), (0, 0)], strict=True):
        rows, columns = ({cell[axis] for cell in tube} for axis in (0, 1))
        assert (len(rows), len(columns), len(tube)) == (size.h, size.w, area)
        assert middle in tube
