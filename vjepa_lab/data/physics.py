"""Discs in a box that collide elastically: exact motion, one event at a time.

What: ``simulate`` moves K discs of given mass and radius through a rectangular room and returns their state at every
frame, with every collision that happened in between. Between events the motion has a closed form, and each collision
is resolved at its instant, so energy and momentum are kept to rounding and discs neither overlap nor leave the room.

Why events and not small steps: a step size is an error to be chosen, and a probe that regresses the state would see
it. With three discs a clip of 16 frames has about eight events, so events are the cheaper way as well. The loop runs on
Python floats: on arrays of three numbers NumPy's call overhead is an order of magnitude above the arithmetic.

Decisions:
- Drag is linear and equal for all discs (v' = -damping v). Paths then stay straight lines in the stretched time
  s = (1 - exp(-damping t)) / damping, so the same events serve: the loop runs in s and the velocities are scaled back.
- Gravity acts along +y (down in the image). It bends all paths alike, so two discs still approach each other on a
  straight line, and only floor and ceiling need a quadratic.
- Gravity with drag has no closed form for the floor and would end at rest on it, so the pair is refused.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_X_WALL, _Y_WALL = -1, -2
# Discs that touch and close in more slowly than this slide past each other: an impulse lost in rounding would repeat.
_GRAZING = 1e-12


class Motion(NamedTuple):
    """State of K discs at F frames, in the length unit of the room (x right, y down) and in seconds."""

    position: NDArray[np.float64]
    "(F, K, 2) centres"
    velocity: NDArray[np.float64]
    "(F, K, 2) at the instant of the frame"
    mass: NDArray[np.float64]
    "(K,)"
    radius: NDArray[np.float64]
    "(K,)"
    collision: NDArray[np.bool_]
    "(F, K, K) symmetric: the pair collided after frame f - 1 and not after frame f; False at frame 0"
    wall: NDArray[np.bool_]
    "(F, K) the disc hit a wall in the same interval"
    impacts: NDArray[np.float64]
    "(n,) times of all collisions of two discs, in order; two of one pair between frames are two"

    @property
    def energy(self) -> NDArray[np.float64]:
        """Kinetic energy of each disc, (F, K)."""
        return 0.5 * self.mass * (self.velocity**2).sum(-1)


def simulate(
    position: NDArray[np.float64],
    velocity: NDArray[np.float64],
    mass: NDArray[np.float64],
    radius: NDArray[np.float64],
    *,
    frames: int,
    step: float,
    width: float = 1.0,
    height: float = 1.0,
    gravity: float = 0.0,
    damping: float = 0.0,
    driven: NDArray[np.float64] | None = None,
) -> Motion:
    """Motion of K discs in the room [0, width] x [0, height], sampled every ``step`` seconds from time 0.

    Args:
        position: (K, 2) centres at time 0, inside the room and apart from each other (see ``scatter``).
        velocity: (K, 2) at time 0.
        mass: (K,).
        radius: (K,).
        frames: how many frames to sample.
        step: seconds between frames.
        width: of the room.
        height: of the room.
        gravity: acceleration along +y, 0 or more.
        damping: rate of linear drag per second, 0 or more.
        driven: (frames - 1, 2) velocities that disc 0 takes on right after each frame but the last, whatever it had.

    Raises:
        ValueError: both gravity and damping, or one of them negative.
    """
    if gravity < 0 or damping < 0 or (gravity > 0 and damping > 0):
        raise ValueError(
            f"expected gravity >= 0 and damping >= 0, at most one of them above 0; "
            f"got gravity {gravity}, damping {damping}"
        )
    room = _Room(position, velocity, mass, radius, width, height, gravity)
    count = len(mass)
    positions = np.empty((frames, count, 2))
    velocities = np.empty((frames, count, 2))
    collision = np.zeros((frames, count, count), dtype=bool)
    wall = np.zeros((frames, count), dtype=bool)
    impacts = []
    for f in range(frames):
        time = f * step
        for i, j, when in room.run_until(-math.expm1(-damping * time) / damping if damping else time):
            if j < 0:
                wall[f, i] = True
            else:
                collision[f, i, j] = collision[f, j, i] = True
                impacts.append(-math.log1p(-damping * when) / damping if damping else when)
        positions[f, :, 0], positions[f, :, 1] = room.x, room.y
        velocities[f, :, 0], velocities[f, :, 1] = room.vx, room.vy
        if driven is not None and f < frames - 1:
            room.drive(*(driven[f] * math.exp(damping * time)).tolist())
    if damping:
        velocities *= np.exp(-damping * step * np.arange(frames))[:, None, None]
    return Motion(positions, velocities, np.asarray(mass), np.asarray(radius), collision, wall, np.array(impacts))


def scatter(
    rng: np.random.Generator, radius: NDArray[np.float64], *, width: float = 1.0, height: float = 1.0
) -> NDArray[np.float64]:
    """Random centres (K, 2) inside the room at which no two discs overlap; each disc is redrawn until it fits.

    The discs are expected to fill a small part of the room (below a third of its area): there is no other end.
    """
    placed: list[tuple[float, float, float]] = []
    for r in radius.tolist():
        while True:
            u, v = rng.random(2).tolist()
            x, y = r + u * (width - 2 * r), r + v * (height - 2 * r)
            if all((x - p) ** 2 + (y - q) ** 2 > (r + s) ** 2 for p, q, s in placed):
                placed.append((x, y, r))
                break
    return np.array(placed)[:, :2]


class _Room:
    """Discs between two instants, with the time at which each possible event is due.

    An event is (i, j): discs i < j meet, or j is a wall. Only the events of the discs that have just been deflected
    are predicted anew.
    """

    def __init__(
        self,
        position: NDArray[np.float64],
        velocity: NDArray[np.float64],
        mass: NDArray[np.float64],
        radius: NDArray[np.float64],
        width: float,
        height: float,
        gravity: float,
    ) -> None:
        self.x: list[float] = position[:, 0].tolist()
        self.y: list[float] = position[:, 1].tolist()
        self.vx: list[float] = velocity[:, 0].tolist()
        self.vy: list[float] = velocity[:, 1].tolist()
        self.mass: list[float] = mass.tolist()
        self.radius: list[float] = radius.tolist()
        self.width, self.height, self.gravity = width, height, gravity
        self.now = 0.0
        self.due: dict[tuple[int, int], float] = {}
        for i in range(len(self.x)):
            self._predict(i)

    def run_until(self, time: float) -> list[tuple[int, int, float]]:
        """Move to ``time`` and return the events on the way as (i, j, time), in order."""
        events = []
        while True:
            event = min(self.due, key=self.due.__getitem__)
            if self.due[event] > time:
                self._advance(time)
                return events
            self._advance(self.due[event])
            i, j = event
            if j < 0:
                self._bounce(i, j)
            else:
                self._collide(i, j)
                self._predict(j)
            self._predict(i)
            events.append((i, j, self.now))

    def drive(self, vx: float, vy: float) -> None:
        """Give disc 0 another velocity."""
        self.vx[0], self.vy[0] = vx, vy
        self._predict(0)

    def _advance(self, time: float) -> None:
        dt, g = time - self.now, self.gravity
        for i in range(len(self.x)):
            self.x[i] += dt * self.vx[i]
            self.y[i] += dt * (self.vy[i] + 0.5 * g * dt)
            self.vy[i] += g * dt
        self.now = time

    def _bounce(self, i: int, wall: int) -> None:
        # The centre is put at its exact limit, so that rounding cannot carry a disc out of the room.
        r = self.radius[i]
        if wall == _X_WALL:
            low = self.x[i] < self.width / 2
            self.x[i], self.vx[i] = (r, abs(self.vx[i])) if low else (self.width - r, -abs(self.vx[i]))
        else:
            low = self.y[i] < self.height / 2
            self.y[i], self.vy[i] = (r, abs(self.vy[i])) if low else (self.height - r, -abs(self.vy[i]))

    def _collide(self, i: int, j: int) -> None:
        nx, ny = self.x[j] - self.x[i], self.y[j] - self.y[i]
        closing = (self.vx[i] - self.vx[j]) * nx + (self.vy[i] - self.vy[j]) * ny
        impulse = 2 * closing / ((nx * nx + ny * ny) * (1 / self.mass[i] + 1 / self.mass[j]))
        for k, sign in ((i, -1.0), (j, 1.0)):
            self.vx[k] += sign * impulse * nx / self.mass[k]
            self.vy[k] += sign * impulse * ny / self.mass[k]

    def _predict(self, i: int) -> None:
        self.due[i, _X_WALL] = self.now + _time_to_wall(self.x[i], self.vx[i], 0.0, self.radius[i], self.width)
        self.due[i, _Y_WALL] = self.now + _time_to_wall(
            self.y[i], self.vy[i], self.gravity, self.radius[i], self.height
        )
        for k in range(len(self.x)):
            if k != i:
                self.due[(i, k) if i < k else (k, i)] = self.now + self._time_to_touch(i, k)

    def _time_to_touch(self, i: int, j: int) -> float:
        """Time until the gap of two discs closes: |d + v t| = sum of radii, the earlier root (gravity cancels)."""
        dx, dy = self.x[j] - self.x[i], self.y[j] - self.y[i]
        ux, uy = self.vx[j] - self.vx[i], self.vy[j] - self.vy[i]
        b = dx * ux + dy * uy
        if b > -_GRAZING:
            return math.inf
        c = dx * dx + dy * dy - (self.radius[i] + self.radius[j]) ** 2
        root = b * b - (ux * ux + uy * uy) * c
        return max(c / (math.sqrt(root) - b), 0.0) if root > 0 else math.inf


def _time_to_wall(x: float, v: float, g: float, r: float, size: float) -> float:
    """Time until a centre at ``x`` with acceleration ``g >= 0`` reaches r (moving down) or size - r (moving up)."""
    if v < 0:
        root = v * v - 2 * g * (x - r)
        if root >= 0:
            return max(2 * (x - r) / (math.sqrt(root) - v), 0.0)
    gap = max(size - r - x, 0.0)
    root = math.sqrt(v * v + 2 * g * gap)
    if v > 0:
        return 2 * gap / (v + root)
    return (root - v) / g if g > 0 else math.inf
