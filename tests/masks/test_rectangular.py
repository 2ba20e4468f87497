"""Ragged masks become rectangular ones: the two ways to choose what is kept, against a plain loop over rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vjepa_lab.dist import rng
from vjepa_lab.masks import Painted
from vjepa_lab.masks._rectangular import rectangular

B, T, H, W = 6, 3, 4, 5
N = T * H * W


def ragged(seed: int = 0) -> Tensor:
    """Hidden cells whose share differs from row to row."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.linspace(0.2, 0.8, B).view(B, 1, 1, 1)
    return torch.rand(B, T, H, W, generator=generator) < share


def plain_head(hidden: Tensor) -> tuple[list[list[int]], list[list[int]]]:
    """The first ids of each class in raster order, as many as the poorest row has."""
    rows = [[bool(x) for x in row.flatten()] for row in hidden]
    visible = [[i for i, x in enumerate(row) if not x] for row in rows]
    covered = [[i for i, x in enumerate(row) if x] for row in rows]
    k, m = min(map(len, visible)), min(map(len, covered))
    return [row[:k] for row in visible], [row[:m] for row in covered]


def test_head_equals_the_plain_loop() -> None:
    for seed in range(10):
        hidden = ragged(seed)
        context, target = rectangular(Painted(hidden), "head", rng(0, 0, batch=B))
        assert (context.tolist(), target.tolist()) == plain_head(hidden)


def test_head_does_not_heed_the_counts_that_a_strategy_states() -> None:
    hidden = ragged()
    stated = rectangular(Painted(hidden, context=3, target=4), "head", rng(0, 0, batch=B))
    assert (stated.context.tolist(), stated.target.tolist()) == plain_head(hidden)


def test_random_keeps_the_stated_counts_from_the_right_class() -> None:
    hidden = ragged().flatten(1)
    k, m = 5, 7
    context, target = rectangular(Painted(ragged(), k, m), "random", rng(0, 0, batch=B))
    assert (context.shape, target.shape) == ((B, k), (B, m))
    assert not hidden.gather(1, context).any()
    assert hidden.gather(1, target).all()


def test_random_without_counts_keeps_as_many_as_the_poorest_row_has() -> None:
    hidden = ragged()
    context, target = rectangular(Painted(hidden), "random", rng(0, 0, batch=B))
    head = plain_head(hidden)
    assert (context.shape[1], target.shape[1]) == (len(head[0][0]), len(head[1][0]))


def test_random_keeps_every_token_of_a_class_equally_often() -> None:
    """4,000 draws of 4 out of 24 visible and 6 out of 36 hidden tokens: each within 5 standard errors of 1/6."""
    draws = 4000
    hidden = torch.zeros(N, dtype=torch.bool)
    hidden[24:] = True
    painted = Painted(hidden.view(1, T, H, W).expand(draws, -1, -1, -1), context=4, target=6)
    context, target = rectangular(painted, "random", rng(0, 0, batch=draws))
    times = torch.cat([context, target], dim=1).flatten().bincount(minlength=N) / draws
    error = (1 / 6 * 5 / 6 / draws) ** 0.5
    assert (times - 1 / 6).abs().max() < 5 * error


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_row_that_is_too_poor_borrows_from_the_other_class(share: float) -> None:
    hidden = ragged()
    hidden[2] = share == 1.0
    context, target = rectangular(Painted(hidden, context=20, target=30), "random", rng(0, 0, batch=B))
    assert (context.shape, target.shape) == ((B, 20), (B, 30))
    assert set(context[2].tolist()).isdisjoint(target[2].tolist())
    if share == 1.0:
        # Borrowed ids are drawn from all over the clip, not from its beginning.
        assert context[2].max() > N // 2


def test_tokens_in_short_supply_are_all_kept_before_any_is_borrowed() -> None:
    hidden = torch.ones(1, T, H, W, dtype=torch.bool)
    hidden.view(-1)[[3, 41]] = False
    context, _ = rectangular(Painted(hidden, context=10, target=30), "random", rng(0, 0, batch=1))
    assert {3, 41} <= set(context[0].tolist())


@pytest.mark.parametrize("keep", ["head", "random"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_neither_side_is_ever_empty(keep: str, share: float) -> None:
    hidden = torch.full((2, T, H, W), share == 1.0)
    context, target = rectangular(Painted(hidden), keep, rng(0, 0, batch=2))
    assert min(context.shape[1], target.shape[1]) == 1
    assert context.shape[1] + target.shape[1] == N


@pytest.mark.parametrize("keep", ["head", "random"])
def test_complement_gives_all_other_tokens_to_one_side(keep: str) -> None:
    everything = list(range(N))
    for side in ("target", "context"):
        pair = rectangular(Painted(ragged(), complement=side, max_context=9), keep, rng(0, 0, batch=B))
        for context, target in zip(*pair, strict=True):
            assert sorted(context.tolist() + target.tolist()) == everything
        if side == "target":
            assert pair.context.shape[1] == 9
            assert pair.context.tolist() == [row[:9] for row in plain_head(ragged())[0]] or keep == "random"
        else:
            assert pair.target.tolist() == plain_head(ragged())[1] or keep == "random"


def test_limit_of_context_holds_for_every_keep() -> None:
    for keep in ("head", "random"):
        pair = rectangular(Painted(ragged(), max_context=3), keep, rng(0, 0, batch=B))
        assert pair.context.shape[1] == 3


@pytest.mark.parametrize(("keep", "message"), [("all", "use 'random'"), ("tail", "expected one of random, head")])
def test_unknown_keep_is_refused(keep: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rectangular(Painted(ragged()), keep, rng(0, 0, batch=B))
