"""What the numbers of a robot's state and action mean: names, rotation, gripper, frame, limits; and their arithmetic.

A state is [position, rotation, gripper], an action [translation, rotation, gripper]: what happens between one state
and the next. ``difference`` makes actions of states, ``integrate`` the next state of a state and an action; both are
batched, differentiable and run where the tensors are. ``DROID`` is the robot of V-JEPA 2-AC. A robot with another
state is another instance of ``Robot``, and nothing else: a joint-space robot has its joints as position and no
rotation. ``consistency.check`` says whether recorded numbers fit a description.

Decisions:
- Rotations of actions are three numbers (Euler angles or a rotation vector) whatever those of states are, so that the
  zero action is no motion and planners may sample around it.
- Quaternions and rotation vectors of integrated states are, of the equal ones, those nearest to the state before:
  integrated actions give back a recording that does not jump. Euler angles stay in the range of ``poses``, as DROID's.

Reference: V-JEPA 2 paper, section 3; released files app/vjepa_droid/droid.py (actions, camera frame) and
notebooks/utils/mpc_utils.py (integration).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from vjepa_lab.poses import WIDTH, Rotation, euler_to_matrix, from_matrix, to_matrix

Frame = Literal["base", "camera", "tool"]
Turn = Literal["euler", "axis_angle"]
_LETTERS: dict[Rotation, tuple[str, ...]] = {
    "euler": ("roll", "pitch", "yaw"),
    "quaternion": ("qx", "qy", "qz", "qw"),
    "axis_angle": ("rx", "ry", "rz"),
    "sixd": ("r11", "r21", "r31", "r12", "r22", "r32"),
    "none": (),
}


@dataclass(frozen=True, kw_only=True)
class Robot:
    """A robot's state and action space.

    Raises:
        ValueError: fields that contradict each other.
    """

    name: str
    position: tuple[str, ...] = ("x", "y", "z")
    "names of the position's dimensions: metres, or whatever a joint has"
    rotation: Rotation = "euler"
    "representation in states: euler, quaternion, axis_angle, sixd (see poses.py) or none"
    turn: Turn = "euler"
    "representation of a rotation in actions: euler or axis_angle"
    gripper: bool = True
    "whether the last number of state and action is a gripper"
    opened: float = 0.0
    "state of the open gripper"
    closed: float = 1.0
    "state of the closed gripper"
    frame: Frame = "base"
    "base: all along the axes of the robot's base; camera: of a camera; tool: actions along those of the hand"
    limits: tuple[float, float, float] = (0.075, 0.25, 0.75)
    "largest size that a number of an action has: translation, rotation (radians), gripper"
    rate: float = 15.0
    "states per second in recordings"

    def __post_init__(self) -> None:
        for field in ("position", "limits"):  # lists, as a file gives them
            object.__setattr__(self, field, tuple(getattr(self, field)))
        for field, kind in (("rotation", Rotation), ("turn", Turn), ("frame", Frame)):
            if getattr(self, field) not in get_args(kind):
                got, expected = getattr(self, field), ", ".join(get_args(kind))
                raise ValueError(f"robot '{self.name}': {field} is {got!r}, expected one of {expected}")
        if not self.position or len(set(self.names)) != len(self.names):
            raise ValueError(f"robot '{self.name}': position is {self.position}, expected names that differ")
        if self.rotation != "none" and len(self.position) != 3:
            raise ValueError(f"robot '{self.name}': a rotation needs a position x, y, z, got {self.position}")
        if self.frame == "tool" and self.rotation == "none":
            raise ValueError(f"robot '{self.name}': frame 'tool' needs a rotation, got none")
        if self.opened == self.closed:
            raise ValueError(f"robot '{self.name}': opened and closed are both {self.closed}, expected two values")
        if len(self.limits) != 3 or min(self.limits) < 0 or self.rate <= 0:
            raise ValueError(f"robot '{self.name}': expected three limits >= 0 and a rate > 0, got {self}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of a state's numbers."""
        return (*self.position, *_LETTERS[self.rotation], *(("gripper",) if self.gripper else ()))

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of an action's numbers."""
        turn = () if self.rotation == "none" else _LETTERS[self.turn]
        return tuple(f"d_{name}" for name in (*self.position, *turn, *(("gripper",) if self.gripper else ())))

    @property
    def state_dim(self) -> int:
        return len(self.names)

    @property
    def action_dim(self) -> int:
        return len(self.action_names)

    @property
    def state_groups(self) -> dict[str, slice]:
        """Where translation (the position), rotation and gripper are in a state; what it lacks is left out."""
        return _slices(len(self.position), WIDTH[self.rotation], int(self.gripper))

    @property
    def groups(self) -> dict[str, slice]:
        """Where translation, rotation and gripper are in an action; what it lacks is left out."""
        return _slices(len(self.position), 0 if self.rotation == "none" else 3, int(self.gripper))

    @property
    def action_limits(self) -> tuple[float, ...]:
        """Largest size of each of the A numbers of an action."""
        translation, rotation, gripper = self.limits
        turns = 0 if self.rotation == "none" else 3
        return (translation,) * len(self.position) + (rotation,) * turns + (gripper,) * self.gripper

    def difference(self, states: Tensor) -> Tensor:
        """Actions (..., T - 1, A) that lead from each of the states (..., T, S) to the next.

        Translation p' - p, rotation R' R^T and gripper g' - g; in the frame of the tool R^T (p' - p) and R^T R'.

        Raises:
            ValueError: states of another width.
        """
        self._expect("states", states, self.state_dim)
        now, then = states[..., :-1, :], states[..., 1:, :]
        where = self.state_groups
        parts = [then[..., where["translation"]] - now[..., where["translation"]]]
        if self.rotation != "none":
            before, after = self.matrices(now), self.matrices(then)
            if self.frame == "tool":
                parts[0] = _turned(before.mT, parts[0])
                parts.append(from_matrix(self.turn, before.mT @ after))
            else:
                parts.append(from_matrix(self.turn, after @ before.mT))
        if self.gripper:
            parts.append(then[..., -1:] - now[..., -1:])
        return torch.cat(parts, dim=-1)

    def integrate(self, state: Tensor, action: Tensor) -> Tensor:
        """State (..., S) after an action (..., A), the inverse of ``difference``; leading dimensions are broadcast.

        The gripper is clipped to its range. Under autocast too this is done in float32 at least: a pose rounded to
        bfloat16 is off by millimetres, and a rollout adds up such errors.

        Raises:
            ValueError: a state or an action of another width.
        """
        self._expect("state", state, self.state_dim)
        self._expect("action", action, self.action_dim)
        exact = torch.promote_types(torch.promote_types(state.dtype, action.dtype), torch.float32)
        leading = torch.broadcast_shapes(state.shape[:-1], action.shape[:-1])
        with torch.autocast(state.device.type, enabled=False):
            return self._moved(state.to(exact).expand(*leading, -1), action.to(exact).expand(*leading, -1))

    def _moved(self, state: Tensor, action: Tensor) -> Tensor:
        where, acts = self.state_groups, self.groups
        position, move = state[..., where["translation"]], action[..., acts["translation"]]
        parts = []
        if self.rotation != "none":
            matrix, turn = self.matrices(state), to_matrix(self.turn, action[..., acts["rotation"]])
            if self.frame == "tool":
                move, turned = _turned(matrix, move), matrix @ turn
            else:
                turned = turn @ matrix
            parts.append(self._nearest(from_matrix(self.rotation, turned), state[..., where["rotation"]]))
        if self.gripper:
            low, high = sorted((self.opened, self.closed))
            parts.append((state[..., -1:] + action[..., -1:]).clamp(low, high))
        return torch.cat((position + move, *parts), dim=-1)

    def matrices(self, states: Tensor) -> Tensor:
        """Rotation matrices (..., 3, 3) of states (..., S) of a robot that has a rotation."""
        return to_matrix(self.rotation, states[..., self.state_groups["rotation"]])

    def to_camera(self, states: Tensor, extrinsics: Tensor) -> Tensor:
        """States (..., S) in the base's frame -> in that of a camera at ``extrinsics`` (..., 6).

        ``extrinsics`` is the camera's pose in the base's frame: position and extrinsic xyz Euler angles.

        Raises:
            ValueError: states of another width, or of a robot whose position is not x, y, z.
        """
        self._expect("states", states, self.state_dim)
        self._expect("extrinsics", extrinsics, 6)
        if len(self.position) != 3:
            raise ValueError(f"robot '{self.name}': a camera's frame needs a position x, y, z, got {self.position}")
        back = euler_to_matrix(extrinsics[..., 3:]).mT
        parts = [_turned(back, states[..., :3] - extrinsics[..., :3])]
        if self.rotation != "none":
            parts.append(from_matrix(self.rotation, back @ self.matrices(states)))
        return torch.cat((*parts, states[..., self.state_dim - int(self.gripper) :]), dim=-1)

    def to_plain(self) -> dict[str, Any]:
        """Numbers and words alone, for a file."""
        return asdict(self) | {"position": list(self.position), "limits": list(self.limits)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Robot:
        """The inverse of ``to_plain``.

        Raises:
            ValueError: an unknown or missing field, or a description that contradicts itself.
        """
        known = {field.name for field in fields(cls)}
        if "name" not in plain or not set(plain) <= known:
            raise ValueError(f"robot: expected 'name' and fields among {sorted(known)}, got {sorted(plain)}")
        return cls(**plain)

    def _expect(self, what: str, values: Tensor, width: int) -> None:
        if values.shape[-1] != width:
            raise ValueError(f"robot '{self.name}': expected {what} (..., {width}), got {tuple(values.shape)}")

    def _nearest(self, values: Tensor, before: Tensor) -> Tensor:
        """Of the values that say the same rotation, those nearest to ``before``."""
        if self.rotation == "quaternion":
            return torch.where((values * before).sum(-1, keepdim=True) < 0, -values, values)
        if self.rotation == "axis_angle":
            angle = torch.linalg.vector_norm(values, dim=-1, keepdim=True).clamp_min(torch.finfo(values.dtype).eps)
            other = values - values * (2 * torch.pi / angle)
            nearer = (other - before).square().sum(-1, keepdim=True) < (values - before).square().sum(-1, keepdim=True)
            return torch.where(nearer, other, values)
        return values


DROID = Robot(name="droid")

KNOWN = {robot.name: robot for robot in (DROID,)}
"robots that a configuration may call by name"


def of(plain: Mapping[str, Any]) -> Robot:
    """The robot that a configuration describes: ``{name: droid}``, or a name of one's own with fields of ``Robot``.

    Raises:
        ValueError: as ``Robot.from_plain``, or a known name with other fields.
    """
    name = plain.get("name")
    if name in KNOWN and len(plain) > 1 and Robot.from_plain(plain) != KNOWN[name]:
        raise ValueError(f"robot: '{name}' is described already; give another description another name")
    if name not in KNOWN and len(plain) == 1:
        raise ValueError(f"robot: got '{name}' and no fields, expected one of {', '.join(KNOWN)}, or a description")
    return KNOWN.get(str(name)) or Robot.from_plain(plain)


def convert(states: Tensor, source: Robot, target: Robot) -> Tensor:
    """States (..., S) of one description in the numbers of another: rotation and gripper; frames are left alone.

    Raises:
        ValueError: the positions differ, or ``target`` has a rotation or a gripper that ``source`` lacks.
    """
    lacks = [
        word
        for word, has in (("rotation", source.rotation != "none"), ("gripper", source.gripper))
        if word in target.state_groups and not has
    ]
    if source.position != target.position or lacks:
        raise ValueError(
            f"robot '{source.name}' cannot be described as '{target.name}': "
            + (f"it has no {' and no '.join(lacks)}" if lacks else f"{source.position} is not {target.position}")
        )
    parts = [states[..., : len(source.position)]]
    if target.rotation == source.rotation:
        parts.append(states[..., source.state_groups.get("rotation", slice(0))])
    elif target.rotation != "none":
        parts.append(from_matrix(target.rotation, source.matrices(states)))
    if target.gripper:
        share = (states[..., -1:] - source.opened) / (source.closed - source.opened)
        parts.append(target.opened + share * (target.closed - target.opened))
    return torch.cat(parts, dim=-1)


class Statistics(NamedTuple):
    """Of states or actions, per dimension; saved with the weights that were trained on them."""

    mean: Tensor
    std: Tensor
    "1 for a dimension that never changes, so that it may be divided by"
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Statistics:
        """Of values (..., D), at least two of them; float32 (D,) each."""
        flat = values.flatten(0, -2).double()
        assert len(flat) > 1, "statistics of less than two values"
        std, low, high = flat.std(0), flat.amin(0), flat.amax(0)
        return cls(*(x.float() for x in (flat.mean(0), torch.where(high > low, std, 1.0), low, high)))

    def to_plain(self) -> dict[str, list[float]]:
        """Numbers alone, for a file."""
        return {name: value.tolist() for name, value in self._asdict().items()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, list[float]]) -> Statistics:
        """The inverse of ``to_plain``.

        Raises:
            ValueError: a missing or unknown part.
        """
        if set(plain) != set(cls._fields):
            raise ValueError(f"statistics: expected {', '.join(cls._fields)}, got {', '.join(sorted(plain))}")
        return cls(*(torch.tensor(plain[name], dtype=torch.float32) for name in cls._fields))


def _slices(*widths: int) -> dict[str, slice]:
    found, start = {}, 0
    for name, width in zip(("translation", "rotation", "gripper"), widths, strict=True):
        if width:
            found[name] = slice(start, start + width)
        start += width
    return found


def _turned(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
