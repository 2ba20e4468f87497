"""The plan of batches is fixed by the listing; what cannot be read leaves its place empty."""

from __future__ import annotations

import pytest
import torch

from vjepa_lab.curation.reading import Item, Plan, count_all, read_clips
from vjepa_lab.curation.store import Bad
from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.sources.listing import Listing


def spec(clips: int = 1, decoder: str = "pyav") -> ClipSpec:
    return ClipSpec(
        frames=4, height=16, width=16, fps=4.0, stride=None, clips=clips, random=False, decoder=decoder, min_frames=1
    )


def test_batches_stay_within_a_shard_and_do_not_depend_on_the_others():
    rows = {0: range(0, 3), 2: range(6, 9)}
    plan = Plan(rows, clips=2, batch=4)
    batches = list(plan.batches())
    assert [(b.shard, len(b.items), b.last) for b in batches] == [
        (0, 4, False),
        (0, 2, True),
        (2, 4, False),
        (2, 2, True),
    ]
    assert batches[0].items == [Item(0, 0), Item(0, 1), Item(1, 0), Item(1, 1)]
    assert list(plan) == [b.items for b in batches]
    assert plan.total() == 12
    alone = Plan({2: range(6, 9)}, clips=2, batch=4)
    assert list(alone.batches()) == batches[2:]


def test_windows_and_videos_without_any_are_planned():
    broken = Bad(1, 0, "empty", "zero bytes")
    plan = Plan({0: range(3)}, {0: (0, 4), 1: broken, 2: (0,)}, clips=1, batch=8)
    (batch,) = plan.batches()
    assert batch.items == [Item(0, 0, 0), Item(0, 1, 4), Item(1, 0, bad=broken), Item(2, 0, 0)]
    assert plan.total() == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_clips_come_in_order_and_bad_ones_leave_zeros(videos, workers):
    reader = Listing(path=str(videos)).open(spec())
    plan = Plan({0: range(7)}, clips=1, batch=7)
    (read,) = read_clips(reader, spec(), plan, views=2, workers=workers)
    assert read.clips.shape == (7, 2, 3, 4, 16, 16)
    assert [b.reason if b else None for b in read.bad] == [
        *(None, "empty", None, "truncated"),
        *(None, "undecodable", None),
    ]
    empty = [bool((read.clips[i] == 0).all()) for i in range(7)]
    assert empty == [b is not None for b in read.bad]
    assert read.failure is None
    alone = next(iter(read_clips(reader, spec(), Plan({0: range(6, 7)}, clips=1, batch=1), views=2, workers=0)))
    assert torch.equal(alone.clips[0], read.clips[6])


def test_frames_are_counted_or_the_reason_is_given(videos):
    reader = Listing(path=str(videos)).open(spec())
    counts = list(count_all(reader, spec(), [6, 1, 4], workers=0))
    assert counts == [6, Bad(1, 0, "empty", "zero bytes"), 15]


def test_a_decoder_that_is_not_there_is_a_failure_and_no_bad_video(videos):
    reader = Listing(path=str(videos)).open(spec())
    plan = Plan({0: range(1)}, clips=1, batch=1)
    (read,) = read_clips(reader, spec(decoder="cinema"), plan, views=1, workers=0)
    assert "decoder: got 'cinema'" in read.failure
    assert read.bad == [None]
