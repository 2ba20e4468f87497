"""LIBERO and robomimic: HDF5 files with one group per demonstration, pictures and states in them.

    data/demo_0/actions                     (T, 7) commands in [-1, 1]: translation, rotation vector, gripper
    data/demo_0/obs/agentview_rgb           (T, h, w, 3) uint8; robomimic: agentview_image
    data/demo_0/obs/ee_states               (T, 6) xyz and rotation vector; robomimic: robot0_eef_pos, robot0_eef_quat
    data/demo_0/obs/gripper_states          (T, 2) places of the two fingers; robomimic: robot0_gripper_qpos

States become those of the run's robot: pose in its representation, and how far the gripper is closed (0 open, 1
closed, from the distance of the fingers).

Which command leads from obs[t] to obs[t + 1] is the trap of these files. LIBERO's writer stores what it sees after a
step, so it is actions[t + 1]; robomimic stores what it saw before, so it is actions[t]. Differences of states, the
default, are blind to this: both states belong to their own picture. For recorded actions ``pairing`` finds by
regression of the commanded on the achieved translation which one fits, and refuses a file that says otherwise.

Decisions:
- Pictures of LIBERO lie upside down (``macros_image_convention`` is opengl) and are turned; those of robomimic do not.
- A recorded action is the commanded motion in metres and radians; of the gripper, whose command is a target and no
  difference, what it did. ``actions: commands`` are the numbers of the file, for probes of what was commanded.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vjepa_lab import poses
from vjepa_lab.data import hdf5
from vjepa_lab.data.containers import Unreadable
from vjepa_lab.data.decoders import Choose, Decoded
from vjepa_lab.data.episodes import Array, Episode, EpisodeReader
from vjepa_lab.data.robot import RobotSpec, expect
from vjepa_lab.registry import SOURCES
from vjepa_lab.robots import Robot

OFFSETS = range(-2, 3)
FINGERS_OPEN = 0.08
"metres between the open fingers of the Franka hand"
_CHECKED = 5
"demonstrations that the pairing is told from"


@SOURCES.register
@dataclass
class Libero:
    """Demonstrations in LIBERO's or robomimic's HDF5 files."""

    path: Any = ""
    "a file, a folder of them or a pattern like suite/*_demo.hdf5, or a list of these"
    weight: float = 1.0
    "share of the mix"
    cameras: list[str] = field(default_factory=lambda: ["agentview_rgb"])
    "pictures in obs; each is a stretch of its own. robomimic: agentview_image, robot0_eye_in_hand_image"
    rate: float = 20.0
    "steps per second"
    actions: Literal["difference", "recorded", "commands"] = "difference"
    "of the states; the recorded commands in metres and radians; or these as they are, the gripper's +1 to close"
    pairing: Literal["auto", "after", "before"] = "auto"
    "obs[t] was seen after actions[t] (LIBERO) or before (robomimic); used for recorded actions and checked for them"
    scale: tuple[float, float] = (0.05, 0.5)
    "metres and radians of a command of 1"
    flip: Literal["auto", "yes", "no"] = "auto"
    "turn pictures upside down; auto: where the file says opengl"

    def open(self, spec: RobotSpec) -> EpisodeReader:
        """List the demonstrations.

        Raises:
            ValueError: no file, no demonstration, or actions that fit no pairing or another than is given.
        """
        expect(spec, "libero")
        entries = [self.path] if isinstance(self.path, str) else list(self.path)
        files = [file for entry in entries or [""] for file in _files(str(entry))]
        layout = Demonstrations(self, files)
        if self.actions != "difference":
            layout.shift = self._paired(layout)
        return EpisodeReader(layout, spec)

    def _paired(self, layout: Demonstrations) -> int:
        found = pairing([layout.moves(demo) for demo in range(min(_CHECKED, len(layout.demos)))])
        best = max(found, key=lambda offset: found[offset])
        said = {"auto": best, "after": 1, "before": 0}[self.pairing]
        if best not in (0, 1) or best != said:
            scores = ", ".join(f"{offset:+d}: {r2:.3f}" for offset, r2 in found.items())
            raise ValueError(
                f"libero: pairing: got '{self.pairing}', but the motion from obs[t] to obs[t + 1] fits "
                f"actions[t {best:+d}] best, expected +1 (after) or +0 (before); R2 by offset: {scores}"
            )
        return best


class Demonstrations:
    """Demonstrations of some files; index // cameras is the demonstration."""

    def __init__(self, source: Libero, files: list[str]) -> None:
        self.name = f"libero:{Path(files[0]).name}"
        self.rate = source.rate
        self.source = source
        self.cameras = len(source.cameras)
        self.shift = 0
        "1 where obs[t] was seen after actions[t]"
        self.demos = [(file, demo) for file in files for demo in _demos(file)]
        self.robot = Robot(name="libero", rotation=self._rotation(), turn="axis_angle", rate=source.rate)

    def __len__(self) -> int:
        return len(self.demos) * len(self.source.cameras)

    def key(self, index: int) -> str:
        """File, demonstration and camera."""
        number, camera = divmod(index, len(self.source.cameras))
        return "{}#{}:{}".format(*self.demos[number], self.source.cameras[camera])

    def load(self, index: int) -> Episode:
        """States and, where they are wanted, recorded actions of a demonstration."""
        number, camera = divmod(index, len(self.source.cameras))
        file, demo = self.demos[number]
        with hdf5.opened(file) as data:
            states = _states(data[f"data/{demo}/obs"], self.robot.rotation)
            actions = commands = None
            if self.source.actions != "difference":
                commands = hdf5.rows(data, f"data/{demo}/actions", 7)[self.shift :][: len(states) - 1]
                gripper = np.diff(states[: len(commands) + 1, -1:], axis=0)
                actions = np.concatenate([commands[:, :6] * np.repeat(self.source.scale, 3), gripper], axis=1)
        name = f"data/{demo}/obs/{self.source.cameras[camera]}"
        clock = np.arange(len(states)) / self.source.rate
        pictures = partial(_pictures, file, name, self.source)
        if self.source.actions == "commands":
            return Episode(states, clock, pictures, commands=commands)
        return Episode(states, clock, pictures, actions=actions)

    def moves(self, demo: int) -> tuple[Array, Array]:
        """Places (T, 3) and commanded translations (T, 3) of a demonstration.

        Raises:
            ValueError: the file cannot be read.
        """
        file, name = self.demos[demo]
        with _telling(file, name), hdf5.opened(file) as data:
            return _place(data[f"data/{name}/obs"])[0], hdf5.rows(data, f"data/{name}/actions", 7)[:, :3]

    def _rotation(self) -> poses.Rotation:
        """How the first demonstration gives rotations; one with another is bad."""
        file, name = self.demos[0]
        with _telling(file, name), hdf5.opened(file) as data:
            return _place(data[f"data/{name}/obs"])[2]


