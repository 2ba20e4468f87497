"""A room with gravity, boxes that stand still and balls that fall, roll and hit each other; and tasks in it.

Many rooms that differ in one ball are moved at once, in small steps (``_DT``): a task is tried with hundreds of places
and sizes of that ball, the action. Lengths are in widths of the room [0, 1] x [0, 1], x right and y down, times in
seconds. Balls have a mass of radius squared, bounce off with ``_BOUNCE`` of their speed, and roll with some friction.

A task is solved if the target ball (number 0) lies in the goal, a rectangle, at the end. Five templates, each mirrored
at random: ``hit`` (a ball rests on the floor beside the goal), ``ledge`` (it rests on a ledge above it), ``block`` (it
rolls towards a gap on whose near side it should stay), ``bounce`` (it falls beside the goal, behind a post), ``chain``
(it rests in a tunnel, and a second ball, which lies at its mouth, alone can get to it). A task is drawn anew until it
is not solved without an action, and a share of the actions between ``_HARD`` and ``_EASY`` solves it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vjepa_lab.dist import derive

TEMPLATES = ("hit", "ledge", "block", "bounce", "chain")
RADII = (0.04, 0.12)
"of the action ball"
_GRAVITY = 2.0
_BOUNCE = 0.4
_FRICTION = 0.8
"rate per second at which what rolls on a box or the floor is slowed"
_SOFT = 0.1
"speeds below this do not bounce"
_DT = 1 / 100
_HARD, _EASY = 0.01, 0.4
_DRAWS = 500
"tasks that are drawn for one"
_TRIED = 64
"actions by which a drawn task is judged first"

Array = NDArray[np.float64]


class Room(NamedTuple):
    """A task: K balls without the action, M boxes."""

    place: Array
    "(K, 2) centres; ball 0 is the target"
    velocity: Array
    "(K, 2)"
    radius: Array
    "(K,)"
    boxes: Array
    "(M, 4) left, top, right, bottom"
    goal: Array
    "(4,) likewise"


class Tried(NamedTuple):
    """A task and what A actions make of it."""

    room: Room
    action: Array
    "(A, 3) x, y and radius of the action ball"
    path: Array
    "(A, F, K + 1, 2) centres at the frames, the action ball last"
    solved: NDArray[np.bool_]
    "(A,)"


def task(template: str, number: int, seed: int, *, actions: int, frames: int, step: float) -> Tried:
    """Task ``number`` of a template with so many actions, all of which fit into the room.

    Raises:
        ValueError: none could be drawn.
    """
    for attempt in range(_DRAWS):
        rng = np.random.Generator(np.random.Philox(key=derive("phyre lite", seed, template, number, attempt)))
        room = _ROOMS[template](rng)
        if rng.random() < 0.5:
            room = _mirrored(room)
        for count in (_TRIED, actions):
            action = _actions(rng, room, count)
            path = roll(room, action, frames=frames, step=step)
            solved = _in(path[:, -1, 0], room.goal)
            if not (_HARD <= solved.mean() <= _EASY):
                break
        else:
            alone = roll(room, None, frames=frames, step=step)
            if not _in(alone[:, -1, 0], room.goal)[0]:
                return Tried(room, action, path, solved)
    raise ValueError(
        f"phyre_lite: {template} {number}: got no task that some of {actions} actions solve in {frames} frames "
        f"{step} s apart, in {_DRAWS} draws; expected more actions or more time"
    )


def goals(tried: Tried, count: int, seed: int, *, frames: int, step: float) -> tuple[Array, Array]:
    """Paths (count, F, K + 1, 2) of other actions that solve a task, and the radii (count,) of their balls.

    Raises:
        ValueError: there are too few.
    """
    rng = np.random.Generator(np.random.Philox(key=derive("phyre lite goals", seed)))
    paths, radii = [], []
    for _ in range(_DRAWS):
        action = _actions(rng, tried.room, max(_TRIED, len(tried.action)))
        path = roll(tried.room, action, frames=frames, step=step)
        solved = _in(path[:, -1, 0], tried.room.goal)
        paths.append(path[solved])
        radii.append(action[solved, 2])
        if sum(map(len, radii)) >= count:
            return np.concatenate(paths)[:count], np.concatenate(radii)[:count]
    raise ValueError(f"phyre_lite: got too few actions that solve a task, expected {count}")


def roll(room: Room, action: Array | None, *, frames: int, step: float) -> Array:
    """Where all balls are at the frames, (A, F, K', 2), from time 0 on.

    Args:
        action: (A, 3) x, y and radius of one more ball, at rest; None: the room as it is (A = 1, K' = K).
    """
    count = 1 if action is None else len(action)
    x = np.repeat(room.place[None], count, 0)
    v = np.repeat(room.velocity[None], count, 0)
    r = np.repeat(room.radius[None], count, 0)
    if action is not None:
        x = np.concatenate([x, action[:, None, :2]], 1)
        v = np.concatenate([v, np.zeros((count, 1, 2))], 1)
        r = np.concatenate([r, action[:, None, 2]], 1)
    out = np.empty((count, frames, x.shape[1], 2))
    substeps = max(1, round(step / _DT))
    dt = step / substeps
    for f in range(frames):
        out[:, f] = x
        if f < frames - 1:
            for _ in range(substeps):
                v[..., 1] += _GRAVITY * dt
                x += v * dt
                _collide(x, v, r)
                _support(x, v, r, room.boxes, dt)
    return out


def _collide(x: Array, v: Array, r: Array) -> None:
    """Part balls that overlap and let them bounce off each other, pair by pair."""
    for i in range(x.shape[1]):
        for j in range(i + 1, x.shape[1]):
            apart = x[:, j] - x[:, i]
            distance = np.sqrt((apart**2).sum(1))
            overlap = r[:, i] + r[:, j] - distance
            touching = overlap > 0
            if not touching.any():
                continue
            normal = apart / np.maximum(distance, 1e-9)[:, None]
            closing = ((v[:, i] - v[:, j]) * normal).sum(1)
            a, b = r[:, i] ** 2, r[:, j] ** 2
            impulse = np.where(touching & (closing > 0), (1 + _spring(closing)) * closing * a * b / (a + b), 0.0)
            shift = np.where(touching, overlap, 0.0) / (a + b)
            v[:, i] -= (impulse / a)[:, None] * normal
            v[:, j] += (impulse / b)[:, None] * normal
            x[:, i] -= (shift * b)[:, None] * normal
            x[:, j] += (shift * a)[:, None] * normal


def _support(x: Array, v: Array, r: Array, boxes: Array, dt: float) -> None:
    """Keep balls out of the boxes and in the room."""
    for left, top, right, bottom in boxes.tolist():
        near = np.stack([np.clip(x[..., 0], left, right), np.clip(x[..., 1], top, bottom)], -1)
        apart = x - near
        distance = np.sqrt((apart**2).sum(-1))
        _rebound(x, v, apart / np.maximum(distance, 1e-9)[..., None], r - distance, dt)
    for axis in (0, 1):
        for side, wall in ((1.0, 0.0), (-1.0, 1.0)):
            normal = np.zeros(2)
            normal[axis] = side
            _rebound(x, v, np.broadcast_to(normal, x.shape), r - side * (x[..., axis] - wall), dt)


def _rebound(x: Array, v: Array, normal: Array, depth: Array, dt: float) -> None:
    touching = depth > 0
    if not touching.any():
        return
    inward = -(v * normal).sum(-1)
    change = np.where(touching & (inward > 0), (1 + _spring(inward)) * inward, 0.0)
    v += change[..., None] * normal
    along = v - (v * normal).sum(-1, keepdims=True) * normal
    v -= np.where(touching, _FRICTION * dt, 0.0)[..., None] * along
    x += np.where(touching, depth, 0.0)[..., None] * normal


def _spring(speed: Array) -> Array:
    return np.where(speed > _SOFT, _BOUNCE, 0.0)


def _in(place: Array, goal: Array) -> NDArray[np.bool_]:
    return np.all((place >= goal[:2]) & (place <= goal[2:]), axis=-1)


def _actions(rng: np.random.Generator, room: Room, count: int) -> Array:
    """Balls (count, 3) that overlap nothing."""
    found: list[Array] = []
    while sum(map(len, found)) < count:
        r = RADII[0] + (RADII[1] - RADII[0]) * rng.random(2 * count)
        at = r[:, None] + (1 - 2 * r[:, None]) * rng.random((2 * count, 2))
        free = np.ones(len(r), dtype=bool)
        for place, radius in zip(room.place, room.radius, strict=True):
            free &= np.sqrt(((at - place) ** 2).sum(1)) > r + radius
        for box in room.boxes:
            near = np.clip(at, box[:2], box[2:])
            free &= np.sqrt(((at - near) ** 2).sum(1)) > r
        found.append(np.concatenate([at, r[:, None]], 1)[free])
    return np.concatenate(found)[:count]


def _mirrored(room: Room) -> Room:
    def box(b: Array) -> Array:
        return np.stack([1 - b[..., 2], b[..., 1], 1 - b[..., 0], b[..., 3]], -1)

    place, velocity = room.place * (-1, 1) + (1, 0), room.velocity * (-1, 1)
    return room._replace(place=place, velocity=velocity, boxes=box(room.boxes), goal=box(room.goal))


def _room(balls: list[tuple[float, ...]], boxes: list[tuple[float, ...]], goal: tuple[float, ...]) -> Room:
    """Of balls (x, y, radius, velocity along x)."""
    b = np.array(balls)
    velocity = np.stack([b[:, 3], np.zeros(len(b))], 1)
    return Room(b[:, :2], velocity, b[:, 2], np.array(boxes).reshape(-1, 4), np.array(goal))


def _hit(rng: np.random.Generator) -> Room:
    r, x = 0.04 + 0.03 * rng.random(), 0.3 + 0.25 * rng.random()
    edge = x + 0.15 + 0.1 * rng.random()
    return _room([(x, 1 - r, r, 0.0)], [], (edge, 0.7, min(1.0, edge + 0.4), 1.0))


def _ledge(rng: np.random.Generator) -> Room:
    r, end, top = 0.04 + 0.02 * rng.random(), 0.4 + 0.15 * rng.random(), 0.45 + 0.2 * rng.random()
    x = end - 0.05 - 0.1 * rng.random()
    return _room([(x, top - r, r, 0.0)], [(0.0, top, end, top + 0.04)], (end, top + 0.05, 1.0, 1.0))


def _block(rng: np.random.Generator) -> Room:
    r, gap, top = 0.04 + 0.02 * rng.random(), 0.5 + 0.15 * rng.random(), 0.5 + 0.2 * rng.random()
    boxes = [(0.0, top, gap, top + 0.04), (gap + 0.2, top, 1.0, top + 0.04)]
    return _room([(0.1, top - r, r, 0.35 + 0.15 * rng.random())], boxes, (0.0, 0.0, gap, top))


def _bounce(rng: np.random.Generator) -> Room:
    r, x = 0.03 + 0.02 * rng.random(), 0.25 + 0.15 * rng.random()
    post = 0.5 + 0.08 * rng.random()
    return _room([(x, 0.1, r, 0.0)], [(post, 0.88, post + 0.04, 1.0)], (post + 0.04, 0.6, 1.0, 1.0))


def _chain(rng: np.random.Generator) -> Room:
    r, mouth = 0.03 + 0.005 * rng.random(), 0.3 + 0.2 * rng.random()
    x, roof = mouth + 0.1 + 0.08 * rng.random(), 1 - 2 * r - 0.008  # too low for any action
    balls = [(x, 1 - r, r, 0.0), (mouth - 0.01, 1 - r, r, 0.0)]
    return _room(balls, [(mouth, roof - 0.04, 1.0, roof)], (x + 0.08, roof, 1.0, 1.0))


_ROOMS: dict[str, Callable[[np.random.Generator], Room]] = {
    "hit": _hit,
    "ledge": _ledge,
    "block": _block,
    "bounce": _bounce,
    "chain": _chain,
}
