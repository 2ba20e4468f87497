"""Every map against plain loops over pixels, and on films for which it is known in closed form."""

from __future__ import annotations

import math
import re
from types import ModuleType

import pytest
import torch
from torch import Tensor

from vjepa_lab.batch import Grid
from vjepa_lab.data import transforms
from vjepa_lab.masks import _saliency
from vjepa_lab.masks._matching import matching_gap
from vjepa_lab.masks._saliency import KINDS, MapOptions, of_features, rgb, saliency, velocity

GRID, PATCH, TUBELET = Grid(3, 2, 3), 4, 2
PIXEL_KINDS = [kind for kind in KINDS if kind != "accel_feature"]


def film(seed: int = 0, batch: int = 2) -> Tensor:
    shape = (batch, 3, TUBELET * GRID.t, PATCH * GRID.h, PATCH * GRID.w)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def plain_pool(frames: Tensor, *, largest: bool = False) -> Tensor:
    """(F, H, W) -> (t, h, w) by loops."""
    out = torch.zeros(GRID)
    for k in range(GRID.t):
        for r in range(GRID.h):
            for c in range(GRID.w):
                cell = frames[2 * k : 2 * k + 2, PATCH * r : PATCH * (r + 1), PATCH * c : PATCH * (c + 1)]
                means = [frame.mean() for frame in cell]
                out[k, r, c] = max(means) if largest else sum(means) / len(means)
    return out


def plain_blur(frame: Tensor, sigma: float) -> Tensor:
    """(3, H, W), the edge repeated, cut at 3 sigma, both axes at once."""
    reach = math.ceil(3 * sigma)
    weights = {d: math.exp(-0.5 * (d / sigma) ** 2) for d in range(-reach, reach + 1)}
    total = sum(weights.values())
    height, width = frame.shape[1:]
    out = torch.zeros_like(frame)
    for i in range(height):
        for j in range(width):
            for d, p in weights.items():
                for e, q in weights.items():
                    y, x = min(max(i + d, 0), height - 1), min(max(j + e, 0), width - 1)
                    out[:, i, j] += p * q / total**2 * frame[:, y, x]
    return out


def plain(kind: str, x: Tensor, sigma: float = PATCH) -> Tensor:
    """A map (t, h, w) of one film (3, F, H, W) as its definition reads."""
    frames = x.shape[1]
    out = torch.zeros(x.shape[1:])
    if kind == "velocity":
        for t in range(frames - 1):
            out[t] = (x[:, t + 1] - x[:, t]).abs().mean(0)
        return plain_pool(out)
    if kind == "accel_matching":
        return plain_pool(matching_gap(x.mean(0)[None])[0], largest=True)
    if kind == "accel_patch":
        x = x.clone()
        for r in range(GRID.h):
            for c in range(GRID.w):
                rows, columns = slice(PATCH * r, PATCH * (r + 1)), slice(PATCH * c, PATCH * (c + 1))
                x[..., rows, columns] = x[..., rows, columns].mean((2, 3), keepdim=True)
    if kind == "accel_lowpass":
        x = torch.stack([plain_blur(x[:, t], sigma) for t in range(frames)], 1)
    for t in range(1, frames - 1):
        if kind.startswith("accel_official"):
            out[t] = ((x[:, t + 1] - x[:, t]).abs() - (x[:, t] - x[:, t - 1]).abs()).abs().mean(0)
        else:
            out[t] = (x[:, t + 1] - 2 * x[:, t] + x[:, t - 1]).abs().mean(0)
    if kind == "accel_official":
        out[:] = out[1:-1].mean(0)
    return plain_pool(out)


@pytest.mark.parametrize("kind", PIXEL_KINDS)
def test_a_map_equals_its_definition(kind: str) -> None:
    x = film()
    for row, expected in zip(saliency(kind, x, GRID, MapOptions(sigma=0.6)), x, strict=True):
        torch.testing.assert_close(row, plain(kind, expected, 0.6), atol=1e-5, rtol=0)


def test_the_blur_is_as_wide_as_a_token_unless_told_otherwise() -> None:
    x = film(1, 1)
    default = saliency("accel_lowpass", x, GRID)
    assert torch.equal(default, saliency("accel_lowpass", x, GRID, MapOptions(sigma=PATCH)))
    assert not torch.allclose(default, saliency("accel_lowpass", x, GRID, MapOptions(sigma=1.0)), rtol=0.1)


def test_the_map_of_features_equals_its_definition() -> None:
    z = torch.randn(2, GRID.n, 7, generator=torch.Generator().manual_seed(0))
    got = of_features(z, GRID)
    cells = z.view(2, *GRID, 7)
    assert not got[:, 0].any()
    assert not got[:, -1].any()
    for b in range(2):
        for r in range(GRID.h):
            for c in range(GRID.w):
                before, now, after = cells[b, :, r, c]
                steps = ((after - now).norm() + (now - before).norm()) / 2
                assert got[b, 1, r, c].item() == pytest.approx(((after - 2 * now + before).norm() / steps).item(), 1e-4)


