"""EPIC-KITCHENS-100 for anticipation: the context that ends some time before an action, and what the action is.

    EPIC_100_train.csv      narration_id, participant_id, video_id, start_timestamp, stop_timestamp, verb_class, ...
    P01/videos/P01_01.MP4   or P01/P01_01.MP4

A clip is ``spec.frames`` frames at ``spec.fps`` whose last one is A seconds before a reference time r: frame j from the
end at r - A - j / fps, and the first of the video where that is before it. Evaluation has A = ``seconds`` and r where
the action begins; training draws A and a point p of the action, r = start + p (stop - start).

``Sample.label`` is the number of the action, a pair of verb and noun; ``Sample.truth`` has verb, noun and action
(int64) and ``anticipation``, the A of the clip (float32).

Decisions:
- ``anticipation_point: legacy`` has r = p start + (1 - p) stop, as the released loader computes it (issue 173 of
  facebookresearch/vjepa2): at evaluation that is where the action *ends*. Published numbers may come from either.
- Times and not frame numbers of the CSV are used: recordings have 50 or 59.94 frames per second.
- Actions are numbered by the sorted pairs of verb and noun that occur in ``actions_of``, the training CSV. Rows whose
  pair is not among them are left out, as released, and the log says how many.
- Recordings last up to an hour. No index of them is made; they are read from where the clip begins, by PyAV, and are
  taken to have a constant rate.

Reference: V-JEPA 2 paper, section 6.1; Damen et al. 2022 (the data).
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vjepa_lab.batch import Sample
from vjepa_lab.data.clips import BadSample, ClipSpec, within
from vjepa_lab.data.containers import Unreadable, opened
from vjepa_lab.data.decoders import Decoded, decode_part
from vjepa_lab.data.sources._annotated import expect_file, expect_folder, find_layout, number_of, read_csv
from vjepa_lab.registry import SOURCES

log = logging.getLogger(__name__)

LAYOUTS = ("{participant}/videos/{video}.MP4", "{participant}/{video}.MP4")
COLUMNS = (
    "narration_id",
    "participant_id",
    "video_id",
    "start_timestamp",
    "stop_timestamp",
    "verb_class",
    "noun_class",
)
TIMES = ("start_timestamp", "stop_timestamp")
_VERBS, _NOUNS = 97, 300


@SOURCES.register
@dataclass
class EpicKitchens:
    """EPIC-KITCHENS-100 as its CSV files describe it. See the module's text for what a clip shows."""

    path: str = ""
    "EPIC_100_train.csv or EPIC_100_validation.csv"
    root: str = ""
    "folder of the participants' folders"
    weight: float = 1.0
    "share of the mix"
    actions_of: str = ""
    "the CSV whose pairs of verb and noun are the actions: the training one; default: path"
    seconds: float = 1.0
    "from the last frame of the context to the action, at evaluation"
    anticipation_point: Literal["standard", "legacy"] = "standard"
    "how the reference time is computed"
    train_seconds: tuple[float, float] = (0.25, 1.75)
    "range of that time in training"
    train_point: tuple[float, float] = (0.0, 0.25)
    "range of the point of the action in training, as a share of it"

    def open(self, spec: ClipSpec) -> EpicKitchensReader:
        """Read the CSV files.

        Raises:
            ValueError: a file or the folder is not there, a row cannot be understood, or the clips are to be spread.
        """
        self._check(spec)
        file = expect_file("epic_kitchens", self.path, "EPIC_100_train.csv or another split")
        root = expect_folder("epic_kitchens", self.root, "the folder of the participants' folders")
        segments = _segments(file)
        if not segments:
            raise ValueError(f"epic_kitchens: {file}: got no rows, expected at least one action")
        other = expect_file("epic_kitchens", self.actions_of or file, "the training CSV", "actions_of")
        pairs = sorted({s.pair for s in (segments if other == file else _segments(other))})
        number = {pair: i for i, pair in enumerate(pairs)}
        kept = [s for s in segments if s.pair in number]
        if len(kept) < len(segments):
            log.info(
                "%s: %d of %d rows have an action that %s lacks", file, len(segments) - len(kept), len(segments), other
            )
        if not kept:
            raise ValueError(f"epic_kitchens: {file}: none of its actions is in actions_of ('{other}')")
        where = [{"participant": s.participant, "video": s.video} for s in kept]
        layout = find_layout("epic_kitchens", root, LAYOUTS, where)
        videos = [os.path.join(root, layout.format(**values)) for values in where]
        return EpicKitchensReader(self, spec, kept, videos, number)

    def _check(self, spec: ClipSpec) -> None:
        if spec.fps is None and spec.stride is None:
            raise ValueError("epic_kitchens: got clips spread over the video, expected fps (8, as published) or stride")
        if spec.clips != 1:
            raise ValueError(f"epic_kitchens: got {spec.clips} clips per video, expected 1: there is one context")
        if self.anticipation_point not in ("standard", "legacy"):
            raise ValueError(
                f"epic_kitchens: anticipation_point: got '{self.anticipation_point}', expected standard or legacy"
            )
        ranges = {"train_seconds": self.train_seconds, "train_point": self.train_point}
        for name, (low, high) in ranges.items():
            if not 0 <= low <= high:
                raise ValueError(f"epic_kitchens: {name}: got {low:g} to {high:g}, expected 0 or more, ascending")
        if self.seconds < 0 or self.train_point[1] > 1:
            raise ValueError(
                f"epic_kitchens: got seconds {self.seconds:g} and train_point up to {self.train_point[1]:g}, "
                "expected 0 or more, and at most 1"
            )


