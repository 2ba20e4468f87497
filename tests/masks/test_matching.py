"""The matching gap against a loop over displacements, and what it must say about motion that is known."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from vjepa_lab.masks._matching import dominant_shift, matching_gap, shifted


def plain_gap(brightness: Tensor, radius: int) -> Tensor:
    """The definition, pixel by pixel, of brightness (F, H, W) in 256 steps; the edge of a frame is repeated."""
    frames, height, width = brightness.shape
    x = (brightness * 255).round().tolist()

    def pixel(t: int, i: int, j: int) -> float:
        return x[t][min(max(i, 0), height - 1)][min(max(j, 0), width - 1)]

    out = torch.zeros_like(brightness)
    window = range(-radius, radius + 1)
    box = [(u, v) for u in range(-3, 4) for v in range(-3, 4)]
    for t in range(1, frames - 1):
        for i in range(height):
            for j in range(width):
                f, b = [], []
                for dy in window:
                    for dx in window:
                        around = [(i + u, j + v) for u, v in box]
                        f.append(sum(abs(pixel(t + 1, y + dy, z + dx) - pixel(t, y, z)) for y, z in around) / 49)
                        b.append(sum(abs(pixel(t - 1, y - dy, z - dx) - pixel(t, y, z)) for y, z in around) / 49)
                together = min(p + q for p, q in zip(f, b, strict=True))
                out[t, i, j] = max(together - min(f) - min(b), 0) / 255
    return out


@pytest.mark.parametrize("radius", [1, 2])
def test_the_gap_equals_the_definition(radius: int) -> None:
    clip = torch.rand(2, 4, 5, 6, generator=torch.Generator().manual_seed(radius))
    fast = matching_gap(clip, radius=radius)
    for row, expected in zip(fast, clip, strict=True):
        torch.testing.assert_close(row, plain_gap(expected, radius), atol=1e-6, rtol=0)
    assert fast[:, 1:-1].max() > 0.01


def test_clips_of_a_batch_do_not_touch_each_other() -> None:
    clip = torch.rand(3, 5, 40, 44, generator=torch.Generator().manual_seed(0))
    whole = matching_gap(clip, radius=3)
    assert all(torch.equal(whole[i : i + 1], matching_gap(clip[i : i + 1], radius=3)) for i in range(3))


@pytest.mark.parametrize("frames", [1, 2])
def test_without_three_frames_there_is_no_gap(frames: int) -> None:
    assert not matching_gap(torch.rand(1, frames, 16, 16)).any()


def test_values_out_of_range_do_not_overflow() -> None:
    clip = 100 * torch.randn(1, 5, 20, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(matching_gap(clip), matching_gap(clip.clamp(0, 1)))
    assert matching_gap(clip).min() >= 0


def second_difference(film: Tensor) -> Tensor:
    return (film[:, 2:] - 2 * film[:, 1:-1] + film[:, :-2]).abs()


@pytest.mark.parametrize("velocity", [(2, 0), (0, 2), (3, 1), (1, 3), (-2, 3)])
def test_a_disc_at_constant_whole_pixel_velocity_has_no_gap(films: ModuleType, velocity: tuple[int, int]) -> None:
    """Its second difference is large all the same."""
    film = films.disc_at(films.straight(velocity)).mean(1)
    assert matching_gap(film).max() <= 1e-6
    assert second_difference(film).max() > 0.3


def test_between_pixels_the_gap_is_small_against_the_second_difference(films: ModuleType) -> None:
    film = films.disc_at(films.straight((2.5, 0.7))).mean(1)
    assert 0 < matching_gap(film).max() <= 0.05 * second_difference(film).max()


@pytest.mark.parametrize(("before", "after", "frame"), [((0, 3), (0, -3), 7), ((0, 3), (3, 0), 8)])
def test_the_gap_is_at_the_frame_where_the_velocity_changes_and_nowhere_else(
    films: ModuleType, before: tuple[int, int], after: tuple[int, int], frame: int
) -> None:
    film = films.disc_at(films.bent(before, after, frame)).mean(1)
    gap = matching_gap(film)[0]
    peaks = gap.flatten(1).amax(1)
    assert peaks[frame] > 0.05
    assert peaks.index_fill(0, torch.tensor([frame]), 0).max() <= 1e-6
    at = int(gap[frame].argmax())
    assert (at // films.SIZE - films.SIZE // 2) ** 2 + (at % films.SIZE - films.SIZE // 2) ** 2 <= films.RADIUS**2
    contrast = second_difference(film)[0].flatten(1).amax(1)
    assert contrast[frame - 1] < 1.5 * contrast.median()


def panned(films: ModuleType, shift: tuple[int, int], frames: int = 5, size: int = 64) -> Tensor:
    """A films.textured plane, (1, F, size, size), that moves by ``shift`` (down, right) per frame."""
    margin = frames * max(abs(s) for s in shift)
    plane = films.textured(size + 2 * margin, size + 2 * margin)
    starts = [(margin - t * shift[0], margin - t * shift[1]) for t in range(frames)]
    return torch.stack([plane[y : y + size, x : x + size] for y, x in starts])[None]


def test_a_panning_camera_makes_no_gap(films: ModuleType) -> None:
    gap = matching_gap(panned(films, (1, -2)))
    assert gap[..., 8:-8, 8:-8].max() <= 1e-6


@pytest.mark.parametrize("shift", [(0, 1), (-1, 0), (3, -2), (0, 0)])
def test_the_shift_of_a_panning_camera_is_found(films: ModuleType, shift: tuple[int, int]) -> None:
    assert dominant_shift(panned(films, shift)).tolist() == [[list(shift)] * 4]


def test_a_moving_disc_before_an_even_background_is_no_moving_camera(films: ModuleType) -> None:
    assert not dominant_shift(films.disc_at(films.straight((0, 3))).mean(1)).any()


def test_shifted_frames_equal_a_loop_over_pixels() -> None:
    x = torch.rand(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([[[0, 0], [1, -2], [-1, 3], [9, 0]], [[0, 1], [2, 2], [-3, -3], [0, -9]]])
    moved, inside = shifted(x, shift)
    for b in range(2):
        for f in range(4):
            for i in range(5):
                for j in range(6):
                    y, z = i + int(shift[b, f, 0]), j + int(shift[b, f, 1])
                    assert inside[b, 0, f, i, j] == (0 <= y < 5 and 0 <= z < 6)
                    if inside[b, 0, f, i, j]:
                        assert torch.equal(moved[b, :, f, i, j], x[b, :, f, y, z])
