"""Clips of a stream's videos drawn at random, epoch by epoch: what heads are trained on when features are not kept.

An epoch is as many whole batches as hold every video once; where they hold more, the next round of all videos begins.
Each round has an order of its own. A clip is at a random time, with a random crop that is the same for all frames and
all segments of the video. All of it is a function of the stream's seed and the number of the epoch.

Decisions. As in the released probes the crop covers 8 to 100 % of the frame and is never flipped (left and right are
classes of some data sets); RandAugment and erasing are left out. A file that cannot be read is replaced by another, as
in pretraining, and counted in ``skips``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from vjepa_lab import dist
from vjepa_lab.batch import ClipBatch, Sample
from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.loader import Augment, Loader
from vjepa_lab.data.skips import Skips
from vjepa_lab.data.streams import Stream
from vjepa_lab.registry import SOURCES

SCALE, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)


class Draws:
    """Batches of random clips, on the stream's device: uint8 (B, 3, F, H, W), or (B, S, 3, F, H, W) for S > 1 clips per
    video.

    Raises:
        ValueError: the stream is of robot episodes.
    """

    def __init__(self, stream: Stream) -> None:
        spec = stream.spec
        if not isinstance(spec, ClipSpec):
            raise ValueError(f"source {stream.name}: gives stretches of episodes, expected clips")
        self.stream = stream
        self.segments = spec.clips
        self.skips = Skips(None)
        self._frames = spec.frames
        reader = SOURCES.build(stream.demand.source).open(spec._replace(random=True))
        self._part = _Part(reader, stream.rows, spec.clips)

    def __len__(self) -> int:
        """Batches per epoch on each rank."""
        return -(-len(self.stream) // (self.stream.batch * dist.world()))

    def epoch(self, number: int) -> Iterator[ClipBatch]:
        """Batches of one epoch."""
        stream, batches = self.stream, len(self)
        loader: Loader[Sample] = Loader(
            [self._part],
            [1.0],
            batch=stream.batch,
            batches=batches,
            seed=dist.derive(stream.seed, "draws"),
            augment=Augment((stream.size, stream.size), scale=SCALE, aspect=ASPECT, flip=False),
            skips=self.skips,
            workers=stream.workers,
            truth=True,
        )
        loader.load_state_dict({"batches_seen": 0, "samples_seen": number * batches * stream.batch * dist.world()})
        arriving = iter(loader)
        for _ in range(batches):
            with torch.random.fork_rng(devices=[]):  # torch's loader draws a seed from the global numbers as it begins
                batch = next(arriving)
            clip = batch.clip.to(stream.device, non_blocking=True)
            if self.segments > 1:
                clip = clip.unflatten(2, (self.segments, self._frames)).transpose(1, 2)
            valid, label = (x.to(stream.device) for x in (batch.valid, batch.label))
            truth = {name: x.to(stream.device) for name, x in batch.truth.items()}
            yield batch._replace(clip=clip, label=label, valid=valid, truth=truth)


class _Part:
    """Some videos of a source; the segments of each one behind the other in time, so that they are cropped alike."""

    def __init__(self, reader: Any, rows: np.ndarray, segments: int) -> None:
        self.name, self.augment = reader.name, reader.augment
        self.reader, self.rows, self.segments = reader, rows, segments

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        first = int(self.rows[index]) * self.segments
        samples = [self.reader.read(first + s, rng) for s in range(self.segments)]
        if self.segments == 1:
            return samples[0]
        return samples[0]._replace(clip=torch.cat([s.clip for s in samples], 1))
