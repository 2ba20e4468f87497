"""CALVIN: one npz file per step of long recordings of play.

    training/episode_0000042.npz     rgb_static (200, 200, 3), rgb_gripper, robot_obs (15,), rel_actions (7,), ...
    training/ep_start_end_ids.npy    (n, 2) first and last step of each recording

States are those of the run's robot: tool position and Euler angles (robot_obs 0 to 5), and how far the gripper is
closed (0 open, 1 closed, from its width, robot_obs 6). The npz of step i holds what was seen and the command that was
issued then, so that ``rel_actions`` of i leads from i to i + 1.

Decisions:
- A recording lasts for tens of thousands of steps, each a file of its own. It is cut into parts of ``part`` steps, of
  which only the numbers and the wanted pictures are read; the last part reaches back. No part spans two recordings.
- ``rel_actions`` are the commanded motion times 50 (metres) and 20 (radians), clipped to [-1, 1]. ``recorded`` divides
  by these, ``commands`` leaves them as they are. Their gripper is +1 to *open*; commands are turned round, so that +1
  closes, as in LIBERO.
- Nothing but arrays is read from the files (``allow_pickle=False``).
"""

from __future__ import annotations

import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vjepa_lab.data.containers import Unreadable
from vjepa_lab.data.decoders import Choose, Decoded
from vjepa_lab.data.episodes import Array, Episode, EpisodeReader
from vjepa_lab.data.robot import RobotSpec, expect
from vjepa_lab.registry import SOURCES
from vjepa_lab.robots import Robot

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDS = "ep_start_end_ids.npy"
CAMERAS = ("rgb_static", "rgb_gripper")
GRIPPER_OPEN = 0.08
"width of the open gripper in metres"
SCALE = (50.0, 20.0)
"of rel_actions: per metre and per radian"
_PART = 64
"steps of a part, where a stretch does not need more"


@SOURCES.register
@dataclass
class Calvin:
    """A split of CALVIN."""

    path: str = ""
    "folder of a split: training or validation"
    weight: float = 1.0
    "share of the mix"
    cameras: list[str] = field(default_factory=lambda: ["rgb_static"])
    "rgb_static or rgb_gripper; each is a stretch of its own"
    rate: float = 30.0
    "steps per second"
    actions: Literal["difference", "recorded", "commands"] = "difference"
    "of the states; rel_actions in metres and radians; or rel_actions as they are, but with a gripper of +1 to close"
    part: int = 0
    "steps of a part; 0: 64, or as many as a stretch takes"

    def open(self, spec: RobotSpec) -> EpisodeReader:
        """Read the list of recordings.

        Raises:
            ValueError: it is not there or cannot be understood, or no recording is as long as a stretch.
        """
        expect(spec, "calvin")
        unknown = [camera for camera in self.cameras if camera not in CAMERAS]
        if unknown or not self.cameras:
            got = ", ".join(unknown) or "none"
            raise ValueError(f"calvin: cameras: got {got}, expected some of {', '.join(CAMERAS)}")
        if self.actions not in ("difference", "recorded", "commands"):
            raise ValueError(f"calvin: actions: got '{self.actions}', expected difference, recorded or commands")
        if self.rate <= 0:
            raise ValueError(f"calvin: rate: got {self.rate}, expected steps per second above 0")
        step = 1.0 if spec.fps is None else self.rate / spec.fps
        needed = int(np.ceil((spec.frames - 1) * step - 1e-6)) + 1
        if self.part and self.part < needed:
            raise ValueError(f"calvin: part: got {self.part} steps, expected at least {needed}, as a stretch takes")
        parts = cut(recordings(self.path), self.part or max(_PART, needed), needed)
        if not len(parts):
            raise ValueError(f"calvin: path: got '{self.path}', where no recording has the {needed} steps of a stretch")
        return EpisodeReader(Parts(self, parts), spec)


def recordings(path: str) -> NDArray[np.int64]:
    """First and last step of each recording of a split, (n, 2).

    Raises:
        ValueError: the list is not there, or is not what it should be.
    """
    file = Path(path) / ENDS
    if not path or not file.is_file():
        raise ValueError(f"calvin: path: got '{path}', expected the folder of a split; it has no {ENDS}")
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"calvin: {file}: got a file that is no array ({error}), expected (n, 2) integers") from None
    if found.ndim != 2 or found.shape[1] != 2 or found.dtype.kind not in "iu" or not len(found):
        raise ValueError(f"calvin: {file}: got {found.dtype} {found.shape}, expected (n, 2) integers")
    backwards = np.flatnonzero(found[:, 1] < found[:, 0])
    if len(backwards):
        first, last = found[backwards[0]]
        raise ValueError(f"calvin: {file}: row {backwards[0]}: got {first} to {last}, expected ascending steps")
    return found.astype(np.int64)


