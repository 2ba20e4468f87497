"""A simulated Franka arm that a planner can act on: reach a pose, or push a cube, from the picture of the goal.

What: ``FrankaSim`` holds one arm on a table (see ``_arm.py``), draws it without a screen, and takes the actions of
DROID: 7 numbers a step, (d_xyz in the base's frame, d_rotation as extrinsic xyz Euler, d_gripper), four steps a second.
States are DROID's too: xyz of the flange, extrinsic xyz Euler, gripper 0 open .. 1 closed.

    with FrankaSim(size=128) as sim:
        seen = sim.reset(seed=0)
        while not sim.solved and steps_left:
            seen = sim.act(planner(seen.image, seen.state, sim.goal.image))

Why: a closed loop that anybody can run is the only honest measure of a planner. ``snapshot`` and ``restore`` make the
simulator itself usable as the model, which is the ceiling for a learned one.

Decisions:
- An action is taken from the measured pose, not from the last command, as a planner that sees the state means it; the
  gripper's part is taken from its last command, so that a zero action keeps its grip.
- Targets are kept within ``WORKSPACE``, whose floor keeps the fingers off the table. The arm stops there, as robots do.
- A start that is solved already is never drawn: the goal lies ``near`` .. ``far`` from it, beyond ``threshold``. Of
  several goals each lies so far from the one before; ``goal``, ``distance`` and ``solved`` are of the one aimed at.
- The goal's picture is taken of the arm at the goal, of the same cube and the same turn of the hand: the planner of
  V-JEPA 2-AC moves along x, y, z and does not turn the hand.
- A pixel is the mean of four: at half the cost of MuJoCo's own smoothing of edges.
- Drawing is by EGL, which works without a GPU. OSMesa is refused: a second renderer in a process shows old images.
- Two simulators with the same seed show the same; the physics is deterministic on one machine.
"""

from __future__ import annotations

import math
import os
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vjepa_lab.dist import derive
from vjepa_lab.planning._arm import FINGERS, HULLS, NEEDS, VISUALS, Arm, Array
from vjepa_lab.poses import euler_to_matrix, matrix_to_euler
from vjepa_lab.robots import DROID

CAMERAS = ("left", "right", "wrist")
TASKS = ("reach", "push")
WORKSPACE = ((0.33, -0.30, FINGERS + 0.01), (0.66, 0.30, 0.48))
"corners of the box that the flange is kept in, m in the base's frame"
TABLE = ((0.41, -0.22, -math.pi / 4), (0.62, 0.22, math.pi / 4))
"where the cube may lie: x, y and turn"
DOWN = (math.pi, 0.0, -math.pi / 4)
"rotation of a hand that points at the table, its fingers side by side along y"

_REACH = ((0.35, -0.25, 0.22), (0.65, 0.25, 0.45))
"box of starts and goals"
_BEHIND = 0.075
"from the cube's centre to the flange at the start of a push, m"
_PUSH_HEIGHT = FINGERS + 0.02


class Observation(NamedTuple):
    """What the arm's camera and its joints say."""

    image: NDArray[np.uint8]
    "(H, W, 3)"
    state: Array
    "(7,) xyz in m, extrinsic xyz Euler in rad, gripper 0 open .. 1 closed"


class Goal(NamedTuple):
    """Where to get to."""

    image: NDArray[np.uint8]
    "(H, W, 3) by the same camera"
    state: Array
    "(7,)"
    cube: Array
    "(3,) its centre, m"


