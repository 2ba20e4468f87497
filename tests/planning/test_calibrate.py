"""Turned, scaled and mirrored axes are recovered from pairs of actions, and corrected."""

import math

import pytest
import torch
from torch import Tensor

from vjepa_lab.planning.calibrate import calibrate
from vjepa_lab.poses import axis_angle_to_matrix


def rotation(degrees: float) -> Tensor:
    """As the paper prints it: [[cos, -sin], [sin, cos]]."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


def pairs(matrix: Tensor, *, scale: float = 1 / 0.7, noise: float = 0.002, count: int = 200) -> tuple[Tensor, Tensor]:
    """Inferred and real actions (N, D) with real = scale * inferred @ matrix, but for noise of the inferred."""
    g = torch.Generator().manual_seed(0)
    real = (torch.rand(count, len(matrix), generator=g, dtype=torch.float64) - 0.5) * 0.1
    inferred = real @ torch.linalg.inv(matrix * scale)
    return inferred + noise * torch.randn(inferred.shape, generator=g, dtype=torch.float64), real


@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize("degrees", [0.0, 20.0, 60.0, -45.0, 179.0])
def test_a_planted_angle_is_found(degrees, total):
    found = calibrate(*pairs(rotation(degrees)), total=total)
    off = (found.degrees - degrees + 180) % 360 - 180
    assert abs(off) < 1.5
    assert found.interval[0] < found.degrees < found.interval[1]
    assert found.interval[1] - found.interval[0] < 4
    assert found.condition < 1.05
    assert not found.mirrored
    assert found.error_after < 0.003  # of the noise, 0.002 times the scale


def test_without_noise_the_map_is_exact_and_corrects_the_plans():
    inferred, real = pairs(rotation(35), scale=1.0, noise=0.0)
    found = calibrate(inferred, real)
    torch.testing.assert_close(found.w, rotation(35))
    assert found.degrees == pytest.approx(35)
    assert found.error_after == pytest.approx(0, abs=1e-12)
    rest = torch.rand(200, 5, dtype=torch.float64)
    for by in ("rotation", "map"):
        torch.testing.assert_close(found.apply(torch.cat((inferred, rest), 1), by), torch.cat((real, rest), 1))


def test_noise_shrinks_a_least_squares_map_and_not_the_total_one():
    inferred, real = pairs(rotation(30), noise=0.008, count=4000)
    plain, total = calibrate(inferred, real), calibrate(inferred, real + 0.008 * torch.randn(real.shape), total=True)
    assert plain.scale < 0.95 / 0.7
    assert total.scale == pytest.approx(1 / 0.7, rel=0.04)
    assert plain.degrees == pytest.approx(30, abs=1)


def test_a_stretched_axis_is_in_the_condition_number():
    found = calibrate(*pairs(torch.diag(torch.tensor([1.5, 1.0], dtype=torch.float64)), scale=1.0, noise=0.0))
    assert found.condition == pytest.approx(1.5)
    assert found.scale == pytest.approx(1.5**0.5)
    assert found.degrees == pytest.approx(0, abs=1e-9)


def test_a_mirrored_camera_is_said_and_not_called_a_rotation():
    """Mirrored about an axis at 30 degrees."""
    double = math.radians(60)
    mirror = torch.tensor([[math.cos(double), math.sin(double)], [math.sin(double), -math.cos(double)]]).double()
    inferred, real = pairs(mirror, noise=0.0)
    found = calibrate(inferred, real)
    assert found.mirrored
    assert math.isnan(found.degrees)
    assert found.axis_degrees == pytest.approx(30)
    with pytest.raises(ValueError, match="the axes are mirrored"):
        found.apply(inferred)
    torch.testing.assert_close(found.apply(inferred, by="map"), real)


def test_angles_of_a_sweep_of_cameras_lie_on_a_line():
    cameras = torch.arange(35.0, 86.0, 10.0, dtype=torch.float64)
    found = torch.tensor([calibrate(*pairs(rotation(c)), resamples=10).degrees for c in cameras.tolist()])
    slope = ((cameras - cameras.mean()) * (found - found.mean())).sum() / (cameras - cameras.mean()).square().sum()
    assert slope.item() == pytest.approx(1, abs=0.02)


def test_three_dimensions():
    turn = axis_angle_to_matrix(torch.tensor([0.2, -0.3, 0.4], dtype=torch.float64))
    found = calibrate(*pairs(turn, noise=0.001))
    assert found.degrees == pytest.approx(math.degrees(0.29**0.5), abs=1)
    assert found.interval[0] < found.degrees < found.interval[1]


def test_the_report_holds_numbers_alone_and_the_generator_decides_the_interval():
    inferred, real = pairs(rotation(20))
    first, again = (calibrate(inferred, real, rng=torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.interval == again.interval
    assert all(isinstance(value, float) for value in first.report().values())


def test_pairs_that_show_nothing_are_refused():
    with pytest.raises(ValueError, match="got 3 pairs of 2 numbers, expected at least 4"):
        calibrate(torch.rand(3, 2), torch.rand(3, 2))
    with pytest.raises(ValueError, match="lie in fewer than 2 dimensions"):
        calibrate(torch.rand(9, 1).expand(9, 2), torch.rand(9, 2))
    with pytest.raises(ValueError, match=r"expected two \(N, 2\) or \(N, 3\), got \(9, 4\)"):
        calibrate(torch.rand(9, 4), torch.rand(9, 4))
    with pytest.raises(ValueError, match="not finite"):
        calibrate(torch.full((9, 2), torch.nan), torch.rand(9, 2))
