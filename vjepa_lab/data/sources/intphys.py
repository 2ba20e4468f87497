"""IntPhys: films of possible and impossible events in pairs, as folders of pictures.

    <path>/O1/01/1/scene/scene_001.png ...      block, scene, film 1 to 4
    <path>/O1/01/1/status.json                  {"header": {"is_possible": true, ...}, ...}

A scene has two possible and two impossible films. An impossible one begins like a possible one: the two that share the
longest beginning are a pair. ``Sample.truth`` (int64) has ``pair`` (number of the pair), ``scene``, ``possible`` (1 or
0) and ``property`` (number of the block: O1 object permanence, O2 shape constancy, O3 continuity), which is also the
label.

Decisions:
- Two frames are equal if their files are equal, byte by byte: the films of a scene are written by one program.
- Pairs are told from the pictures when a film of the scene is read first, and remembered.
- Scenes of another number of films, or without labels (the test set), are an error when the source is opened.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from filecmp import cmp

import numpy as np
import torch

from vjepa_lab.batch import Sample
from vjepa_lab.data.clips import BadSample, ClipSpec, within
from vjepa_lab.data.containers import Unreadable
from vjepa_lab.data.frames import list_frames
from vjepa_lab.data.sources._annotated import Entry, expect_file, expect_folder, field_of, load_json, to_table
from vjepa_lab.data.sources.listing import ListingReader
from vjepa_lab.registry import SOURCES

FILMS = 4


@SOURCES.register
@dataclass
class Intphys:
    """IntPhys scenes."""

    path: str = ""
    "folder of the blocks: dev"
    weight: float = 1.0
    "share of the mix"
    blocks: list[str] = field(default_factory=list)
    "which blocks; default: all that are there"
    rate: float = 15.0
    "pictures per second"

    def open(self, spec: ClipSpec) -> IntphysReader:
        """List the films.

        Raises:
            ValueError: there are none, or a scene is not what it should be.
        """
        if self.rate <= 0:
            raise ValueError(f"intphys: rate: got {self.rate}, expected pictures per second above 0")
        root = expect_folder("intphys", self.path, "the folder of the blocks O1, O2, O3", "path")
        there = _folders(root)
        lacking = [block for block in self.blocks if block not in there]
        if lacking:
            got = ", ".join(there) or "none"
            raise ValueError(f"intphys: blocks: got '{lacking[0]}', expected some of those in '{root}': {got}")
        blocks = sorted(self.blocks or there)
        films, possible = [], []
        for block in blocks:
            for scene in _folders(os.path.join(root, block)):
                folder = os.path.join(root, block, scene)
                said = [_is_possible(os.path.join(folder, film)) for film in _folders(folder)]
                if len(said) != FILMS or sum(said) != FILMS // 2:
                    raise ValueError(
                        f"intphys: {folder}: got {len(said)} films of which {sum(said)} are possible, expected "
                        f"{FILMS} and {FILMS // 2}"
                    )
                possible += said
                for film in _folders(folder):
                    where = os.path.join(block, scene, film)
                    films.append(Entry(where, os.path.join(where, "scene"), block, where))
        table = to_table("intphys", root, films, root=root, classes=blocks, rate=self.rate)
        inner = ListingReader(table, spec, [root], kind="intphys")
        return IntphysReader(inner, np.array(possible), spec)


class IntphysReader:
    """The films scene by scene; index // clips is the film."""

    augment = True
    "the loader applies its transform"

    def __init__(self, inner: ListingReader, possible: np.ndarray, spec: ClipSpec) -> None:
        self.name = inner.name
        self.classes = inner.classes
        self._inner = inner
        self._possible = possible
        self._spec = spec
        self._pairs: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self._inner)

    def key(self, index: int) -> str:
        """Names the clip in reports."""
        return self._inner.key(index)

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        """Clip, label and truth of a film.

        Raises:
            BadSample: a film of its scene cannot be read.
        """
        sample = self._inner.read(index, rng)
        film = index // self._spec.clips
        scene, number = divmod(film, FILMS)
        if scene not in self._pairs:
            folders = [self._inner.path(scene * FILMS + i) for i in range(FILMS)]
            possible = self._possible[scene * FILMS :][:FILMS]
            try:
                self._pairs[scene] = within(self._spec.timeout, lambda: paired(folders, possible.tolist()))
            except Unreadable as error:
                raise BadSample(error.reason, self.key(index), error.detail) from None
        facts = {
            "pair": scene * (FILMS // 2) + self._pairs[scene][number],
            "scene": scene,
            "possible": int(self._possible[film]),
            "property": sample.label,
        }
        return sample._replace(truth={name: torch.tensor(value) for name, value in facts.items()})


def paired(folders: list[str], possible: list[bool]) -> list[int]:
    """Which of the two pairs each of four films belongs to, 0 or 1; pair 0 has the first possible film.

    Of the two ways to pair them, the one in which pairs share more frames from the beginning; of equal ones the first.

    Raises:
        Unreadable: a film cannot be listed.
    """
    frames = [list_frames(folder) for folder in folders]
    good = [i for i in range(FILMS) if possible[i]]
    bad = [i for i in range(FILMS) if not possible[i]]
    shared = [[_shared(frames[g], frames[b]) for b in bad] for g in good]
    straight = shared[0][0] + shared[1][1] >= shared[0][1] + shared[1][0]
    partner = bad[0] if straight else bad[1]
    return [0 if i in (good[0], partner) else 1 for i in range(FILMS)]


def _shared(one: list[str], two: list[str]) -> int:
    """How many frames two films have in common from the beginning."""
    for number, (a, b) in enumerate(zip(one, two, strict=False)):
        if not cmp(a, b, shallow=False):
            return number
    return min(len(one), len(two))


def _folders(folder: str) -> list[str]:
    """Names of the folders in a folder, sorted; numbers ascend as such."""
    names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != "."]
    return sorted(names, key=lambda name: (len(name), name) if name.isdecimal() else (0, name))


def _is_possible(film: str) -> bool:
    expect_folder("intphys", os.path.join(film, "scene"), "the folder of a film's pictures", film)
    file = expect_file("intphys", os.path.join(film, "status.json"), "the film's labels (the test set has none)", film)
    content = load_json("intphys", file, dict, "an object with 'header'")
    header = field_of("intphys", file, content, "header", dict)
    if not isinstance(header.get("is_possible"), bool):
        got = header.get("is_possible")
        raise ValueError(f"intphys: {file}: header.is_possible: got {got!r}, expected true or false")
    return header["is_possible"]
