"""Features of episodes, kept on disk: a world model's data without its pictures.

A frozen encoder that sees every frame by itself gives a frame the same features in every epoch, wherever a stretch
begins. So they are computed once, for every step of an episode (train/cache.py), and ``KeptReader`` gives the stretches
of an ``EpisodeReader`` with features in place of pixels: the same steps, states and actions from the same random
numbers, and nothing of the source is opened.

    about.json              what the features depend on; the folder is named by its hash
    00000012.safetensors    one camera of one episode: the features of its steps (T, h*w, D), its numbers, checksums

Decisions:
- A file is written aside and renamed: it is there as a whole or not at all.
- Every frame has a checksum, and the numbers of an episode have one. They are compared when they are read: of an
  episode of 200 MB only the frames of a stretch are.
- A damaged file ends the run with its name. What a start finds cut off, it computes anew.
- An episode of which any frame cannot be read has a file that says why. It is a bad sample as a whole, where without
  kept features the stretches before a damage are still read; every start tries it again.
- A recording that is changed in place, under the same name, is not noticed: remove its folder.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vjepa_lab.batch import RobotSample
from vjepa_lab.data.clips import BadSample, within
from vjepa_lab.data.containers import Unreadable
from vjepa_lab.data.decoders import Choose, Decoded
from vjepa_lab.data.episodes import Array, Episode, EpisodeReader, matched
from vjepa_lab.data.robot import crop

AT_ONCE = 64
"pictures of an episode that are decoded at a time, before they are cropped"


class Whole(NamedTuple):
    """All of an episode that its stretches need."""

    episode: Episode
    video: Array
    "(V,) seconds of its pictures"
    frames: Tensor
    "uint8 (3, T, H, W): cropped, of every step that has both a state and a picture"


class Contents(NamedTuple):
    """What a file holds beside the features."""

    episode: Episode
    video: Array
    checks: Tensor
    "int64 (T,) checksum of the features of each step"


def whole(reader: EpisodeReader, number: int) -> Whole:
    """One camera of one episode, with all its pictures.

    Raises:
        BadSample: a part of it cannot be read.
    """
    assert reader.spec.crop != "random", "a crop that is drawn"
    key, spec = reader.layout.key(number), reader.spec
    try:
        episode = within(spec.timeout, partial(reader.load, number))
        times: list[Array] = []
        parts: list[Tensor] = []
        count = 1
        while sum(part.shape[1] for part in parts) < count:
            first = sum(part.shape[1] for part in parts)

            def choose(video: Array, first: int = first) -> NDArray[np.int64]:
                times[:] = [video]
                return np.arange(first, min(first + AT_ONCE, matched(len(video), len(episode.states))))

            decoded = within(spec.timeout, partial(episode.pictures, choose))
            frames = torch.from_numpy(decoded.frames).permute(3, 0, 1, 2)
            parts.append(crop(frames, spec, np.random.default_rng(0)))
            count = matched(len(times[0]), len(episode.states))
    except Unreadable as error:
        raise BadSample(error.reason, key, error.detail) from None
    return Whole(episode, times[0], torch.cat(parts, dim=1))


class KeptReader:
    """The stretches of an episode reader, with the features that lie in a folder in place of pixels."""

    augment = False

    def __init__(self, reader: EpisodeReader, folder: Path) -> None:
        self.name = reader.name
        self.reader = reader
        self.folder = folder
        if hasattr(reader, "order"):  # of readers that go through their files in an order of their own
            self.order = reader.order  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.reader)

    def path(self, number: int) -> Path:
        """The file of one camera of one episode."""
        return self.folder / f"{number:08d}.safetensors"

    def read(self, index: int, rng: np.random.Generator) -> RobotSample:
        """As ``EpisodeReader.read``, with features (F, h*w, D) and frames of no pixels.

        Raises:
            BadSample: the episode gives no such stretch.
            ValueError: its file is damaged.
        """
        key, seed = self.reader.key(index), int(rng.integers(2**63))
        number, clip = divmod(index, self.reader.spec.clips)
        path = self.path(number)
        try:
            with _opened(path) as file:
                found = _contents(file, path)
                ids = self.reader.steps(found.episode, found.video, clip, seed)
                states, actions, extrinsics = self.reader.numbers(found.episode, ids)
                features = _rows(file, ids, found.checks, path)
        except Unreadable as error:
            raise BadSample(error.reason, key, error.detail) from None
        return RobotSample(
            frames=torch.empty(3, len(ids), 0, 0, dtype=torch.uint8),
            states=states.float(),
            actions=actions.float(),
            extrinsics=extrinsics.float(),
            key=f"{key} frames {ids[0]}-{ids[-1]}",
            features=features,
        )

    def lacking(self) -> Iterator[int]:
        """Cameras of episodes whose file is not there, cut off, or says that they could not be read."""
        for number in range(len(self.reader.layout)):
            try:
                with _opened(self.path(number)) as file:
                    _contents(file, self.path(number))
            except (Unreadable, ValueError):
                yield number

    def write(self, number: int, found: Whole, features: Tensor) -> None:
        """Keep the features (T, h*w, D) of an episode."""
        numbers = {"video": found.video, **found.episode._asdict()}
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(value))
            for name, value in numbers.items()
            if name != "pictures" and value is not None
        }
        tensors["checks"] = torch.tensor([_check(row) for row in features])
        self._save(number, tensors | {"features": features.contiguous()}, {"check": _total(tensors)})

    def write_bad(self, number: int, error: BadSample) -> None:
        """Keep why an episode cannot be read."""
        self._save(number, {"checks": torch.zeros(0, dtype=torch.int64)}, {"bad": [error.reason, error.detail]})

    def _save(self, number: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(number)
        aside = path.with_suffix(f".part{os.getpid()}")
        with aside.open("wb") as file:
            file.write(save(tensors, {"facts": json.dumps(facts)}))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise Unreadable("missing", f"its features are not kept: no file {path}")
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from None


def _contents(file: Any, path: Path) -> Contents:
    """The numbers of an open file; raises Unreadable where it says that there are none."""
    facts = json.loads((file.metadata() or {}).get("facts", "{}"))
    if "bad" in facts:
        raise Unreadable(*facts["bad"])
    names = set(file.keys()) - {"features"}
    tensors = {name: file.get_tensor(name) for name in names}
    if facts.get("check") != _total(tensors):
        raise _damaged(path, "the checksum of its numbers differs")
    arrays = {name: tensors[name].numpy() for name in names - {"checks", "video"}}
    return Contents(Episode(**{"clock": None, **arrays}, pictures=_none), tensors["video"].numpy(), tensors["checks"])


def _rows(file: Any, ids: NDArray[np.int64], checks: Tensor, path: Path) -> Tensor:
    """Features (F, h*w, D) of some steps."""
    rows = file.get_slice("features")
    found = []
    for i in ids.tolist():
        row = rows[i : i + 1]
        if _check(row) != checks[i].item():
            raise _damaged(path, f"the checksum of step {i} differs")
        found.append(row)
    return torch.cat(found)


def _check(values: Tensor) -> int:
    return zlib.crc32(values.contiguous().view(-1).view(torch.uint8).numpy().data)


def _total(tensors: dict[str, Tensor]) -> int:
    """Checksum of several tensors and their names."""
    return zlib.crc32(repr([(name, _check(tensors[name])) for name in sorted(tensors)]).encode())


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path}: damaged ({why}); remove it, and the next start computes these features anew")


def _none(_: Choose) -> Decoded:
    raise AssertionError("kept episodes have no pictures")
