"""What every mask strategy promises. A new file of vjepa_lab/masks is tested by existing."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from vjepa_lab.batch import Grid, MaskPair
from vjepa_lab.dist import rng
from vjepa_lab.masks import Sight, sample, traced
from vjepa_lab.registry import MASKS

GRID = Grid(4, 6, 5)
BATCH = 8
KEEPS = ["random", "head"]

every_strategy = pytest.mark.parametrize("name", MASKS.names())
every_keep = pytest.mark.parametrize("keep", KEEPS)


@cache
def films(number: int = 0) -> Tensor:
    """Noise that stands still but for one place in every clip, another one for another ``number``: two frames per
    tubelet, 8 by 8 pixels per token."""
    generator = torch.Generator().manual_seed(number)
    height, width = 8 * GRID.h, 8 * GRID.w
    film = torch.randn(BATCH, 3, 1, height, width, generator=generator).repeat(1, 1, 2 * GRID.t, 1, 1)
    for row in film:
        top, left = (int(torch.randint(n - 16, (1,), generator=generator)) for n in (height, width))
        row[..., top : top + 16, left : left + 16] = torch.randn(3, 2 * GRID.t, 16, 16, generator=generator)
    return film


def clips(batch: int = BATCH, number: int = 0) -> Sight:
    """For strategies that look at pixels."""
    return Sight(films(number)[:batch])


def draw(name: str, keep: str, *, step: int = 0, seed: int = 0, number: int = 0) -> list[MaskPair]:
    return sample([MASKS.get(name)()], GRID, rng(seed, step, batch=BATCH), clips(number=number), keep)


def looks(name: str) -> bool:
    """Whether a strategy needs pixels; one that does says so when it gets none."""
    try:
        MASKS.get(name)().paint(GRID, rng(0, 0, batch=2), Sight())
    except ValueError as error:
        assert f"'{name}' looks at the pixels" in str(error)  # noqa: PT017
        return True
    return False


@every_strategy
@every_keep
def test_ids_are_sorted_disjoint_in_range_and_never_empty(name: str, keep: str) -> None:
    for step in range(20):
        for context, target in draw(name, keep, step=step):
            assert context.shape[1] >= 1
            assert target.shape[1] >= 1
            for ids in (context, target):
                assert ids.dtype == torch.int64
                assert ids.shape[0] == BATCH
                assert (ids.diff(dim=1) > 0).all()
                assert ids.min() >= 0
                assert ids.max() < GRID.n
            seen = torch.zeros(BATCH, GRID.n, dtype=torch.int64)
            ones = torch.ones_like
            seen.scatter_add_(1, context, ones(context)).scatter_add_(1, target, ones(target))
            assert seen.max() == 1, "a token is context and target at once"


@every_strategy
@every_keep
def test_masks_are_a_function_of_seed_step_and_clip(name: str, keep: str) -> None:
    first, again = draw(name, keep), draw(name, keep)
    assert all(torch.equal(a, b) for p, q in zip(first, again, strict=True) for a, b in zip(p, q, strict=True))
    others = [draw(name, keep, number=1)] if looks(name) else [draw(name, keep, step=1), draw(name, keep, seed=1)]
    for other in others:
        assert not all(torch.equal(p.target, q.target) for p, q in zip(first, other, strict=True))


@every_strategy
def test_without_motion_masks_have_the_same_counts(name: str) -> None:
    """A static clip is masked in some other way, and never with another number of tokens."""
    still = Sight(films()[:, :, :1].expand(-1, -1, 2 * GRID.t, -1, -1))
    for moving, static in zip(
        sample([MASKS.get(name)()], GRID, rng(0, 0, batch=BATCH), clips()),
        sample([MASKS.get(name)()], GRID, rng(0, 0, batch=BATCH), still),
        strict=True,
    ):
        assert moving.context.shape == static.context.shape
        assert moving.target.shape == static.target.shape


@every_strategy
def test_global_random_state_is_neither_read_nor_changed(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draw(name, "random")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first[0].target, draw(name, "random")[0].target)


@every_strategy
@pytest.mark.parametrize("share", [4, 1])
def test_mask_of_a_clip_does_not_depend_on_how_the_batch_is_split(
    name: str, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process with 8 clips, two ranks with 4, eight with 1: equal masks, and so equal K and M."""
    if not states_its_counts(name):
        pytest.skip("takes its counts from the batch")
    for step in range(5):
        whole = draw(name, "random", step=step)
        parts = []
        for rank in range(BATCH // share):
            with monkeypatch.context() as patch:
                patch.setattr("vjepa_lab.dist.rank", lambda rank=rank: rank)
                local = rng(0, step, batch=share)
            parts.append(sample([MASKS.get(name)()], GRID, local, Sight(films()[rank * share :][:share])))
        for i, pair in enumerate(whole):
            assert torch.equal(pair.context, torch.cat([p[i].context for p in parts]))
            assert torch.equal(pair.target, torch.cat([p[i].target for p in parts]))


def states_its_counts(name: str) -> bool:
    painted = MASKS.get(name)().paint(GRID, rng(0, 0, batch=BATCH), clips())
    return all(p.context is not None and p.target is not None for p in painted)


@every_strategy
def test_what_is_painted_has_the_shape_of_the_grid(name: str) -> None:
    painted = MASKS.get(name)().paint(GRID, rng(0, 0, batch=3), clips(3))
    assert painted
    for mask in painted:
        assert mask.hidden.dtype == torch.bool
        assert mask.hidden.shape == (3, *GRID)


@every_strategy
def test_kept_context_is_visible_and_kept_target_hidden_but_for_a_few(name: str) -> None:
    """Ids may cross over only in rows that are too poor: at most one row in eight here."""
    poor = total = 0
    for step in range(20):
        strategy = MASKS.get(name)()
        painted = strategy.paint(GRID, rng(0, step, batch=BATCH), clips())
        for mask, pair in zip(painted, draw(name, "random", step=step), strict=True):
            hidden = mask.hidden.flatten(1)
            crossed = hidden.gather(1, pair.context).any(1) | ~hidden.gather(1, pair.target).all(1)
            poor += int(crossed.sum())
            total += BATCH
    assert poor <= total / 8


@every_strategy
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_masks_on_cuda_equal_those_on_the_cpu(name: str) -> None:
    there = rng(0, 3, batch=BATCH, device="cuda")
    pairs = sample([MASKS.get(name)()], GRID, there, Sight(films().cuda()))
    for ours, theirs in zip(draw(name, "random", step=3), pairs, strict=True):
        assert torch.equal(ours.context, theirs.context.cpu())
        assert torch.equal(ours.target, theirs.target.cpu())


@every_strategy
@every_keep
def test_what_is_traced_is_what_is_trained_on(name: str, keep: str) -> None:
    """Two entries in a row: the numbers that one draws are not those of the next. What was seen covers the grid."""
    strategies = [MASKS.get(name)(), MASKS.get(name)()]
    drawn = traced(strategies, GRID, rng(0, 0, batch=BATCH), clips(), keep)
    assert len(drawn) == 2
    pairs = sample(strategies, GRID, rng(0, 0, batch=BATCH), clips(), keep)
    for (painted, ours), pair in zip([trace for masks in drawn for trace in masks], pairs, strict=True):
        assert torch.equal(ours.context, pair.context)
        assert torch.equal(ours.target, pair.target)
        if painted.saliency is not None:
            assert painted.saliency.shape == painted.hidden.shape
            assert painted.saliency.min() >= 0


def test_sample_returns_pairs_in_the_order_of_the_strategies() -> None:
    few, many = MASKS.build({"name": "random", "ratio": 0.25}), MASKS.build({"name": "random", "ratio": 0.5})
    pairs = sample([few, many], GRID, rng(0, 0, batch=2))
    assert [p.target.shape[1] for p in pairs] == [30, 60]


def test_a_grid_of_one_token_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        sample([MASKS.get("random")()], Grid(1, 1, 1), rng(0, 0, batch=2))
