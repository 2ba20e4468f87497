"""Smooth random motion of the simulated arm, for recording what its actions do.

What: the velocity of the hand is an Ornstein-Uhlenbeck process that forgets itself in 0.8 s, reflected at the walls of
the workspace, of a scale that is drawn per episode. The fingers go to a new random width every two seconds. At speed 1
the steps of 1/4 s are as large as DROID's: standard deviation 1.7 cm and 0.04 to 0.06 rad, a hundredth above 5 cm.
A share of the episodes begins by pushing the cube along a straight line.

Why random and not scripted: a world model has to know what every action does, also the useless ones.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from vjepa_lab.planning._arm import Array
from vjepa_lab.planning.sim import DOWN, TABLE, WORKSPACE, behind
from vjepa_lab.poses import euler_to_matrix, matrix_to_axis_angle

_MEMORY = 0.8
_SCALE = np.array([0.055, 0.055, 0.055, 0.11, 0.12, 0.16])
"of the velocity, m/s and rad/s"
_TILT = np.array([0.3, 0.3, 0.8])
"most roll, pitch and yaw away from a hand that points down, rad"
_START_HEIGHT = 0.27
"least height of the flange at the start, so that the fingers are above the cube, m"


class Motion(NamedTuple):
    """Where the arm is to be at T times."""

    states: Array
    "(T, 7); angles are not wrapped"
    velocities: Array
    "(T, 6) of the flange in the base's frame, at rest at both ends"
    cube: Array
    "(3,) where the cube starts: x, y and turn"


def explore(
    draws: np.random.Generator, *, seconds: float, rate: float, speed: float = 1.0, turn: float = 1.0, push: float = 0.2
) -> Motion:
    """The motion of one episode.

    Args:
        seconds: its length; it has seconds x rate steps and one state more.
        rate: states per second.
        speed: of the whole motion, times that of DROID.
        turn: of the hand, likewise; 0 keeps it upright.
        push: share of episodes that begin with a push.
    """
    steps, dt = math.floor(seconds * rate + 1e-6), 1 / rate
    scale = _SCALE * speed * draws.lognormal(0, 0.5) * np.repeat([1.0, turn], 3)
    tilt = _TILT * min(turn, 1.0)
    low, high = np.array([*WORKSPACE[0], *(DOWN - tilt)]), np.array([*WORKSPACE[1], *(DOWN + tilt)])
    cube = draws.uniform(*TABLE)
    start = np.array([*draws.uniform([*low[:2], _START_HEIGHT, *low[3:]], high), 0.0])
    pushing, push_steps = np.zeros(6), 0
    if draws.random() < push:
        cube[2] *= 2
        start = behind(cube)
        pushing[:2] = draws.uniform(0.08, 0.2) * speed * np.array([math.cos(cube[2]), math.sin(cube[2])])
        push_steps = round(draws.uniform(0.5, 1.5) * rate)
        low[3:], high[3:] = np.minimum(low[3:], start[3:6]), np.maximum(high[3:], start[3:6])

    keep = math.exp(-dt / _MEMORY)
    x, velocity = start[:6], scale * draws.standard_normal(6)
    gripper = wanted = start[6]
    states = [start]
    for t in range(steps):
        moved = x + dt * (pushing if t < push_steps else velocity)
        x = np.clip(moved, low, high)
        velocity = np.where(moved == x, velocity, -velocity)
        velocity = keep * velocity + math.sqrt(1 - keep**2) * scale * draws.standard_normal(6)
        if t >= push_steps and draws.random() < 0.5 * dt:
            wanted = draws.choice([0.0, 1.0, draws.random()])
        gripper += np.clip(wanted - gripper, -1.2 * dt, 1.2 * dt)
        states.append(np.array([*x, gripper]))
    path = np.stack(states)
    return Motion(path, _velocities(path, dt), cube)


def _velocities(states: Array, dt: float) -> Array:
    """(T, 6) by central differences, rotations as rotation vectors."""
    matrices = euler_to_matrix(torch.from_numpy(states[:, 3:6]))
    turns = matrix_to_axis_angle(matrices[2:] @ matrices[:-2].mT).numpy()
    moves = states[2:, :3] - states[:-2, :3]
    return np.pad(np.concatenate([moves, turns], axis=1) / (2 * dt), ((1, 1), (0, 0)))
