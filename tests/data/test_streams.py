"""A stream gives a split whole, once, in one order; what cannot be read keeps its place and is told."""

import pytest
import torch

from vjepa_lab import dist
from vjepa_lab.data.streams import Demand, Look, Stream

WORLD = {"name": "synthetic", "split": "val"}
LOOK = Look(frames=4, crop=16)


def keys(stream):
    return [k for b in stream for k, valid in zip(b.key, b.valid.tolist(), strict=True) if valid]


def test_every_video_comes_once_and_again_in_the_same_order():
    stream = Stream(Demand(WORLD, first=10, count=13), LOOK, batch=4)
    batches = list(stream)
    assert [b.clip.shape for b in batches] == [(4, 3, 4, 16, 16)] * 4
    assert batches[-1].valid.tolist() == [True, False, False, False]
    assert keys(stream) == keys(stream) == [f"synthetic/0/val/{i:07d}" for i in range(10, 23)]
    assert len(stream) == 13


def test_two_ranks_share_a_split(monkeypatch):
    demand = Demand(WORLD, count=11)
    whole = keys(Stream(demand, LOOK, batch=3))
    shares = []
    monkeypatch.setattr(dist, "world", lambda: 2)
    monkeypatch.setattr(dist, "sum_over_ranks", lambda x: x)
    for rank in (0, 1):
        monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
        stream = Stream(demand, LOOK, batch=3)
        assert sum(1 for _ in stream) == 2
        shares += keys(stream)
    assert sorted(shares) == whole


def test_a_share_is_held_out_by_video_and_belongs_to_no_other_part():
    parts = {part: set(keys(Stream(Demand(WORLD, count=40, part=part), LOOK, batch=8))) for part in ("train", "select")}
    assert len(parts["select"]) == 4
    assert not parts["train"] & parts["select"]
    assert parts["train"] | parts["select"] == set(keys(Stream(Demand(WORLD, count=40), LOOK, batch=8)))
    other = set(keys(Stream(Demand(WORLD, count=40, part="select"), LOOK, batch=8, seed=1)))
    assert other != parts["select"]


def test_a_part_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"got 10000 videos, expected at least 10005 \(videos 9995 to 10004"):
        Stream(Demand(WORLD, first=9995, count=10), LOOK, batch=2)


@pytest.fixture
def listing(tmp_path):
    """Two pictures, and three files that are none."""
    from PIL import Image

    for i, colour in enumerate(["red", "blue"]):
        Image.new("RGB", (20, 24), colour).save(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "list.csv").write_text("path,label\nbroken.png,b\n0.png,a\nabsent.png,a\nbroken.png,b\n1.png,b\n")
    return {"name": "listing", "path": str(tmp_path / "list.csv")}


def test_files_that_cannot_be_read_keep_their_place_and_are_listed(listing):
    stream = Stream(Demand(listing), LOOK, batch=2)
    batches = list(stream)
    assert [b.valid.tolist() for b in batches] == [[False, True], [False, False], [True, False]]
    assert [bad.reason for bad in stream.skipped] == ["undecodable", "missing", "undecodable"]
    assert stream.classes == ["a", "b"]
    list(stream)
    assert len(stream.skipped) == 3  # of the last iteration alone


def test_views_stand_on_an_axis_of_their_own(listing):
    batch = next(iter(Stream(Demand(listing, first=1, count=1, views=3), LOOK, batch=1)))
    assert batch.clip.shape == (1, 3, 3, 4, 16, 16)


def test_nothing_that_can_be_read_is_an_error(listing):
    with pytest.raises(ValueError, match=r"none of its 1 videos could be read: .*broken.png: undecodable"):
        list(Stream(Demand(listing, count=1), LOOK, batch=2))


def test_workers_give_the_same_batches():
    demand = Demand(WORLD, count=5)
    for a, b in zip(Stream(demand, LOOK, batch=2), Stream(demand, LOOK._replace(workers=2), batch=2), strict=True):
        assert torch.equal(a.clip, b.clip)


def test_the_digest_names_the_split_and_nothing_else():
    digests = [Stream(Demand(WORLD, first=f, count=3), LOOK, batch=b).digest() for f, b in ((0, 1), (0, 2), (1, 1))]
    assert digests[0] == digests[1] != digests[2]
