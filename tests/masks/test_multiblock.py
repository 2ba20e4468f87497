"""Multi-block masks: the released arithmetic, the released statistics, and what ``keep`` changes in them.

``plain`` is the released algorithm written as loops from its description. It reproduces numbers recorded from the
released code, and the vectorised code equals it: together they tie the one to the other.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vjepa_lab.batch import Grid, Rows
from vjepa_lab.dist import rng
from vjepa_lab.masks import Painted, sample
from vjepa_lab.masks._rectangular import rectangular
from vjepa_lab.masks.multiblock import Multiblock, _place, _reference_counts, cover
from vjepa_lab.registry import MASKS

GRID = Grid(8, 16, 16)
SHORT = {"blocks": 8, "scale": 0.15}
LONG = {"blocks": 2, "scale": 0.7}
RELEASED = pytest.mark.parametrize(("kind", "fields"), [("short_range", SHORT), ("long_range", LONG)])
RECORDED = torch.load(Path(__file__).parent / "data" / "mask_statistics.pt", weights_only=True)


def plain(
    grid: Grid,
    size: Grid,
    starts: list[list[tuple[int, int, int]]],
    *,
    frames: int | None = None,
    max_keep: int | None = None,
    full_complement: bool = False,
) -> tuple[list[list[int]], list[list[int]]]:
    """Context and target ids, released truncation, from the first (t, h, w) of every block of every row."""
    context, target = [], []
    for row in starts:
        hidden = set()
        for first in row:
            for t in range(first[0], first[0] + size.t):
                for h in range(first[1], first[1] + size.h):
                    for w in range(first[2], first[2] + size.w):
                        hidden.add((t * grid.h + h) * grid.w + w)
        hidden |= set(range((frames or grid.t) * grid.h * grid.w, grid.n))
        context.append([i for i in range(grid.n) if i not in hidden])
        target.append(sorted(hidden))
    k, m = min(map(len, context)), min(map(len, target))
    k = k if max_keep is None else min(k, max_keep)
    context, target = [row[:k] for row in context], [row[:m] for row in target]
    if full_complement:
        target = [[i for i in range(grid.n) if i not in set(row)] for row in context]
    return context, target


def released_starts(grid: Grid, size: Grid, blocks: int, batch: int) -> list[list[tuple[int, int, int]]]:
    """Block positions as the released code takes them from the global generator: row, column, time; inclusive."""
    rows = []
    for _ in range(batch):
        row = []
        for _ in range(blocks):
            h, w, t = (
                int(torch.randint(0, n - length + 1, (1,)))
                for n, length in ((grid.h, size.h), (grid.w, size.w), (grid.t, size.t))
            )
            row.append((t, h, w))
        rows.append(row)
    return rows


def uniforms(seed: int) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(1, generator=generator).item() for _ in range(3)]


def as_tensors(starts: list[list[tuple[int, int, int]]]) -> list[Tensor]:
    return [torch.tensor([[block[axis] for block in row] for row in starts]) for axis in range(3)]


def test_block_sizes_of_the_first_eight_released_seeds() -> None:
    short = [(6, 7), (6, 6), (7, 6), (6, 6), (6, 7), (7, 5), (8, 5), (7, 6)]
    long = [(12, 15), (14, 13), (15, 12), (13, 14), (12, 15), (16, 11), (16, 11), (15, 12)]
    for fields, sizes in ((SHORT, short), (LONG, long)):
        mask = Multiblock(**fields)
        assert [mask.size(GRID, uniforms(seed)) for seed in range(8)] == [(8, h, w) for h, w in sizes]


def test_plain_algorithm_gives_the_sums_recorded_from_the_released_code() -> None:
    recorded = {
        "short": (SHORT, [(512, 1222988, 1120, 2914335), (632, 1623459, 1136, 3122149)]),
        "long": (LONG, [(128, 199839, 1536, 4367274), (176, 314638, 1456, 3976133)]),
    }
    for fields, calls in recorded.values():
        mask = Multiblock(**fields)
        torch.manual_seed(0)
        for seed, expected in enumerate(calls):
            size = mask.size(GRID, uniforms(seed))
            context, target = plain(GRID, size, released_starts(GRID, size, mask.blocks, 3))
            got = (len(context[0]), sum(map(sum, context)), len(target[0]), sum(map(sum, target)))
            assert got == expected


VARIANT = {"blocks": 2, "scale": [0.2, 0.8], "temporal": [0.5, 1.0], "aspect": [0.3, 3.0]}


def test_vectorised_masks_equal_the_recorded_variant_with_every_option() -> None:
    """Ranges for all sizes, half of the clip never visible, a limit of context, its complement as the target."""
    mask = Multiblock(**VARIANT, max_temporal_keep=0.5, max_keep=100, complement="target")
    torch.manual_seed(0)
    size = mask.size(GRID, uniforms(0))
    starts = released_starts(GRID, size, 2, 3)
    expected = plain(GRID, size, starts, frames=4, max_keep=100, full_complement=True)
    assert [(len(x[0]), sum(map(sum, x))) for x in expected] == [(100, 20610), (1948, 6267774)]
    hidden = cover(GRID, size, as_tensors(starts))
    hidden[:, 4:] = True
    pair = rectangular(Painted(hidden, max_context=100, complement="target"), "head", rng(0, 0, batch=3))
    assert (pair.context.tolist(), pair.target.tolist()) == expected


@pytest.mark.parametrize("fields", [SHORT, LONG, VARIANT])
def test_vectorised_masks_equal_the_plain_algorithm(fields: dict) -> None:
    """Same sizes and positions, same ids."""
    mask = Multiblock(**fields)
    for seed in range(4):
        size = mask.size(GRID, uniforms(seed))
        starts = released_starts(GRID, size, mask.blocks, 4)
        pair = rectangular(Painted(cover(GRID, size, as_tensors(starts))), "head", rng(0, 0, batch=4))
        assert (pair.context.tolist(), pair.target.tolist()) == plain(GRID, size, starts)


@RELEASED
def test_counts_and_cells_are_distributed_as_in_the_released_code(kind: str, fields: dict) -> None:
    """1,500 steps of one clip each, as recorded; both sides are samples, so errors add up in squares."""
    recorded = RECORDED[kind]
    draws = recorded["draws"]
    mask = Multiblock(**fields)
    hidden = torch.cat([mask.paint(GRID, rng(1, step, batch=1))[0].hidden for step in range(draws)])
    assert (hidden == hidden[:, :1]).all(), "blocks of the released masks last as long as the clip"
    count = hidden.flatten(1).sum(1).float()
    spread = recorded["target_std"]
    assert abs(count.mean() - recorded["target_mean"]) < 4 * spread * math.sqrt(2 / draws)
    assert abs(GRID.n - count.mean() - recorded["context_mean"]) < 4 * spread * math.sqrt(2 / draws)
    assert abs(count.std() - spread) < 4 * spread * math.sqrt(1 / draws)
    p, q = hidden[:, 0].float().mean(0), recorded["target_probability"]
    both = (p + q) / 2
    z = (p - q) / (both * (1 - both) * 2 / draws).sqrt().clamp(min=1 / draws)
    assert z.abs().max() < 5
    assert z.square().mean() < 2


@RELEASED
def test_random_keeps_about_as_many_tokens_as_the_released_truncation_at_24(kind: str, fields: dict) -> None:
    """The budget is stated by block size alone; over steps it is near 508/952 and 132/1441 of 2,048."""
    released = {"short_range": (508, 952), "long_range": (132, 1441)}[kind]
    mask = Multiblock(**fields)
    painted = [mask.paint(GRID, rng(2, step, batch=1))[0] for step in range(200)]
    context = sum(p.context for p in painted) / len(painted)
    target = sum(p.target for p in painted) / len(painted)
    assert context == pytest.approx(released[0], rel=0.2)
    assert target == pytest.approx(released[1], rel=0.1)


@RELEASED
def test_few_rows_have_fewer_tokens_than_are_kept(kind: str, fields: dict) -> None:
    mask = Multiblock(**fields)
    poor = []
    for step in range(50):
        painted = mask.paint(GRID, rng(3, step, batch=32))[0]
        hidden = painted.hidden.flatten(1).sum(1)
        poor.append((GRID.n - hidden < painted.context).float().mean() + (hidden < painted.target).float().mean())
    assert sum(poor) / len(poor) < 0.13


def per_tubelet(keep: str, fields: dict) -> tuple[Tensor, Tensor]:
    """Kept context and target ids per tubelet at 24 clips, relative to the first tubelet."""
    counts = torch.zeros(2, GRID.t)
    for step in range(60):
        for side, ids in enumerate(sample([Multiblock(**fields)], GRID, rng(4, step, batch=24), keep=keep)[0]):
            counts[side] += (ids // (GRID.h * GRID.w)).flatten().bincount(minlength=GRID.t)
    context, target = counts / counts[:, :1]
    return context, target


@RELEASED
def test_random_covers_all_tubelets_alike(kind: str, fields: dict) -> None:
    context, target = per_tubelet("random", fields)
    assert context.min() > 0.95
    assert context.max() < 1.05
    assert target.min() > 0.97
    assert target.max() < 1.03


@RELEASED
def test_head_almost_never_shows_or_predicts_the_end_of_the_clip(kind: str, fields: dict) -> None:
    """The known defect of the released truncation, per tubelet as measured on the released code at 24 clips."""
    measured = {
        "short_range": ([1, 1, 0.99, 0.9, 0.64, 0.33, 0.13, 0.05], [1, 1, 1, 1, 0.97, 0.75, 0.33, 0.08]),
        "long_range": ([0.99, 0.79, 0.45, 0.23, 0.1, 0.05, 0.03, 0.03], [1, 1, 1, 1, 1, 0.99, 0.72, 0.21]),
    }[kind]
    for got, expected in zip(per_tubelet("head", fields), measured, strict=True):
        assert torch.allclose(got, torch.tensor(expected), atol=0.06)


def test_a_row_left_without_context_is_drawn_again() -> None:
    """Two blocks of full height and 11 of 16 columns hide everything in one draw of 18: nearly none is left so."""
    size = Grid(8, 16, 11)
    once = cover(GRID, size, [Rows(0, 0, 4000).integers(n, 2) for n in (1, 1, 6)]).flatten(1).all(1).float().mean()
    assert once == pytest.approx(1 / 18, rel=0.25)
    assert not _place(GRID, size, 2, 8, Rows(0, 0, 4000)).flatten(1).all(1).any()


def test_drawing_again_leaves_the_other_rows_as_they_were() -> None:
    """The first candidate that shows something is taken: the distribution is that of rejection sampling."""
    size = Grid(8, 16, 11)
    hidden = _place(GRID, size, 2, 8, Rows(0, 0, 4000))[:, 0, 0]
    width = hidden.sum(1)
    # Two starts of 0..5, given that they are not {0, 5}: the gap has chance 6, 10, 8, 6, 4 in 34.
    chances = torch.tensor([6, 10, 8, 6, 4]) / 34
    got = (width - 11).bincount(minlength=5) / 4000
    assert ((got - chances).abs() < 5 * (chances * (1 - chances) / 4000).sqrt()).all()


def test_blocks_that_always_hide_everything_still_leave_one_context_token() -> None:
    mask = Multiblock(blocks=1, scale=1.0, aspect=1.0)
    for keep in ("random", "head"):
        ((context, target),) = sample([mask], GRID, rng(0, 0, batch=2), keep=keep)
        assert (context.shape, target.shape) == ((2, 1), (2, GRID.n - 1))


def test_ranks_share_the_block_size_and_not_the_positions() -> None:
    one, two = rng(0, 5, batch=4), rng(0, 5, batch=4)._replace(local=Rows(77, 4, 4))
    mask = Multiblock(**LONG)
    (a,), (b,) = mask.paint(GRID, one), mask.paint(GRID, two)
    assert (a.context, a.target) == (b.context, b.target)
    assert not torch.equal(a.hidden, b.hidden)


def test_kept_counts_leave_room_for_both_sides() -> None:
    for size in (Grid(1, 1, 1), Grid(2, 3, 3), Grid(4, 4, 1), Grid(4, 4, 4)):
        for blocks in (1, 2, 9):
            for frames in (1, 4):
                context, target = _reference_counts(Grid(4, 4, 4), size, blocks, frames)
                assert context >= 1
                assert target >= 1


def test_a_clip_of_one_tubelet_and_a_tiny_grid_work() -> None:
    for grid in (Grid(1, 4, 4), Grid(2, 1, 1), Grid(1, 1, 2)):
        ((context, target),) = sample([Multiblock()], grid, rng(0, 0, batch=2))
        assert context.shape[1] + target.shape[1] <= grid.n


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_random_never_waits_for_the_device() -> None:
    strategies = [Multiblock(**SHORT), Multiblock(**LONG)]
    sample(strategies, GRID, rng(0, 0, batch=24, device="cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        sample(strategies, GRID, rng(0, 0, batch=24, device="cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_ranges_are_given_as_a_number_or_a_pair() -> None:
    number, pair = ({"name": "multiblock", "scale": scale, "aspect": [1, 2]} for scale in (0.15, [0.15, 0.15]))
    assert MASKS.build(number) == MASKS.build(pair) == Multiblock(scale=0.15, aspect=(1.0, 2.0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": 1.5}, "scale is 1.5"),
        ({"scale": "large"}, "scale is 'large'"),
        ({"temporal": [1.0, 0.5]}, "temporal is"),
        ({"aspect": [2.0, 0.5]}, "aspect is"),
        ({"aspect": [0.5, 1.0, 2.0]}, "mask 'multiblock'"),
        ({"blocks": 0}, "blocks is 0"),
        ({"max_temporal_keep": 0.0}, "max_temporal_keep is 0"),
        ({"max_keep": 0}, "max_keep is 0"),
        ({"complement": "both"}, "'both', expected one of"),
        ({"block": 2}, "Did you mean: 'blocks'"),
    ],
)
def test_mistakes_in_a_config_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MASKS.build({"name": "multiblock", **fields})
