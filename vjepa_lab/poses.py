"""Rotations as matrices, extrinsic xyz Euler angles, quaternions, rotation vectors and 6-D vectors, batched.

All functions are differentiable, keep dtype and device, and take any leading dimensions. The matrix is the common form:
``to_matrix`` and ``from_matrix`` convert by the name of a representation.

- ``euler``: (a, b, c) in radians; turn by a about x, then by b about y, then by c about z, all of them axes that stay
  fixed: R = Rz(c) Ry(b) Rx(a). This is what scipy calls "xyz" (lower case), and what DROID records.
- ``quaternion``: (x, y, z, w), of any length but zero; the sign of a result is such that w >= 0.
- ``axis_angle``: the rotation vector, axis times angle in radians.
- ``sixd``: the first two columns of the matrix, one after the other (Zhou et al., arXiv 1812.07035); any two vectors
  that are not parallel describe a rotation.

Decision: no thresholds. Euler angles are found one after the other, c first and then a with c given, so that the
angles describe the matrix to rounding even where a and c cannot be told apart (gimbal lock; exactly there c = 0).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Rotation = Literal["euler", "quaternion", "axis_angle", "sixd", "none"]
WIDTH: dict[Rotation, int] = {"euler": 3, "quaternion": 4, "axis_angle": 3, "sixd": 6, "none": 0}


def euler_to_matrix(angles: Tensor) -> Tensor:
    """Extrinsic xyz Euler angles (..., 3) -> rotation matrices (..., 3, 3)."""
    (ca, cb, cc), (sa, sb, sc) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    rows = (
        (cc * cb, cc * sb * sa - sc * ca, cc * sb * ca + sc * sa),
        (sc * cb, sc * sb * sa + cc * ca, sc * sb * ca - cc * sa),
        (-sb, cb * sa, cb * ca),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def matrix_to_euler(matrix: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) -> extrinsic xyz Euler angles (..., 3), the second in [-pi/2, pi/2]."""
    (m00, m01, m02), (m10, m11, m12), (m20, _, _) = (row.unbind(-1) for row in matrix.unbind(-2))
    c = torch.atan2(m10, m00)
    cos, sin = c.cos(), c.sin()
    b = torch.atan2(-m20, cos * m00 + sin * m10)  # Rz(-c) R = Ry(b) Rx(a), whose first column is (cos b, 0, -sin b)
    a = torch.atan2(sin * m02 - cos * m12, cos * m11 - sin * m01)  # and whose second row is (0, cos a, -sin a)
    return torch.stack((a, b, c), dim=-1)


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """Quaternions (..., 4) in the order x y z w, of any length but zero -> rotation matrices (..., 3, 3)."""
    x, y, z, w = F.normalize(quaternion, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) -> unit quaternions (..., 4) in the order x y z w, with w >= 0.

    The entries of the matrix give all products 4 q_i q_j. The row of products whose diagonal is largest is a multiple
    of the quaternion that is not near zero (Shepperd 1978).
    """
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = (row.unbind(-1) for row in matrix.unbind(-2))
    xy, xz, yz = m10 + m01, m20 + m02, m21 + m12
    xw, yw, zw = m21 - m12, m02 - m20, m10 - m01
    rows = (
        (1 + m00 - m11 - m22, xy, xz, xw),
        (xy, 1 - m00 + m11 - m22, yz, yw),
        (xz, yz, 1 - m00 - m11 + m22, zw),
        (xw, yw, zw, 1 + m00 + m11 + m22),
    )
    products = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)  # (..., 4, 4)
    largest = products.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = torch.take_along_dim(products, largest[..., None, None], dim=-2).squeeze(-2)
    quaternion = F.normalize(row, dim=-1)
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def axis_angle_to_matrix(vector: Tensor) -> Tensor:
    """Rotation vectors (..., 3) -> rotation matrices (..., 3, 3); smooth at zero."""
    half = torch.linalg.vector_norm(vector, dim=-1, keepdim=True) / 2
    return quaternion_to_matrix(torch.cat((vector * (torch.sinc(half / torch.pi) / 2), half.cos()), dim=-1))


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) -> rotation vectors (..., 3) of length 0 to pi; smooth at zero."""
    quaternion = matrix_to_quaternion(matrix)
    xyz, w = quaternion[..., :3], quaternion[..., 3:]
    sine = torch.linalg.vector_norm(xyz, dim=-1, keepdim=True)
    tiny = torch.finfo(matrix.dtype).eps
    safe = sine.clamp_min(tiny)
    return xyz * torch.where(sine > tiny, 2 * torch.atan2(safe, w) / safe, 2.0)


def sixd_to_matrix(columns: Tensor) -> Tensor:
    """Two columns (..., 6), made orthonormal by Gram and Schmidt -> rotation matrices (..., 3, 3)."""
    first = F.normalize(columns[..., :3], dim=-1)
    second = columns[..., 3:]
    second = F.normalize(second - (first * second).sum(-1, keepdim=True) * first, dim=-1)
    return torch.stack((first, second, torch.linalg.cross(first, second)), dim=-1)


def matrix_to_sixd(matrix: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) -> their first two columns (..., 6)."""
    return torch.cat((matrix[..., 0], matrix[..., 1]), dim=-1)


def rotation_angle(matrix: Tensor) -> Tensor:
    """Angle in radians, 0 to pi, by which matrices (..., 3, 3) turn -> (...). Accurate at both ends."""
    quaternion = matrix_to_quaternion(matrix)
    return 2 * torch.atan2(torch.linalg.vector_norm(quaternion[..., :3], dim=-1), quaternion[..., 3])


_TO = {
    "euler": euler_to_matrix,
    "quaternion": quaternion_to_matrix,
    "axis_angle": axis_angle_to_matrix,
    "sixd": sixd_to_matrix,
}
_FROM = {
    "euler": matrix_to_euler,
    "quaternion": matrix_to_quaternion,
    "axis_angle": matrix_to_axis_angle,
    "sixd": matrix_to_sixd,
}


def to_matrix(rotation: Rotation, values: Tensor) -> Tensor:
    """Values (..., WIDTH[rotation]) of a named representation -> rotation matrices (..., 3, 3).

    Raises:
        ValueError: ``none`` or an unknown name; a last dimension of another width.
    """
    if rotation not in _TO:
        raise ValueError(f"rotation: got '{rotation}', expected one of {', '.join(_TO)}")
    if values.shape[-1] != WIDTH[rotation]:
        raise ValueError(f"{rotation}: expected (..., {WIDTH[rotation]}), got {tuple(values.shape)}")
    return _TO[rotation](values)


def from_matrix(rotation: Rotation, matrix: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) -> values (..., WIDTH[rotation]) of a named representation.

    Raises:
        ValueError: ``none`` or an unknown name.
    """
    if rotation not in _FROM:
        raise ValueError(f"rotation: got '{rotation}', expected one of {', '.join(_FROM)}")
    return _FROM[rotation](matrix)
