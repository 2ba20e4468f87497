"""Each fault that a recording may have is found and named, and a recording without one is not accused."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vjepa_lab.consistency import check
from vjepa_lab.poses import axis_angle_to_matrix, euler_to_matrix, from_matrix, rotation_angle
from vjepa_lab.robots import DROID, Robot


def recording(robot: Robot = DROID, *, seed: int = 0, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """States (4, 60, S) of smooth random motions with the gripper down, and their actions."""
    g = torch.Generator().manual_seed(seed)

    def smooth(*shape: int) -> Tensor:
        x, rows = torch.randn(4, *shape, generator=g, dtype=torch.float64), []
        for step in range(60):
            now = torch.randn(4, *shape, generator=g, dtype=torch.float64)
            x = now if step == 0 else 0.8 * x + 0.6 * now
            rows.append(x)
        return torch.stack(rows, dim=1)

    position = smooth(3).mul(0.02).cumsum(1)
    turns, matrices = axis_angle_to_matrix(smooth(3) * 0.05), []
    matrix = euler_to_matrix(torch.tensor([3.1, 0.1, 0.4], dtype=torch.float64)).expand(4, 3, 3)
    for step in range(60):
        matrix = turns[:, step] @ matrix
        matrices.append(matrix)
    rotation = from_matrix(robot.rotation, torch.stack(matrices, dim=1))
    gripper = robot.opened + torch.sigmoid(smooth(1) * 2) * (robot.closed - robot.opened)
    states = torch.cat((position, rotation, gripper), dim=-1)
    actions = robot.difference(states)
    return states, actions + noise * torch.randn(actions.shape, generator=g, dtype=torch.float64) * actions.std()


@pytest.mark.parametrize("rotation", ["euler", "quaternion", "axis_angle", "sixd"])
@pytest.mark.parametrize("frame", ["base", "tool", "camera"])
def test_a_recording_that_fits_has_no_problems(rotation, frame):
    robot = Robot(name="made", rotation=rotation, frame=frame, opened=1.0, closed=-1.0)
    assert check(robot, *recording(robot)) == []


def test_noise_is_no_fault():
    states, actions = recording()
    noisy = actions + 0.3 * torch.randn(actions.shape, generator=torch.Generator().manual_seed(1)) * actions.std((0, 1))
    assert check(DROID, states, noisy) == []


def test_float32_and_one_long_episode_will_do():
    states, actions = recording()
    assert check(DROID, states[0].float(), actions[0].float()) == []


def only(states: Tensor, actions: Tensor, robot: Robot = DROID) -> str:
    problems = check(robot, states, actions)
    assert len(problems) == 1, problems
    return problems[0]


def test_a_gripper_of_the_wrong_sign():
    states, actions = recording()
    actions[..., -1] *= -1
    assert only(states, actions) == ("droid: gripper: actions have the wrong sign, -1 times the differences of states")


def test_gripper_actions_that_are_commands():
    states, actions = recording()
    actions[..., -1] = 2 * states[..., 1:, -1] - 1
    assert "gripper: actions are positions (or commands)" in only(states, actions)


def test_a_gripper_of_another_range():
    states, actions = recording(replace(DROID, opened=1.0, closed=-1.0))
    assert "gripper: states go from -" in only(states, actions)


@pytest.mark.parametrize(("told", "done", "axes"), [("base", "tool", "the tool"), ("tool", "base", "the base")])
def test_actions_along_the_axes_of_another_frame(told, done, axes):
    states, actions = recording(replace(DROID, frame=done))
    problems = check(replace(DROID, frame=told), states, actions)
    assert [p.split(", the")[0] for p in problems] == [
        f"droid: {group}: actions are along the axes of {axes}" for group in ("translation", "rotation")
    ]


def test_states_in_the_frame_of_a_camera_and_actions_in_the_base():
    states, actions = recording()
    camera = torch.tensor([0.3, 0.5, 0.4, 0.7, 0.2, -1.0], dtype=torch.float64)
    problems = check(DROID, DROID.to_camera(states, camera), actions)
    degrees = torch.rad2deg(rotation_angle(euler_to_matrix(camera[3:]))).item()
    assert [p.partition(": ")[2] for p in problems] == [
        f"{group}: axes of actions are turned by {degrees:.0f} degrees against those of states: another frame"
        for group in ("translation", "rotation")
    ]


def test_swapped_axes():
    states, actions = recording()
    actions[..., [0, 1]] = actions[..., [1, 0]]
    actions[..., 1] *= -1
    assert only(states, actions).endswith("x follows y, y follows -x, z follows z")


def test_one_axis_that_points_the_other_way():
    states, actions = recording()
    actions[..., 2] *= -1
    assert only(states, actions).endswith("along each axis: x 1, y 1, z -1")


def test_another_scale():
    states, actions = recording()
    actions[..., :3] *= 20
    assert only(states, actions) == "droid: translation: actions have another scale, 20 times the differences of states"


@pytest.mark.parametrize("shift", [-2, -1, 1, 2])
def test_actions_shifted_in_time(shift):
    """actions[t] of the recording is what the robot did between t + shift and t + shift + 1."""
    states, actions = recording()
    actions = actions.roll(-shift, dims=1)
    assert f"actions[t] is the move from state t{shift:+d} to" in only(states, actions)


def test_subtracted_euler_angles():
    states, actions = recording()
    actions[..., 3:6] = states[..., 1:, 3:6] - states[..., :-1, 3:6]
    assert "differences of Euler angles" in only(states, actions)


def test_actions_of_another_episode():
    states, _ = recording()
    _, actions = recording(seed=5)
    problems = check(DROID, states, actions)
    assert [p.split(" (")[0] for p in problems] == [
        f"droid: {group}: actions do not follow from the states" for group in ("translation", "rotation", "gripper")
    ]


def test_degrees_and_quaternions_that_are_not_of_length_one():
    states, actions = recording()
    states[..., 3:6] = states[..., 3:6].rad2deg()
    assert any("these may be degrees" in p for p in check(DROID, states, actions))
    robot = Robot(name="made", rotation="quaternion")
    states, actions = recording(robot)
    states[..., 3:7] *= 2
    assert "quaternions have lengths 2 to 2, expected 1" in only(states, actions, robot)


def test_a_robot_that_stands_still_or_too_little_of_it_shows_nothing():
    states, actions = recording()
    still = states[:, :1].expand_as(states)
    assert "never moves" in only(still, DROID.difference(still))
    assert "3 pairs of frames are too few" in only(states[0, :4], actions[0, :3])
    actions[0, 0, 0] = torch.nan
    assert "actions hold values that are not finite" in only(states, actions)


def test_shapes_that_are_not_the_robots_are_refused():
    states, actions = recording()
    with pytest.raises(ValueError, match=r"states: expected \(\.\.\., T, 7\) of droid"):
        check(DROID, states[..., :6], actions)
    with pytest.raises(ValueError, match=r"actions: expected \(4, 59, 7\) of droid, got \(4, 58, 7\)"):
        check(DROID, states, actions[:, :-1])
