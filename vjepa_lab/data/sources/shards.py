"""Shards: webdataset tars, read at random places instead of streamed.

A sample is a run of tar members with one base name: a video or picture, and optionally its label as ``cls`` (an
integer), ``json`` ({"label", "event", "start", "end"}) or, where ``classes`` is given, ``txt`` (a class name). The byte
range of every sample is known (``data/tars.py``), so a sample is one ranged read of a local or remote file. Samples can
therefore be numbered, a bad one does not shift the others, and a run resumes from an integer; webdataset's own stream
gives none of this.

Order of an epoch: the shards are permuted, and the samples of each ``shuffle_shards`` successive shards are shuffled
together. Reads stay within a few files at a time, each sample is drawn exactly once, and its place is computed
(``order``) rather than stored.
"""

from __future__ import annotations

import json
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vjepa_lab.batch import Sample
from vjepa_lab.data import tars
from vjepa_lab.data.clips import BadSample, ClipSpec, read_clip, within
from vjepa_lab.data.containers import IMAGES, VIDEOS, Unreadable
from vjepa_lab.data.mixture import permute
from vjepa_lab.data.sources.listing import bounds, class_names
from vjepa_lab.dist import derive
from vjepa_lab.registry import SOURCES

log = logging.getLogger(__name__)


@SOURCES.register
@dataclass
class Shards:
    """Tars in webdataset's layout."""

    urls: Any = ""
    "a path or URL, or a list of them; braces ({000..099}) and globs are expanded"
    weight: float = 1.0
    "share of the mix"
    shuffle_shards: int = 8
    "how many shards are shuffled together"
    classes: str = ""
    "file with one class name per line, where labels are names"

    def open(self, spec: ClipSpec) -> ShardsReader:
        """Find the tars and read or make their indices.

        Raises:
            ValueError: a forbidden or missing URL, or a tar without a sample.
        """
        if self.shuffle_shards < 1:
            raise ValueError(f"shards: shuffle_shards: got {self.shuffle_shards}, expected at least 1")
        given = [self.urls] if isinstance(self.urls, str) else list(self.urls)
        if not given or not all(isinstance(u, str) and u for u in given):
            raise ValueError(f"shards: urls: got {self.urls!r}, expected a path or URL, or a list of them")
        urls = [url for entry in given for url in tars.expand(entry)]
        with ThreadPoolExecutor(16) as pool:
            indices = list(pool.map(tars.index, urls))
        for url, found in zip(urls, indices, strict=True):
            state = f"damaged or cut short at byte {found.damaged_at}" if found.damaged_at >= 0 else "whole"
            if not len(found.ranges):
                raise ValueError(
                    f"shards: {tars.shown(url)}: got a tar with {found.members} files ({state}) and no video or "
                    f"picture that could be used, expected members such as 000.mp4 and 000.cls"
                )
            if found.damaged_at >= 0:
                log.warning("%s is %s; the %d samples before are used", tars.shown(url), state, len(found.ranges))
        names = class_names(self.classes) if self.classes else None
        return ShardsReader(urls, indices, spec, names, self.shuffle_shards)