def pairing(episodes: list[tuple[Array, Array]]) -> dict[int, float]:
    """How well actions[t + k] explains the motion from t to t + 1: R2 of a ridge regression, by offset k.

    Args:
        episodes: places (T, 3) and commanded translations (T, 3) of each.
    """
    found = {}
    for offset in OFFSETS:
        pairs = [_offset(np.diff(places, axis=0), commands, offset) for places, commands in episodes]
        motion = np.concatenate([m for m, _ in pairs])
        command = np.concatenate([c for _, c in pairs])
        x = np.concatenate([motion / (motion.std() + 1e-12), np.ones((len(motion), 1))], axis=1)
        weights = np.linalg.solve(x.T @ x + 1e-6 * len(x) * np.eye(4), x.T @ command)
        spread = ((command - command.mean(axis=0)) ** 2).sum()
        found[offset] = float(1 - ((command - x @ weights) ** 2).sum() / max(spread, 1e-12))
    return found


def _offset(motion: Array, commands: Array, offset: int) -> tuple[Array, Array]:
    """Rows t of ``motion`` beside rows t + offset of ``commands``, where there are both."""
    first, stop = max(0, -offset), min(len(motion), len(commands) - offset)
    return motion[first:stop], commands[first + offset : stop + offset]


def _files(entry: str) -> list[str]:
    if entry and Path(entry).is_dir():
        found = sorted(str(p) for p in Path(entry).rglob("*") if p.suffix in (".hdf5", ".h5"))
    else:
        found = sorted(glob.glob(entry)) if any(c in entry for c in "*?[") else [entry]
    if not found or not all(Path(file).is_file() for file in found):
        raise ValueError(f"libero: path: got '{entry}', expected an HDF5 file, a folder of them or a pattern")
    return found


