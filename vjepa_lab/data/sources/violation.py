"""Films of what can happen and of what cannot, in matched pairs: a synthetic world for measures of surprise.

A scene is four films: two possible (A and B), and two impossible ones that begin like one of them and go on as the
other does. Up to the event an impossible film equals the possible one of its pair, frame by frame. What is shown before
and after is thus as often possible as not, and neither more objects nor any single frame gives the answer away: only
that the one does not follow from the other.

What A and B differ in, at the frame of the event:

- ``vanish``: disc 0 is there, or it is not. (Impossible: it vanishes, it appears.)
- ``teleport``: it is here, or elsewhere.
- ``change``: its colour and texture.
- ``turn``: the direction in which it moves, far from everything it could hit.
- ``solidity``: an obstacle is there and the disc bounces off it, or is not and the disc goes straight on. (Impossible:
  it goes through the obstacle, it bounces off nothing. The obstacle itself stays, or stays away.)

Discs, walls and pictures are those of the source ``synthetic``. The past of a state is computed like its future: laws
without friction are the same backwards.

``Sample.truth`` (int64) has ``pair``, ``possible`` (1 or 0), ``property`` (the number of the kind, which is also the
label), ``scene``, and ``frame``, the first one after the event. ``Sample.event`` is its time in seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vjepa_lab.batch import Sample
from vjepa_lab.data.physics import scatter, simulate
from vjepa_lab.data.render import Look, draw_look, render
from vjepa_lab.dist import derive
from vjepa_lab.registry import SOURCES

if TYPE_CHECKING:
    from vjepa_lab.data.clips import ClipSpec

KINDS = ("vanish", "teleport", "change", "turn", "solidity")
FILMS = 4
"of a scene: A, A then B, B, B then A"
_EPOCH = {"train": 1_000_000, "val": 10_000}
_FIXED = 1e9
"mass of the obstacle"
_APART = 0.3
"of the shorter side: how far a disc is moved at least"
_CLEAR = 0.6
"radii between the rim of a disc that turns and whatever it could hit"

Array = NDArray[np.float64]


class State(NamedTuple):
    """Discs at one instant."""

    position: Array
    "(K, 2)"
    velocity: Array
    "(K, 2)"
    radius: Array
    "(K,)"
    mass: Array
    "(K,)"


class Half(NamedTuple):
    """What is seen before the event, or from it on."""

    position: Array
    "(F, K, 2)"
    radius: Array
    "(K,)"
    look: tuple[int, ...]
    "(K,) which look each disc has"


class Halves(NamedTuple):
    """Of a scene."""

    before: tuple[Half, Half]
    "of A and of B"
    after: tuple[tuple[Half, Half], tuple[Half, Half]]
    "what begins like A goes on as A, as B; what begins like B goes on as A, as B"


@SOURCES.register
@dataclass
class Violation:
    """Matched pairs of possible and impossible films of discs. See the module's text."""

    weight: float = 1.0
    "share of this source in the mixture"
    kinds: list[str] = field(default_factory=lambda: list(KINDS))
    "vanish | teleport | change | turn | solidity: what is impossible, scene by scene in turn"
    discs: int = 2
    "discs in the room, 1 to 4 (solidity: one, and the obstacle)"
    size: int = 0
    "films in an epoch, a multiple of 4; 0 is 1,000,000 for train and 10,000 for val"
    split: Literal["train", "val"] = "val"
    "train and val draw from different random streams"
    seed: int = 0
    "another seed is another world"
    speed: float = 0.25
    "mean speed, frame widths per second"
    step: float = 0.25
    "seconds of the world between frames"
    background: float = 1.0
    "how much the background varies; 0 is the same grey everywhere"

    def __post_init__(self) -> None:
        problems = []
        wrong = [kind for kind in self.kinds if kind not in KINDS]
        if wrong or not self.kinds:
            problems.append(f"kinds: expected some of {', '.join(KINDS)}, got {wrong or 'none'}")
        if not 1 <= self.discs <= 4:
            problems.append(f"discs: expected 1 to 4, got {self.discs}")
        if self.size < 0 or self.size % FILMS:
            problems.append(f"size: expected a multiple of {FILMS}, got {self.size}")
        if self.split not in _EPOCH:
            problems.append(f"split: expected train or val, got {self.split}")
        problems += [f"{n}: expected above 0, got {v}" for n in ("speed", "step") if (v := getattr(self, n)) <= 0]
        if self.background < 0:
            problems.append(f"background: expected 0 or more, got {self.background}")
        if problems:
            raise ValueError("source 'violation': " + "; ".join(problems))

    def open(self, spec: ClipSpec) -> ViolationReader:
        """Reader of films of ``spec.frames`` frames; ``spec.fps`` is the unit of ``Sample.event`` alone.

        Raises:
            ValueError: too few frames for anything to happen in the middle.
        """
        if spec.frames < FILMS:
            raise ValueError(f"source 'violation': frames: expected at least {FILMS}, got {spec.frames}")
        return ViolationReader(self, spec.frames, spec.height, spec.width, spec.fps or 1 / self.step)


