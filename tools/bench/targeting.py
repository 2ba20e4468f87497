"""Films of colliding discs whose collisions are known, and how well a saliency map or a mask finds them.

Four elastic discs of equal mass in a room, each with a texture of its own that moves with it: 16 frames of 96 x 96 by
default, tokens of 2 frames x 8 x 8 pixels. The background is an even grey, or textured and seen by a camera that pans
by whole pixels.

Words. A token is *moving* if a disc covers a part of it. It is *interacting* if one of two colliding discs covers a
part of it in a tubelet that holds the last frame before the collision or the first one after. Hits of a wall count as
other motion, though motion changes there too; ``free_auc`` leaves them out. Shares of masks are over the films; a film
without a collision between discs is left out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vjepa_lab.batch import Grid
from vjepa_lab.data.physics import scatter, simulate
from vjepa_lab.dist import derive

DISCS = 4
TUBELET = 2


class Film(NamedTuple):
    """One film and what happens in it."""

    frames: Tensor
    "float32 (3, F, H, W) in [0, 1]"
    interacting: Tensor
    "bool (t, h, w)"
    moving: Tensor
    "bool (t, h, w): covered by a disc, interacting or not"
    hitting: Tensor
    "bool (t, h, w): covered by a disc in a tubelet that holds a frame next to its hit of a wall"
    eventful: Tensor
    "bool (t,): tubelets that hold a frame next to a collision of two discs"
    before: list[Tensor]
    "bool (n, h, w) for each colliding disc: what it covers in the n <= 2 tubelets before the collision"

    @property
    def bystanding(self) -> Tensor:
        """Moving and not interacting, bool (t, h, w)."""
        return self.moving & ~self.interacting


class Targeting(NamedTuple):
    """How well a map tells interaction from motion; means over films."""

    auc: float
    "interacting tokens against bystanding ones"
    free_auc: float
    "the same without the bystanding ones that hit a wall"
    precision: float
    "share of interacting tokens among as many highest ones as there are"
    event_auc: float
    "eventful tubelets against the others, by their highest token"


class Coverage(NamedTuple):
    """What masks do to films; means over films, ``least_visible`` the worst film's."""

    ratio: float
    "share of all tokens that is hidden"
    interacting: float
    "share of the interacting tokens that is hidden"
    bystanding: float
    "share of the bystanding tokens that is hidden"
    visible: float
    "share of the moving tokens that is visible"
    least_visible: float
    before: float
    "share of a colliding disc that is visible, in the better of the two tubelets before; NaN without any"

    @property
    def lift(self) -> float:
        """How much more of the interaction than of other motion is hidden."""
        return self.interacting / self.bystanding


def films(count: int, *, pan: int = 0, patch: int = 8, size: int = 96, frames: int = 16, seed: int = 0) -> list[Film]:
    """The first ``count`` films with a collision. ``pan``: pixels per frame, over a textured background."""
    found: list[Film] = []
    index = 0
    while len(found) < count:
        film = make(index, pan=pan, patch=patch, size=size, frames=frames, seed=seed)
        index += 1
        if film.interacting.any() and film.bystanding.any():
            found.append(film)
    return found


