"""Episodes -> samples: what the readers of all robot layouts have in common.

A layout says of each of its episodes where the robot was and how to get at the pictures; the reader chooses steps,
decodes those pictures alone, crops them, and makes actions of the states: ``robot.difference`` of the steps that are
shown, so that an action always spans exactly what lies between its two frames. Recorded actions, where a layout has
them and they are asked for, are composed over the steps in between.

Decisions:
- An index is (episode, camera, stretch): every camera of an episode is seen once per pass, in place of a random one of
  them per draw as in the released loader.
- A video that is one frame longer or shorter than the trajectory is cut to the shorter (DROID has such); a larger
  difference is ``mismatched``.
- States and actions are computed in float64 and handed over in float32.
- Extrinsics that are not there are NaN. Where they are needed (``spec.extrinsics``, or a robot whose frame is the
  camera) the episode is ``missing`` them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vjepa_lab.batch import RobotSample
from vjepa_lab.data.clips import BadSample, within
from vjepa_lab.data.containers import Unreadable
from vjepa_lab.data.decoders import DECODERS, Choose, Decoded
from vjepa_lab.data.robot import CROPS, RobotSpec, crop, released_ids, step_ids
from vjepa_lab.robots import Robot, convert

Array = NDArray[np.float64]


class Episode(NamedTuple):
    """T steps of a robot, seen by one camera."""

    states: Array
    "(T, S) as the layout's robot describes them"
    clock: Array | None
    "(T,) seconds of each step, ascending; None: the steps of the released loader, by the video's own rate"
    pictures: Callable[[Choose], Decoded]
    "hands the times of the pictures to its argument and gives those that are asked for"
    extrinsics: Array | None = None
    "(T, 6) pose of the camera in the robot's base frame"
    actions: Array | None = None
    "(T - 1, A) recorded actions that lead from each step to the next; None: there are none, or none are wanted"
    commands: Array | None = None
    "(T - 1, A) what was sent to the controller in its own units, in place of actions; None: it is not wanted"


class Layout(Protocol):
    """The episodes of a source; an index is one camera of one episode."""

    name: str
    robot: Robot
    "describes the states of its episodes"

    cameras: int
    "indices of one episode: index // cameras is the episode"

    @property
    def rate(self) -> float | None:
        """Steps per second where it is the same for all."""
        ...

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """Names the episode and the camera."""
        ...

    def load(self, index: int) -> Episode:
        """Read the numbers of an episode. Runs in a thread without torch; raises Unreadable."""
        ...


class EpisodeReader:
    """Random access to the stretches of a layout: index // clips is the episode's camera, index % clips the stretch."""

    augment = False
    "the reader crops by itself"

    def __init__(self, layout: Layout, spec: RobotSpec) -> None:
        """Raises ValueError for a policy that cannot be met."""
        _check(layout, spec)
        self.name = layout.name
        self.robot = spec.robot
        self.layout = layout
        self.spec = spec

    @property
    def cameras(self) -> int:
        """Stretches in a row that show one episode at one time."""
        return self.layout.cameras

    def __len__(self) -> int:
        return len(self.layout) * self.spec.clips

    def key(self, index: int) -> str:
        """Names the stretch in reports."""
        episode, clip = divmod(index, self.spec.clips)
        key = self.layout.key(episode)
        return f"{key}#{clip}" if self.spec.clips > 1 else key

    def read(self, index: int, rng: np.random.Generator) -> RobotSample:
        """Frames uint8 (3, F, H, W), states (F, S), actions (F - 1, A) and extrinsics (F, 6).

        One number is drawn from ``rng`` before anything is read, and those of a random crop after.

        Raises:
            BadSample: the episode gives no such stretch.
            ValueError: its states are not what the robot's description says.
        """
        key, seed = self.key(index), int(rng.integers(2**63))
        try:
            episode, decoded = within(self.spec.timeout, partial(self._take, index, seed))
            states, actions, extrinsics = self.numbers(episode, decoded.ids)
        except Unreadable as error:
            raise BadSample(error.reason, key, error.detail) from None
        return RobotSample(
            frames=crop(torch.from_numpy(decoded.frames).permute(3, 0, 1, 2), self.spec, rng),
            states=states.float(),
            actions=actions.float(),
            extrinsics=extrinsics.float(),
            key=f"{key} frames {decoded.ids[0]}-{decoded.ids[-1]}",
        )

    def _take(self, index: int, seed: int) -> tuple[Episode, Decoded]:
        """Only numpy here: it runs in a thread (see ``clips.within``)."""
        number, clip = divmod(index, self.spec.clips)
        episode = self.load(number)
        return episode, episode.pictures(lambda video: self.steps(episode, video, clip, seed))

    def load(self, number: int) -> Episode:
        """One camera of one episode. Runs in a thread without torch; raises Unreadable."""
        episode = self.layout.load(number)
        bad = np.flatnonzero(~np.isfinite(episode.states).all(axis=1))
        if len(bad):
            raise Unreadable("undecodable", f"the state of step {bad[0]} is not finite")
        return episode

    def steps(self, episode: Episode, video: Array, clip: int, seed: int) -> NDArray[np.int64]:
        """Which steps of an episode, whose pictures have the times ``video``, make a stretch; raises Unreadable."""
        count, rng = matched(len(video), len(episode.states)), np.random.default_rng(seed)
        if episode.clock is None:
            return released_ids(video, count, self.spec, clip=clip, rng=rng)
        return step_ids(episode.clock[:count], self.spec, clip=clip, rng=rng)

    def numbers(self, episode: Episode, ids: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """float64 states, actions and extrinsics of the chosen steps, as ``spec.robot`` describes them."""
        told, asked = self.layout.robot, self.robot
        extrinsics = torch.full((len(ids), 6), torch.nan, dtype=torch.float64)
        if episode.extrinsics is not None:
            if episode.extrinsics.shape != (len(episode.states), 6):
                got = " x ".join(map(str, episode.extrinsics.shape))
                raise Unreadable("mismatched", f"extrinsics: got {got}, expected {len(episode.states)} x 6")
            extrinsics = torch.from_numpy(episode.extrinsics[ids])
        if self.spec.extrinsics and not extrinsics.isfinite().all():
            raise Unreadable("missing", "no extrinsics of the camera, which the predictor reads (predictor.extrinsics)")
        if episode.states.shape[1] != told.state_dim:
            raise ValueError(
                f"{self.name}: got states of {episode.states.shape[1]} numbers, expected {told.state_dim} "
                f"({', '.join(told.names)}) of robot '{told.name}'"
            )
        states = torch.from_numpy(episode.states[ids])
        if episode.commands is not None:
            return self._described(states, extrinsics), self._commands(episode.commands, ids), extrinsics
        ends = states[1:]
        if episode.actions is not None:
            if len(episode.actions) < ids[-1]:
                raise Unreadable("mismatched", f"got {len(episode.actions)} actions and {len(episode.states)} states")
            ends = _follow(told, states[:-1], torch.from_numpy(episode.actions), ids)
        pairs = torch.stack([states[:-1], ends], dim=1)  # (F - 1, 2, S): where each step begins and where it leads
        views = torch.stack([extrinsics[:-1], extrinsics[1:]], dim=1)
        return self._described(states, extrinsics), asked.difference(self._described(pairs, views))[:, 0], extrinsics

    def _commands(self, commands: Array, ids: NDArray[np.int64]) -> Tensor:
        """What was sent to the controller between the chosen steps, as it was recorded."""
        if commands.shape[1] != self.robot.action_dim:
            raise ValueError(
                f"{self.name}: actions: got commands of {commands.shape[1]} numbers, expected {self.robot.action_dim} "
                f"({', '.join(self.robot.action_names)}) of robot '{self.robot.name}'"
            )
        if (np.diff(ids) != 1).any():
            raise ValueError(
                f"{self.name}: actions: commands cannot be added up over the steps between frames; expected every step "
                f"(fps: that of the source, {self.layout.rate:g}), or actions: recorded"
            )
        if len(commands) < ids[-1]:
            raise Unreadable("mismatched", f"got {len(commands)} commands, expected at least {ids[-1]}")
        return torch.from_numpy(commands[ids[:-1]])

    def _described(self, states: Tensor, extrinsics: Tensor) -> Tensor:
        """States of the layout's robot (..., S) as ``spec.robot`` describes them."""
        told, asked = self.layout.robot, self.robot
        states = convert(states, told, asked)
        if asked.frame != "camera" or told.frame == "camera":
            return states
        if not extrinsics.isfinite().all():
            raise Unreadable("missing", "no extrinsics of the camera, in whose frame the states are wanted")
        return asked.to_camera(states, extrinsics)


def matched(frames: int, steps: int) -> int:
    """How many steps of an episode have both a picture and a state.

    Raises:
        Unreadable: the numbers differ by more than one.
    """
    if abs(frames - steps) > 1:
        raise Unreadable("mismatched", f"got {frames} frames and {steps} states, expected as many")
    return min(frames, steps)


def needs(module: str) -> ModuleType:
    """An optional package that a layout is read with.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        name = module.partition(".")[0]
        raise ValueError(f"{name} is not installed, which reads this data: pip install 'vjepa_lab[robot]'") from None


def _follow(robot: Robot, states: Tensor, actions: Tensor, ids: NDArray[np.int64]) -> Tensor:
    """Where each state (F - 1, S) gets to by the recorded actions until the next chosen step."""
    first, gaps = torch.from_numpy(ids[:-1]), torch.from_numpy(np.diff(ids))
    for step in range(int(gaps.max())):
        on = gaps > step
        moved = robot.integrate(states, actions[(first + step).clamp(max=len(actions) - 1)])
        states = torch.where(on[:, None], moved, states)
    return states


def _check(layout: Layout, spec: RobotSpec) -> None:
    if spec.crop not in CROPS:
        raise ValueError(f"crop: got '{spec.crop}', expected one of: {', '.join(CROPS)}")
    if spec.decoder not in DECODERS:
        raise ValueError(f"decoder: got '{spec.decoder}', expected one of: {', '.join(DECODERS)}")
    if layout.rate is not None and spec.fps is not None and spec.fps > layout.rate * 1.001:
        raise ValueError(
            f"fps: got {spec.fps:g}, but {layout.name} has {layout.rate:g} steps per second; expected at most that"
        )
    if layout.robot.frame == "camera" and spec.robot.frame != "camera":
        raise ValueError(
            f"{layout.name}: its states are in the frame of a camera, those of robot '{spec.robot.name}' in that of "
            f"the {spec.robot.frame}; expected world.robot with frame: camera"
        )
    if not len(layout):
        raise ValueError(f"source {layout.name}: got no episode, expected at least one")
