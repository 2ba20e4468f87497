"""Clips and images advance together, and resume together."""

from __future__ import annotations

import numpy as np
import torch

from vjepa_lab.batch import Sample
from vjepa_lab.data.loader import Augment, Loader
from vjepa_lab.data.paired import PairedLoader
from vjepa_lab.data.skips import Skips


class Numbers:
    augment = False

    def __init__(self, name: str, frames: int) -> None:
        self.name, self.frames = name, frames

    def __len__(self) -> int:
        return 40

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        draw = rng.integers(0, 255, (3, self.frames, 4, 4)).astype(np.uint8)
        return Sample(torch.from_numpy(draw), key=f"{self.name}/{index}")


def make(workers: int = 0) -> PairedLoader:
    skips = Skips(None)

    def part(name: str, frames: int, batch: int, seed: int) -> Loader:
        augment = Augment(size=(4, 4))
        reader = Numbers(name, frames)
        return Loader([reader], [1.0], batch=batch, batches=6, seed=seed, augment=augment, skips=skips, workers=workers)

    return PairedLoader(part("clips", 2, 4, 0), part("images", 1, 7, 1))


def content(batches):
    return [(part.key, part.clip.numpy().tobytes()) for both in batches for part in both]


def test_every_batch_holds_clips_and_images():
    for batch in make():
        assert batch.clips.clip.shape == (4, 3, 2, 4, 4)
        assert batch.images.clip.shape == (7, 3, 1, 4, 4)


def test_a_resumed_pair_goes_on_where_it_stopped_with_any_number_of_workers():
    whole = content(make())
    first = make()
    stream = iter(first)
    head = content(next(stream) for _ in range(2))
    second = make(workers=1)
    second.load_state_dict(first.state_dict())
    assert head + content(second) == whole


def test_the_position_of_a_run_without_images_is_one_to_start_from():
    paired = make()
    paired.load_state_dict({"batches_seen": 2, "samples_seen": 8})
    assert len(list(paired)) == 4