def test_features_that_move_on_a_line_have_no_acceleration() -> None:
    line = torch.arange(4.0)[:, None] * torch.tensor([1.0, -2.0])
    assert of_features(line[None], Grid(4, 1, 1)).max() < 1e-6


@pytest.mark.parametrize("kind", PIXEL_KINDS)
def test_a_constant_film_has_no_saliency(kind: str) -> None:
    assert not saliency(kind, torch.full((1, 3, 6, 8, 12), 0.3), GRID).any()


def ramp(values: list[float]) -> Tensor:
    """A film whose every pixel has the brightness ``values``."""
    return torch.tensor(values).view(1, 1, -1, 1, 1).expand(1, 3, -1, 8, 12).contiguous()


def test_brightness_that_rises_evenly_has_a_speed_and_no_acceleration() -> None:
    x = ramp([0.1 + 0.02 * t for t in range(6)])
    for kind in ("accel_official", "accel_official_t", "accel_pixel", "accel_lowpass", "accel_patch"):
        assert saliency(kind, x, GRID).max() < 1e-6
    assert saliency("velocity", x, GRID)[0, 0].tolist() == [[pytest.approx(0.02)] * 3] * 2


def test_brightness_that_rises_quadratically_has_its_acceleration_everywhere() -> None:
    x = ramp([0.1 + 0.002 * t * t / 2 for t in range(6)])
    for kind in ("accel_official_t", "accel_pixel", "accel_lowpass", "accel_patch"):
        assert saliency(kind, x, GRID)[0, 1].tolist() == [[pytest.approx(0.002, rel=1e-3)] * 3] * 2
    assert saliency("accel_official", x, GRID)[0].flatten().tolist() == [pytest.approx(0.002, rel=1e-3)] * GRID.n


def test_a_moving_wave_has_the_second_difference_of_the_closed_form() -> None:
    """2 (1 - cos kv) |cos k(p - vt)| at every pixel: one pixel per token."""
    k, v = 0.7, 1.3
    p, t = torch.arange(24.0), torch.arange(5.0)
    wave = (k * (p - v * t[:, None])).cos()
    x = wave.view(1, 1, 5, 1, 24).expand(1, 3, -1, 1, -1)
    got = saliency("accel_pixel", x, Grid(5, 1, 24))[0, 1:-1, 0]
    torch.testing.assert_close(got, 2 * (1 - math.cos(k * v)) * wave[1:-1].abs(), atol=1e-5, rtol=0)


def test_only_matching_sees_no_change_in_a_disc_at_constant_velocity(films: ModuleType) -> None:
    x, grid = films.disc_at(films.straight((3, 1))), Grid(8, 12, 12)
    assert saliency("accel_matching", x, grid).max() <= 1e-6
    assert saliency("accel_pixel", x, grid).max() > 0.02


def test_half_the_resolution_sees_the_same_turn(films: ModuleType) -> None:
    offsets = [(0, 2 * min(t, 16 - t)) for t in range(16)]
    x, grid = films.disc_at(offsets), Grid(8, 12, 12)
    whole, half = (saliency("accel_matching", x, grid, MapOptions(shrink=s))[0] for s in (1, 2))
    assert whole.flatten(1).amax(1).argmax() == half.flatten(1).amax(1).argmax() == 4
    assert half[4].max() > 0.01


def test_large_clips_are_shrunk_by_themselves() -> None:
    x = torch.nn.functional.interpolate(film(2, 1)[0], (256, 256)).expand(1, -1, -1, -1, -1)
    grid = Grid(3, 16, 16)
    assert torch.equal(saliency("accel_matching", x, grid), saliency("accel_matching", x, grid, MapOptions(shrink=2)))


def test_with_compensation_a_panning_camera_is_no_motion_but_a_disc_in_it_is(films: ModuleType) -> None:
    plane = films.textured(96, 112, 3)
    pan = torch.stack([plane[:, t : t + 96] for t in range(16)])
    disc = films.disc_at(films.straight((0, 2)))[0, 0]
    x = torch.where((disc != 0.5), disc, pan).expand(1, 3, -1, -1, -1)
    grid = Grid(8, 12, 12)
    plain_speed, speed = velocity(x, grid)[0, 3], velocity(x, grid, compensate=True)[0, 3]
    assert (plain_speed > 0.1 * plain_speed.max()).float().mean() > 0.9
    assert (speed > 0.1 * speed.max()).float().mean() < 0.15
    assert speed.max() > 0.05


def test_the_statistics_of_the_clips_are_those_of_the_transforms() -> None:
    assert (transforms.MEAN, transforms.STD) == (_saliency._MEAN, _saliency._STD)
    pixels = torch.randint(0, 256, (2, 3, 2, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rgb(transforms.normalize(pixels)), pixels / 255, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "wrong", [{"sigma": 0.0}, {"radius": 0}, {"shrink": -1}, {"warmup": 0}], ids=lambda wrong: next(iter(wrong))
)
def test_an_option_out_of_range_is_refused(wrong: dict) -> None:
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=re.escape(f"maps.{name} is {value}")):
        MapOptions(**wrong)