class ShardsReader:
    """Random access to the clips of tars: index // clips is the sample, index % clips the clip of its video."""

    augment = True
    "the loader applies its transform"

    def __init__(
        self, urls: list[str], indices: list[tars.Index], spec: ClipSpec, classes: list[str] | None, shuffle_shards: int
    ) -> None:
        self.name = f"shards:{tars.shown(urls[0]).rpartition('/')[2]}"
        self.classes = classes
        self.damaged = sum(i.damaged_at >= 0 for i in indices)
        "how many of the tars are damaged"
        self._urls = urls
        self._spec = spec
        self._group = shuffle_shards
        self._numbers = {name: number for number, name in enumerate(classes or [])}
        self._ranges = np.concatenate([i.ranges for i in indices])
        self._starts = np.concatenate([[0], np.cumsum([len(i.ranges) for i in indices])])
        self._files = tars.Files()
        self._shuffled: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self._ranges) * self._spec.clips

    def key(self, index: int) -> str:
        """Names the clip in reports: tar, number of the sample in it, and clip if a video has several."""
        sample, clip = divmod(index, self._spec.clips)
        shard = int(np.searchsorted(self._starts, sample, side="right")) - 1
        key = f"{tars.shown(self._urls[shard])}#{sample - int(self._starts[shard])}"
        return f"{key}#{clip}" if self._spec.clips > 1 else key

    def order(self, key: int, position: int) -> int:
        """Index at ``position`` of the epoch that ``key`` names: a permutation of ``range(len(self))``."""
        if self._shuffled is None or self._shuffled[0] != key:
            shards = np.array([permute(i, len(self._urls), key) for i in range(len(self._urls))])
            sizes = np.diff(self._starts)[shards] * self._spec.clips
            self._shuffled = key, shards, np.concatenate([[0], np.cumsum(sizes)])
        _, shards, places = self._shuffled
        group = (int(np.searchsorted(places, position, side="right")) - 1) // self._group * self._group
        low, high = int(places[group]), int(places[min(group + self._group, len(shards))])
        place = low + permute(position - low, high - low, derive(key, group))
        shard = int(np.searchsorted(places, place, side="right")) - 1
        return int(self._starts[shards[shard]]) * self._spec.clips + place - int(places[shard])

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        """Clip uint8 (3, F, h, w) at the resolution of the video, its label and event.

        Raises:
            BadSample: the sample cannot be read or decoded.
            ValueError: its label cannot be understood.
        """
        key = self.key(index)
        try:
            base, members = within(self._spec.timeout, partial(self.fetch, index))
        except Unreadable as error:
            raise BadSample(error.reason, key, error.detail) from None
        key, number = f"{key} {base}", index % self._spec.clips
        media = next(content for ext, content in members.items() if ext in VIDEOS + IMAGES)
        label, event, segment = self._facts(members, key)
        clip = read_clip(media, self._spec, rng, number, key, segment=segment)
        return Sample(
            clip=clip.frames.permute(3, 0, 1, 2),
            label=label,
            event=event - clip.start,
            key=f"{key} frames {clip.ids[0]}-{clip.ids[-1]}",
        )

    def fetch(self, index: int) -> tuple[str, dict[str, bytes]]:
        """Base name of the sample of an index, and the contents of its members by extension.

        Raises:
            Unreadable: the tar is missing, or has changed since its index was made.
        """
        sample = index // self._spec.clips
        shard = int(np.searchsorted(self._starts, sample, side="right")) - 1
        start, end = (int(x) for x in self._ranges[sample])
        return tars.members(self._files.read(self._urls[shard], start, end))

    def _facts(self, members: dict[str, bytes], key: str) -> tuple[int, float, tuple[float, float]]:
        """Label, event and segment of a sample."""
        facts: dict[str, Any] = {}
        if "json" in members:
            try:
                facts = json.loads(members["json"])
            except ValueError:
                facts = {"": None}
            if not isinstance(facts, dict) or "" in facts:
                raise ValueError(f"{key}: json: got {members['json'][:80]!r}, expected an object")
        label: Any = facts.get("label")
        if "cls" in members:
            label = members["cls"].decode("utf-8", "replace").strip()
        elif "txt" in members and label is None and self.classes is not None:
            label = members["txt"].decode("utf-8", "replace").strip()
        times = []
        for name in ("event", "start", "end"):
            value = facts.get(name)
            if value is not None and not isinstance(value, (int, float)):
                raise ValueError(f"{key}: {name}: got {value!r}, expected seconds")
            times.append(math.nan if value is None else float(value))
        return self._label(label, key), times[0], bounds(times[1], times[2])

    def _label(self, label: Any, key: str) -> int:
        if label is None:
            return -1
        text = str(label)
        if text in self._numbers:
            return self._numbers[text]
        if not text.isdecimal() or (self._numbers and int(text) >= len(self._numbers)):
            expected = (
                f"one of the {len(self._numbers)} classes" if self._numbers else "an integer; names need `classes`"
            )
            raise ValueError(f"{key}: label: got '{label}', expected {expected}")
        return int(text)
