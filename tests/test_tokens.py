"""Averages and windows against loops; pixel scales against the transform of the training data."""

from __future__ import annotations

import pytest
import torch

from vjepa_lab.batch import Grid
from vjepa_lab.data import transforms
from vjepa_lab.tokens import IMAGENET, Features, Statistics, pool_cells, pooled, window_starts


def test_averages_are_those_of_a_loop_over_tokens():
    grid = Grid(3, 2, 2)
    tokens = torch.randn(2, grid.n, 5, generator=torch.Generator().manual_seed(0))
    features = Features(tokens, grid)
    for b in range(2):
        per_tubelet = [sum(tokens[b, t * 4 + i] for i in range(4)) / 4 for t in range(3)]
        torch.testing.assert_close(pooled(features, "tubelet")[b], torch.stack(per_tubelet))
        torch.testing.assert_close(pooled(features, "mean")[b], sum(tokens[b]) / grid.n)
    assert torch.equal(pooled(features, "none"), tokens)
    with pytest.raises(ValueError, match="pool: got 'max', expected mean, tubelet or none"):
        pooled(features, "max")  # type: ignore[arg-type]


def test_pooling_averages_tokens_of_one_tubelet_and_region():
    grid = Grid(2, 4, 4)
    tokens = torch.arange(32.0).view(1, 32, 1)
    regions = pool_cells(Features(tokens, grid), 2)
    assert regions.shape == (1, 2, 4)
    assert regions[0, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert regions[0, 1].tolist() == [18.5, 20.5, 26.5, 28.5]
    assert torch.equal(pool_cells(Features(tokens, grid), 9), tokens.view(1, 2, 16))


def test_means_stay_apart_by_region_where_cells_are_asked_for():
    grid = Grid(3, 4, 4)
    features = Features(torch.randn(2, grid.n, 5, generator=torch.Generator().manual_seed(0)), grid)
    regions = pool_cells(features, 2)
    assert torch.equal(pooled(features, "tubelet", 2), regions)
    assert torch.equal(pooled(features, "mean", 2), regions.mean(1))
    for pool in ("mean", "tubelet"):
        assert torch.equal(pooled(features, pool, 1), pooled(features, pool))
        torch.testing.assert_close(pooled(features, pool, 2).unflatten(-1, (5, 4)).mean(-1), pooled(features, pool))


@pytest.mark.parametrize(
    ("total", "frames", "stride", "last", "expected"),
    [
        (32, 16, 16, "shift", (0, 16)),  # nothing is left over: all three agree
        (32, 16, 16, "hold", (0, 16)),
        (32, 16, 16, "drop", (0, 16)),
        (40, 16, 16, "shift", (0, 16, 24)),
        (40, 16, 16, "hold", (0, 16, 32)),
        (40, 16, 16, "drop", (0, 16)),
        (21, 16, 4, "shift", (0, 4, 5)),  # overlapping
        (21, 16, 4, "hold", (0, 4, 8)),
        (20, 4, 10, "hold", (0, 10)),  # with gaps: the next would begin behind the end
        (20, 4, 10, "shift", (0, 10, 16)),
        (5, 16, 8, "drop", (0,)),  # shorter than a window: one, held
        (1, 16, 16, "shift", (0,)),
    ],
)
def test_windows_begin_where_they_should(total, frames, stride, last, expected):
    assert window_starts(total, frames, stride, last) == expected


@pytest.mark.parametrize("last", ["shift", "hold", "drop"])
def test_windows_cover_every_frame_but_those_that_are_dropped(last):
    for total in range(1, 30):
        for stride in range(1, 5):
            starts = window_starts(total, 4, stride, last)
            seen = {frame for s in starts for frame in range(s, s + 4) if frame < total}
            unseen = set(range(total)) - seen
            assert len(unseen) == 0 or (last == "drop" and unseen == set(range(max(seen) + 1, total)))
            assert len(unseen) < stride


def test_windows_refuse_what_cannot_be_cut():
    with pytest.raises(ValueError, match="last: got 'pad', expected shift, hold or drop"):
        window_starts(8, 4, 4, "pad")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one frame, got 0 of 4 frames every 4"):
        window_starts(0, 4, 4)


def test_pixels_are_normalised_as_in_training_bit_by_bit_and_back():
    clip = torch.randint(0, 256, (2, 3, 4, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert (IMAGENET.mean, IMAGENET.std) == (transforms.MEAN, transforms.STD)
    assert torch.equal(IMAGENET.normalise(clip), transforms.normalize(clip))
    other = Statistics((0.5, 0.4, 0.3), (0.5, 0.6, 0.7))
    torch.testing.assert_close(other.restore(other.normalise(clip)), clip.float(), atol=1e-4, rtol=0)
    assert other.normalise(torch.full((1, 3, 1, 1, 1), 255))[0, 1].item() == pytest.approx((1 - 0.4) / 0.6)
