"""The stream of a run: exact under resume, ranks and workers; bad samples are replaced, counted and reported."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vjepa_lab import dist
from vjepa_lab.batch import Sample
from vjepa_lab.data.clips import BadSample
from vjepa_lab.data.loader import Augment, Loader
from vjepa_lab.data.skips import Skips
from vjepa_lab.data.streams import Demand, Look, Stream
from vjepa_lab.registry import SOURCES


class Numbers:
    """A source whose clip ``i`` is filled with random bytes from the draw; ``bad`` indices cannot be read."""

    augment = False

    def __init__(self, name="numbers", size=50, bad=()):
        self.name, self.size, self.bad = name, size, set(bad)

    def __len__(self):
        return self.size

    def key(self, index):
        return f"{self.name}/{index}"

    def read(self, index, rng):
        if index in self.bad:
            raise BadSample("undecodable", self.key(index), "on purpose")
        draw = rng.integers(0, 255, (3, 2, 4, 4)).astype(np.uint8)
        return Sample(torch.from_numpy(draw), label=index, key=self.key(index), truth={"i": torch.tensor(index)})


def make(readers=None, weights=None, *, batch=4, batches=12, seed=0, workers=0, folder=None, augment=None):
    readers = readers or [Numbers()]
    return Loader(
        readers,
        weights or [1.0] * len(readers),
        batch=batch,
        batches=batches,
        seed=seed,
        augment=augment or Augment(size=(4, 4)),
        skips=Skips(folder),
        workers=workers,
    )


def content(batches):
    return [(b.key, b.clip.numpy().tobytes()) for b in batches]


def test_the_stream_is_the_same_with_any_number_of_workers():
    plain = content(make())
    assert content(make(workers=2)) == plain
    assert content(make(workers=3)) == plain
    assert content(make(seed=1)) != plain


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("seen", [1, 5, 11])
def test_a_resumed_stream_goes_on_where_it_stopped(workers, seen):
    whole = content(make())
    first = make(workers=workers)
    iterator = iter(first)
    for _ in range(seen):
        next(iterator)
    second = make(workers=workers)
    second.load_state_dict(first.state_dict())
    assert content(second) == whole[seen:]


def ranks(monkeypatch, world, **options):
    """What each of ``world`` ranks yields."""
    for rank in range(world):
        monkeypatch.setattr(dist, "world", lambda: world)
        monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
        yield list(make(**options))
    monkeypatch.undo()


def test_ranks_split_the_global_batch_and_never_draw_the_same(monkeypatch):
    whole = list(make(batch=8, batches=6))
    split = list(ranks(monkeypatch, 2, batch=4, batches=6))
    for b, one in enumerate(whole):
        assert one.key == split[0][b].key + split[1][b].key
        assert torch.equal(one.clip, torch.cat([split[0][b].clip, split[1][b].clip]))
    keys = [k for batch in whole for k in batch.key]
    assert len(set(keys)) == 48  # of 50 in the first pass: nothing twice


def test_a_pass_shows_every_sample_once():
    keys = [k for batch in make(batch=5, batches=20) for k in batch.key]
    assert sorted(keys[:50]) == sorted(keys[50:]) == sorted(f"numbers/{i}" for i in range(50))
    assert keys[:50] != keys[50:]


def test_bad_samples_are_replaced_counted_and_written_down_once(tmp_path):
    bad = {3, 7, 11}
    loader = make([Numbers(bad=bad)], batch=5, batches=20, folder=tmp_path)
    keys = [k for batch in loader for k in batch.key]
    assert len(keys) == 100
    assert not {f"numbers/{i}" for i in bad} & set(keys)
    assert {f"numbers/{i}" for i in range(50) if i not in bad} == set(keys)
    assert loader.skips.by_reason()["undecodable"] >= 6
    rows = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()]
    assert {(r["key"], r["reason"], r["detail"]) for r in rows} == {
        (f"numbers/{i}", "undecodable", "on purpose") for i in bad
    }
    assert len(rows) == 3
    assert "undecodable" in loader.skips.report()


def test_bad_samples_do_not_move_the_stream_or_its_resume():
    readers = [Numbers(bad={1, 2, 3, 4, 5, 6, 7, 8})]
    whole = content(make(readers))
    second = make(readers)
    second.load_state_dict({"batches_seen": 7, "samples_seen": 28})
    assert content(second) == whole[7:]
    clean = make()
    same = [a for a, b in zip(make(readers), clean, strict=True) for k, c in zip(a.key, b.key, strict=True) if k == c]
    assert len(same) > 30  # only the slots of bad samples changed


@pytest.mark.parametrize("workers", [0, 2])
def test_a_source_of_which_everything_is_bad_stops_with_its_name_and_reasons(tmp_path, workers):
    readers = [Numbers("good"), Numbers("broken", size=6, bad=range(6))]
    with pytest.raises(ValueError, match=r"broken: all 6 samples") as caught:
        list(make(readers, workers=workers, folder=tmp_path))
    assert "undecodable" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert len((tmp_path / "bad_samples.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mistake_that_shows_only_in_reading_is_told_without_a_traceback(workers):
    class Mistaken(Numbers):
        def read(self, index, rng):
            raise ValueError("decoder: no such thing")

    with pytest.raises(ValueError, match="source numbers: decoder: no such thing") as caught:
        list(make([Mistaken()], workers=workers))
    assert "Traceback" not in str(caught.value)


def test_replacements_come_from_the_same_source():
    readers = [Numbers("a", bad=range(40)), Numbers("b")]
    keys = [k for batch in make(readers, [0.5, 0.5], batch=32, batches=16) for k in batch.key]
    share = sum(k.startswith("a/") for k in keys) / 512  # drawn without replacement from blocks that hold a half
    assert abs(share - 0.5) < 4 * 0.5 / 512**0.5


def test_augmentation_is_drawn_per_slot_for_sources_that_ask_for_it():
    reader = Numbers(size=1)
    reader.augment = True
    clips = [b.clip for b in make([reader], batch=2, batches=3, augment=Augment(size=(2, 2)))]
    assert clips[0].shape == (2, 3, 2, 2, 2)
    assert not torch.equal(clips[0][0], clips[0][1])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_an_evaluation_sees_every_clip_once_over_all_ranks(monkeypatch, world):
    monkeypatch.setattr(SOURCES, "build", lambda entry: SimpleNamespace(open=lambda spec: Numbers()))
    monkeypatch.setattr(dist, "sum_over_ranks", lambda x: x)
    seen = []
    for rank in range(world):
        monkeypatch.setattr(dist, "world", lambda: world)
        monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
        batches = list(Stream(Demand({}, first=10, count=13), Look(frames=1, crop=2), batch=4))
        assert len(batches) == -(-13 // (4 * world))
        seen += [int(i) for b in batches for i in b.truth["i"][b.valid]]
    assert sorted(seen) == list(range(10, 23))
