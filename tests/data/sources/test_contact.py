"""Touches and near misses: the gap is where it should be, a touch pushes the box, and all else is shared."""

import numpy as np
import pytest
import torch

from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.registry import SOURCES

FRAMES, SIDE = 8, 64


def reader(frames=FRAMES, height=SIDE, width=SIDE, **fields):
    spec = ClipSpec(frames=frames, height=height, width=width, fps=4.0, stride=None, random=False)
    return SOURCES.build({"name": "contact", **fields}).open(spec)


def line(opened, index):
    """The last frame on the disc's row as seen from the left, and the scene: (3, W)."""
    what = opened.scene(index // 2)
    clip = opened.read(index).clip
    return (clip.flip(-1) if what.mirrored else clip)[:, -1, int(what.row)].double(), what


@pytest.mark.parametrize("gap", [3.0, 5.0, 7.0])
def test_the_gap_between_disc_and_box_is_as_wide_as_asked(gap):
    opened = reader(gap=gap)
    for pair in range(10):
        widths = []
        for index in (2 * pair, 2 * pair + 1):
            row, what = line(opened, index)
            floor = torch.from_numpy(what.colours[0])[:, None]
            between = slice(int(what.box[0] - gap - 4), int(what.box[0]) + 1)
            bare = 1 - ((row - floor).abs() / (row - floor).abs().amax(1, keepdim=True))[:, between].amin(0)
            widths.append(bare.clamp(0, 1).gt(0.5).sum().item())
        assert widths[1] == pytest.approx(gap, abs=1.01)
        assert widths[0] <= 1


def test_clips_of_a_pair_are_equal_until_the_near_miss_stops():
    opened = reader(gap=4.0, push=2.0, frames=16)
    for pair in range(10):
        touch, near = opened.read(2 * pair), opened.read(2 * pair + 1)
        assert (touch.label, near.label) == (1, 0)
        assert int(touch.truth["pair"]) == int(near.truth["pair"]) == pair
        assert near.event < touch.event
        until = int(near.event * 4) + 1
        assert 0 < until < 16
        assert torch.equal(touch.clip[:, :until], near.clip[:, :until])
        assert not torch.equal(touch.clip[:, -1], near.clip[:, -1])


def test_a_reader_of_the_push_is_always_right():
    """The pixel behind the box changes after a touch, and never else."""
    opened = reader(gap=4.0, push=2.0)
    for index in range(60):
        what, clip = opened.scene(index // 2), opened.read(index).clip.int()
        far = round(what.box[1]) + 1
        column = SIDE - 1 - far if what.mirrored else far
        moved = (clip[:, -1, int(what.row), column] - clip[:, 0, int(what.row), column]).abs().max()
        assert (moved > 10) == (index % 2 == 0)


def test_without_a_push_the_box_stands_still():
    touch = reader(gap=4.0).read(0)
    pushed = reader(gap=4.0, push=3.0).read(0)
    stopped = int(touch.event * 4) + 1
    assert torch.equal(touch.clip[:, :stopped], pushed.clip[:, :stopped])
    assert not torch.equal(touch.clip[:, stopped], pushed.clip[:, stopped])
    assert torch.equal(touch.clip[:, stopped], touch.clip[:, -1])


def test_pairs_are_the_same_for_every_gap_and_differ_from_each_other():
    assert torch.equal(reader(gap=1.0).read(6).clip, reader(gap=5.0).read(6).clip)
    assert not torch.equal(reader().read(0).clip[:, 0], reader().read(2).clip[:, 0])
    assert not torch.equal(reader().read(0).clip, reader(seed=1).read(0).clip)
    assert torch.equal(reader().read(3).clip, reader().read(3, np.random.default_rng(1)).clip)
    assert len({reader().key(i) for i in range(10)} | {reader(gap=3.0).key(i) for i in range(10)}) == 20


def test_wide_frames_are_filled():
    clip = reader(height=32, width=64).read(1).clip
    assert clip.shape == (3, FRAMES, 32, 64)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gap": 0.0}, "gap: expected above 0, got 0"),
        ({"push": -1.0}, "push: expected 0 or more"),
        ({"size": 3}, "size: expected an even number, got 3"),
        ({"gap": 8.0}, "gap: got 8.0 pixels, expected at most 7.7 in frames of 64 pixels"),
        ({"push": 9.0}, "push: got 9.0 pixels, expected at most 7.7"),
        ({"frames": 3}, "frames: expected at least 4, got 3"),
    ],
)
def test_what_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        reader(**fields)
