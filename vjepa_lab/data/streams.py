"""What a measurement reads: a split of a source, whole, in one order, the same every time.

A ``Demand`` says which part of which source and what a clip is; ``Look`` says what the driver (a run, or a verb)
decides for all of them: length, size and rate of clips, and how files are read. A ``Stream`` is both together: it can
be iterated again and again and gives the same batches.

Decisions:
- Complete: nothing is dropped at the end and nothing is counted twice under several ranks. Every rank sees equally many
  batches; rows that only fill the last ones have ``valid`` False.
- A file that gives no clip keeps its place with ``valid`` False and is listed in ``skipped``; it is not replaced, so
  that two encoders are measured on the same clips. A split of which nothing can be read is an error.
- A part of a source that is held out for choosing (``part``) is drawn by unit, by a permutation that depends on the
  seed and on the number of units alone. A unit is a video, or an episode with all its cameras; actions that were cut
  out of one recording are one unit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vjepa_lab import dist, robots
from vjepa_lab.batch import ClipBatch, RobotBatch, RobotSample
from vjepa_lab.data.clips import BadSample, ClipSpec
from vjepa_lab.data.loader import collate
from vjepa_lab.data.robot import RobotSpec
from vjepa_lab.data.transforms import eval_views
from vjepa_lab.registry import SOURCES


class Demand(NamedTuple):
    """What a probe wants to see of one split. What is None is as the driver says."""

    source: dict[str, Any]
    "entry of a source: {name: ..., ...}"
    first: int = 0
    "first video (or episode)"
    count: int | None = None
    "how many; None: all that are left"
    part: Literal["all", "train", "select"] = "all"
    "of these: all, or what is left when a share is held out by video, or that share"
    share: float = 0.1
    "share that is held out for choosing"
    frames: int | None = None
    "frames per clip"
    crop: int | None = None
    "pixels per side"
    fps: float | None = None
    "frames per second, by timestamps"
    stride: int | None = None
    "every n-th frame, in place of a rate"
    spread: bool = False
    "frames spread evenly over the whole video, in place of a rate"
    clips: int = 1
    "clips per video, each in the middle of an equal part of it"
    views: int = 1
    "1: the centre of the frame; more: so many crops along its longer side"
    robot: dict[str, Any] | None = None
    "a robot's description: the source gives stretches of episodes, with states and actions"


def fit_select_test(fit: Demand, *, test: dict[str, Any], count: int) -> dict[str, Demand]:
    """What is fitted on, the share of it that is held out for choosing, and what is reported on.

    Args:
        fit: both of the first two.
        test: the source of the last; empty: the videos of the same source that follow.
        count: videos of the last; 0: all that are left.
    """
    behind = 0 if test else fit.count or 0
    reported = fit._replace(source=test or fit.source, first=behind, count=count or None)
    return {"fit": fit._replace(part="train"), "select": fit._replace(part="select"), "test": reported}


def count_problem(fit: int, test: int, *, elsewhere: bool) -> str | None:
    """What is wrong with the numbers of clips of a probe, 0 being all; ``elsewhere``: test is a source of its own."""
    if fit < 0 or test < 0 or (fit == 0 and not elsewhere):
        return (
            f"fit_clips and test_clips: got {fit} and {test}, expected numbers above 0, or 0 for all where test is a "
            "source of its own"
        )
    return None


class Look(NamedTuple):
    """What the driver says for all streams."""

    frames: int
    crop: int
    fps: float | None = 4.0
    stride: int | None = None
    decoder: str = "auto"
    threads: int = 1
    timeout: float = 60.0
    min_frames: int = 1
    workers: int = 0


class Bad(NamedTuple):
    """A video that gave no clip."""

    key: str
    reason: str
    detail: str


class Stream:
    """Batches of one split, on ``device``: ``ClipBatch`` with clips uint8 (B, 3, F, H, W), or (B, V, 3, F, H, W) for
    V = clips * views above 1, clip by clip; ``RobotBatch`` where the demand describes a robot.

    Args:
        demand: what is read.
        look: what the demand leaves open.
        batch: videos per batch on each rank.
        device: where batches go.
        shuffled: a control: the features are to be paired with the targets of other videos (``probes/_extract.py``).
        seed: of the held-out share and of the shuffling.

    Raises:
        ValueError: the source cannot be opened, or has no such part.
    """

    def __init__(
        self,
        demand: Demand,
        look: Look,
        *,
        batch: int,
        device: torch.device | str = "cpu",
        shuffled: bool = False,
        seed: int = 0,
    ) -> None:
        self.demand = demand
        self.batch = batch
        self.device = torch.device(device)
        self.shuffled = shuffled
        self.seed = seed
        self.size = demand.crop or look.crop
        self.workers = look.workers
        self.spec = self._spec(look)
        self.reader = SOURCES.build(demand.source).open(self.spec)
        self.name: str = self.reader.name
        self.classes: list[str] | None = getattr(self.reader, "classes", None)
        "names of the labels, or their numbers; None: unknown"
        self.rows = self._rows()
        self.units = self._units(self.rows)
        "int64 (rows,) which video or episode each row belongs to, from 0"
        self.skipped: list[Bad] = []
        "what could not be read in the last iteration on this rank"
        self.cache: str | None = None
        "folder in which features of this stream may be kept (set by the verb)"

    def __len__(self) -> int:
        """Videos of the split, readable or not."""
        return len(self.rows)

    def key(self, row: int) -> str:
        """Names the video in place ``row`` of the split."""
        key = getattr(self.reader, "key", None)
        index = int(self.rows[row]) * self.demand.clips
        return key(index) if key is not None else f"{self.name}/{index}"

    @property
    def units_of(self) -> Literal["video", "episode"]:
        """What a unit is: the rows of one are not independent."""
        return "episode" if self.demand.robot is not None else "video"

    def digest(self) -> str:
        """Hash of which videos the split holds, in order."""
        text = "\n".join(self.key(row) for row in range(len(self.rows)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __iter__(self) -> Iterator[Any]:
        self.skipped = []
        world, rank = dist.world(), dist.rank()
        rounds = -(-len(self.rows) // (self.batch * world))
        loader = DataLoader(
            _Videos(self.reader, self.rows, self.demand, self.size),
            batch_sampler=_Places(rounds, self.batch, rank, world, len(self.rows)),
            num_workers=self.workers,
            collate_fn=list,
            generator=torch.Generator().manual_seed(self.seed),  # else it would draw a seed from the global numbers
        )
        blank: Any = None
        pending: list[list[Any]] = []
        any_good = False
        for items in loader:
            good = next((sample for sample, _, _ in items if sample is not None), None)
            self.skipped += [bad for _, bad, counted in items if bad is not None and counted]
            any_good = any_good or good is not None
            blank = blank if good is None else good
            if blank is None:
                pending.append(items)
                continue
            for held in (*pending, items):
                yield self._collated(held, blank)
            pending = []
        met = torch.tensor([float(any_good), float(bool(pending))], device=self.device)
        found, stuck = dist.sum_over_ranks(met).tolist()  # every rank raises, or none
        if not found:
            shown = "; ".join(f"{b.key}: {b.reason} ({b.detail})" for b in self.skipped[:3])
            raise ValueError(f"source {self.name}: none of its {len(self.rows)} videos could be read: {shown}")
        if stuck:  # what fills the place of a bad file has the shape of a good one
            raise ValueError(f"source {self.name}: the share of one process holds no file that can be read")

    def _collated(self, items: Sequence[Any], blank: Any) -> ClipBatch | RobotBatch:
        samples = [blank if sample is None else sample for sample, _, _ in items]
        batch = collate(samples, valid=[sample is not None and counted for sample, _, counted in items], truth=True)
        return type(batch)(*(x.to(self.device, non_blocking=True) if isinstance(x, Tensor) else x for x in batch))

    def _rows(self) -> np.ndarray:
        demand, videos = self.demand, len(self.reader) // self.demand.clips
        count = videos - demand.first if demand.count is None else demand.count
        if demand.first < 0 or count < 1 or demand.first + count > videos:
            raise ValueError(
                f"source {self.name}: got {videos} videos, expected at least {demand.first + max(count, 1)} (videos "
                f"{demand.first} to {demand.first + max(count, 1) - 1} were asked for)"
            )
        rows = np.arange(demand.first, demand.first + count)
        if demand.part == "all":
            return rows
        unit = self._units(rows)
        count = int(unit.max()) + 1
        held = max(1, round(demand.share * count))
        if held >= count:
            raise ValueError(
                f"source {self.name}: cannot hold out {held} of {count} {self.units_of}s for choosing; give more"
            )
        key = dist.derive(self.seed, "select", count)
        order = np.random.Generator(np.random.Philox(key=key)).permutation(count)
        return rows[np.isin(unit, order[:held], invert=demand.part == "train")]

    def _units(self, rows: np.ndarray) -> np.ndarray:
        """Units of rows of the source, from 0: so many ``cameras`` show an episode one after the other, or the source
        says what was recorded in one piece (``recordings``)."""
        recordings = getattr(self.reader, "recordings", None)
        unit = rows // getattr(self.reader, "cameras", 1) if recordings is None else recordings[rows]
        return np.unique(unit, return_inverse=True)[1]

    def _spec(self, look: Look) -> ClipSpec | RobotSpec:
        demand = self.demand
        fps, stride = (look.fps, look.stride) if demand.fps is demand.stride is None else (demand.fps, demand.stride)
        frames = demand.frames or look.frames
        if demand.robot is not None:
            return RobotSpec(
                frames=frames,
                height=self.size,
                width=self.size,
                fps=fps,
                robot=robots.of(demand.robot),
                clips=demand.clips,
                random=False,
                crop="centre",
                decoder=look.decoder,
                threads=look.threads,
                timeout=look.timeout,
            )
        return ClipSpec(
            frames=frames,
            height=self.size,
            width=self.size,
            fps=None if demand.spread else fps,
            stride=None if demand.spread else stride,
            clips=demand.clips,
            random=False,
            decoder=look.decoder,
            threads=look.threads,
            timeout=look.timeout,
            min_frames=min(look.min_frames, frames),
        )


class _Videos(Dataset):
    """Place in the split and whether it counts -> (sample or None, why there is none, whether it counts)."""

    def __init__(self, reader: Any, rows: np.ndarray, demand: Demand, size: int) -> None:
        self.reader, self.rows, self.demand, self.size = reader, rows, demand, size

    def __getitem__(self, place: tuple[int, bool]) -> tuple[Any, Bad | None, bool]:
        row, counted = place
        first = int(self.rows[row]) * self.demand.clips
        try:
            samples = [self.reader.read(first + c, np.random.default_rng(0)) for c in range(self.demand.clips)]
        except BadSample as error:
            return None, Bad(error.key, error.reason, error.detail), counted
        if isinstance(samples[0], RobotSample):
            if len(samples) == 1:
                return samples[0], None, counted
            raise ValueError(
                f"source {self.reader.name}: stretches are read one at a time: expected clips=1, got {len(samples)}"
            )
        shown = [self._views(sample.clip) for sample in samples]  # (views, 3, F, H, W) each
        views = torch.cat(shown)
        return samples[0]._replace(clip=views if len(views) > 1 else views[0]), None, counted

    def _views(self, clip: Tensor) -> Tensor:
        if not self.reader.augment:  # made at this size
            if self.demand.views > 1:
                raise ValueError(f"source {self.reader.name}: gives clips of one size, expected views=1")
            return clip[None]
        return eval_views(clip, size=(self.size, self.size), views=self.demand.views)


class _Places(Sampler[list[tuple[int, bool]]]):
    """Places of this rank, batch by batch; past the end the last one again, which does not count."""

    def __init__(self, rounds: int, batch: int, rank: int, world: int, count: int) -> None:
        self.rounds, self.batch, self.rank, self.world, self.count = rounds, batch, rank, world, count

    def __len__(self) -> int:
        return self.rounds

    def __iter__(self) -> Iterator[list[tuple[int, bool]]]:
        for r in range(self.rounds):
            start = (r * self.world + self.rank) * self.batch
            yield [(min(p, self.count - 1), p < self.count) for p in range(start, start + self.batch)]