class Segment(NamedTuple):
    """A row of the CSV."""

    name: str
    participant: str
    video: str
    start: float
    stop: float
    pair: tuple[int, int]
    "verb and noun"


class EpicKitchensReader:
    """The contexts of a split, one per action."""

    augment = True
    "the loader applies its transform"

    def __init__(
        self,
        config: EpicKitchens,
        spec: ClipSpec,
        segments: list[Segment],
        videos: list[str],
        number: dict[tuple[int, int], int],
    ) -> None:
        self.name = f"epic_kitchens:{os.path.basename(config.path)}"
        self.classes = [f"verb {verb}, noun {noun}" for verb, noun in number]
        self.config = config
        self._spec = spec
        self._names = np.array([s.name for s in segments])
        self._videos = np.array([os.fsencode(video) for video in videos])
        self.recordings = np.unique(self._videos, return_inverse=True)[1]
        "int64 (n,) which recording each action is cut out of"
        self._times = np.array([(s.start, s.stop) for s in segments])
        self.targets = {
            "verb": np.array([s.pair[0] for s in segments]),
            "noun": np.array([s.pair[1] for s in segments]),
            "action": np.array([number[s.pair] for s in segments]),
        }
        "int64 (n,) by name"
        self.counts = {"verb": _VERBS, "noun": _NOUNS, "action": len(number)}
        "classes of each"

    def __len__(self) -> int:
        return len(self._names)

    def key(self, index: int) -> str:
        """File and narration."""
        return f"{os.fsdecode(self._videos[index])}#{self._names[index]}"

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        """The context before action ``index``, its label and truth. Two numbers are drawn, whether used or not.

        Raises:
            BadSample: the recording gives no such clip.
        """
        config, spec = self.config, self._spec
        seconds, point = config.seconds, 0.0
        u, v = rng.random(2)
        if spec.random:
            seconds, point = _between(config.train_seconds, u), _between(config.train_point, v)
        start, stop = self._times[index].tolist()
        last = reference(start, stop, point, config.anticipation_point) - seconds
        read = partial(_read, os.fsdecode(self._videos[index]), last, spec)
        try:
            decoded = within(spec.timeout, read)
        except Unreadable as error:
            raise BadSample(error.reason, self.key(index), error.detail) from None
        targets = {name: int(values[index]) for name, values in self.targets.items()}
        return Sample(
            clip=torch.from_numpy(decoded.frames).permute(3, 0, 1, 2),
            label=targets["action"],
            key=f"{self.key(index)} frames {decoded.ids[0]}-{decoded.ids[-1]}",
            truth={name: torch.tensor(target) for name, target in targets.items()}
            | {"anticipation": torch.tensor(seconds, dtype=torch.float32)},
        )


def reference(start: float, stop: float, point: float, how: str) -> float:
    """The time that is anticipated, in seconds of the recording: ``point`` is a share of the action."""
    return start + point * (stop - start) if how == "standard" else point * start + (1 - point) * stop


def context_ids(last: float, rate: float, spec: ClipSpec) -> NDArray[np.int64]:
    """Frames of a recording of ``rate`` frames per second that end ``last`` seconds into it: int64 (F,), ascending.

    For each time the nearest frame, the earlier of two equally near; the first frame for times before it.
    """
    step = 1 / spec.fps if spec.fps is not None else (spec.stride or 1) / rate
    times = last - step * np.arange(spec.frames - 1, -1, -1)
    return np.maximum(np.ceil(times * rate - 0.5 - 1e-6), 0).astype(np.int64)


def _read(video: str, last: float, spec: ClipSpec) -> Decoded:
    """Only numpy here: it runs in a thread (see ``clips.within``)."""
    if not os.path.isfile(video):
        raise Unreadable("missing", "no such file")
    with opened(video) as (_, (stream, *_others)):
        rate = float(stream.average_rate or stream.guessed_rate or 0)
    if rate <= 0:
        raise Unreadable("undecodable", "the file does not say its frame rate")
    ids = context_ids(last, rate, spec)
    times = np.arange(ids[-1] - ids[0] + 1) / rate
    part = decode_part(video, ids[0] / rate, times, lambda _: ids - ids[0], threads=spec.threads)
    return Decoded(part.frames, ids, ids / rate)


def _between(span: tuple[float, float], share: float) -> float:
    return span[0] + share * (span[1] - span[0])


def _segments(file: str) -> list[Segment]:
    found = []
    for where, row in read_csv("epic_kitchens", file, COLUMNS):
        start, stop = (_seconds(where, name, row[name]) for name in TIMES)
        if stop < start:
            raise ValueError(f"epic_kitchens: {where}: stop_timestamp: got {stop:g} s, before the start at {start:g} s")
        pair = _class(where, "verb_class", row, _VERBS), _class(where, "noun_class", row, _NOUNS)
        found.append(Segment(row["narration_id"], row["participant_id"], row["video_id"], start, stop, pair))
    return found


def _seconds(where: str, name: str, text: str) -> float:
    """Of ``00:01:09.14``."""
    parts = text.split(":")
    if len(parts) != 3:
        raise ValueError(f"epic_kitchens: {where}: {name}: got '{text}', expected hours:minutes:seconds")
    hours, minutes, seconds = (number_of("epic_kitchens", where, name, part) for part in parts)
    return 3600 * hours + 60 * minutes + seconds


def _class(where: str, name: str, row: dict[str, str], count: int) -> int:
    text = row[name]
    if not text.isdecimal() or int(text) >= count:
        raise ValueError(f"epic_kitchens: {where}: {name}: got '{text}', expected a number below {count}")
    return int(text)
