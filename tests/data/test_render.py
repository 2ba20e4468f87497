"""Pictures show what the truth says: discs where they are, covered where they are covered."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vjepa_lab.data.render import CHECKS, PLAIN, RINGS, STRIPES, Look, bar_pixels, draw_look, render, visible_share


def bright(discs: int = 1) -> Look:
    """White discs without texture on black."""
    look = draw_look(np.random.default_rng(0), discs)
    return look._replace(
        colour=np.full((discs, 2, 3), 255, dtype=np.float32),
        family=(PLAIN,) * discs,
        background=np.zeros_like(look.background),
        outside=np.zeros(3, dtype=np.float32),
        bar_colour=np.zeros(3, dtype=np.float32),
    )


def plain_render(position, radius, look: Look, height: int, width: int, camera=None) -> np.ndarray:
    """Reference: one pixel at a time, written from the description alone."""
    camera = np.zeros((len(position), 2)) if camera is None else camera
    clip = np.empty((3, len(position), height, width), dtype=np.uint8)
    for f, i, j in np.ndindex(len(position), height, width):
        x, y = camera[f, 0] + (j + 0.5) / width, camera[f, 1] + (i + 0.5) / width
        waves = range(look.background.shape[1])
        colour = np.zeros(3)
        for p in waves:
            for q in waves:
                colour += look.background[:, p, q] * math.cos(math.pi * p * y) * math.cos(math.pi * q * x)
        colour = np.clip(colour, 0, 255)
        if camera.any():
            to_wall = np.array([min(x, 1 - x), min(y, height / width - y)]) * width
            inside = np.clip(to_wall + 0.5, 0, 1).prod()
            colour = inside * colour + (1 - inside) * look.outside
        for k, r in enumerate(radius * width):
            dx, dy = (np.array([x, y]) - position[f, k]) * width
            cover = np.clip(r + 0.5 - math.hypot(dx, dy), 0, 1)
            wave, (phase, angle) = 2 * math.pi / (0.9 * r), look.phase[k]
            form = {
                STRIPES: math.cos(wave * (math.cos(angle) * dx + math.sin(angle) * dy) + phase),
                RINGS: math.cos(wave * math.hypot(dx, dy) + phase),
                CHECKS: math.cos(wave * dx + phase) * math.cos(wave * dy + angle),
            }[look.family[k]]
            dark, light = look.colour[k]
            colour = (1 - cover) * colour + cover * (dark + (light - dark) * (0.5 + 0.5 * form))
        clip[:, f, i, j] = (colour + 0.5).astype(np.uint8)
    return clip


@pytest.mark.parametrize("moving", [False, True])
def test_windows_agree_with_a_pixel_by_pixel_picture(moving: bool) -> None:
    rng = np.random.default_rng(1)
    position, radius = rng.uniform(0.1, 0.5, (2, 3, 2)), np.array([0.1, 0.15, 0.12])
    camera = rng.uniform(-0.3, 0.3, (2, 2)) if moving else None
    look = draw_look(rng, 3)
    fast = render(position, radius, look, height=14, width=22, camera=camera)
    slow = plain_render(position, radius, look, 14, 22, camera)
    # Each disc rounds to whole grey levels where the reference rounds once.
    assert np.abs(fast.astype(int) - slow).max() <= 2
    assert fast.std() > 10


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 32), (48, 80)])
def test_centroid_of_a_bright_disc_is_its_position(height: int, width: int) -> None:
    rng = np.random.default_rng(2)
    position = rng.uniform(0.2, [0.8, 0.8 * height / width], (20, 1, 2))
    position[..., 1] = np.clip(position[..., 1], 0.16, height / width - 0.16)
    clip = render(position, np.array([0.13]), bright(), height=height, width=width)[0].astype(float)
    mass = clip.sum((1, 2))
    x = (clip.sum(1) @ (np.arange(width) + 0.5)) / mass / width
    y = (clip.sum(2) @ (np.arange(height) + 0.5)) / mass / width
    np.testing.assert_allclose(np.stack([x, y], -1), position[:, 0], atol=0.02 / width)
    np.testing.assert_allclose(mass / 255 / width**2, math.pi * 0.13**2, rtol=0.02)


def test_a_disc_wider_than_the_frame_is_painted_where_it_is() -> None:
    clip = render(np.array([[[0.0, 0.5]]]), np.array([0.7]), bright(), height=16, width=16)[0, 0]
    # The row at the height of the centre is covered up to 0.7 of the frame, 11.2 pixels.
    assert (clip[8, :11] == 255).all()
    assert 0 < clip[8, 11] < 128
    assert (clip[8, 12:] == 0).all()


def test_the_camera_moves_discs_and_floor_together() -> None:
    rng = np.random.default_rng(3)
    look, position = draw_look(rng, 2), np.array([[[0.3, 0.4], [0.7, 0.6]]])
    radius = np.array([0.1, 0.12])
    still = render(position, radius, look, height=32, width=32)
    moved = render(position, radius, look, height=32, width=32, camera=np.array([[5 / 32, -3 / 32]]))
    np.testing.assert_allclose(moved[:, :, 3 + 1 :, : 32 - 5 - 1], still[:, :, 1 : 32 - 3, 5 : 32 - 1], atol=1)
    # Beyond the walls there is the outside colour: three rows above the ceiling, five columns right of the wall.
    assert (moved[:, 0, 0, 0] == (look.outside + 0.5).astype(np.uint8)).all()
    assert (moved[:, 0, -1, -1] == (look.outside + 0.5).astype(np.uint8)).all()


def test_the_bar_hides_what_is_behind_it_and_nothing_else() -> None:
    position, radius = np.array([[[0.5, 0.5]]]), np.array([0.2])
    look = bright()._replace(bar=(0.45, 0.6), bar_colour=np.full(3, 77, dtype=np.float32))
    clear = render(position, radius, look, height=40, width=40)
    barred = render(position, radius, look, height=40, width=40, occluder=True)
    left, right = bar_pixels(look.bar, 40)
    assert (left, right) == (18, 24)
    assert (barred[..., left:right] == 77).all()
    assert (np.delete(barred, np.s_[left:right], -1) == np.delete(clear, np.s_[left:right], -1)).all()


@pytest.mark.parametrize("bar", [None, (0.4, 0.55)])
def test_visible_share_is_the_share_of_bright_pixels_left(bar: tuple[float, float] | None) -> None:
    rng = np.random.default_rng(4)
    centre, radius = rng.uniform(-0.2, [1.2, 0.95], (300, 1, 2)), np.array([0.17])
    share = visible_share(centre, radius, height=0.75, bar=bar)
    size = 200
    look = bright()._replace(bar=bar or (0.0, 0.0))
    clip = render(centre, radius, look, height=150, width=size, occluder=bar is not None)[0]
    counted = clip.astype(float).sum((1, 2)) / 255 / (math.pi * (0.17 * size) ** 2)
    np.testing.assert_allclose(share[:, 0], counted, atol=5e-3)
    assert share.min() == 0
    assert (share == 1).any()
    assert ((share > 0.1) & (share < 0.9)).sum() > 50


def test_identity_shows_in_hue_and_texture_while_the_rest_varies() -> None:
    looks = [draw_look(np.random.default_rng(seed), 3) for seed in range(50)]
    assert {look.family for look in looks} == {(STRIPES, RINGS, CHECKS)}
    strongest = np.array([look.colour[:, 1].argmax(-1) for look in looks])
    assert (strongest == [0, 1, 2]).all(), "three discs are reddish, greenish and bluish in every clip"
    assert np.std([look.background[:, 0, 0].mean() for look in looks]) > 10
