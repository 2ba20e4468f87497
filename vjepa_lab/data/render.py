"""Pictures of a disc world: textured discs over a smooth background, seen by a camera that may move.

What: ``render`` paints the centres that ``physics.simulate`` gives into uint8 frames, and ``visible_share`` says in
closed form how much of each disc can be seen. Positions are in frame widths; the centre of pixel (row i, column j) of
a frame W pixels wide lies at ((j + 0.5) / W, (i + 0.5) / W).

Decisions:
- Edges and textures are evaluated at the pixels from the exact centre (no sprite is resampled), so the picture moves
  smoothly at any size and its centroid is the true position. Coverage is a one-pixel ramp in the distance to the rim.
- Textures are cosines, band-limited so that they do not alias on small frames. They move with the disc without turning.
- The background is a sum of low cosines of the position in the room. Its value is known everywhere, so a moving camera
  needs no resampling either.
- All frames of a disc are painted at once in a window that holds the disc; the loop is over discs only.

Letters: F frames, K discs, H W pixels, h w pixels of a window, P cosines along an axis.
"""

from __future__ import annotations

import colorsys
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PLAIN, STRIPES, RINGS, CHECKS = -1, 0, 1, 2
_FAMILIES = 3
_PERIOD = 0.9
"of a texture, in radii"
_WAVES = 5
"cosines of the background along each axis, the constant one included"
_GREY = 92.5
"mean brightness of a background"


class Look(NamedTuple):
    """What a clip looks like, its motion aside. Colours are 0 to 255."""

    colour: NDArray[np.float32]
    "(K, 2, 3) darkest and lightest colour of each disc"
    family: tuple[int, ...]
    "(K,) texture of each disc: PLAIN, STRIPES, RINGS or CHECKS"
    phase: NDArray[np.float32]
    "(K, 2) phase of the texture and direction of its stripes, radians"
    background: NDArray[np.float32]
    "(3, P, P) amplitudes of cos(pi p y) cos(pi q x)"
    outside: NDArray[np.float32]
    "(3,) colour beyond the walls of the room"
    bar: tuple[float, float]
    "left and right edge of the occluder in frame widths; it is drawn only on request"
    bar_colour: NDArray[np.float32]
    "(3,)"


def draw_look(rng: np.random.Generator, discs: int, *, background: float = 1.0) -> Look:
    """A random look. Disc k keeps its hue band (k/K of the circle, a half wide) and its texture family in all clips.

    ``background`` scales how much the background varies, in a clip and between clips; 0 is one grey for all.
    """
    u = rng.random((discs, 5))
    colour = np.empty((discs, 2, 3), dtype=np.float32)
    for k, (hue, saturation, value, _, _) in enumerate(u.tolist()):
        light = colorsys.hsv_to_rgb((k + 0.5 * (hue - 0.5)) / discs % 1, 0.65 + 0.35 * saturation, 0.75 + 0.25 * value)
        colour[k, 1] = light
    colour[:, 1] *= 255
    colour[:, 0] = 0.35 * colour[:, 1]
    waves = np.arange(_WAVES)
    decay = 1 / (1 + waves[:, None] + waves)
    waved = (background * 48 * decay * (2 * rng.random((3, _WAVES, _WAVES)) - 1)).astype(np.float32)
    waved[:, 0, 0] = _GREY + background * (55 - _GREY + 75 * rng.random() + 30 * (rng.random(3) - 0.5))
    outside = (15 + 20 * rng.random(3)).astype(np.float32)
    centre, width, grey = rng.random(3).tolist()
    centre, width = 0.3 + 0.4 * centre, 0.15 + 0.1 * width
    return Look(
        colour=colour,
        family=tuple(k % _FAMILIES for k in range(discs)),
        phase=(2 * math.pi * u[:, 3:]).astype(np.float32),
        background=waved,
        outside=outside,
        bar=(centre - width / 2, centre + width / 2),
        bar_colour=np.full(3, 20 + 50 * grey, dtype=np.float32),
    )


def render(
    position: NDArray[np.float64],
    radius: NDArray[np.float64],
    look: Look,
    *,
    height: int,
    width: int,
    camera: NDArray[np.float64] | None = None,
    occluder: bool = False,
) -> NDArray[np.uint8]:
    """Frames of discs at ``position``, uint8 (3, F, H, W).

    Args:
        position: (F, K, 2) centres in the room, in frame widths.
        radius: (K,) in frame widths.
        look: colours and textures.
        height: H.
        width: W.
        camera: (F, 2) where the frame's top left corner lies in the room; None is a camera at rest at (0, 0), which
            sees the whole room [0, 1] x [0, H / W] and nothing else.
        occluder: draw the bar, which stands still before the camera.
    """
    frames = len(position)
    clip = np.empty((3, frames, height, width), dtype=np.uint8)
    clip[:] = _background(look, height, width, np.zeros((1, 2)) if camera is None else camera)
    centre = (position if camera is None else position - camera[:, None]) * width
    for k in range(len(radius)):
        _paint_disc(clip, centre[:, k].astype(np.float32), float(radius[k]) * width, look, k)
    if occluder:
        left, right = bar_pixels(look.bar, width)
        clip[..., left:right] = look.bar_colour[:, None, None, None]
    return clip


def bar_pixels(bar: tuple[float, float], width: int) -> tuple[int, int]:
    """First pixel column of the bar and the one after its last: the bar stands on whole pixels."""
    return round(bar[0] * width), round(bar[1] * width)


