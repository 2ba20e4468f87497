"""A small world of colliding discs: data that needs no download, with the exact truth of every frame.

What: clip ``index`` shows K textured discs of unequal mass and radius in a room with elastic walls. It is a function of
(seed, split, index) alone, equal on every machine, so an epoch has no files and no end. ``Sample.truth`` carries the
state behind the pixels; probes regress it and know the right answer.

Units: lengths in frame widths, time in seconds of the world. Frames lie ``step`` seconds apart, 1/4 s by default and
whatever frame rate a run asks for, so that "16 frames" shows the same amount of motion everywhere. Radii, speeds
and gravity are scaled by min(1, H / W), so that discs fit a wide frame.

Identity: disc k has the same hue band, texture family, base radius and mass range in every clip, so "position of disc
k" is one question. Within an identity mass and radius are drawn independently: mass shows in collisions only, not in
size. Mass ranges do not overlap and fall with k from about 4 to 1, so disc 0 is always the heaviest.

Truth, tensors for F frames and K discs:

    position     float32 (F, K, 2)  centre in the picture, 0..1 of its width and height, x right, y down, after the pan
    velocity     float32 (F, K, 2)  of the disc in the room (the camera's motion is not in it), frame widths per second;
                                    that of a driven disc is the one it arrives with
    mass         float32 (K,)
    radius       float32 (K,)       frame widths
    energy_disc  float32 (F, K)     kinetic energy, mass times (frame widths per second) squared
    energy       float32 (F,)       their sum
    collision    bool (F, K, K)     discs that collided after frame f - 1 and not after f; symmetric, False at frame 0
    wall         bool (F, K)        discs that hit a wall in the same interval
    visible      float32 (F, K)     share of the disc's area inside the frame and not behind the occluder
    action       float32 (F - 1, 2) where ``drive`` is above 0: velocity that disc 0 takes on after each frame but the
                                    last, frame widths per second; it keeps it until it hits something

Labels (field ``label``):

- ``direction``, 8 classes: in which 45-degree sector the heaviest disc moves between the two middle frames; class 0 is
  centred on right, and classes go on clockwise in the picture (2 is down). Without the order of the frames it cannot
  be told from the opposite class: a clip played backwards shows the same pictures and has that class. In square frames
  without gravity all classes are equally frequent.
- ``collisions``, 4 classes: how many times two discs collided, at most 1, 2, 3, at least 4. It needs the whole clip;
  for 16 frames of 3 discs the classes are of similar size.
- ``impact``, 2 classes: do two discs collide? Clips with an even index have no collision, those with an odd one have
  exactly one, which lies between frames of the clip that have at least one more on either side: before the second frame
  or after the last but one nothing would show it. Clips are drawn anew until they are as asked, so which clip an
  index is depends on the number of frames here.

``Sample.event`` is the time of the first collision of two discs, in seconds of the clip at the run's frame rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vjepa_lab.batch import Sample
from vjepa_lab.data.physics import Motion, scatter, simulate
from vjepa_lab.data.render import bar_pixels, draw_look, render, visible_share
from vjepa_lab.dist import derive
from vjepa_lab.registry import SOURCES

if TYPE_CHECKING:
    from vjepa_lab.data.clips import ClipSpec

MAX_DISCS = 12
CLASSES = {"direction": 8, "collisions": 4, "impact": 2}
_EPOCH = {"train": 1_000_000, "val": 10_000}
_PAN_PERIOD = 8.0
"seconds of the world in which the camera sways once to and fro"
_TRIES = 2000
"worlds that are drawn for a clip with an impact, or without"


@SOURCES.register
@dataclass
class Synthetic:
    """Discs that collide in a room, simulated and painted on the fly. See the module's text for units and truth."""

    weight: float = 1.0
    "share of this source in the mixture"
    discs: int = 3
    "discs in the room, 1 to 12; above 3 they are smaller, so that they cover the same area"
    size: int = 0
    "clips in an epoch; 0 is 1,000,000 for train and 10,000 for val"
    split: Literal["train", "val"] = "train"
    "train and val draw from different random streams, so no clip is in both"
    seed: int = 0
    "another seed is another world"
    speed: float = 0.25
    "mean speed at the first frame, frame widths per second: 4 pixels a frame at 64 pixels and the default step"
    step: float = 0.25
    "seconds of the world between frames"
    pan: float = 0.0
    "how far the camera sways to each side along a random line, in frame widths; 0 is a camera at rest"
    background: float = 1.0
    "how much the background varies, in a clip and between clips; 0 is the same grey everywhere"
    occluder: bool = False
    "an opaque upright bar stands before the camera"
    gravity: float = 0.0
    "acceleration downwards, frame widths per second squared"
    damping: float = 0.0
    "rate of linear drag per second; not together with gravity"
    drive: float = 0.0
    "disc 0 is driven: after every frame it takes on a random velocity of this deviation along each axis (frame widths "
    "per second); 0: it moves freely"
    label: Literal["direction", "collisions", "impact"] = "direction"
    "what the class of a clip means: see the module's text"

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.discs <= MAX_DISCS:
            problems.append(f"discs: expected 1 to {MAX_DISCS}, got {self.discs}")
        if self.size < 0:
            problems.append(f"size: expected 0 or more, got {self.size}")
        if self.split not in _EPOCH:
            problems.append(f"split: expected train or val, got {self.split}")
        if self.label not in CLASSES:
            problems.append(f"label: expected one of {', '.join(CLASSES)}, got {self.label}")
        problems += [f"{n}: expected above 0, got {v}" for n in ("speed", "step") if (v := getattr(self, n)) <= 0]
        problems += [
            f"{n}: expected 0 or more, got {v}"
            for n in ("background", "pan", "gravity", "damping", "drive")
            if (v := getattr(self, n)) < 0
        ]
        if self.label == "impact" and self.discs < 2:
            problems.append(f"discs: expected at least 2 for the label impact, got {self.discs}")
        if self.gravity > 0 and self.damping > 0:
            problems.append("gravity and damping: expected at most one of them above 0")
        if problems:
            raise ValueError("source 'synthetic': " + "; ".join(problems))

    def open(self, spec: ClipSpec) -> SyntheticReader:
        """Reader of clips of ``spec.frames`` x ``spec.height`` x ``spec.width``.

        ``spec.fps`` is the unit of ``Sample.event`` and changes nothing else; without it the frames are ``step`` apart.

        Raises:
            ValueError: the clips are too short for the label.
        """
        if self.label == "impact" and spec.frames < 4:
            raise ValueError(f"source 'synthetic': label impact: got {spec.frames} frames a clip, expected at least 4")
        fps = spec.fps or 1 / self.step
        return SyntheticReader(self, frames=spec.frames, height=spec.height, width=spec.width, fps=fps)


