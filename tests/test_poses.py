"""Rotations in every representation say the same turn, also where angles are ambiguous."""

import math

import pytest
import torch
from torch import Tensor

from vjepa_lab import poses

NAMES = ("euler", "quaternion", "axis_angle", "sixd")


def matrices(seed: int = 0, count: int = 200) -> Tensor:
    """Random rotations, float64, with det 1."""
    q, _ = torch.linalg.qr(torch.randn(count, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return q * torch.linalg.det(q)[:, None, None]


def about(axis: int, angle: float) -> Tensor:
    """Rotation about one axis, in plain numbers."""
    c, s = math.cos(angle), math.sin(angle)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[i, i] = matrix[j, j] = c
    matrix[j, i], matrix[i, j] = s, -s
    return matrix


def awkward() -> Tensor:
    """Turns of zero, of pi and nearly so, and pitch at and near its ends."""
    cases = [torch.eye(3, dtype=torch.float64)]
    for angle in (1e-9, 1e-4, math.pi - 1e-9, math.pi - 1e-4, math.pi):
        cases += [about(axis, angle) for axis in range(3)]
        cases += [about(2, 0.3) @ about(1, -0.7) @ about(0, angle) @ about(1, 0.7) @ about(2, -0.3)]
    for pitch in (math.pi / 2, -math.pi / 2, math.pi / 2 - 1e-9, 1e-5 - math.pi / 2):
        cases += [about(2, 0.4) @ about(1, pitch) @ about(0, -1.1)]
    return torch.stack(cases)


def test_euler_angles_turn_about_fixed_x_then_y_then_z():
    angles = torch.tensor([0.3, -0.8, 2.5], dtype=torch.float64)
    plain = about(2, 2.5) @ about(1, -0.8) @ about(0, 0.3)
    torch.testing.assert_close(poses.euler_to_matrix(angles), plain, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["quaternion", "axis_angle"])
def test_a_turn_by_an_angle_about_an_axis_is_rodrigues_formula(name):
    axis = torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64) / 3
    angle = 1.2
    cross = torch.linalg.cross(axis.expand(3, 3), torch.eye(3, dtype=torch.float64)).mT
    plain = torch.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    half = angle / 2
    values = {
        "quaternion": 3 * torch.cat((axis * math.sin(half), axis.new_tensor([math.cos(half)]))),  # of any length
        "axis_angle": axis * angle,
    }
    torch.testing.assert_close(poses.to_matrix(name, values[name]), plain, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [matrices, awkward])
def test_from_a_matrix_and_back_is_the_same_matrix(name, make):
    given = make()
    back = poses.to_matrix(name, poses.from_matrix(name, given))
    torch.testing.assert_close(back, given, rtol=0, atol=1e-12)


def test_values_in_their_usual_range_come_back_themselves():
    angles = (torch.rand(500, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5) * 2
    angles = angles * torch.tensor([3.14, 1.57, 3.14])
    torch.testing.assert_close(poses.matrix_to_euler(poses.euler_to_matrix(angles)), angles, rtol=0, atol=1e-9)
    vectors = angles * (3.1 / angles.norm(dim=1, keepdim=True))
    torch.testing.assert_close(poses.matrix_to_axis_angle(poses.axis_angle_to_matrix(vectors)), vectors)


def test_at_gimbal_lock_the_last_angle_is_zero():
    angles = poses.matrix_to_euler(torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]], dtype=torch.float64))
    assert angles.tolist() == pytest.approx([0, math.pi / 2, 0], abs=1e-15)


def test_quaternions_have_w_last_and_not_negative():
    q = poses.matrix_to_quaternion(matrices())
    assert (q[:, 3] >= 0).all()
    assert poses.matrix_to_quaternion(about(0, math.pi / 2)).tolist() == pytest.approx([0.5**0.5, 0, 0, 0.5**0.5])


def test_sixd_is_orthonormal_whatever_it_is_given():
    matrix = poses.sixd_to_matrix(torch.randn(50, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(3, dtype=torch.float64).expand(50, 3, 3))
    assert (torch.linalg.det(matrix) > 0).all()


@pytest.mark.parametrize("angle", [0.0, 1e-8, 1.0, math.pi - 1e-8, math.pi])
def test_the_angle_of_a_rotation_is_accurate_at_both_ends(angle):
    assert poses.rotation_angle(about(1, angle)).item() == pytest.approx(angle, abs=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_conversions_are_batched_and_keep_the_dtype(name):
    given = matrices(count=6).float().view(2, 3, 3, 3)
    values = poses.from_matrix(name, given)
    assert values.shape == (2, 3, poses.WIDTH[name])
    assert values.dtype == torch.float32
    torch.testing.assert_close(values[1, 2], poses.from_matrix(name, given[1, 2]))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name):
    values = poses.from_matrix(name, matrices(3, 4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: poses.to_matrix(name, v), (values,))
    assert torch.autograd.gradcheck(lambda v: poses.from_matrix(name, poses.to_matrix(name, v)), (values,))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_at_no_rotation(name):
    values = poses.from_matrix(name, torch.eye(3, dtype=torch.float64)).requires_grad_()
    poses.from_matrix(name, poses.to_matrix(name, values)).sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()


def test_an_unknown_name_or_width_is_refused():
    with pytest.raises(ValueError, match="expected one of euler, quaternion"):
        poses.to_matrix("none", torch.zeros(3))
    with pytest.raises(ValueError, match="expected one of euler, quaternion"):
        poses.from_matrix("rpy", torch.eye(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"quaternion: expected \(\.\.\., 4\), got \(2, 3\)"):
        poses.to_matrix("quaternion", torch.zeros(2, 3))
