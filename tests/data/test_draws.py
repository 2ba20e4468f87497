"""Random clips of a split: every video once, nothing that is held out, the same again for the same epoch."""

import numpy as np
import pytest
import torch
from PIL import Image

from vjepa_lab.data.draws import Draws
from vjepa_lab.data.streams import Demand, Look, Stream

LOOK = Look(frames=2, crop=16)


@pytest.fixture
def listing(tmp_path):
    """Twelve pictures, each brighter than the last and with a gradient, so that crops differ."""
    for i in range(12):
        picture = np.full((40, 60, 3), 10 * i, np.uint8) + np.arange(60, dtype=np.uint8)[None, :, None]
        Image.fromarray(picture).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "all.csv").write_text("path,label\n" + "".join(f"{i:02d}.png,{i}\n" for i in range(12)))
    return {"name": "listing", "path": str(tmp_path / "all.csv")}


def labels(batches):
    return [i for batch in batches for i in batch.label.tolist()]


def test_every_video_comes_once_an_epoch_in_another_order_and_the_same_again(listing):
    draws = Draws(Stream(Demand(listing), LOOK, batch=4))
    assert len(draws) == 3
    first, second, again = (list(draws.epoch(e)) for e in (0, 1, 0))
    assert sorted(labels(first)) == sorted(labels(second)) == list(range(12))
    assert labels(first) == labels(again) != labels(second)
    assert all(torch.equal(a.clip, b.clip) for a, b in zip(first, again, strict=True))
    shown = {label: clip for batch in first for label, clip in zip(batch.label.tolist(), batch.clip, strict=True)}
    other = {label: clip for batch in second for label, clip in zip(batch.label.tolist(), batch.clip, strict=True)}
    assert shown[0].shape == (3, 2, 16, 16)
    assert sum(not torch.equal(shown[i], other[i]) for i in range(12)) >= 10  # other crops


def test_what_is_held_out_is_never_drawn(listing):
    demand = Demand(listing, share=0.25)
    held = labels(Stream(demand._replace(part="select"), LOOK, batch=4))
    draws = Draws(Stream(demand._replace(part="train"), LOOK, batch=3))
    assert len(set(held[:3])) == 3
    assert not set(held[:3]) & set(labels(batch for e in range(4) for batch in draws.epoch(e)))


def test_segments_of_a_video_are_cropped_alike(listing):
    draws = Draws(Stream(Demand(listing, clips=2), LOOK, batch=4))
    batch = next(draws.epoch(0))
    assert batch.clip.shape == (4, 2, 3, 2, 16, 16)
    assert torch.equal(batch.clip[:, 0], batch.clip[:, 1])  # a picture is the same at all times


def test_a_file_that_cannot_be_read_is_replaced_and_counted(listing, tmp_path):
    (tmp_path / "05.png").write_bytes(b"no picture")
    draws = Draws(Stream(Demand(listing), LOOK, batch=4))
    assert 5 not in labels(draws.epoch(0))
    assert sum(draws.skips.by_reason().values()) == 1


def test_what_a_source_tells_of_a_clip_comes_along_and_the_callers_random_state_stays():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draws = Draws(Stream(Demand({"name": "synthetic", "split": "val"}, count=4), LOOK, batch=4))
    (batch,) = draws.epoch(0)
    assert batch.truth["position"].shape[:2] == (4, 2)
    assert torch.equal(torch.get_rng_state(), before)