class SyntheticReader:
    """Clips of one world by index."""

    name = "synthetic"
    augment = False
    "crops and flips would part the clip from its truth, so the loader applies none"

    def __init__(self, config: Synthetic, *, frames: int, height: int, width: int, fps: float) -> None:
        self.config = config
        self.frames, self.height, self.width, self.fps = frames, height, width, fps
        self.classes = [str(number) for number in range(CLASSES[config.label])]
        self._mass, self._mass_spread, self._radius = _identities(config.discs)

    def __len__(self) -> int:
        return self.config.size or _EPOCH[self.config.split]

    def key(self, index: int) -> str:
        """Name of clip ``index``."""
        return f"synthetic/{self.config.seed}/{self.config.split}/{index:07d}"

    def read(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Clip ``index`` with label and truth. ``rng`` is not used: the index alone says what the clip shows."""
        cfg = self.config
        driven = self._driven(index)
        draws, motion = self._drawn(index, driven)
        # Every option draws its numbers whether it is on or not, so that switching one on changes nothing else.
        look = draw_look(draws, cfg.discs, background=cfg.background)
        camera = self._camera(draws)

        aspect = self.height / self.width
        position = motion.position if camera is None else motion.position - camera[:, None]
        clip = render(
            motion.position,
            motion.radius,
            look,
            height=self.height,
            width=self.width,
            camera=camera,
            occluder=cfg.occluder,
        )
        bar = None
        if cfg.occluder:
            left, right = bar_pixels(look.bar, self.width)
            bar = (left / self.width, right / self.width)
        energy = motion.energy
        truth = {
            "position": position / (1.0, aspect),
            "velocity": motion.velocity,
            "mass": motion.mass,
            "radius": motion.radius,
            "energy_disc": energy,
            "energy": energy.sum(-1),
            "visible": visible_share(position, motion.radius, height=aspect, bar=bar),
        }
        if driven is not None:
            truth["action"] = driven
        tensors = {name: torch.from_numpy(value.astype(np.float32)) for name, value in truth.items()}
        tensors |= {"collision": torch.from_numpy(motion.collision), "wall": torch.from_numpy(motion.wall)}
        labels = {"collisions": min(max(len(motion.impacts), 1), 4) - 1, "impact": index % 2}
        label = _direction(motion) if cfg.label == "direction" else labels[cfg.label]
        event = float(motion.impacts[0]) / cfg.step / self.fps if len(motion.impacts) else math.nan
        return Sample(torch.from_numpy(clip), label=label, event=event, key=self.key(index), truth=tensors)

    def _drawn(self, index: int, driven: NDArray[np.float64] | None) -> tuple[np.random.Generator, Motion]:
        """The motion of a clip, and the numbers that its look is drawn from."""
        cfg = self.config
        key = ("synthetic", cfg.seed, cfg.split, index)
        for attempt in range(_TRIES if cfg.label == "impact" else 1):
            seed = derive(*key, attempt) if attempt else derive(*key)
            draws = np.random.Generator(np.random.Philox(key=seed))
            motion = self._simulate(draws, driven)
            if cfg.label != "impact" or _impact(motion) == index % 2:
                return draws, motion
        wanted = "one collision" if index % 2 else "no collision"
        raise ValueError(
            f"{self.key(index)}: got none with {wanted} in {_TRIES} worlds of {cfg.discs} discs at speed {cfg.speed} "
            f"and {self.frames} frames {cfg.step} s apart; expected other fields for the label impact"
        )

    def _driven(self, index: int) -> NDArray[np.float64] | None:
        """Velocities of disc 0 (F - 1, 2), from random numbers of their own."""
        cfg = self.config
        if not cfg.drive:
            return None
        draws = np.random.Generator(np.random.Philox(key=derive("synthetic drive", cfg.seed, cfg.split, index)))
        return min(1.0, self.height / self.width) * cfg.drive * draws.normal(size=(self.frames - 1, 2))

    def _simulate(self, draws: np.random.Generator, driven: NDArray[np.float64] | None) -> Motion:
        cfg = self.config
        aspect = self.height / self.width
        scale = min(1.0, aspect)
        u = draws.random((cfg.discs, 4))
        mass = self._mass * self._mass_spread ** (2 * u[:, 0] - 1)
        radius = scale * self._radius * (0.88 + 0.24 * u[:, 1])
        speed = scale * cfg.speed * (0.6 + 0.8 * u[:, 2])
        angle = 2 * math.pi * u[:, 3]
        velocity = speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        position = scatter(draws, radius, width=1.0, height=aspect)
        return simulate(
            position,
            velocity,
            mass,
            radius,
            frames=self.frames,
            step=cfg.step,
            height=aspect,
            gravity=cfg.gravity * scale,
            damping=cfg.damping,
            driven=driven,
        )

    def _camera(self, draws: np.random.Generator) -> NDArray[np.float64] | None:
        """Top left corner of the frame in the room, (F, 2): a sine along a random direction."""
        angle, start = (2 * math.pi * draws.random(2)).tolist()
        if not self.config.pan:
            return None
        time = self.config.step * np.arange(self.frames)
        sway = self.config.pan * np.sin(2 * math.pi * time / _PAN_PERIOD + start)
        return sway[:, None] * (math.cos(angle), math.sin(angle))


def _identities(discs: int) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """Base mass (K,), the factor by which a clip's masses may differ from it either way, and base radius (K,).

    Masses fall geometrically from 4 to 1. Radii follow the golden ratio's fractional parts, which keep neighbours
    apart at any K and are unrelated to mass.
    """
    order = np.arange(discs)
    ratio = 4.0 ** (1 / max(discs - 1, 1))
    radius = 0.09 + 0.04 * ((order + 1) * (math.sqrt(5) - 1) / 2 % 1)
    return 4.0 / ratio**order, min(1.25, 0.99 * math.sqrt(ratio)), radius * math.sqrt(3 / max(discs, 3))


def _impact(motion: Motion) -> int | None:
    """0: no collision; 1: one that can be seen, see the module's text; None: anything else."""
    if not len(motion.impacts):
        return 0
    inside = len(motion.impacts) == 1 and motion.collision[2:-1].any()
    return 1 if inside else None


def _direction(motion: Motion) -> int:
    """Sector 0 to 7 in which disc 0 moves between the two frames in the middle; -1 where there is one frame only."""
    frames = len(motion.position)
    if frames < 2:
        return -1
    first = frames // 2 - 1
    dx, dy = (motion.position[frames - 1 - first, 0] - motion.position[first, 0]).tolist()
    return round(math.atan2(dy, dx) / (math.pi / 4)) % 8
