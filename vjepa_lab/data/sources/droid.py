"""DROID as it was recorded: one folder per episode, with its trajectory, its metadata and an MP4 per camera.

    <lab>/success/2023-04-17/Mon_Apr_17_14:48:05_2023/
        metadata_<uuid>.json            names the video of each camera: left_mp4_path, right_mp4_path, wrist_mp4_path
        trajectory.h5                   15 steps per second
        recordings/MP4/<serial>.mp4     one frame per step

States are ``observation/robot_state/cartesian_position`` (flange in the base frame: xyz, extrinsic xyz Euler) and
``gripper_position`` (0 open, 1 closed). The files of an episode are opened when it is drawn: a listing of all of DROID
opens at once, and a broken episode is a bad sample like any other.

Decisions:
- Extrinsics are read where they are (``observation/camera_extrinsics/<serial>_left``) and NaN where not; the released
  loader (src app/vjepa_droid/droid.py) fails without them although it does not use them.
- ``rate: timestamps`` reads ``observation/timestamp/control/step_start`` (milliseconds).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vjepa_lab.data import hdf5
from vjepa_lab.data.containers import Unreadable
from vjepa_lab.data.decoders import decode
from vjepa_lab.data.episodes import Episode, EpisodeReader, needs
from vjepa_lab.data.robot import RobotSpec, expect
from vjepa_lab.registry import SOURCES
from vjepa_lab.robots import DROID

CAMERAS = ("left", "right", "wrist", "ext1", "ext2")
TRAJECTORY = "trajectory.h5"
_ROBOT = "observation/robot_state"
_STARTS = "observation/timestamp/control/step_start"


@SOURCES.register
@dataclass
class Droid:
    """Raw DROID folders."""

    path: str = ""
    "a folder below which episodes lie, or a listing: a text file with the folder of one episode per line"
    weight: float = 1.0
    "share of the mix"
    cameras: list[str] = field(default_factory=lambda: ["left"])
    "which cameras: left, right, wrist, ext1, ext2; each is a stretch of its own"
    rate: Any = None
    "steps per second, or timestamps (those of the control loop), or header (the released loader's steps); null: 15"

    def open(self, spec: RobotSpec) -> EpisodeReader:
        """Find the episodes.

        Raises:
            ValueError: there are none, or a field cannot be understood.
        """
        expect(spec, "droid")
        needs("h5py")
        unknown = [c for c in self.cameras if c not in CAMERAS]
        if unknown or not self.cameras:
            got = ", ".join(unknown) or "none"
            raise ValueError(f"droid: cameras: got {got}, expected some of {', '.join(CAMERAS)}")
        rate = DROID.rate if self.rate is None else self.rate
        if rate not in ("timestamps", "header") and not (isinstance(rate, int | float) and rate > 0):
            raise ValueError(f"droid: rate: got {rate!r}, expected steps per second, timestamps or header")
        return EpisodeReader(DroidFolders(find(self.path), self.cameras, rate, spec, Path(self.path).name), spec)


def find(path: str) -> list[str]:
    """Folders of the episodes of a listing, in its order, or below a folder, sorted.

    A listing may have further columns after a space, as the released one has; relative folders are relative to it.

    Raises:
        ValueError: there is no such file or folder, or no episode in it.
    """
    if path and Path(path).is_dir():
        found = []
        for folder, inner, files in os.walk(path):
            inner[:] = sorted(name for name in inner if name != "recordings")
            if TRAJECTORY in files:
                found.append(folder)
                inner.clear()
        expected = f"folders with {TRAJECTORY} below it"
    elif path and Path(path).is_file():
        text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
        lines = [line.split(" ")[0].strip() for line in text.splitlines()]
        found = [os.path.join(Path(path).parent, line).removesuffix(f"/{TRAJECTORY}") for line in lines if line]
        expected = "the folder of one episode per line"
    else:
        raise ValueError(f"droid: path: got '{path}', expected a folder or a listing; there is none")
    if not found:
        raise ValueError(f"droid: path: got '{path}' with no episode, expected {expected}")
    return found


class DroidFolders:
    """Episodes of DROID; index // cameras is the folder."""

    robot = DROID

    def __init__(self, folders: list[str], cameras: list[str], rate: float | str, spec: RobotSpec, name: str) -> None:
        self.name = f"droid:{name}"
        self.rate = None if isinstance(rate, str) else float(rate)
        self._clock = rate
        self._cameras = cameras
        self.cameras = len(cameras)
        self._spec = spec
        # one array instead of a list: 100,000 folders pickle at once and are shared by forked workers
        self._folders = np.array([os.fsencode(folder) for folder in folders])

    def __len__(self) -> int:
        return len(self._folders) * len(self._cameras)

    def folder(self, index: int) -> str:
        """Where the episode lies."""
        return os.fsdecode(self._folders[index // len(self._cameras)])

    def key(self, index: int) -> str:
        """Folder and camera."""
        return f"{self.folder(index)}:{self._cameras[index % len(self._cameras)]}"

    def video(self, index: int) -> str:
        """The MP4 of the camera, as the metadata names it.

        Raises:
            Unreadable: there are no metadata, or they do not name it.
        """
        folder, camera = Path(self.folder(index)), self._cameras[index % len(self._cameras)]
        name = metadata(folder).get(f"{camera}_mp4_path")
        if not isinstance(name, str) or not name:
            raise Unreadable("missing", f"the metadata have no {camera}_mp4_path")
        return str(folder / "recordings" / "MP4" / name.replace("\\", "/").rpartition("/")[2])

    def load(self, index: int) -> Episode:
        """States, clock and extrinsics of one episode, and how to read one camera's pictures."""
        video = self.video(index)
        with hdf5.opened(Path(self.folder(index)) / TRAJECTORY) as file:
            poses = hdf5.rows(file, f"{_ROBOT}/cartesian_position", 6)
            gripper = hdf5.rows(file, f"{_ROBOT}/gripper_position")
            extrinsics = hdf5.optional(file, f"observation/camera_extrinsics/{Path(video).stem}_left", 6)
            starts = hdf5.rows(file, _STARTS) if self._clock == "timestamps" else None
        steps = len(poses)
        for name, found in (("gripper_position", gripper), ("extrinsics", extrinsics), (_STARTS, starts)):
            if found is not None and len(found) != steps:
                raise Unreadable("mismatched", f"{name}: got {len(found)} rows, expected {steps} as there are poses")
        return Episode(
            states=np.concatenate([poses, gripper[:, None]], axis=1),
            clock=self._times(steps, starts),
            pictures=partial(decode, video, decoder=self._spec.decoder, threads=self._spec.threads),
            extrinsics=extrinsics,
        )

    def _times(self, steps: int, starts: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        """Seconds from the first step; None: the released loader's steps."""
        if self.rate is not None:
            return np.arange(steps) / self.rate
        if starts is None:
            return None
        if not (np.diff(starts) > 0).all():
            raise Unreadable("mismatched", f"{_STARTS}: expected ascending times")
        return (starts - starts[0]) / 1000


def metadata(folder: Path) -> dict[str, Any]:
    """What the metadata of an episode say; an episode without them was not completed.

    Raises:
        Unreadable: there are none, or they are no JSON object.
    """
    try:
        files = sorted(folder.glob("metadata_*.json")) or sorted(folder.glob("*.json"))
        if not files:
            raise Unreadable("missing", "no metadata_*.json")
        facts = json.loads(files[0].read_text(encoding="utf-8"))
    except OSError as error:
        raise Unreadable("missing", f"metadata: {error.strerror or error}") from None
    except ValueError as error:
        raise Unreadable("undecodable", f"{files[0].name}: {error}") from None
    if not isinstance(facts, dict):
        raise Unreadable("undecodable", f"{files[0].name}: expected a JSON object")
    return facts