class FrankaSim:
    """One arm, one camera, one task. Close it, or use it in a ``with``: it holds a drawing context."""

    robot = DROID

    def __init__(
        self,
        *,
        size: int = 128,
        camera: str = "left",
        task: Literal["reach", "push"] = "reach",
        rate: float = 4.0,
        threshold: float = 0.05,
        near: float = 0.10,
        far: float = 0.25,
        goals: int = 1,
        detail: Literal["hull", "full"] = "hull",
    ) -> None:
        """
        Args:
            size: height and width of the pictures, px.
            camera: left, right or wrist.
            task: reach, where the distance is that of the flange to its goal, or push, where it is that of the cube.
            rate: actions per second.
            threshold: distance at which a goal is reached, m.
            near, far: least and most distance between start and goal, m.
            goals: to be reached one after the other; to push there is one.
            detail: draw convex hulls, or the visual meshes at five times the cost.

        Raises:
            ValueError: a field is out of range, or the simulator cannot start, with what to install.
        """
        problems = [
            f"{name}: got {got!r}, expected one of {', '.join(known)}"
            for name, got, known in (
                ("camera", camera, CAMERAS),
                ("task", task, TASKS),
                ("detail", detail, ("hull", "full")),
            )
            if got not in known
        ]
        if size < 8:
            problems.append(f"size: got {size}, expected 8 or more")
        if goals < 1 or (goals > 1 and task == "push"):
            problems.append(f"goals: got {goals}, expected 1{'' if task == 'push' else ' or more'} of the task {task}")
        if rate <= 0:
            problems.append(f"rate: got {rate}, expected above 0")
        if not 0 < threshold < near < far:
            problems.append(
                f"threshold, near, far: got {threshold}, {near}, {far}, expected 0 < threshold < near < far"
            )
        if problems:
            raise ValueError("simulator: " + "; ".join(problems))
        self.size, self.camera, self.task, self.rate = size, camera, task, rate
        self.threshold, self.near, self.far = threshold, near, far
        self._count = goals
        self._arm = Arm(size=2 * size)
        self._draw = self._drawing(detail)
        self._goals: list[Goal] = []
        self._aim = 0

    def __enter__(self) -> FrankaSim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the drawing context back."""
        self._draw.close()

    # --- the loop

    def reset(self, seed: int) -> Observation:
        """Draw a start and goals by ``seed``, put the arm at the start, aim at the first goal, and look."""
        draws = np.random.Generator(np.random.Philox(key=derive("franka", self.task, seed)))
        start, goals, cube, cube_goal = (self._reaching if self.task == "reach" else self._pushing)(draws)
        self._goals.clear()
        for goal in goals:
            self.place(goal, cube_goal)
            self._goals.append(Goal(*self.observe(), cube=self.cube))
        self.place(start, cube)
        self.aim(0)
        return self.observe()

    def aim(self, goal: int) -> None:
        """Make goal number ``goal`` of the last ``reset`` the present one.

        Raises:
            ValueError: there is no such goal.
        """
        if not 0 <= goal < len(self._goals):
            raise ValueError(f"goal: got {goal}, expected one of the {len(self._goals)} that were drawn, from 0")
        self._aim = goal

    @property
    def goal(self) -> Goal:
        """The present one."""
        assert self._goals, "reset draws the goals"
        return self._goals[self._aim]

    @property
    def distance(self) -> float:
        """To the goal in m: of the flange, or of the cube if it is to be pushed."""
        if self.task == "reach":
            return float(np.linalg.norm(self.state[:3] - self.goal.state[:3]))
        return float(np.linalg.norm(self.cube[:2] - self.goal.cube[:2]))

    @property
    def solved(self) -> bool:
        """Is the distance at most the threshold?"""
        return self.distance <= self.threshold

    def act(self, action: ArrayLike) -> Observation:
        """Do ``action`` (7,) in the time of one step, and look."""
        self.step(action)
        return self.observe()

    def step(self, action: ArrayLike) -> Array:
        """``act`` without drawing, for planners that use the simulator as their model: the state (7,) after it.

        Raises:
            ValueError: the action is not 7 finite numbers.
        """
        values = np.asarray(action, dtype=np.float64)
        if values.shape != (7,) or not np.isfinite(values).all():
            raise ValueError(f"action: got {values.tolist()} of shape {values.shape}, expected 7 finite numbers")
        target = DROID.integrate(torch.from_numpy(self.state), torch.from_numpy(values)).numpy()
        target[6] = self._arm.commanded_gripper + values[6]
        return self.drive(target, 1 / self.rate)

    def observe(self, camera: str | None = None) -> Observation:
        """A picture by ``camera`` (the simulator's own by default), and the state."""
        self._draw.update_scene(self._arm.data, camera or self.camera, self._option)
        fine = self._draw.render().reshape(self.size, 2, self.size, 2, 3)
        return Observation(((fine.sum((1, 3), dtype=np.uint16) + 2) // 4).astype(np.uint8), self.state)

    # --- state

    @property
    def state(self) -> Array:
        """(7,) by forward kinematics of the joints."""
        angles = matrix_to_euler(torch.from_numpy(self._arm.rotation.copy())).numpy()
        return np.concatenate([self._arm.position, angles, [self._arm.gripper]])

    @property
    def cube(self) -> Array:
        """(3,) centre of the cube, m."""
        return self._arm.cube

    @property
    def joints(self) -> tuple[Array, Array]:
        """Angles (7,) in rad and speeds (7,) in rad/s."""
        return self._arm.joints, self._arm.joint_speeds

    def extrinsics(self, camera: str) -> Array:
        """(6,) pose of a camera in the base's frame, xyz and extrinsic xyz Euler; x right, y down, z into the scene."""
        position, rotation = self._arm.camera(camera)
        return np.concatenate([position, matrix_to_euler(torch.from_numpy(rotation)).numpy()])

    def snapshot(self) -> Array:
        """All that the future depends on, as a vector. The goal is not part of it."""
        return self._arm.snapshot()

    def restore(self, snapshot: Array) -> None:
        """Back to a ``snapshot``: the same actions then lead to the same states."""
        self._arm.restore(snapshot)

    # --- motion by poses

    def place(self, state: Array, cube: Array) -> None:
        """Put the arm at rest in ``state`` (7,) and the cube on the table at ``cube`` (3,): x, y and turn.

        Raises:
            ValueError: the arm cannot reach the pose.
        """
        self._arm.place(state[:3], _matrix(state[3:6]), float(state[6]), cube)

    def drive(self, state: Array, seconds: float, velocity: Array | None = None) -> Array:
        """Move to ``state`` (7,), kept in ``WORKSPACE``, in ``seconds``: the state (7,) after it.

        Args:
            velocity: (6,) of the flange when it arrives, m/s and rad/s in the base's frame; at rest by default.
        """
        self._arm.command_gripper(float(state[6]))
        self._arm.move(np.clip(state[:3], *WORKSPACE), _matrix(state[3:6]), seconds, velocity)
        return self.state

    # --- starts and goals

    def _reaching(self, draws: np.random.Generator) -> tuple[Array, list[Array], Array, Array]:
        """Start and goals (7,), and the cube (3,), x, y and turn, before and after."""
        angles = np.array([*DOWN[:2], DOWN[2] + draws.uniform(-0.4, 0.4)])
        cube = draws.uniform(*TABLE)
        while True:
            start, goal = draws.uniform(*_REACH), draws.uniform(*_REACH)
            if self.near <= np.linalg.norm(goal - start) <= self.far:
                break
        path = [start, goal]
        while len(path) <= self._count:
            goal = draws.uniform(*_REACH)
            if self.near <= np.linalg.norm(goal - path[-1]) <= self.far:
                path.append(goal)
        first, *goals = (np.array([*place, *angles, 0]) for place in path)
        return first, goals, cube, cube

    def _pushing(self, draws: np.random.Generator) -> tuple[Array, list[Array], Array, Array]:
        """As ``_reaching``."""
        while True:
            heading = draws.uniform(-math.pi / 2, math.pi / 2)
            way = np.array([math.cos(heading), math.sin(heading), 0.0])
            start = np.array([*draws.uniform(*TABLE)[:2], heading])
            goal = start + draws.uniform(self.near, self.far) * way
            if (goal >= TABLE[0])[:2].all() and (goal <= TABLE[1])[:2].all():
                return behind(start), [behind(goal)], start, goal

    def _drawing(self, detail: str) -> Any:
        """The renderer, with the options of the scene."""
        mujoco = self._arm.mujoco
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 0
        self._option.geomgroup[[0, HULLS if detail == "hull" else VISUALS]] = 1
        self._option.flags[mujoco.mjtVisFlag.mjVIS_CONVEXHULL] = detail == "hull"
        try:
            draw = mujoco.Renderer(self._arm.model, 2 * self.size, 2 * self.size)
        except (ImportError, AttributeError, RuntimeError, mujoco.FatalError) as error:
            backend = os.environ.get("MUJOCO_GL", "")
            raise ValueError(f"simulator: no drawing context by MUJOCO_GL={backend} ({error}); {NEEDS}") from error
        draw.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        return draw


def behind(cube: Array) -> Array:
    """State (7,) of a closed hand that stands behind a cube (3,), ready to push it along its turn."""
    way = np.array([math.cos(cube[2]), math.sin(cube[2])])
    return np.array([*(cube[:2] - _BEHIND * way), _PUSH_HEIGHT, *DOWN[:2], DOWN[2] + cube[2], 1])


def _matrix(angles: Array) -> Array:
    """Extrinsic xyz Euler (3,) -> rotation (3, 3)."""
    return euler_to_matrix(torch.from_numpy(np.ascontiguousarray(angles))).numpy()
