"""The simulated Franka Panda with a Robotiq gripper: its scene, its kinematics and its controller.

What: one arm on a table with a cube, in MuJoCo. The pose of the arm is the pose of its flange (``panda_link8``) in the
frame of its base, as in DROID: link 7 moved 0.107 m along its own z axis. ``place`` puts the arm at a pose, ``move``
drives it there.

Decisions:
- The bodies come from the assets of gym-hil (Apache-2.0), loaded by path; none of its code runs, because its
  controller ignores rotations.
- Control is operational-space control at 250 Hz: the torques realise an acceleration of the flange,
  ``a_ref + K (x_ref - x) + 2 sqrt(K) (v_ref - v)`` with K = 1500 / s^2, along a cubic from the present pose and
  velocity to the target. The cubic starts from what is measured, so the state of the physics is the whole state.
- The bodies that collide are coloured like the arm, so that their convex hulls can be drawn in place of the visual
  meshes at a fifth of the cost; at the sizes that models see they are hard to tell apart.

Reference: Khatib 1987, "A unified approach for motion and force control of robot manipulators"; the cubic is Hermite's.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NEEDS = (
    "install the packages with pip install 'vjepa_lab[sim]', and for drawing without a screen (Debian, Ubuntu) "
    "apt-get install -y --no-install-recommends libegl1 libegl-mesa0 libgl1-mesa-dri libgles2 libgl1; where evdev does "
    "not build, pip install --no-deps gym-hil==0.1.14 is enough"
)
"what to do where the simulator cannot start"

HOME = np.array([0.0, 0.195, 0.0, -2.43, 0.0, 2.62, 0.785])
"joint angles (rad) from which poses are solved and to which free motion of the joints returns"
CUBE = 0.025
"half an edge of the cube, m"
FLANGE = 0.107
"from the frame of link 7 to the flange, m along z"
FINGERS = 0.155
"from the flange to the tips of the closed fingers, m"
VISUALS, HULLS = 2, 3
"groups of geoms: the visual meshes, the bodies that collide"

_DOF = 7
_SUBSTEPS = 2
"physics steps of 2 ms per tick of the controller"
_GAIN = 1500.0
_POSTURE_GAIN = 20.0
_CLOSED = 0.8
"angle of the gripper's driver joints when it is closed, rad"
CAMERAS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "left": ((1.05, 0.70, 0.75), (0.45, 0.0, 0.26)),
    "right": ((1.05, -0.70, 0.75), (0.45, 0.0, 0.26)),
}
"external cameras: where they stand and what they look at, m in the frame of the base; left has the larger y"


def load_mujoco() -> ModuleType:
    """The package mujoco, set up to draw without a screen.

    Raises:
        ValueError: a package is missing, or MuJoCo was told to draw with OSMesa, or was imported before by something
            else, so that it draws on a screen.
    """
    if sys.platform == "linux":
        if "mujoco" in sys.modules and "MUJOCO_GL" not in os.environ:
            raise ValueError("MUJOCO_GL: not set when mujoco was imported by something else; set MUJOCO_GL=egl")
        backend = os.environ.setdefault("MUJOCO_GL", "egl").lower()  # read by mujoco when it is imported
        if backend == "osmesa":
            raise ValueError(
                "MUJOCO_GL: got osmesa, expected egl: with OSMesa the second renderer of a process gives old images"
            )
    for name in ("mujoco", "gym_hil"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"simulator: the package {name} is not installed; {NEEDS}")
    try:
        return importlib.import_module("mujoco")
    except (ImportError, AttributeError, OSError) as error:  # AttributeError: PyOpenGL without a libEGL
        raise ValueError(f"simulator: mujoco cannot be imported ({error}); {NEEDS}") from error


class Arm:
    """One arm, the table and the cube, with the physics of MuJoCo. Lengths in m, angles in rad, time in s."""

    def __init__(self, *, size: int) -> None:
        """Build the scene; ``size`` is the edge of the largest picture to be drawn of it, px."""
        self.mujoco: Any = load_mujoco()
        self.model = self._scene(size).compile()
        self._paint()
        self.data = self.mujoco.MjData(self.model)
        self._link = self.model.body("link7").id
        self._driver = self.model.joint("right_driver_joint").qposadr[0]
        self._cube = self.model.joint("cube").qposadr[0]
        self._grip = self.model.actuator("fingers_actuator").id
        self._range = self.model.jnt_range[:_DOF].copy()
        self._jacobian = np.zeros((6, self.model.nv))
        self._jacobian_rate = np.zeros((6, self.model.nv))
        self._mass = np.zeros((self.model.nv, self.model.nv))
        self._fresh = self.snapshot()

    # --- what is measured

    @property
    def position(self) -> Array:
        """(3,) of the flange."""
        return self.data.xpos[self._link] + FLANGE * self.rotation[:, 2]

    @property
    def rotation(self) -> Array:
        """(3, 3) of the flange."""
        return self.data.xmat[self._link].reshape(3, 3)

    @property
    def gripper(self) -> float:
        """0 open .. 1 closed."""
        return float(np.clip(self.data.qpos[self._driver] / _CLOSED, 0, 1))

    @property
    def joints(self) -> Array:
        """(7,) angles."""
        return self.data.qpos[:_DOF].copy()

    @property
    def joint_speeds(self) -> Array:
        """(7,) rad/s."""
        return self.data.qvel[:_DOF].copy()

    @property
    def cube(self) -> Array:
        """(3,) centre of the cube."""
        return self.data.qpos[self._cube : self._cube + 3].copy()

    def camera(self, name: str) -> tuple[Array, Array]:
        """Position (3,) and rotation (3, 3) of a camera in the base's frame: x right, y down, z into the scene."""
        camera = self.data.camera(name)
        return camera.xpos.copy(), camera.xmat.reshape(3, 3) * (1, -1, -1)  # MuJoCo: y up, z out of the scene

    # --- the whole state, for planners that use the simulator as their model

    def snapshot(self) -> Array:
        """All that the physics depends on, as a vector."""
        kind = self.mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(self.mujoco.mj_stateSize(self.model, kind))
        self.mujoco.mj_getState(self.model, self.data, state, kind)
        return state

    def restore(self, state: Array) -> None:
        """Back to ``state`` of ``snapshot``."""
        self.mujoco.mj_setState(self.model, self.data, state, self.mujoco.mjtState.mjSTATE_INTEGRATION)
        self._refresh()

    # --- motion

    def place(self, position: Array, rotation: Array, gripper: float, cube: Array) -> None:
        """Put the arm at rest at a pose of the flange (damped least squares from ``HOME``), and the cube on the table.

        Args:
            gripper: 0 open .. 1 closed.
            cube: (3,) its x and y, and its turn about z.

        Raises:
            ValueError: the joints cannot reach the pose.
        """
        self.restore(self._fresh)
        data = self.data
        data.qpos[:_DOF] = HOME
        half = cube[2] / 2
        data.qpos[self._cube : self._cube + 7] = (*cube[:2], CUBE, math.cos(half), 0, 0, math.sin(half))
        target = self._quaternion(rotation)
        for _ in range(200):
            self._refresh()
            error = np.concatenate([position - self.position, self._turn(target, self._quaternion(self.rotation))])
            if np.abs(error).max() < 1e-9:
                break
            jacobian = self._jacobian_now()
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-6 * np.eye(6), error)
            step *= min(1.0, 0.5 / np.abs(step).max())
            data.qpos[:_DOF] = np.clip(data.qpos[:_DOF] + step, *self._range.T)
        else:
            raise ValueError(f"pose: the arm cannot reach position {np.round(position, 3).tolist()} m so turned")
        self.command_gripper(gripper)
        self.move(position, rotation, 0.5)
        data.qvel[:] = 0

    def command_gripper(self, gripper: float) -> None:
        """Set the target of the fingers, 0 open .. 1 closed."""
        self.data.ctrl[self._grip] = 255 * min(max(gripper, 0.0), 1.0)

    @property
    def commanded_gripper(self) -> float:
        """The last target of the fingers."""
        return float(self.data.ctrl[self._grip]) / 255

    def move(self, position: Array, rotation: Array, seconds: float, velocity: Array | None = None) -> None:
        """Drive the flange to a pose in ``seconds``, arriving with ``velocity`` (6,), at rest by default."""
        tick = _SUBSTEPS * self.model.opt.timestep
        ticks = max(round(seconds / tick), 1)
        duration = ticks * tick
        start_position, start = self.position.copy(), self._quaternion(self.rotation)
        first = self._jacobian_now() @ self.data.qvel[:_DOF] * duration
        last = np.zeros(6) if velocity is None else velocity * duration
        way = np.concatenate([position - start_position, self._turn(self._quaternion(rotation), start)])
        linear, quadratic, cubic = first, 3 * way - 2 * first - last, first + last - 2 * way
        for k in range(ticks):
            s = k / ticks
            x = s * (linear + s * (quadratic + s * cubic))
            v = (linear + s * (2 * quadratic + 3 * s * cubic)) / duration
            a = (2 * quadratic + 6 * s * cubic) / duration**2
            self.mujoco.mj_step1(self.model, self.data)
            self.data.ctrl[:_DOF] = self._torques(start_position + x[:3], self._turned(start, x[3:]), v, a)
            self.mujoco.mj_step2(self.model, self.data)
            for _ in range(_SUBSTEPS - 1):
                self.mujoco.mj_step(self.model, self.data)
        self._refresh()

    def _torques(self, position: Array, quaternion: Array, velocity: Array, acceleration: Array) -> Array:
        """(7,) torques that give the flange the acceleration of the reference and pull it to its pose."""
        data, model = self.data, self.model
        jacobian = self._jacobian_now()
        self.mujoco.mj_jacDot(model, data, self._jacobian_rate[:3], self._jacobian_rate[3:], self.position, self._link)
        self.mujoco.mj_fullM(model, self._mass, data.qM)
        mass, speed = self._mass[:_DOF, :_DOF], data.qvel[:_DOF]
        error = np.concatenate([position - self.position, self._turn(quaternion, self._quaternion(self.rotation))])
        wanted = acceleration + _GAIN * error + 2 * math.sqrt(_GAIN) * (velocity - jacobian @ speed)
        wanted -= self._jacobian_rate[:, :_DOF] @ speed
        posture = _POSTURE_GAIN * (HOME - data.qpos[:_DOF]) - 2 * math.sqrt(_POSTURE_GAIN) * speed
        by_joint = np.linalg.solve(mass, jacobian.T)
        force = np.linalg.solve(jacobian @ by_joint + 1e-6 * np.eye(6), wanted - jacobian @ posture)
        return jacobian.T @ force + mass @ posture + data.qfrc_bias[:_DOF] - data.qfrc_passive[:_DOF]

    def _jacobian_now(self) -> Array:
        """(6, 7): velocity and angular velocity of the flange per joint speed."""
        self.mujoco.mj_jac(self.model, self.data, self._jacobian[:3], self._jacobian[3:], self.position, self._link)
        return self._jacobian[:, :_DOF]

    def _refresh(self) -> None:
        """Bring what follows from the joint angles up to date, and leave the dynamics alone."""
        self.mujoco.mj_kinematics(self.model, self.data)
        self.mujoco.mj_comPos(self.model, self.data)
        self.mujoco.mj_camlight(self.model, self.data)

    def _quaternion(self, rotation: Array) -> Array:
        """(3, 3) -> (4,), w x y z as in MuJoCo."""
        out = np.empty(4)
        self.mujoco.mju_mat2Quat(out, np.ascontiguousarray(rotation).ravel())
        return out

    def _turn(self, target: Array, start: Array) -> Array:
        """Rotation vector (3,), in the base's frame, that turns ``start`` into ``target``."""
        out, local = np.empty(3), np.empty(3)
        self.mujoco.mju_subQuat(local, target, start)
        self.mujoco.mju_rotVecQuat(out, local, start)
        return out

    def _turned(self, start: Array, turn: Array) -> Array:
        """Inverse of ``_turn``."""
        angle = float(np.linalg.norm(turn))
        if angle == 0:
            return start
        step, out = np.empty(4), np.empty(4)
        self.mujoco.mju_axisAngle2Quat(step, turn / angle, angle)
        self.mujoco.mju_mulQuat(out, step, start)
        return out

    # --- the scene

    def _scene(self, size: int) -> Any:
        """The arm of gym-hil on a table, with a cube and cameras."""
        mujoco = self.mujoco
        found = importlib.util.find_spec("gym_hil")
        assert found is not None
        assert found.origin is not None  # asked for by load_mujoco
        spec = mujoco.MjSpec.from_file(str(Path(found.origin).parent / "assets" / "scene.xml"))
        spec.visual.global_.offwidth = spec.visual.global_.offheight = size
        spec.visual.quality.offsamples = 0
        spec.visual.headlight.ambient = (0.3, 0.3, 0.3)
        follows_block = next(light for light in spec.lights if light.targetbody == "block")
        for unused in (*spec.sensors, follows_block, spec.body("block"), spec.body("target")):
            spec.delete(unused)
        spec.geom("floor").pos = (0, 0, -0.7)
        world = spec.worldbody
        box = mujoco.mjtGeom.mjGEOM_BOX
        wood = spec.add_texture(name="table", type=mujoco.mjtTexture.mjTEXTURE_2D, width=64, height=64)
        wood.builtin = mujoco.mjtBuiltin.mjBUILTIN_CHECKER
        wood.rgb1, wood.rgb2 = (0.42, 0.34, 0.26), (0.36, 0.29, 0.22)
        material = spec.add_material(name="table", texrepeat=(4, 4), specular=0.1)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "table"
        world.add_geom(name="table", type=box, size=(0.55, 0.6, 0.02), pos=(0.4, 0, -0.02), material="table")
        cube = world.add_body(name="cube", pos=(0.5, 0, CUBE))
        cube.add_freejoint(name="cube")
        cube.add_geom(name="cube", type=box, size=(CUBE,) * 3, mass=0.1, rgba=(0.9, 0.25, 0.1, 1))
        for name, (position, target) in CAMERAS.items():
            world.add_camera(name=name, pos=position, quat=self._looking(position, target), fovy=44)
        wrist = spec.camera("handcam_rgb")
        wrist.name, wrist.fovy = "wrist", 70
        return spec

    def _paint(self) -> None:
        """Colour the bodies that collide: the arm white, the gripper dark, as their visual meshes are."""
        model = self.model
        gripper, cube = model.body("base_mount").id, model.body("cube").id
        for geom in np.flatnonzero(model.geom_group == HULLS):
            body = model.geom_bodyid[geom]
            model.geom_rgba[geom] = (0.15, 0.15, 0.17, 1) if gripper <= body < cube else (0.9, 0.9, 0.9, 1)

    def _looking(self, position: tuple[float, float, float], target: tuple[float, float, float]) -> Array:
        """Quaternion of a camera at ``position`` that has ``target`` in its centre and stands upright."""
        back = np.subtract(position, target)
        back /= np.linalg.norm(back)
        right = np.cross((0, 0, 1), back)
        right /= np.linalg.norm(right)
        return self._quaternion(np.stack([right, np.cross(back, right), back], axis=1))
