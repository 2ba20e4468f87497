"""A description of a robot does the arithmetic of its states and actions, whatever they are made of."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vjepa_lab import robots
from vjepa_lab.poses import WIDTH, axis_angle_to_matrix, euler_to_matrix, from_matrix, rotation_angle
from vjepa_lab.robots import DROID, Robot, Statistics, convert

ROTATIONS = ("euler", "quaternion", "axis_angle", "sixd")


def robot(rotation="euler", **fields) -> Robot:
    return Robot(name="made", rotation=rotation, turn="euler" if rotation == "euler" else "axis_angle", **fields)


def episode(made: Robot, start: Tensor, *, steps: int = 40, seed: int = 0) -> Tensor:
    """States (T, S) float64 that wander from a rotation ``start``, each in its usual range."""
    g = torch.Generator().manual_seed(seed)
    position = torch.randn(steps, 3, generator=g, dtype=torch.float64).mul(0.05).cumsum(0)
    turns = axis_angle_to_matrix(torch.randn(steps, 3, generator=g, dtype=torch.float64) * 0.15)
    matrix, rows = start.double(), []
    for turn in turns:
        matrix = turn @ matrix
        rows.append(from_matrix(made.rotation, matrix))
    gripper = torch.rand(steps, 1, generator=g, dtype=torch.float64)
    return torch.cat((position, torch.stack(rows), made.opened + gripper * (made.closed - made.opened)), dim=1)


def euler(*angles: float) -> Tensor:
    return euler_to_matrix(torch.tensor(angles, dtype=torch.float64))


STARTS = {
    "upright": euler(0.1, 0.2, -0.3),
    "gripper down, roll at pi": euler(math.pi, 0.0, 0.5),
    "gimbal lock": euler(0.4, math.pi / 2, 0.1),
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("frame", ["base", "tool"])
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_integrating_differences_gives_back_the_states(rotation, frame, start):
    made = robot(rotation, frame=frame, opened=0.08, closed=0.0)
    states = episode(made, STARTS[start])
    actions = made.difference(states)
    assert actions.shape == (39, made.action_dim) == (39, 7)
    after = made.integrate(states[:-1], actions)
    torch.testing.assert_close(after[:, :3], states[1:, :3], rtol=0, atol=1e-12)
    torch.testing.assert_close(after[:, -1], states[1:, -1], rtol=0, atol=1e-12)
    left = rotation_angle(made.matrices(after).mT @ made.matrices(states[1:]))
    assert left.max() < 1e-10
    state = states[0]
    for action in actions:
        state = made.integrate(state, action)
    torch.testing.assert_close(made.matrices(state), made.matrices(states[-1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rotation", ["quaternion", "axis_angle"])
def test_integrated_values_go_on_as_a_recording_does_that_never_jumps(rotation):
    """Turning through pi and on: w becomes negative, the vector longer than pi."""
    made, angles = robot(rotation), torch.linspace(2.5, 4.2, 18, dtype=torch.float64)[:, None]
    axis = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    turned = {"axis_angle": axis * angles, "quaternion": torch.cat((axis * (angles / 2).sin(), (angles / 2).cos()), 1)}
    zeros = torch.zeros(18, 1, dtype=torch.float64)
    states = torch.cat((zeros, zeros, zeros, turned[rotation], zeros), dim=1)
    state = states[0]
    for action, expected in zip(made.difference(states), states[1:], strict=True):
        state = made.integrate(state, action)
        torch.testing.assert_close(state, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rotation", [*ROTATIONS, "none"])
def test_the_zero_action_leaves_the_robot_where_it_is(rotation):
    made = robot(rotation)
    states = torch.rand(5, made.state_dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.5
    if rotation in ("quaternion", "sixd"):
        states[:, 3:-1] = from_matrix(rotation, made.matrices(states))
    after = made.integrate(states, torch.zeros(made.action_dim, dtype=torch.float64))
    torch.testing.assert_close(after, states, rtol=0, atol=1e-12)


def test_actions_in_the_frame_of_the_tool_are_along_its_axes():
    """A hand that looks along the base's y and moves forward."""
    made = robot(frame="tool")
    state = torch.tensor([0.0, 0, 0, 0, 0, math.pi / 2, 0], dtype=torch.float64)
    after = made.integrate(state, torch.tensor([0.1, 0, 0, 0, 0, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(after[:3], torch.tensor([0.0, 0.1, 0], dtype=torch.float64))


@pytest.mark.parametrize(("opened", "closed"), [(0.0, 1.0), (1.0, -1.0)])
def test_the_gripper_stays_in_its_range(opened, closed):
    made = robot(opened=opened, closed=closed)
    state = torch.zeros(2, 7)
    after = made.integrate(state, torch.tensor([[0.0] * 6 + [5.0], [0.0] * 6 + [-5.0]]))
    assert after[:, -1].tolist() == [max(opened, closed), min(opened, closed)]


def test_a_camera_at_the_base_sees_the_base_and_differences_turn_with_the_camera():
    states = episode(DROID, STARTS["upright"])
    torch.testing.assert_close(DROID.to_camera(states, torch.zeros(6, dtype=torch.float64)), states)
    camera = torch.tensor([0.5, -0.2, 0.7, 1.9, 0.1, -2.0], dtype=torch.float64)
    seen = DROID.difference(DROID.to_camera(states, camera))
    turned = DROID.difference(states)[:, :3] @ euler_to_matrix(camera[3:])
    torch.testing.assert_close(seen[:, :3], turned)


def test_one_state_serves_many_actions():
    state, actions = episode(DROID, STARTS["upright"])[0], torch.randn(2, 5, 7, dtype=torch.float64)
    after = DROID.integrate(state, actions)
    assert after.shape == (2, 5, 7)
    torch.testing.assert_close(after[1, 3], DROID.integrate(state, actions[1, 3]))


@pytest.mark.parametrize("rotation", ["euler", "quaternion", "axis_angle", "sixd"])
def test_autocast_does_not_blur_integrated_poses(rotation):
    made = robot(rotation)
    states = episode(made, STARTS["upright"]).float()
    actions = made.difference(states)
    plain = made.integrate(states[:-1], actions)
    with torch.autocast("cpu", torch.bfloat16):
        cast = made.integrate(states[:-1], actions)
        rounded = made.integrate(states[:-1].bfloat16(), actions.bfloat16())
    assert torch.equal(cast, plain)
    assert rounded.dtype == torch.float32
    assert made.integrate(states[:-1].double(), actions).dtype == torch.float64


def test_dimensions_names_and_groups():
    assert DROID.names == ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    assert DROID.groups == {"translation": slice(0, 3), "rotation": slice(3, 6), "gripper": slice(6, 7)}
    assert DROID.action_limits == (0.075, 0.075, 0.075, 0.25, 0.25, 0.25, 0.75)
    made = robot("sixd", gripper=False)
    assert (made.state_dim, made.action_dim) == (3 + WIDTH["sixd"], 6)
    assert made.state_groups["rotation"] == slice(3, 9)
    assert made.action_names == ("d_x", "d_y", "d_z", "d_rx", "d_ry", "d_rz")


def test_a_robot_of_joints_is_a_position_without_rotation():
    arm = Robot(name="arm", position=("j1", "j2", "j3", "j4"), rotation="none", limits=(0.1, 0, 1))
    states = torch.rand(6, 5, dtype=torch.float64)
    assert arm.groups == {"translation": slice(0, 4), "gripper": slice(4, 5)}
    assert arm.action_limits == (0.1, 0.1, 0.1, 0.1, 1)
    torch.testing.assert_close(arm.difference(states), states[1:] - states[:-1])
    torch.testing.assert_close(arm.integrate(states[:-1], arm.difference(states)), states[1:])


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_converted_states_say_the_same_in_other_numbers(rotation):
    other = robot(rotation, opened=0.08, closed=0.0)
    states = episode(DROID, STARTS["upright"])
    converted = convert(states, DROID, other)
    torch.testing.assert_close(other.matrices(converted), DROID.matrices(states))
    torch.testing.assert_close(converted[:, -1], 0.08 * (1 - states[:, -1]))
    torch.testing.assert_close(convert(converted, other, DROID), states)


def test_what_a_robot_lacks_cannot_be_made_up():
    with pytest.raises(ValueError, match="'made' cannot be described as 'droid': it has no rotation and no gripper"):
        convert(torch.zeros(2, 3), robot("none", gripper=False), DROID)
    with pytest.raises(ValueError, match="is not"):
        convert(torch.zeros(2, 7), DROID, replace(DROID, position=("x", "z", "y")))


def test_a_description_survives_a_file():
    made = robot("quaternion", frame="tool", opened=1.0, closed=-1.0, limits=(0.1, 0.2, 0.3), rate=20.0)
    assert Robot.from_plain(made.to_plain()) == made
    assert all(isinstance(v, str | float | bool | list) for v in made.to_plain().values())
    with pytest.raises(ValueError, match="robot: expected 'name' and fields among"):
        Robot.from_plain({"name": "x", "rotatoin": "euler"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rotation": "rpy"}, "rotation is 'rpy', expected one of euler"),
        ({"frame": "world"}, "frame is 'world', expected one of base"),
        ({"turn": "quaternion"}, "turn is 'quaternion', expected one of euler, axis_angle"),
        ({"position": ("x", "y")}, "a rotation needs a position x, y, z"),
        ({"position": ("x", "x", "z")}, "expected names that differ"),
        ({"rotation": "none", "frame": "tool"}, "frame 'tool' needs a rotation"),
        ({"opened": 1.0}, "opened and closed are both 1.0"),
        ({"limits": (0.1, 0.1)}, "expected three limits"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Robot(name="made", **fields)


def test_values_of_the_wrong_width_are_refused():
    with pytest.raises(ValueError, match=r"expected states \(\.\.\., 7\), got \(4, 8\)"):
        DROID.difference(torch.zeros(4, 8))
    with pytest.raises(ValueError, match=r"expected action \(\.\.\., 7\), got \(6,\)"):
        DROID.integrate(torch.zeros(7), torch.zeros(6))


def test_gradients_flow_through_many_steps():
    actions = torch.zeros(3, 7, dtype=torch.float64, requires_grad=True)
    state = episode(DROID, STARTS["gripper down, roll at pi"])[0]
    for action in actions:
        state = DROID.integrate(state, action)
    state[:6].sum().backward()
    assert actions.grad is not None
    assert actions.grad.isfinite().all()
    torch.testing.assert_close(actions.grad[:, :3], torch.ones(3, 3, dtype=torch.float64))


def test_statistics_of_recorded_numbers():
    values = torch.tensor([[[0.0, 5.0], [2.0, 5.0]], [[4.0, 5.0], [6.0, 5.0]]])
    found = Statistics.of(values)
    assert found.mean.tolist() == [3, 5]
    assert found.std.tolist() == pytest.approx([(20 / 3) ** 0.5, 1])  # a dimension that never changes may be divided by
    assert (found.low.tolist(), found.high.tolist()) == ([0, 5], [6, 5])
    back = Statistics.from_plain(found.to_plain())
    assert all(torch.equal(a, b) for a, b in zip(back, found, strict=True))
    with pytest.raises(ValueError, match="statistics: expected mean, std, low, high, got mean"):
        Statistics.from_plain({"mean": [0.0]})


def test_a_configuration_calls_a_robot_by_name_or_describes_it():
    assert robots.of({"name": "droid"}) is DROID
    assert robots.of(DROID.to_plain()) is DROID
    planar = robots.of({"name": "planar", "position": ["x", "y"], "rotation": "none", "gripper": False})
    assert (planar.state_dim, planar.action_dim) == (2, 2)
    for plain, words in (
        ({"name": "planar"}, "no fields, expected one of droid"),
        ({"name": "droid", "gripper": False}, "another name"),
        ({"name": "arm", "joints": 7}, "joints"),
    ):
        with pytest.raises(ValueError, match=words):
            robots.of(plain)