def make(index: int, *, pan: int, patch: int, size: int, frames: int, seed: int) -> Film:
    """Film number ``index``."""
    rng = np.random.Generator(np.random.Philox(key=derive("targeting", seed, index)))
    radius = size * (0.07 + 0.025 * rng.random(DISCS))
    speed, angle = size / 96 * (1.5 + 2.5 * rng.random(DISCS)), 2 * math.pi * rng.random(DISCS)
    motion = simulate(
        scatter(rng, radius, width=size, height=size),
        speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1),
        np.ones(DISCS),
        radius,
        frames=frames,
        step=1.0,
        width=size,
        height=size,
    )
    camera = pan * (np.arange(frames) - frames // 2)
    centre = motion.position - np.stack([camera, np.zeros(frames)], 1)[:, None]  # (F, K, 2)
    pixels = np.arange(size) + 0.5
    dx, dy = pixels - centre[..., :1], pixels - centre[..., 1:]
    distance = np.hypot(dx[:, :, None, :], dy[:, :, :, None])  # (F, K, H, W)
    cover = np.clip(radius[:, None, None] + 0.5 - distance, 0, 1)

    picture = np.full((frames, size, size, 3), 0.5)
    if pan:
        texture = _waves(rng, 24, 8.0, 24.0)
        picture += 0.2 * texture(pixels[None, None, :] + camera[:, None, None], pixels[None, :, None])[..., None]
    for k in range(DISCS):
        colour = 0.3 + 0.5 * rng.random(3)
        texture = _waves(rng, 6, 0.6 * radius[k], 1.6 * radius[k])
        wave = texture(dx[:, k, None, :], dy[:, k, :, None])
        paint = np.clip(colour + 0.3 * wave[..., None], 0, 1)
        picture += cover[:, k, ..., None] * (paint - picture)
    clip = torch.from_numpy(np.clip(picture, 0, 1).astype(np.float32)).permute(3, 0, 1, 2).contiguous()
    covered = torch.from_numpy(cover > 0).unflatten(2, (-1, patch)).unflatten(4, (-1, patch)).amax((3, 5))
    return _label(clip, covered, motion.collision, motion.wall)


def _label(clip: Tensor, covered: Tensor, collision: np.ndarray, wall: np.ndarray) -> Film:
    """``covered`` bool (F, K, h, w): tokens that a disc touches; ``collision`` bool (F, K, K) and ``wall`` bool (F, K):
    see ``Motion``."""
    discs = covered.unflatten(0, (-1, TUBELET)).any(1)  # (t, K, h, w)
    interacting, hitting = torch.zeros_like(discs[:, 0]), torch.zeros_like(discs[:, 0])
    for f, k in np.argwhere(wall).tolist():
        around = sorted({(f - 1) // TUBELET, f // TUBELET})
        hitting[around] |= discs[around, k]
    eventful = torch.zeros(len(discs), dtype=torch.bool)
    before = []
    for f, i, j in np.argwhere(np.triu(collision)).tolist():
        around = sorted({(f - 1) // TUBELET, f // TUBELET})
        eventful[around] = True
        for k in (i, j):
            interacting[around] |= discs[around, k]
            earlier = discs[max(around[0] - 2, 0) : around[0], k]
            if earlier.any():
                before.append(_embed(earlier, len(discs), max(around[0] - 2, 0)))
    return Film(clip, interacting, discs.any(1), hitting, eventful, before)


def _embed(part: Tensor, tubelets: int, first: int) -> Tensor:
    """``part`` (n, h, w) in its place among ``tubelets`` of zeros."""
    whole = torch.zeros(tubelets, *part.shape[1:], dtype=torch.bool)
    whole[first : first + len(part)] = part
    return whole


def _waves(rng: np.random.Generator, count: int, shortest: float, longest: float):
    """A smooth random function of x and y with deviation 1: cosines of random direction, wavelength and phase."""
    angle, phase = 2 * math.pi * rng.random((2, count))
    wave = 2 * math.pi / (shortest + (longest - shortest) * rng.random(count))

    def at(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        terms = [
            np.cos(w * (math.cos(a) * x + math.sin(a) * y) + p) for w, a, p in zip(wave, angle, phase, strict=True)
        ]
        return sum(terms[1:], terms[0]) * math.sqrt(2 / count)

    return at


def grid_of(film: Film) -> Grid:
    """Its tokens."""
    return Grid(*film.moving.shape)


def target(maps: list[Tensor], of: list[Film]) -> Targeting:
    """``maps``: float (t, h, w) for each film."""
    rows = []
    for map_, film in zip(maps, of, strict=True):
        k = int(film.interacting.sum())
        top = map_.flatten().topk(k).indices
        highest = map_.flatten(1).amax(1)
        rows.append(
            (
                auc(map_[film.interacting], map_[film.bystanding]),
                auc(map_[film.interacting], map_[film.bystanding & ~film.hitting]),
                film.interacting.flatten()[top].float().mean().item(),
                auc(highest[film.eventful], highest[~film.eventful]),
            )
        )
    return Targeting(*np.nanmean(np.array(rows), axis=0).tolist())


def cover(hidden: list[Tensor], of: list[Film]) -> Coverage:
    """``hidden``: bool (t, h, w) for each film."""
    rows, before = [], []
    for mask, film in zip(hidden, of, strict=True):
        shares = [mask.float().mean()] + [mask[part].float().mean() for part in (film.interacting, film.bystanding)]
        rows.append([x.item() for x in shares] + [(~mask)[film.moving].float().mean().item()])
        for disc in film.before:
            visible = (disc & ~mask).sum((1, 2)) / disc.sum((1, 2)).clamp(min=1)
            before.append(visible.max().item())
    table = np.array(rows)
    mean = table.mean(0).tolist()
    return Coverage(
        *mean, least_visible=float(table[:, 3].min()), before=float(np.mean(before)) if before else math.nan
    )


def auc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive is above a negative, ties half; NaN where one is missing."""
    if not len(positive) or not len(negative):
        return math.nan
    ordered = negative.sort().values
    below, up_to = (torch.searchsorted(ordered, positive, right=right) for right in (False, True))
    return ((below + up_to).double() / 2 / len(negative)).mean().item()
