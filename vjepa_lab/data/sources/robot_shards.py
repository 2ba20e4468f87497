"""Robot episodes in webdataset tars, as ``tools/droid_to_shards.py`` writes them: small, and read in one piece.

A sample is one camera of one episode:

    <key>.mp4       T frames
    <key>.npz       states (T, S), and extrinsics (T, 6) where they are known
    <key>.json      rate (steps per second) and robot (``Robot.to_plain``)

Tars are found, indexed and shuffled as those of videos are (``sources/shards.py``).
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.containers import Unreadable
from vjepa_lab.data.decoders import decode
from vjepa_lab.data.episodes import Array, Episode, EpisodeReader
from vjepa_lab.data.robot import RobotSpec, expect
from vjepa_lab.data.sources.shards import Shards, ShardsReader
from vjepa_lab.registry import SOURCES
from vjepa_lab.robots import Robot

MOST_TRIES = 16
"samples that may be broken before the first good one"


@SOURCES.register
@dataclass
class RobotShards:
    """Tars of robot episodes."""

    urls: Any = ""
    "a path or URL, or a list of them; braces ({000..099}) and globs are expanded"
    weight: float = 1.0
    "share of the mix"
    shuffle_shards: int = 8
    "how many shards are shuffled together"

    def open(self, spec: RobotSpec) -> RobotShardsReader:
        """Find the tars, read or make their indices, and read the first good sample.

        Raises:
            ValueError: a forbidden or missing URL, a tar without a sample, or one of other things than episodes.
        """
        expect(spec, "robot_shards")
        policy = ClipSpec(frames=spec.frames, height=spec.height, width=spec.width, fps=spec.fps, stride=None)
        tars = Shards(urls=self.urls, shuffle_shards=self.shuffle_shards).open(policy)
        return RobotShardsReader(TarEpisodes(tars, spec), spec)


class Members(NamedTuple):
    """What the files of a sample hold."""

    video: bytes
    states: Array
    extrinsics: Array | None
    rate: float
    robot: Robot


class TarEpisodes:
    """Episodes of some tars; all are of the robot and the rate of the first that can be read."""

    cameras = 1
    "a sample is one camera, and nothing says which others show the same episode: pack one for measurements"

    def __init__(self, tars: ShardsReader, spec: RobotSpec) -> None:
        self.name = f"robot_{tars.name}"
        self._tars = tars
        self._spec = spec
        first = _first_good(tars)
        self.robot = first.robot
        self.rate = first.rate

    def __len__(self) -> int:
        return len(self._tars)

    def key(self, index: int) -> str:
        """Tar and number of the sample in it."""
        return self._tars.key(index)

    def order(self, key: int, position: int) -> int:
        """Samples of a few tars at a time: see ``ShardsReader.order``."""
        return self._tars.order(key, position)

    def load(self, index: int) -> Episode:
        """One camera of one episode."""
        found = unpack(self._tars.fetch(index)[1])
        if found.robot != self.robot or found.rate != self.rate:
            raise Unreadable("mismatched", f"robot '{found.robot.name}' at {found.rate:g} per second, unlike the first")
        return Episode(
            states=found.states,
            clock=np.arange(len(found.states)) / found.rate,
            pictures=partial(decode, found.video, decoder=self._spec.decoder, threads=self._spec.threads),
            extrinsics=found.extrinsics,
        )


class RobotShardsReader(EpisodeReader):
    """Stretches of the episodes of some tars, in an order that reads few tars at a time."""

    layout: TarEpisodes

    def order(self, key: int, position: int) -> int:
        """Index at ``position`` of the epoch that ``key`` names: a permutation of ``range(len(self))``.

        Several stretches of an episode are ``len(layout)`` places apart, not drawn together.
        """
        pass_, place = divmod(position, len(self.layout))
        return self.layout.order(key, place) * self.spec.clips + (pass_ + place) % self.spec.clips


def _first_good(tars: ShardsReader) -> Members:
    why = ""
    for index in range(min(len(tars), MOST_TRIES)):
        try:
            return unpack(tars.fetch(index)[1])
        except Unreadable as error:
            why = why or f"{tars.key(index)}: {error.reason}: {error.detail}"
    raise ValueError(f"robot_shards: {why}")


def unpack(members: dict[str, bytes]) -> Members:
    """The contents of a sample's files, by extension.

    Raises:
        Unreadable: one is missing or damaged.
    """
    lacks = [name for name in ("mp4", "npz", "json") if name not in members]
    if lacks:
        raise Unreadable("missing", f"no member {', '.join(lacks)}; expected mp4, npz and json of an episode")
    try:
        facts = json.loads(members["json"])
        with np.load(io.BytesIO(members["npz"]), allow_pickle=False) as arrays:
            states = np.asarray(arrays["states"], dtype=np.float64)
            extrinsics = np.asarray(arrays["extrinsics"], dtype=np.float64) if "extrinsics" in arrays else None
        if states.ndim != 2 or not float(facts["rate"]) > 0:
            raise ValueError(f"got the shape {states.shape} at rate {facts['rate']}, expected (T, S) at one above 0")
        return Members(members["mp4"], states, extrinsics, float(facts["rate"]), Robot.from_plain(facts["robot"]))
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise Unreadable("undecodable", f"states: {error}") from None
