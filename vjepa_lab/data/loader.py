"""Sources -> batches: a weighted mixture, read by worker processes, resumable at any batch by one integer.

Decisions:
- Every source is random access, so the sample of a slot is a function of (seed, slot) and workers hold no state that
  a resume would need. What was read ahead and not used is simply read again. (A sequential tar stream cannot promise
  this once a bad sample shifts it; tars are indexed instead, see sources/shards.py.)
- A bad sample is replaced by another of the same source, chosen by (seed, slot), so weights hold; it is counted, and
  reported by the main process (``skips.py``). A source of which everything is bad ends the run.
- The rank is read when iteration begins, not at construction: Lightning starts processes in between.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, overload

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from vjepa_lab import dist
from vjepa_lab.batch import ClipBatch, RobotBatch, RobotSample, Sample
from vjepa_lab.data.clips import BadSample
from vjepa_lab.data.mixture import Mixture, permute
from vjepa_lab.data.skips import Skip, Skips
from vjepa_lab.data.transforms import train_transform

MOST_TRIES = 1000
"bad samples of one source in a row, with no good one ever read, after which the source is given up"
_LASTING = {"missing", "empty", "no_video", "too_short", "timeout", "mismatched"}


S = TypeVar("S", Sample, RobotSample)
S_co = TypeVar("S_co", bound=Sample | RobotSample, covariant=True)


class Reader(Protocol[S_co]):
    """An opened source: of clips, or of stretches of a robot's episodes (which it crops by itself)."""

    name: str
    augment: bool
    "crop and flip its clips at random"

    def __len__(self) -> int: ...

    def read(self, index: int, rng: np.random.Generator) -> S_co: ...


def sampled(reader: Reader[S_co], count: int, *, key: int) -> list[S_co]:
    """Up to ``count`` samples, spread over the source; what cannot be read is left out, for the stream to count.

    Args:
        key: which ones: a function of it alone, and so equal on all ranks, which all read them.
    """
    rng = np.random.default_rng(key)
    found: list[S_co] = []
    for index in rng.permutation(len(reader))[: 2 * count].tolist():
        if len(found) == count:
            break
        with contextlib.suppress(BadSample):
            found.append(reader.read(index, rng))
    return found


class Augment(NamedTuple):
    """Random crop and flip of a training clip (see ``transforms.train_transform``)."""

    size: tuple[int, int]
    scale: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (0.75, 1.35)
    flip: bool = True
    antialias: bool = False

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        clip = train_transform(
            sample.clip,
            rng,
            size=self.size,
            scale=self.scale,
            aspect=self.aspect,
            flip=self.flip,
            antialias=self.antialias,
        )
        return sample._replace(clip=clip)


