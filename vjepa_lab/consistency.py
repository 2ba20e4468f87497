"""Does what a robot has recorded fit its description? Found by regressing actions on differences of states.

Letters: N pairs of frames, S and A numbers of a state and an action; d what ``Robot.difference`` gives, a what was
recorded as actions.

For each group of numbers a = d W is fitted by least squares. What W looks like names the fault: a multiple of the
identity is a scale, a signed permutation swapped axes, a rotation another frame. Other readings of the same states
(the tool's frame, a step earlier or later, differences of Euler angles, absolute values) are tried where they could
explain the actions better, and the explanation that gains most is the one reported.

What no regression can find: a fault that is in states and actions alike, such as a gripper whose open and closed are
interchanged in both, or a rotation convention that is wrong throughout.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vjepa_lab.poses import rotation_angle
from vjepa_lab.robots import Frame, Robot

_AXES: dict[Frame, str] = {"base": "the base", "camera": "the base", "tool": "the tool"}  # fixed axes, or moving ones
GAIN = 0.05
"an explanation must have so much more R2 than the description to be reported instead"
FOLLOWS = 0.5
"below this R2, actions are said not to follow from the states"
SCALE = 0.15
"relative difference of scale that is reported"
STILL = 1e-6
"differences below this are no motion"
CLEAR = 0.9
"share of its squares that one entry of a row has, for the row to be a single axis"
PAIRS = 20
"fewer pairs of frames than these show nothing"
SHIFTS = (-2, -1, 1, 2)
"steps from its own move that an action may belong to, as far as is tried"


def check(robot: Robot, states: Tensor, actions: Tensor) -> list[str]:
    """Problems of recorded states (..., T, S) and actions (..., T - 1, A), a sentence each; empty if they fit.

    Some hundred pairs of frames in which the robot moves and turns in all directions make a check worth something.
    A gripper that never moves is not judged, nor is a rotation that never turns.

    Raises:
        ValueError: shapes that are not the robot's.
    """
    if states.shape[-1] != robot.state_dim or states.ndim < 2:
        raise ValueError(f"states: expected (..., T, {robot.state_dim}) of {robot.name}, got {tuple(states.shape)}")
    expected = (*states.shape[:-2], states.shape[-2] - 1, robot.action_dim)
    if actions.shape != expected:
        raise ValueError(f"actions: expected {expected} of {robot.name}, got {tuple(actions.shape)}")
    states, actions = states.double(), actions.double()
    for name, values in (("states", states), ("actions", actions)):
        if not values.isfinite().all():
            return [f"{robot.name}: {name} hold values that are not finite"]
    if (pairs := actions.shape[:-1].numel()) < PAIRS:
        return [f"{robot.name}: {pairs} pairs of frames are too few for a check, expected at least {PAIRS}"]
    problems = [*_ranges(robot, states)]
    shift = _shift(robot, states, actions)
    if shift:
        problems.append(
            f"actions are shifted in time: actions[t] is the move from state t{shift:+d} to t{shift + 1:+d}"
        )
    else:
        problems += [*_group(robot, states, actions, "translation"), *_group(robot, states, actions, "rotation")]
        problems += _gripper(robot, states, actions)
    return [f"{robot.name}: {problem}" for problem in problems]


def _ranges(robot: Robot, states: Tensor) -> list[str]:
    problems = []
    if robot.gripper:
        low, high = sorted((robot.opened, robot.closed))
        least, most, margin = states[..., -1].min().item(), states[..., -1].max().item(), 0.1 * (high - low)
        if least < low - margin or most > high + margin:
            problems.append(
                f"gripper: states go from {least:.3g} to {most:.3g}, expected {robot.opened:g} (open) to "
                f"{robot.closed:g} (closed)"
            )
    if robot.rotation == "quaternion":
        length = torch.linalg.vector_norm(states[..., robot.state_groups["rotation"]], dim=-1)
        if (length - 1).abs().max() > 0.01:
            problems.append(f"rotation: quaternions have lengths {length.min():.3g} to {length.max():.3g}, expected 1")
    if robot.rotation == "euler" and states[..., robot.state_groups["rotation"]].abs().max() > 2 * torch.pi + 0.01:
        problems.append("rotation: Euler angles exceed 2 pi; expected radians, these may be degrees")
    return problems


def _shift(robot: Robot, states: Tensor, actions: Tensor) -> int:
    """Which move actions[t] belong to, counted from t, by the R2 of translations on differences in any axes."""
    found = {0: 0.0}
    where = robot.groups["translation"]
    for frame in _frames(robot):
        moves = replace(robot, frame=frame).difference(states)[..., where]
        for shift in (0, *SHIFTS):
            first, last = max(shift, 0), moves.shape[-2] + min(shift, 0)
            if first >= last:
                continue
            d, a = moves[..., first:last, :], actions[..., first - shift : last - shift, where]
            if d.shape[:-1].numel() >= PAIRS:
                fit = _r2(d.flatten(0, -2), a.flatten(0, -2), matrix=True)
                found[shift] = max(found.get(shift, 0.0), fit)
    best = max(found, key=lambda shift: found[shift])
    return best if found[best] > max(FOLLOWS, found[0] + GAIN) else 0


def _group(robot: Robot, states: Tensor, actions: Tensor, name: str) -> list[str]:
    """Problems of translation or rotation."""
    if name not in robot.groups:
        return []
    where = robot.groups[name]
    d, a = (x[..., where].flatten(0, -2) for x in (robot.difference(states), actions))
    if d.square().mean().sqrt() < STILL:
        return ["translation: the robot never moves, so that nothing can be checked"] if name == "translation" else []
    told = _r2(d, a)
    explanations = {}
    for frame in _frames(robot):
        if _AXES[frame] != _AXES[robot.frame]:
            other = replace(robot, frame=frame).difference(states)[..., where].flatten(0, -2)
            sentence = f"{name}: actions are along the axes of {_AXES[frame]}, the description says '{robot.frame}'"
            explanations[sentence] = _r2(other, a)
    if name == "rotation" and robot.rotation == "euler":
        angles = states[..., robot.state_groups["rotation"]]
        steps = (angles[..., 1:, :] - angles[..., :-1, :]).flatten(0, -2)
        wrapped = torch.remainder(steps + torch.pi, 2 * torch.pi) - torch.pi
        sentence = "rotation: actions are differences of Euler angles, expected the rotation between two states"
        explanations[sentence] = max(_r2(steps, a), _r2(wrapped, a))
    problem, r2 = max(explanations.items(), key=lambda item: item[1], default=("", 0.0))
    mapped = _r2(d, a, matrix=True)
    if mapped > r2 + GAIN:
        names = [n.removeprefix("d_") for n in robot.action_names[where]]
        problem, r2 = f"{name}: {_axes(names, d, a)}", mapped
    if r2 > max(FOLLOWS, told + GAIN):
        return [problem]
    return _follows(name, d, a)


def _gripper(robot: Robot, states: Tensor, actions: Tensor) -> list[str]:
    if not robot.gripper:
        return []
    d, a = (x[..., -1:].flatten(0, -2) for x in (robot.difference(states), actions))
    if d.abs().max() < 0.05 * abs(robot.closed - robot.opened):
        return []
    ends = torch.cat((states[..., 1:, -1:].flatten(0, -2), torch.ones_like(d)), dim=-1)
    if _r2(ends, a, matrix=True) > max(FOLLOWS, _r2(d, a) + GAIN):
        return ["gripper: actions are positions (or commands) of the gripper, expected differences"]
    return _follows("gripper", d, a)


def _follows(name: str, d: Tensor, a: Tensor) -> list[str]:
    """Problems of actions that are, or should be, a multiple of the differences (N, D)."""
    slope, r2 = ((d * a).sum() / d.square().sum()).item(), _r2(d, a)
    if r2 < FOLLOWS:
        return [f"{name}: actions do not follow from the states (R2 {r2:.2f})"]
    if slope < 0:
        return [f"{name}: actions have the wrong sign, {slope:.3g} times the differences of states"]
    if abs(slope - 1) > SCALE:
        return [f"{name}: actions have another scale, {slope:.3g} times the differences of states"]
    return []


def _axes(names: list[str], d: Tensor, a: Tensor) -> str:
    """What the linear map from differences (N, 3) to actions (N, 3) looks like."""
    w = torch.linalg.lstsq(d, a, driver="gelsd").solution.mT  # row j: of what action j is made; gelsd bears still axes
    share = w.square() / w.square().sum(1, keepdim=True).clamp_min(1e-12)
    weight, source = share.max(dim=1)
    if (weight > CLEAR).all() and len(set(source.tolist())) == len(names):
        factors = [w[j, i].item() for j, i in enumerate(source.tolist())]
        if source.tolist() != list(range(len(names))):
            pairs = zip(names, factors, source.tolist(), strict=True)
            follows = ", ".join(f"{name} follows {'-' if factor < 0 else ''}{names[i]}" for name, factor, i in pairs)
            return f"axes of actions are swapped against those of states: {follows}"
        each = ", ".join(f"{name} {factor:.3g}" for name, factor in zip(names, factors, strict=True))
        return f"actions are not 1 times the differences of states along each axis: {each}"
    u, size, v = torch.linalg.svd(w)
    turn = u @ v
    if len(names) == 3 and size[-1] > 0.5 * size[0]:
        if torch.linalg.det(turn) < 0:
            return "axes of actions are mirrored and turned against those of states"
        degrees = torch.rad2deg(rotation_angle(turn)).item()
        return f"axes of actions are turned by {degrees:.0f} degrees against those of states: another frame"
    return "actions follow from the states only after a linear map that is neither a scale nor a rotation"


def _frames(robot: Robot) -> tuple[Frame, ...]:
    """Frames whose differences can be told from the robot's states."""
    return (robot.frame,) if robot.rotation == "none" else ("base", "tool")


def _r2(d: Tensor, a: Tensor, *, matrix: bool = False) -> float:
    """Share of the squares of ``a`` (N, D) that a multiple of ``d`` explains, or any linear map of it."""
    if matrix:
        fitted = d @ torch.linalg.lstsq(d, a, driver="gelsd").solution
    else:
        fitted = d * ((d * a).sum() / d.square().sum().clamp_min(1e-24))
    return 1 - ((a - fitted).square().sum() / a.square().sum().clamp_min(1e-24)).item()