def cut(ends: NDArray[np.int64], part: int, needed: int) -> NDArray[np.int64]:
    """Parts (m, 2) of recordings (n, 2), first and last step of each.

    Args:
        part: steps of a part; a recording that is shorter is one part.
        needed: recordings of fewer steps are left out.
    """
    parts = []
    for first, last in ends.tolist():
        if last - first + 1 < needed:
            continue
        begins = list(range(first, max(first, last - part + 1) + 1, part))
        if begins[-1] + part - 1 < last:
            begins.append(last - part + 1)
        parts += [(begin, min(begin + part - 1, last)) for begin in begins]
    return np.array(parts, dtype=np.int64).reshape(-1, 2)


class Parts:
    """Parts of the recordings of a split; index // cameras is the part."""

    def __init__(self, source: Calvin, parts: NDArray[np.int64]) -> None:
        self.name = f"calvin:{Path(source.path).name}"
        self.rate = source.rate
        self.robot = Robot(name="calvin", rate=source.rate)
        self.source = source
        self.cameras = len(source.cameras)
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts) * len(self.source.cameras)

    def key(self, index: int) -> str:
        """Folder, steps and camera."""
        number, camera = divmod(index, len(self.source.cameras))
        first, last = self.parts[number]
        return f"{self.source.path}#{first}-{last}:{self.source.cameras[camera]}"

    def load(self, index: int) -> Episode:
        """States and, where they are wanted, recorded actions of a part."""
        number, camera = divmod(index, len(self.source.cameras))
        first, last = self.parts[number].tolist()
        files = [str(Path(self.source.path) / f"episode_{step:07d}.npz") for step in range(first, last + 1)]
        wanted = {"robot_obs": 15} if self.source.actions == "difference" else {"robot_obs": 15, "rel_actions": 7}
        rows = [_numbers(file, wanted) for file in files]
        seen = np.stack([row["robot_obs"] for row in rows])
        closed = 1 - np.clip(seen[:, 6:7] / GRIPPER_OPEN, 0, 1)
        states = np.concatenate([seen[:, :6], closed], axis=1)
        clock = np.arange(len(states)) / self.rate
        pictures = partial(_pictures, files, clock, self.source.cameras[camera])
        if self.source.actions == "difference":
            return Episode(states, clock, pictures)
        sent = np.stack([row["rel_actions"] for row in rows])[:-1]
        if self.source.actions == "commands":
            return Episode(states, clock, pictures, commands=np.concatenate([sent[:, :6], -sent[:, 6:]], axis=1))
        moved = np.concatenate([sent[:, :6] / np.repeat(SCALE, 3), np.diff(states[:, 6:], axis=0)], axis=1)
        return Episode(states, clock, pictures, actions=moved)


def _numbers(file: str, wanted: dict[str, int]) -> dict[str, Array]:
    with _step(file) as step:
        found = {name: _array(step, file, name) for name in wanted}
    for name, width in wanted.items():
        if found[name].shape != (width,):
            got = found[name].shape
            raise Unreadable("mismatched", f"{Path(file).name}: {name}: got the shape {got}, expected ({width},)")
    return {name: values.astype(np.float64) for name, values in found.items()}


def _pictures(files: list[str], clock: Array, camera: str, choose: Choose) -> Decoded:
    ids = choose(clock)
    wanted, place = np.unique(ids, return_inverse=True)
    pictures = []
    for number in wanted:
        with _step(files[number]) as step:
            picture = _array(step, files[number], camera)
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            got = f"{picture.dtype} {picture.shape}"
            raise Unreadable("mismatched", f"{Path(files[number]).name}: {camera}: got {got}, expected uint8 (h, w, 3)")
        pictures.append(picture)
    return Decoded(np.stack(pictures)[place], ids, clock[ids])


@contextmanager
def _step(file: str) -> Iterator[Any]:
    """The npz of a step; what is wrong with it is told as a reason."""
    name = Path(file).name
    try:
        with np.load(file, allow_pickle=False) as step:
            yield step
    except FileNotFoundError:
        raise Unreadable("missing", f"no {name}") from None
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise Unreadable("undecodable", f"{name}: {error}") from None


def _array(step: Any, file: str, name: str) -> NDArray[Any]:
    if name not in step:
        raise Unreadable("missing", f"{Path(file).name} has no '{name}'; it has: {', '.join(step.files)}")
    return step[name]