class Loader(Generic[S]):
    """Endless training stream of this rank, ``batches`` long: iterate once, from where ``state_dict`` says.

    Args:
        readers: opened sources.
        weights: share of the samples of each.
        batch: clips per batch on this rank.
        batches: batches until the end of the run.
        seed: of order, crops and frames.
        workers: processes that read ahead; 0 reads here.
        augment: random crop and flip for the sources that ask for it; those of robots never do.
        skips: collects what could not be read.
        truth: keep what samples tell beside their label, which all of them then must.
    """

    def __init__(
        self,
        readers: Sequence[Reader[S]],
        weights: Sequence[float],
        *,
        batch: int,
        batches: int,
        seed: int,
        augment: Augment | None = None,
        skips: Skips,
        workers: int = 0,
        pin_memory: bool = False,
        truth: bool = False,
    ) -> None:
        self.slots = _Slots(readers, weights, seed, augment)
        self.batch = batch
        self.batches = batches
        self.workers = workers
        self.pin_memory = pin_memory
        self.skips = skips
        self.truth = truth
        self.batches_seen = 0
        self.samples_seen = 0
        self.waited = 0.0
        "seconds that the training loop has waited for data since the start"

    def __len__(self) -> int:
        return self.batches

    def state_dict(self) -> dict[str, int]:
        return {"batches_seen": self.batches_seen, "samples_seen": self.samples_seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batches_seen = state["batches_seen"]
        self.samples_seen = state["samples_seen"]

    @overload
    def __iter__(self: Loader[Sample]) -> Iterator[ClipBatch]: ...

    @overload
    def __iter__(self: Loader[RobotSample]) -> Iterator[RobotBatch]: ...

    def __iter__(self) -> Iterator[ClipBatch] | Iterator[RobotBatch]:
        world, rank = dist.world(), dist.rank()
        share = _Share(self.samples_seen, self.batches - self.batches_seen, self.batch, rank, world)
        inner = DataLoader(
            self.slots,
            batch_sampler=share,
            num_workers=self.workers,
            collate_fn=partial(_collate, truth=self.truth),
            pin_memory=self.pin_memory,
            prefetch_factor=2 if self.workers else None,
            worker_init_fn=_stand_aside,
        )
        iterator = iter(inner)
        while True:
            start = time.perf_counter()
            batch, skipped, failure = next(iterator, (None, [], None))
            self.waited += time.perf_counter() - start
            self.skips.add(skipped)
            if failure is not None:
                del iterator, inner  # ends the workers now; the traceback would keep them
                raise ValueError(f"{failure}\n{self.skips.report()}")
            if batch is None:
                return
            self.batches_seen += 1
            self.samples_seen += self.batch * world
            yield batch


class _Slots(Dataset):
    """Slot number -> (sample, what was skipped on the way, or why the source is given up)."""

    def __init__(
        self, readers: Sequence[Reader[Any]], weights: Sequence[float], seed: int, augment: Augment | None
    ) -> None:
        assert augment is not None or not any(reader.augment for reader in readers)
        self.readers = list(readers)
        self.mixture = Mixture(weights, seed)
        self.seed = seed
        self.augment = augment
        # Bad samples this process has met for reasons that hold for every draw, so that a second draw costs nothing (a
        # damaged file may still have good frames elsewhere: it is tried again); and whether any was good.
        self._bad: list[dict[int, Skip]] = [{} for _ in readers]
        self._any_good = [False for _ in readers]

    def __getitem__(self, slot: int) -> tuple[Any, list[Skip], str | None]:
        source, count = self.mixture.locate(slot)
        reader, bad = self.readers[source], self._bad[source]
        epoch, position = divmod(count, len(reader))
        first = self._order(reader, source, epoch, position)
        stride = _coprime_stride(len(reader), dist.derive(self.seed, "retry", slot))
        skipped: list[Skip] = []
        for attempt in range(len(reader)):
            index = (first + attempt * stride) % len(reader)
            rng = np.random.Generator(np.random.Philox(key=dist.derive(self.seed, "slot", slot, attempt)))
            if index not in bad:
                try:
                    sample = reader.read(index, rng)
                    self._any_good[source] = True
                    return (self.augment(sample, rng) if self.augment and reader.augment else sample), skipped, None
                except BadSample as error:
                    skip = Skip(reader.name, error.key, error.reason, error.detail)
                    if error.reason in _LASTING:
                        bad[index] = skip
                except ValueError as error:  # a mistake in what was asked: told as it is, without a worker's traceback
                    return None, skipped, f"source {reader.name}: {error}"
            else:
                skip = bad[index]
            skipped.append(skip)
            if attempt + 1 >= MOST_TRIES and not self._any_good[source]:
                break
        tried = len(skipped)
        every = "all" if tried == len(reader) else "the first"
        return None, skipped, f"source {reader.name}: {every} {tried} samples that were tried are bad"

    def _order(self, reader: Reader, source: int, epoch: int, position: int) -> int:
        key = dist.derive(self.seed, "order", source, epoch)
        own = getattr(reader, "order", None)
        return own(key, position) if own is not None else permute(position, len(reader), key)


class _Share(Sampler[list[int]]):
    """Slots of this rank, batch by batch."""

    def __init__(self, first: int, batches: int, batch: int, rank: int, world: int) -> None:
        self.first, self.batches, self.batch, self.rank, self.world = first, batches, batch, rank, world

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        for b in range(self.batches):
            start = self.first + (b * self.world + self.rank) * self.batch
            yield list(range(start, start + self.batch))


@overload
def collate(samples: Sequence[Sample], *, valid: Sequence[bool] | None = ..., truth: bool = ...) -> ClipBatch: ...


@overload
def collate(samples: Sequence[RobotSample], *, valid: Sequence[bool] | None = ..., truth: bool = ...) -> RobotBatch: ...


def collate(
    samples: Sequence[Any], *, valid: Sequence[bool] | None = None, truth: bool = False
) -> ClipBatch | RobotBatch:
    """Stack samples into a batch; ``truth`` keeps the exact state that simulated clips carry."""
    whole = torch.ones(len(samples), dtype=torch.bool) if valid is None else torch.tensor(valid)
    if isinstance(samples[0], RobotSample):
        return RobotBatch(
            frames=torch.stack([s.frames for s in samples]),
            states=torch.stack([s.states for s in samples]),
            actions=torch.stack([s.actions for s in samples]),
            extrinsics=torch.stack([s.extrinsics for s in samples]),
            valid=whole,
            key=[s.key for s in samples],
            features=None if samples[0].features is None else torch.stack([s.features for s in samples]),
        )
    facts = {name: torch.stack([s.truth[name] for s in samples]) for name in samples[0].truth} if truth else {}
    return ClipBatch(
        clip=torch.stack([s.clip for s in samples]),
        label=torch.tensor([s.label for s in samples]),
        event=torch.tensor([s.event for s in samples], dtype=torch.float32),
        valid=whole,
        key=[s.key for s in samples],
        truth=facts,
    )


def _stand_aside(_worker: int) -> None:
    """Leave stop signals to the training process: one that is sent to a whole process group (Ctrl-C, ``kill`` of a
    group, some clusters) would end the workers, and with them the run, before it has written its checkpoint."""
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _collate(items: list[Any], *, truth: bool) -> tuple[Any, list[Skip], str | None]:
    skipped = [skip for _, skips, _ in items for skip in skips]
    failure = next((failure for _, _, failure in items if failure is not None), None)
    return (None if failure else collate([sample for sample, _, _ in items], truth=truth)), skipped, failure


def _coprime_stride(size: int, key: int) -> int:
    """A step that visits every index of ``range(size)``."""
    if size <= 2:
        return 1
    stride = 1 + key % (size - 1)
    while np.gcd(stride, size) != 1:
        stride = 1 + stride % (size - 1)
    return stride