class ViolationReader:
    """Films by index: index // 4 is the scene."""

    name = "violation"
    augment = False
    "all films of a scene are to be shown alike"

    def __init__(self, config: Violation, frames: int, height: int, width: int, fps: float) -> None:
        self.config = config
        self.frames, self.height, self.width, self.fps = frames, height, width, fps
        self.classes = list(config.kinds)

    def __len__(self) -> int:
        return self.config.size or _EPOCH[self.config.split]

    def key(self, index: int) -> str:
        """Name of film ``index``."""
        return f"violation/{self.config.seed}/{self.config.split}/{index // FILMS:06d}/{index % FILMS}"

    def read(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Film ``index``; ``rng`` is not used."""
        cfg = self.config
        scene, film = divmod(index, FILMS)
        kind = scene % len(cfg.kinds)
        draws = np.random.Generator(np.random.Philox(key=derive("violation", cfg.seed, cfg.split, scene)))
        event = math.ceil(self.frames * (0.4 + 0.3 * draws.random()))
        look = draw_look(draws, cfg.discs + 2, background=cfg.background)
        begins, ends = film // 2, (film + 1) // 2 % 2
        before, after = self._halves(cfg.kinds[kind], draws, event)
        clip = np.concatenate([self._painted(half, look) for half in (before[begins], after[begins][ends])], axis=1)
        facts = {"pair": index // 2, "possible": int(begins == ends), "property": kind, "scene": scene, "frame": event}
        return Sample(
            torch.from_numpy(clip),
            label=kind,
            event=event / self.fps,
            key=self.key(index),
            truth={name: torch.tensor(value) for name, value in facts.items()},
        )

    def _painted(self, half: Half, look: Look) -> NDArray[np.uint8]:
        ids = list(half.look)
        own = look._replace(
            colour=look.colour[ids], family=tuple(look.family[i] for i in ids), phase=look.phase[ids]
        )  # the background is that of the scene
        return render(half.position, half.radius, own, height=self.height, width=self.width)

    def _halves(self, kind: str, draws: np.random.Generator, event: int) -> Halves:
        if kind == "solidity":
            return self._meeting(draws, event)
        discs = self.config.discs
        one = self._drawn(draws, clear=_CLEAR if kind == "turn" else 0.0)
        other, looks, other_looks = one, tuple(range(discs)), tuple(range(discs))
        if kind == "vanish":
            other, other_looks = State(*(x[1:] for x in one)), looks[1:]
        elif kind == "teleport":
            other = one._replace(position=np.stack([self._elsewhere(draws, one), *one.position[1:]]))
        elif kind == "change":
            other_looks = (discs, *looks[1:])
        else:
            turned = _turned(one.velocity[0], math.pi * (0.5 + draws.random()))
            other = one._replace(velocity=np.stack([turned, *one.velocity[1:]]))
        a, b = (one, looks), (other, other_looks)
        rest = self.frames - event
        after = Half(self._path(a[0], rest), one.radius, a[1]), Half(self._path(b[0], rest), other.radius, b[1])
        before = Half(self._past(a[0], event), one.radius, a[1]), Half(self._past(b[0], event), other.radius, b[1])
        return Halves(before, (after, after))

    def _meeting(self, draws: np.random.Generator, event: int) -> Halves:
        """A disc touches an obstacle at the frame of the event."""
        small, large = self._scale * 0.09, self._scale * 0.14
        margin = large + 2.2 * small
        centre = margin + draws.random(2) * (np.array([1.0, self.height / self.width]) - 2 * margin)
        angle, slant, pace = draws.random(3).tolist()
        normal = np.array([math.cos(2 * math.pi * angle), math.sin(2 * math.pi * angle)])
        speed = self._scale * self.config.speed * (0.8 + 0.4 * pace)
        velocity = _turned(-speed * normal, math.pi / 3 * (2 * slant - 1))
        place = centre + (small + large) * (1 + 1e-9) * normal
        radius = np.array([small, large])
        both = State(np.stack([place, centre]), np.stack([velocity, np.zeros(2)]), radius, np.array([1.0, _FIXED]))
        alone = State(*(x[:1] for x in both))

        def beside(path: Array) -> Half:
            obstacle = np.broadcast_to(centre, (len(path), 1, 2))  # painted first, so that it hides nothing
            return Half(np.concatenate([obstacle, path[:, :1]], axis=1), radius[::-1], (1, 0))

        def by_itself(path: Array) -> Half:
            return Half(path[:, :1], radius[:1], (0,))

        bounced, straight = (self._path(state, self.frames - event) for state in (both, alone))
        return Halves(
            (beside(self._past(both, event)), by_itself(self._past(alone, event))),
            ((beside(bounced), beside(straight)), (by_itself(bounced), by_itself(straight))),
        )

    def _drawn(self, draws: np.random.Generator, *, clear: float) -> State:
        """Discs at random, disc 0 with ``clear`` of its radii around it free."""
        discs = self.config.discs
        u = draws.random((discs, 3))
        radius = self._scale * (0.09 + 0.03 * u[:, 0])
        speed = self._scale * self.config.speed * (0.8 + 0.4 * u[:, 1])
        angle = 2 * math.pi * u[:, 2]
        velocity = speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        room = radius * np.array([1 + clear, *np.ones(discs - 1)])
        position = scatter(draws, room, width=1.0, height=self.height / self.width)
        return State(position, velocity, radius, np.ones(discs))

    def _elsewhere(self, draws: np.random.Generator, state: State) -> Array:
        """Another free place for disc 0."""
        radius, room = state.radius[0], np.array([1.0, self.height / self.width])
        while True:
            place = radius + draws.random(2) * (room - 2 * radius)
            gaps = np.hypot(*(state.position - place).T) - (state.radius + radius)
            if gaps[0] + 2 * radius > _APART * self._scale and (gaps[1:] > 0).all():
                return place

    def _path(self, state: State, frames: int) -> Array:
        """Where discs go from a state on, its own frame first: (frames, K, 2)."""
        if not len(state.mass):
            return np.zeros((frames, 0, 2))
        aspect = self.height / self.width
        return simulate(
            *state[:2], state.mass, state.radius, frames=frames, step=self.config.step, height=aspect
        ).position

    def _past(self, state: State, frames: int) -> Array:
        """Where they were in the frames before it: (frames, K, 2)."""
        return self._path(state._replace(velocity=-state.velocity), frames + 1)[:0:-1]

    @property
    def _scale(self) -> float:
        return min(1.0, self.height / self.width)


def _turned(vector: Array, angle: float) -> Array:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([cos * vector[0] - sin * vector[1], sin * vector[0] + cos * vector[1]])