def _demos(file: str) -> list[str]:
    """Names of the demonstrations of a file, by their number."""
    with _telling(file), hdf5.opened(file) as data:
        names = [name for name in data.get("data", ()) if f"data/{name}/obs" in data]
    if not names:
        raise ValueError(f"libero: {file}: got no demonstration with obs, expected data/demo_0/obs and so on")
    return sorted(names, key=lambda name: (len(name), name))


@contextmanager
def _telling(file: str, demo: str = "") -> Iterator[None]:
    """What is wrong with a file while it is opened is the user's to know."""
    try:
        yield
    except Unreadable as error:
        raise ValueError(f"libero: {file}{'#' * bool(demo)}{demo}: {error.reason}: {error.detail}") from None


def _place(obs: Any) -> tuple[Array, Array, poses.Rotation]:
    """xyz (T, 3), rotation (T, 3 or 4) and its representation."""
    if "robot0_eef_pos" in obs:
        return hdf5.rows(obs, "robot0_eef_pos", 3), hdf5.rows(obs, "robot0_eef_quat", 4), "quaternion"
    if "ee_states" in obs:
        both = hdf5.rows(obs, "ee_states", 6)
        return both[:, :3], both[:, 3:], "axis_angle"
    return hdf5.rows(obs, "ee_pos", 3), hdf5.rows(obs, "ee_ori", 3), "axis_angle"


def _states(obs: Any, expected: poses.Rotation) -> Array:
    """xyz, rotation and gripper (T, 7 or 8)."""
    xyz, rotation, given = _place(obs)
    if given != expected:
        raise Unreadable("mismatched", f"rotations are {given}, and {expected} in the first demonstration")
    fingers = hdf5.optional(obs, "gripper_states", 2)
    fingers = hdf5.rows(obs, "robot0_gripper_qpos", 2) if fingers is None else fingers
    if not len(xyz) == len(rotation) == len(fingers):
        raise Unreadable("mismatched", f"got {len(xyz)} places, {len(rotation)} rotations, {len(fingers)} grippers")
    closed = 1 - np.clip((fingers[:, 0] - fingers[:, 1]) / FINGERS_OPEN, 0, 1)
    return np.concatenate([xyz, rotation, closed[:, None]], axis=1)


def _pictures(file: str, name: str, source: Libero, choose: Choose) -> Decoded:
    with hdf5.opened(file) as data:
        if name not in data:
            near = ", ".join(sorted(k for k in data[name.rpartition("/")[0]] if k.endswith(("rgb", "image"))))
            raise Unreadable("missing", f"no dataset '{name}'; pictures are: {near or 'none'}")
        pictures = data[name]
        clock = np.arange(len(pictures)) / source.rate
        ids = choose(clock)
        wanted, place = np.unique(ids, return_inverse=True)
        frames = np.asarray(pictures[wanted], dtype=np.uint8)[place]
        opengl = str(data["data"].attrs.get("macros_image_convention", "")) == "opengl"
    if source.flip == "yes" or (source.flip == "auto" and opengl):
        frames = frames[:, ::-1].copy()
    return Decoded(frames, ids, clock[ids])
