"""How a model's idea of the action axes is turned against the robot's, and its correction.

Letters: N pairs of actions, D numbers of each (2: x and y, as in the paper; or 3).

For pairs of neighbouring frames, A (N, D) holds the actions of least energy and B (N, D) what the robot did. The map
W = argmin |A W - B| has a rotation, the orthogonal factor U V^T of its singular value decomposition; where W is near
a multiple of that (condition number near 1) the model has the axes turned and nothing else, which it can not know
better where the camera does not show the robot's base. ``Calibration.apply`` turns a plan back.

Conventions: rows are actions, b = a W. The paper prints the rotation as [[cos, -sin], [sin, cos]] and reads its angle
theta there; as rows are multiplied from the left, inferred vectors are to be turned by -theta.

Decisions:
- Errors of A shrink a least-squares W. ``total`` fits errors in A and B alike (total least squares) and is to be used
  where scales are compared; angles hardly differ.
- A mirrored W has no rotation: this is said, and nothing is forced.
- The interval of the angle is by a bootstrap over blocks of pairs, as neighbouring pairs are not independent.

Reference: V-JEPA 2 paper, appendix B.4 and figure 16, which reports the analysis and does not apply it.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vjepa_lab.poses import rotation_angle


class Calibration(NamedTuple):
    """The linear map from inferred to real actions and what it is made of; float64 on the CPU."""

    w: Tensor
    "(D, D): real = inferred @ w"
    rotation: Tensor
    "(D, D): the orthogonal matrix nearest to w; a reflection if ``mirrored``"
    degrees: float
    "angle theta of the rotation; signed for D = 2, 0 to 180 for D = 3; NaN if mirrored"
    interval: tuple[float, float]
    "95 % bootstrap interval of ``degrees``"
    condition: float
    "largest singular value of w over the smallest: 1 for a rotation and a scale"
    scale: float
    "geometric mean of the singular values"
    mirrored: bool
    axis_degrees: float
    "for D = 2 and mirrored: direction of the axis that is mirrored about, -90 to 90; NaN otherwise"
    error_before: float
    "mean absolute difference of inferred and real actions"
    error_after: float
    "the same with inferred @ w"

    def apply(self, actions: Tensor, by: Literal["rotation", "map"] = "rotation") -> Tensor:
        """Actions (..., A >= D) whose first D numbers are turned (``rotation``) or mapped (``map``, scale and all).

        Raises:
            ValueError: a rotation is asked for and the axes are mirrored.
        """
        if by == "rotation" and self.mirrored:
            raise ValueError("calibration: the axes are mirrored, no rotation corrects them; by='map' would")
        matrix = self.rotation if by == "rotation" else self.w
        first = actions[..., : len(matrix)] @ matrix.to(actions)
        return torch.cat((first, actions[..., len(matrix) :]), dim=-1)

    def report(self) -> dict[str, float]:
        """The numbers alone, for a table."""
        return {
            "degrees": self.degrees,
            "degrees_low": self.interval[0],
            "degrees_high": self.interval[1],
            "condition": self.condition,
            "scale": self.scale,
            "mirrored": float(self.mirrored),
            "axis_degrees": self.axis_degrees,
            "error_before": self.error_before,
            "error_after": self.error_after,
        }


def calibrate(
    inferred: Tensor,
    real: Tensor,
    *,
    total: bool = False,
    rng: torch.Generator | None = None,
    resamples: int = 1000,
    block: int = 10,
) -> Calibration:
    """Fit the map from inferred (N, D) to real (N, D) actions, D = 2 or 3.

    Args:
        total: total instead of ordinary least squares.
        rng: CPU generator of the bootstrap; None: seed 0.
        resamples: draws of the bootstrap.
        block: neighbouring pairs that are drawn together.

    Raises:
        ValueError: shapes that do not fit, too few pairs, or inferred actions that do not span the axes.
    """
    if inferred.shape != real.shape or inferred.ndim != 2 or inferred.shape[1] not in (2, 3):
        raise ValueError(
            f"calibrate: expected two (N, 2) or (N, 3), got {tuple(inferred.shape)} and {tuple(real.shape)}"
        )
    count, width = inferred.shape
    if count < 2 * width:
        raise ValueError(f"calibrate: got {count} pairs of {width} numbers, expected at least {2 * width}")
    a, b = inferred.double().cpu(), real.double().cpu()
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("calibrate: got actions that are not finite")
    sizes = torch.linalg.svdvals(a)
    if sizes[-1] <= 1e-6 * sizes[0]:
        raise ValueError(f"calibrate: inferred actions lie in fewer than {width} dimensions (singular values {sizes})")

    w = _fit(a, b, total)
    u, size, v = torch.linalg.svd(w)
    rotation = u @ v
    mirrored = bool(torch.linalg.det(rotation) < 0)
    degrees = float("nan") if mirrored else _degrees(rotation).item()
    axis = float("nan")
    if mirrored and width == 2:
        axis = math.degrees(math.atan2(rotation[1, 0].item(), rotation[0, 0].item())) / 2
    return Calibration(
        w=w,
        rotation=rotation,
        degrees=degrees,
        interval=_interval(a, b, total, degrees, rng or torch.Generator().manual_seed(0), resamples, block),
        condition=(size[0] / size[-1]).item(),
        scale=size.log().mean().exp().item(),
        mirrored=mirrored,
        axis_degrees=axis,
        error_before=(a - b).abs().mean().item(),
        error_after=(a @ w - b).abs().mean().item(),
    )


def _fit(a: Tensor, b: Tensor, total: bool) -> Tensor:
    """W (..., D, D) of A and B (..., N, D)."""
    if not total:
        return torch.linalg.pinv(a.mT @ a) @ (a.mT @ b)
    both = torch.cat((a, b), dim=-1)
    values = torch.linalg.eigh(both.mT @ both).eigenvectors  # columns by ascending eigenvalue
    width = a.shape[-1]
    least = values[..., :width]  # the directions in which (A, B) varies least: errors alone
    return -least[..., :width, :] @ torch.linalg.pinv(least[..., width:, :])


def _degrees(rotation: Tensor) -> Tensor:
    """Angle of rotations (..., D, D)."""
    if rotation.shape[-1] == 3:
        return torch.rad2deg(rotation_angle(rotation))
    return torch.rad2deg(torch.atan2(rotation[..., 1, 0], rotation[..., 0, 0]))


def _interval(
    a: Tensor, b: Tensor, total: bool, degrees: float, rng: torch.Generator, resamples: int, block: int
) -> tuple[float, float]:
    """2.5 and 97.5 % points of the angle over resampled blocks, around ``degrees`` on the circle."""
    if math.isnan(degrees):
        return (float("nan"), float("nan"))
    count = len(a)
    starts = torch.randint(count, (resamples, math.ceil(count / block)), generator=rng)
    rows = ((starts.unsqueeze(-1) + torch.arange(block)).flatten(1) % count)[:, :count]  # blocks go round the end
    u, _, v = torch.linalg.svd(_fit(a[rows], b[rows], total))
    off = torch.remainder(_degrees(u @ v) - degrees + 180, 360) - 180
    low, high = torch.quantile(off, torch.tensor([0.025, 0.975], dtype=off.dtype)).tolist()
    return degrees + low, degrees + high