def visible_share(
    centre: NDArray[np.float64], radius: NDArray[np.float64], *, height: float, bar: tuple[float, float] | None = None
) -> NDArray[np.float64]:
    """Share of each disc's area inside the frame [0, 1] x [0, height] and not behind the bar, 0 to 1.

    Args:
        centre: (..., K, 2) in the frame, in frame widths.
        radius: (K,).
        height: of the frame, in frame widths.
        bar: left and right edge of the occluder, None without one.
    """
    edges = (0.0, 1.0) if bar is None else (0.0, *bar, 1.0)
    # Signed distances of the edges from the centre, in radii; the area left of and above a corner adds up.
    x = [(edge - centre[..., 0]) / radius for edge in edges]
    y = [(edge - centre[..., 1]) / radius for edge in (0.0, height)]
    area = np.zeros(centre.shape[:-1])
    for column, a in enumerate(x):
        sign = 1 if column % 2 else -1
        area += sign * (_corner_area(a, y[1]) - _corner_area(a, y[0]))
    return np.clip(area / math.pi, 0.0, 1.0)


def _corner_area(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area of the unit disc with x <= a and y <= b."""
    a, b = np.clip(a, -1, 1), np.clip(b, -1, 1)
    left = math.pi / 2 + np.arcsin(a) + a * np.sqrt(1 - a * a)
    above = math.pi / 2 + np.arcsin(b) + b * np.sqrt(1 - b * b)
    # A corner in the disc cuts off a quadrant with one vertex at the corner; one outside leaves whole segments.
    within = a * b + 0.5 * (left + above) - math.pi / 4
    beyond = np.where((a > 0) & (b > 0), left + above - math.pi, np.where(a > 0, above, np.where(b > 0, left, 0.0)))
    return np.where(a * a + b * b < 1, within, beyond)


def _background(look: Look, height: int, width: int, camera: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Floor of the room as ``camera`` (F, 2) sees it, uint8 (3, F, H, W)."""
    x = camera[:, 0, None] + (np.arange(width) + 0.5) / width
    y = camera[:, 1, None] + (np.arange(height) + 0.5) / width
    waves = np.pi * np.arange(_WAVES)
    along_x = np.cos(waves[:, None] * x[:, None]).astype(np.float32)
    along_y = np.cos(waves * y[..., None]).astype(np.float32)
    # (1, F, H, P) @ (3, 1, P, P) @ (F, P, W) -> (3, F, H, W)
    floor = along_y @ look.background[:, None] @ along_x
    np.clip(floor, 0, 255, out=floor)
    if camera.any():
        in_x = np.clip(np.minimum(x, 1 - x) * width + 0.5, 0, 1)
        in_y = np.clip(np.minimum(y, height / width - y) * width + 0.5, 0, 1)
        inside = (in_y[:, :, None] * in_x[:, None, :]).astype(np.float32)
        outside = look.outside[:, None, None, None]
        floor = outside + inside * (floor - outside)
    return (floor + 0.5).astype(np.uint8)


def _paint_disc(clip: NDArray[np.uint8], centre: NDArray[np.float32], radius: float, look: Look, k: int) -> None:
    """Blend disc ``k`` at ``centre`` (F, 2), in pixels, into ``clip`` (3, F, H, W)."""
    channels, frames, height, width = clip.shape
    side = math.ceil(2 * radius) + 3
    h, w = min(side, height), min(side, width)
    # A window that would leave the frame is moved back into it: a disc partly outside is then painted by what is left.
    left = np.clip(np.floor(centre[:, 0] - radius - 1).astype(np.int64), 0, width - w)
    top = np.clip(np.floor(centre[:, 1] - radius - 1).astype(np.int64), 0, height - h)
    dx = (left[:, None] + np.arange(0.5, w, dtype=np.float32) - centre[:, :1]).astype(np.float32)[:, None, :]
    dy = (top[:, None] + np.arange(0.5, h, dtype=np.float32) - centre[:, 1:]).astype(np.float32)[:, :, None]
    distance = np.sqrt(dx * dx + dy * dy)
    cover = np.clip(radius + 0.5 - distance, 0, 1)

    dark, light = look.colour[k][:, :, None, None, None]
    paint = dark * cover + (light - dark) * (cover * _texture(look, k, dx, dy, distance, radius))
    strides = clip.strides
    windows = np.lib.stride_tricks.as_strided(
        clip, (channels, frames, height - h + 1, width - w + 1, h, w), (*strides, *strides[2:])
    )
    at = (slice(None), np.arange(frames), top, left)
    windows[at] = (windows[at] * (1 - cover) + paint + 0.5).astype(np.uint8)


def _texture(
    look: Look,
    k: int,
    dx: NDArray[np.float32],
    dy: NDArray[np.float32],
    distance: NDArray[np.float32],
    radius: float,
) -> NDArray[np.float32] | float:
    """Lightness 0 to 1 at the offsets (F, 1, w) and (F, h, 1) from the centre, (F, h, w)."""
    wave = 2 * math.pi / (_PERIOD * radius)
    phase, angle = look.phase[k].tolist()
    family = look.family[k]
    if family == STRIPES:
        wave_form = np.cos(wave * (math.cos(angle) * dx + math.sin(angle) * dy) + phase)
    elif family == RINGS:
        wave_form = np.cos(wave * distance + phase)
    elif family == CHECKS:
        wave_form = np.cos(wave * dx + phase) * np.cos(wave * dy + angle)
    else:
        return 1.0
    return 0.5 + 0.5 * wave_form
