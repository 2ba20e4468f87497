"""Reading the clips of a listing, each exactly once, in batches that depend on the listing alone.

Clips are those of an evaluation: no random crop, start or flip. Windows of whole videos are counted first, from the
headers of the files, and then read one by one. The place of a clip that cannot be read stays in its batch, empty.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vjepa_lab.curation.store import Bad
from vjepa_lab.data.clips import BadSample, ClipSpec, Segment, read_clip
from vjepa_lab.data.sources.listing import ListingReader, bounds
from vjepa_lab.data.transforms import eval_views
from vjepa_lab.data.windows import count_frames, read_window


class Item(NamedTuple):
    """One clip to read."""

    video: int
    "row of the listing"
    clip: int
    "which of its clips or windows"
    first: int = -1
    "frame at which a window begins; -1: a clip"
    bad: Bad | None = None
    "known to be unreadable"


class Batch(NamedTuple):
    """Clips that go through the encoder together."""

    shard: int
    items: list[Item]
    last: bool
    "of its shard"


class Read(NamedTuple):
    """A batch as the loader gives it; zeros stand for what is bad."""

    clips: Tensor
    "uint8 (B, V, 3, F, H, W)"
    starts: list[float]
    "(B,) seconds"
    bad: list[Bad | None]
    failure: str | None
    "a mistake in what was asked: ends the run"


class Plan(Sampler[list[Item]]):
    """What to read, batch by batch and shard by shard; a batch does not reach into the next shard.

    Args:
        rows: rows of the listing of each shard.
        windows: for each row the frames at which its windows begin, or why there are none; None: clips.
        clips: clips per video.
        batch: clips per batch.
    """

    def __init__(
        self,
        rows: Mapping[int, range],
        windows: Mapping[int, tuple[int, ...] | Bad] | None = None,
        *,
        clips: int,
        batch: int,
    ) -> None:
        self.rows, self.windows, self.clips, self.batch = rows, windows, clips, batch

    def __iter__(self) -> Iterator[list[Item]]:
        return (batch.items for batch in self.batches())

    def batches(self) -> Iterator[Batch]:
        for shard, rows in self.rows.items():
            items = [item for row in rows for item in self._items(row)]
            for at in range(0, len(items), self.batch):
                yield Batch(shard, items[at : at + self.batch], at + self.batch >= len(items))

    def total(self) -> int:
        """Clips of all shards."""
        if self.windows is None:
            return self.clips * sum(map(len, self.rows.values()))
        return sum(1 if isinstance(starts, Bad) else len(starts) for starts in self.windows.values())

    def _items(self, row: int) -> list[Item]:
        if self.windows is None:
            return [Item(row, clip) for clip in range(self.clips)]
        starts = self.windows[row]
        if isinstance(starts, Bad):
            return [Item(row, 0, bad=starts)]
        return [Item(row, number, first) for number, first in enumerate(starts)]


def read_clips(
    reader: ListingReader, spec: ClipSpec, plan: Plan, *, views: int, workers: int, pin_memory: bool = False
) -> DataLoader[Any]:
    """An iterable of ``Read``, one for each batch of the plan."""
    return DataLoader(
        _Clips(reader, spec, views),
        batch_sampler=plan,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_leave_signals,
        pin_memory=pin_memory,
    )


def count_all(reader: ListingReader, spec: ClipSpec, rows: list[int], *, workers: int) -> Iterator[int | Bad]:
    """For each row how many frames of a clip its video gives, or why it gives none; reads no pixels."""
    counts = DataLoader(
        _Counts(reader, spec, rows),
        batch_size=16,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=_leave_signals,
    )
    for group in counts:
        yield from group


class _Clips(Dataset[Read]):
    """Item -> a ``Read`` of one clip."""

    def __init__(self, reader: ListingReader, spec: ClipSpec, views: int) -> None:
        self.reader, self.spec, self.views = reader, spec, views

    def __getitem__(self, item: Item) -> Read:
        if item.bad is not None:
            return self._nothing(item.bad)
        path, segment = self.reader.path(item.video), _segment(self.reader, item.video)
        try:
            if item.first >= 0:
                clip = read_window(path, self.spec, item.first, segment=segment)
            else:
                clip = read_clip(path, self.spec, np.random.default_rng(0), item.clip, segment=segment)
        except BadSample as error:
            return self._nothing(Bad(item.video, item.clip, error.reason, error.detail))
        except ValueError as error:  # told as it is, without a worker's traceback
            return self._nothing(None)._replace(failure=str(error))
        size = (self.spec.height, self.spec.width)
        views = eval_views(clip.frames.permute(3, 0, 1, 2), size=size, views=self.views)
        return Read(views, [clip.start], [None], None)

    def _nothing(self, bad: Bad | None) -> Read:
        spec = self.spec
        blank = torch.zeros(self.views, 3, spec.frames, spec.height, spec.width, dtype=torch.uint8)
        return Read(blank, [0.0], [bad], None)


class _Counts(Dataset[Any]):
    """Index into ``rows`` -> number of frames, or why there are none."""

    def __init__(self, reader: ListingReader, spec: ClipSpec, rows: list[int]) -> None:
        self.reader, self.spec, self.rows = reader, spec, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> int | Bad:
        row = self.rows[index]
        try:
            return count_frames(self.reader.path(row), self.spec, segment=_segment(self.reader, row))
        except BadSample as error:
            return Bad(row, 0, error.reason, error.detail)


def _collate(reads: list[Read]) -> Read:
    return Read(
        torch.stack([read.clips for read in reads]),
        [start for read in reads for start in read.starts],
        [bad for read in reads for bad in read.bad],
        next((read.failure for read in reads if read.failure is not None), None),
    )


def _leave_signals(_worker: int) -> None:
    """Ctrl-C is for the main process, which ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _segment(reader: ListingReader, row: int) -> Segment:
    times = {name: float(values[row]) for name, values in reader.table.times.items()}
    return bounds(times.get("start", float("nan")), times.get("end", float("nan")))
