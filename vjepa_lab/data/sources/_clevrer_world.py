"""A world in the plane with the events of CLEVRER: things that look different enter, collide, slow down and leave.

Objects are discs of one size and mass that move on an open floor under a linear drag. The camera sees [0, 1] x [0, 1],
x right and y down, and lasts ``SHOWN`` seconds; the world goes on for ``AFTER`` more, which predictions are about. A
scene is a function of (seed, split, index) alone.

Scenes are drawn anew until all of this holds, so that every question about them has one answer that can be seen: every
object comes into view in the film; every collision, up to the end of the world, happens in view; no two fall between
the same two frames; there are at least two in the film, and where the index is odd one more after it, if there are more
than three objects.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vjepa_lab.data.physics import Motion, simulate
from vjepa_lab.data.sources._clevrer import COLOURS, MATERIALS, SHAPES, Object, Scene
from vjepa_lab.dist import derive

FRAMES = 128
SHOWN, AFTER = 5.0, 2.0
FPS = FRAMES / SHOWN
LAST = math.floor((SHOWN + AFTER) * FPS) + 1
"frames of the world"
RADIUS = 0.065
DRAG = 0.1
STILL = 1e-3
"speeds below this are none"
_SIDE = 64.0
"of the room, in whose middle the camera's view lies: nothing gets to its walls"
_TRIES = 10_000


class World(NamedTuple):
    """A scene and what becomes of it."""

    scene: Scene
    "of the film, up to ``FRAMES``"
    later: tuple[tuple[int, int, int], ...]
    "collisions after the film, (frame, object, object)"
    place: NDArray[np.float64]
    "(FRAMES, K, 2) centres in the view"


def draw(seed: int, split: str, index: int, *, objects: tuple[int, int]) -> World:
    """Scene ``index``.

    Args:
        objects: fewest and most in a scene.
    """
    key = ("clevrer toy", seed, split, index)
    count = objects[0] + derive(*key) % (objects[1] - objects[0] + 1)
    after = index % 2 == 1 and count > 3  # three rarely meet three times
    for attempt in range(_TRIES):
        rng = np.random.Generator(np.random.Philox(key=derive(*key, attempt)))
        looks = _looks(rng, count)
        begun = _begin(rng, count)
        if begun is None or not _eventful(*begun, later=after):
            continue
        motion = run(*begun)
        place = motion.position
        seen = np.all((place >= 0) & (place <= 1), axis=-1)
        met = collisions(motion)
        film = [hit for hit in met if hit[0] < FRAMES]
        later = met[len(film) :]
        frames = [f for f, _, _ in met]
        if (
            len(film) >= 2
            and (later or not after)
            and len(set(frames)) == len(frames)
            and seen[:FRAMES].any(0).all()
            and all(seen[f, i] and seen[f, j] for f, i, j in met)
        ):
            return World(_scene(index, looks, motion, seen, film), tuple(later), place[:FRAMES])
    raise ValueError(
        f"clevrer_toy: scene {index}: got none with two collisions in view among {_TRIES} worlds of {objects[0]} to "
        f"{objects[1]} objects; expected other numbers of objects"
    )


def run(
    place: NDArray[np.float64], velocity: NDArray[np.float64], *, frames: int = LAST, step: float = 1 / FPS
) -> Motion:
    """The world from its first frame on: centres in the view (K, 2) and velocities (K, 2)."""
    count, middle = len(place), (_SIDE - 1) / 2
    motion = simulate(
        place + middle,
        velocity,
        np.ones(count),
        np.full(count, RADIUS),
        frames=frames,
        step=step,
        width=_SIDE,
        height=_SIDE,
        damping=DRAG,
    )
    return motion._replace(position=motion.position - middle)


def collisions(motion: Motion) -> list[tuple[int, int, int]]:
    """(frame, object, object) of all collisions, in order; the frame is the first one that shows what came of it."""
    frames, i, j = np.nonzero(np.triu(motion.collision, 1))
    return list(zip(frames.tolist(), i.tolist(), j.tolist(), strict=True))


def _eventful(place: NDArray[np.float64], velocity: NDArray[np.float64], *, later: bool) -> bool:
    """Are there collisions enough? Told by few frames, which miss no event."""
    times = run(place, velocity, frames=2, step=SHOWN + AFTER).impacts
    return (times <= SHOWN).sum() >= 2 and (not later or bool((times > SHOWN).any()))


def _looks(rng: np.random.Generator, count: int) -> tuple[Object, ...]:
    """As many different looks."""
    kinds = len(COLOURS) * len(MATERIALS) * len(SHAPES)
    drawn = rng.permutation(kinds)[:count].tolist()
    return tuple(
        Object(COLOURS[n % 8], MATERIALS[n // 8 % 2], SHAPES[n // 16])  # every number is another look
        for n in drawn
    )


def _begin(rng: np.random.Generator, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Centres and velocities at the first frame, or None where two would overlap.

    One object at least is at rest in view, and one comes from outside, most often towards another.
    """
    outside = int(rng.integers(1, count))
    inside = count - outside
    place, velocity = np.zeros((count, 2)), np.zeros((count, 2))
    place[:inside] = 0.12 + 0.76 * rng.random((inside, 2))
    moving = rng.random(inside) < 0.5
    moving[0] = False
    angle = 2 * math.pi * rng.random(inside)
    pace = (0.1 + 0.25 * rng.random(inside)) * moving
    velocity[:inside] = pace[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    for k in range(inside, count):
        side, along, speed = int(rng.integers(4)), 0.1 + 0.8 * rng.random(), 0.3 + 0.3 * rng.random()
        when = 0.1 + (SHOWN - 0.3) * rng.random()  # about when it comes into view
        away = 0.02 - speed * math.expm1(-DRAG * when) / DRAG
        start = np.array([along, -away if side < 2 else 1 + away])
        place[k] = start if side % 2 else start[::-1]
        aim = place[int(rng.integers(inside))] if rng.random() < 0.75 else 0.2 + 0.6 * rng.random(2)
        towards = aim + 0.04 * rng.normal(size=2) - place[k]
        velocity[k] = speed * towards / np.linalg.norm(towards)
    apart = all(np.linalg.norm(place[i] - place[j]) > 2.2 * RADIUS for i, j in combinations(range(count), 2))
    order = rng.permutation(count)
    return (place[order], velocity[order]) if apart else None


def _scene(
    index: int,
    looks: tuple[Object, ...],
    motion: Motion,
    seen: NDArray[np.bool_],
    film: list[tuple[int, int, int]],
) -> Scene:
    def flat(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([x[:FRAMES], np.zeros((FRAMES, len(looks), 1))], 2)

    nothing = np.zeros((FRAMES, len(looks), 3))
    return Scene(
        number=index,
        objects=looks,
        position=flat(motion.position),
        velocity=flat(motion.velocity),
        spin=nothing,
        orientation=nothing,
        visible=seen[:FRAMES],
        collisions=tuple(film),
    )
