"""Did it touch, or nearly? Pairs of clips in which a disc moves towards a box and stops at it, or a gap before it.

A disc moves at a constant speed and stops: with its rim on the box (touch), or ``gap`` pixels short of it (near miss).
At a touch the box is pushed ``push`` pixels away in the frames after; with ``push`` 0 it stands still, and nothing but
the gap tells the two apart. Both clips of a pair share everything else (sizes, colours, path, speed, side): they are
equal frame by frame until the disc of the near miss stops.

An observer of the push is right in all pairs. Without it, one whose cells are much wider than the gap is at chance, so
that the gaps at which an encoder can tell say how fine it sees.

Clip 2 i is the touch and clip 2 i + 1 the near miss of pair i: the label is 1 and 0. ``Sample.truth`` has ``pair``
(int64); ``Sample.event`` is the time at which the disc stops, in seconds of the clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vjepa_lab.batch import Sample
from vjepa_lab.dist import derive
from vjepa_lab.registry import SOURCES

if TYPE_CHECKING:
    from vjepa_lab.data.clips import ClipSpec

Array = NDArray[np.float64]
CLASSES = ["near", "touch"]
REACH = 0.12
"of a frame's width: gaps and pushes are at most so wide, which leaves the disc a way to go and the box in the picture"
_EPOCH = {"train": 1_000_000, "val": 10_000}


class Scene(NamedTuple):
    """What both clips of a pair share; lengths in pixels, times in frames."""

    radius: float
    "of the disc"
    box: tuple[float, float, float, float]
    "left, right, top and bottom edge"
    start: float
    "column of the disc's centre at frame 0"
    row: float
    "of the disc's centre"
    speed: float
    "pixels per frame"
    colours: Array
    "(3, 3) of background, disc and box, 0 to 255"
    mirrored: bool
    "it all comes from the right"


@SOURCES.register
@dataclass
class Contact:
    """Touches and near misses. See the module's text."""

    weight: float = 1.0
    "share of this source in the mixture"
    gap: float = 2.0
    "pixels between disc and box at a near miss"
    push: float = 0.0
    "pixels by which a touch moves the box"
    size: int = 0
    "clips in an epoch, an even number; 0 is 1,000,000 for train and 10,000 for val"
    split: Literal["train", "val"] = "val"
    "train and val draw from different random streams"
    seed: int = 0
    "another seed is another world"

    def __post_init__(self) -> None:
        problems = []
        if self.gap <= 0:
            problems.append(f"gap: expected above 0, got {self.gap}")
        if self.push < 0:
            problems.append(f"push: expected 0 or more, got {self.push}")
        if self.size < 0 or self.size % 2:
            problems.append(f"size: expected an even number, got {self.size}")
        if self.split not in _EPOCH:
            problems.append(f"split: expected train or val, got {self.split}")
        if problems:
            raise ValueError("source 'contact': " + "; ".join(problems))

    def open(self, spec: ClipSpec) -> ContactReader:
        """Reader of clips of ``spec.frames`` frames; ``spec.fps`` is the unit of ``Sample.event`` alone.

        Raises:
            ValueError: gap or push are too wide for the frame, or there are too few frames.
        """
        most = REACH * spec.width
        for name in ("gap", "push"):
            if getattr(self, name) > most:
                raise ValueError(
                    f"source 'contact': {name}: got {getattr(self, name)} pixels, expected at most {most:.1f} in "
                    f"frames of {spec.width} pixels"
                )
        if spec.frames < 4:
            raise ValueError(f"source 'contact': frames: expected at least 4, got {spec.frames}")
        return ContactReader(self, spec.frames, spec.height, spec.width, spec.fps or 4.0)


class ContactReader:
    """Clips by index; index // 2 is the pair."""

    name = "contact"
    augment = False
    "gaps are in pixels of the clip"
    classes = CLASSES

    def __init__(self, config: Contact, frames: int, height: int, width: int, fps: float) -> None:
        self.config = config
        self.frames, self.height, self.width, self.fps = frames, height, width, fps

    def __len__(self) -> int:
        return self.config.size or _EPOCH[self.config.split]

    def key(self, index: int) -> str:
        """Name of clip ``index``."""
        cfg = self.config
        return (
            f"contact/{cfg.seed}/{cfg.split}/gap{cfg.gap:g}/push{cfg.push:g}/{index // 2:06d}/{CLASSES[1 - index % 2]}"
        )

    def read(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Clip ``index``; ``rng`` is not used."""
        touch = index % 2 == 0
        what = self.scene(index // 2)
        gap, push = (0.0, self.config.push) if touch else (self.config.gap, 0.0)
        stop = what.box[0] - what.radius - gap
        clip = film(what, stop=stop, push=push, frames=self.frames, height=self.height, width=self.width)
        return Sample(
            torch.from_numpy(clip),
            label=int(touch),
            event=(stop - what.start) / what.speed / self.fps,
            key=self.key(index),
            truth={"pair": torch.tensor(index // 2)},
        )

    def scene(self, pair: int) -> Scene:
        """What the clips of a pair share: the same for every gap and push."""
        cfg = self.config
        draws = np.random.Generator(np.random.Philox(key=derive("contact", cfg.seed, cfg.split, pair)))
        u = draws.random(9).tolist()
        colours = draws.random((3, 3))
        colours[0] *= 0.4  # the background is dark, what moves is light
        colours[1:] = 0.5 + 0.5 * colours[1:]
        high, wide, side = self.height, self.width, min(self.height, self.width)
        radius = side * (0.07 + 0.05 * u[0])
        left = wide * (0.55 + 0.15 * u[1])
        middle, half = high * (0.35 + 0.3 * u[2]), side * (0.12 + 0.08 * u[3])
        start = radius + wide * 0.1 * u[5]
        arrival = (self.frames - 1) * (0.4 + 0.3 * u[7])
        return Scene(
            radius=radius,
            box=(left, left + wide * (0.1 + 0.08 * u[4]), middle - half, middle + half),
            start=start,
            row=middle + half * (u[6] - 0.5),
            speed=(left - radius - start) / arrival,
            colours=255 * colours,
            mirrored=u[8] < 0.5,
        )


def film(what: Scene, *, stop: float, push: float, frames: int, height: int, width: int) -> NDArray[np.uint8]:
    """A clip (3, F, H, W): the disc's centre stops at column ``stop``, after which the box moves by ``push``."""
    time = np.arange(frames)
    column = np.minimum(what.start + what.speed * time, stop)
    moved = np.where(what.start + what.speed * time > stop, push, 0.0)
    x, y = np.arange(width, dtype=np.float64) + 0.5, np.arange(height, dtype=np.float64) + 0.5
    disc = np.clip(what.radius + 0.5 - np.hypot(y[:, None] - what.row, x - column[:, None, None]), 0, 1)
    left, right, top, bottom = what.box
    box = _covered(y, np.array(top), np.array(bottom))[:, None] * _covered(x, left + moved, right + moved)[:, None, :]
    floor, of_disc, of_box = what.colours[..., None, None, None]
    picture = floor + (of_box - floor) * box
    picture = picture + (of_disc - picture) * disc
    out = np.rint(picture).astype(np.uint8)
    return np.ascontiguousarray(out[..., ::-1]) if what.mirrored else out


def _covered(centre: Array, low: Array, high: Array) -> Array:
    """Share of each pixel that lies between two edges: (..., pixels) for edges (...)."""
    to_high = np.minimum(high[..., None] - centre + 0.5, 1)
    return np.clip(to_high + np.minimum(centre + 0.5 - low[..., None], 1) - 1, 0, 1)
