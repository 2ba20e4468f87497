"""Pairs of frames and the action between them: what probes of actions read of a split in one pass.

Every frame is encoded by itself, repeated to fill a tubelet, and its tokens are averaged; ``clip`` pairs are encoded as
a clip of two frames instead, so that the encoder itself sees the motion. A pair is (frame t, frame t + 1) of a stretch
and the action that leads from one to the other.

Which action that is, is where data sets go wrong without a sign (a policy that moves smoothly still gives R² of 0.8 to
an action that is off by one). ``check_alignment`` finds by regression on the robot's own states which action explains
the motion between two frames, and refuses a split where it is not the one beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vjepa_lab import dist, robots
from vjepa_lab.data.streams import Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes import _ridge
from vjepa_lab.probes._corruptions import corrupt
from vjepa_lab.probes._extract import extract
from vjepa_lab.tokens import Features

OFFSETS = range(-2, 3)
CELLS = 8
"pictures are averaged over CELLS x CELLS regions for the control that knows pixels alone"
_ROWS = 16
"pairs per coefficient that a regression of motion takes to mean something"
_CLEAR = 1e-3
"by how much another pairing must explain the motion better to be the right one"


class Names(NamedTuple):
    """What the numbers of an action are."""

    dimensions: tuple[str, ...]
    groups: dict[str, slice]
    "translation, rotation and gripper; what there is not is left out"


class Pairs(NamedTuple):
    """n stretches of F frames."""

    frames: dict[int, Tensor]
    "features of every frame alone by layer, float32 (n, F, D)"
    pixels: Tensor
    "(n, F, 3 * CELLS^2) the frames, coarsely, from 0 to 1"
    actions: Tensor
    "(n, F - 1, A)"
    states: Tensor | None
    "(n, F, S) where the robot (or the disc) was, its place first"
    unit: Tensor
    "int64 (n,) number of the video or episode"
    key: list[str]
    names: Names

    @property
    def units(self) -> Tensor:
        """Unit of every pair, (n * (F - 1),)."""
        return self.unit.repeat_interleave(self.actions.shape[1])


def read(
    encoder: FrozenEncoder,
    stream: Stream,
    *,
    layers: Sequence[int],
    robot: dict[str, Any] | None,
    cells: int = 1,
    corruption: str = "",
) -> Pairs:
    """Frames, pixels and actions of a split. A collective call.

    Args:
        layers: blocks (from 0); -1: the output of the encoder.
        robot: description of the robot; None: clips whose truth has ``action``.
        cells: tokens are averaged within cells x cells regions, which stay apart, see ``tokens.pooled``.
        corruption: a type of the corruption library, applied to the frames before they are encoded.

    Raises:
        ValueError: the clips tell no actions.
    """
    seen: list[Tensor] = []

    def single(clip: Tensor, keys: list[str]) -> Tensor:
        clip = corrupt(clip, corruption, 1, keys=keys) if corruption else clip
        seen[:] = [coarse(clip)]
        return repeated(clip, encoder.tubelet)

    def beside(features: Features) -> Tensor:
        """Mean features of every frame (B, F, D), and its pixels behind them."""
        x = encoder.pool(features, "mean", cells).float()
        pixels = seen[0]
        return torch.cat([x.unflatten(0, pixels.shape[:2]), pixels.to(x.device)], 2)

    table = extract(encoder, stream, layers=layers, pool=beside, transform=single, tag=f"frames {cells} {corruption}")
    if robot is not None:
        description = robots.of(robot)
        names = Names(description.action_names, description.groups)
        actions, states = table.y["actions"], table.y["states"]
    else:
        if "action" not in table.y:
            there = ", ".join(sorted(table.y))
            raise ValueError(
                f"source {stream.name}: tells no action of its clips (it tells {there}); expected the synthetic world "
                "with drive above 0, or robot: a description, for a source of robot episodes"
            )
        actions = table.y["action"]
        names = Names(("d_x", "d_y")[: actions.shape[2]], {"translation": slice(0, actions.shape[2])})
        states = table.y["position"][:, :, 0] if "position" in table.y else None
    split = {layer: x.split([x.shape[2] - 3 * CELLS**2, 3 * CELLS**2], 2) for layer, x in table.x.items()}
    return Pairs(
        frames={layer: x for layer, (x, _) in split.items()},
        pixels=next(iter(split.values()))[1],
        actions=actions.float(),
        states=states,
        unit=table.unit,
        key=table.key,
        names=names,
    )


def read_clips(
    encoder: FrozenEncoder,
    stream: Stream,
    *,
    layers: Sequence[int],
    cells: int = 1,
    shuffled: bool = False,
    corruption: str = "",
) -> dict[int, Tensor]:
    """Features of every pair encoded as a clip of two frames, by layer: (n, F - 1, D). A collective call.

    Args:
        shuffled: the second frame is another one of the stretch (see ``partners``).

    Raises:
        ValueError: a tubelet of the encoder does not hold two frames.
    """
    if encoder.tubelet % 2:
        raise ValueError(
            f"pair: got 'clip', but a tubelet of the encoder holds {encoder.tubelet} frame(s); expected concat or diff"
        )
    shape: list[int] = []

    def both(clip: Tensor, keys: list[str]) -> Tensor:
        clip = corrupt(clip, corruption, 1, keys=keys) if corruption else clip
        b, f = clip.shape[0], clip.shape[2]
        second = partners(keys, f) if shuffled else torch.arange(1, f).expand(b, -1)
        second = second.to(clip.device)
        then = torch.take_along_dim(clip, second[:, None, :, None, None], 2)
        two = torch.stack([clip[:, :, :-1], then], 3)  # (B, 3, F - 1, 2, H, W)
        shape[:] = [b, f - 1]
        return two.transpose(1, 2).flatten(0, 1).repeat_interleave(encoder.tubelet // 2, 2)

    def mean(features: Features) -> Tensor:
        return encoder.pool(features, "mean", cells).unflatten(0, shape)

    tag = f"pairs {cells} {'shuffled' if shuffled else ''} {corruption}"
    return extract(encoder, stream, layers=layers, pool=mean, transform=both, tag=tag).x


def repeated(clip: Tensor, tubelet: int) -> Tensor:
    """Every frame of (B, 3, F, H, W) as a clip of its own: (B * F, 3, tubelet, H, W)."""
    return clip.transpose(1, 2).flatten(0, 1)[:, :, None].expand(-1, -1, tubelet, -1, -1)


def coarse(clip: Tensor) -> Tensor:
    """Frames of uint8 (B, 3, F, H, W) averaged over regions: float32 (B, F, 3 * CELLS^2), from 0 to 1."""
    b, _, f = clip.shape[:3]
    small = F.adaptive_avg_pool2d(clip.transpose(1, 2).flatten(0, 1).float() / 255, CELLS)
    return small.flatten(1).unflatten(0, (b, f))


def joined(now: Tensor, then: Tensor, mode: str) -> Tensor:
    """Features of a pair (..., 2 D) from those of its frames."""
    return torch.cat([now, then if mode == "concat" else then - now], -1)


def partners(keys: Sequence[str], frames: int) -> Tensor:
    """Another second frame for the frames 0 .. F - 2 of each stretch, int64 (n, F - 1): not the next, nor itself.

    Raises:
        ValueError: there is no other frame.
    """
    if frames < 3:
        raise ValueError(f"frames: got {frames}, expected at least 3 to shuffle the second frame of a pair")
    found = []
    for key in keys:
        generator = torch.Generator().manual_seed(dist.derive("partners", key))
        drawn = torch.randint(frames - 2, (frames - 1,), generator=generator)
        now = torch.arange(frames - 1)
        found.append(drawn + 2 * (drawn >= now))
    return torch.stack(found)


def alignment(places: Tensor, actions: Tensor) -> dict[int, float]:
    """How well the action k places later explains the motion between two frames: R² of a ridge regression, by k.

    Offsets for which there are too few pairs to tell are left out.

    Args:
        places: (n, F, P).
        actions: (n, F - 1, A).
    """
    motion, found = places.double().diff(dim=1), {}
    steps = motion.shape[1]
    for offset in OFFSETS:
        first, stop = max(0, -offset), min(steps, steps - offset)
        if len(motion) * (stop - first) < _ROWS * (motion.shape[2] + 1):
            continue
        x = motion[:, first:stop].flatten(0, 1)
        y = actions[:, first + offset : stop + offset].double().flatten(0, 1)
        x, y = x - x.mean(0), y - y.mean(0)
        gram = x.T @ x + 1e-9 * x.square().sum() / x.shape[1] * torch.eye(x.shape[1], dtype=x.dtype)
        left = (y - x @ torch.linalg.lstsq(gram, x.T @ y).solution).square().sum()
        found[offset] = 1 - (left / y.square().sum().clamp_min(1e-300)).item()
    return found


def check_alignment(pairs: Pairs, name: str) -> dict[int, float]:
    """R² of translation by offset (see ``alignment``); empty where nothing is known of the states, or too little.

    Raises:
        ValueError: another action than the one beside a pair explains its motion better.
    """
    if pairs.states is None or "translation" not in pairs.names.groups:
        return {}
    where = pairs.names.groups["translation"]
    found = alignment(pairs.states[..., : where.stop], pairs.actions[..., where])
    if 0 not in found:
        return {}
    best = max(found, key=lambda offset: found[offset])
    if found[best] > found[0] + _CLEAR:
        scores = ", ".join(f"{offset:+d}: {r2:.3f}" for offset, r2 in found.items())
        raise ValueError(
            f"source {name}: the motion from frame t to t + 1 is that of action t {best:+d}, expected action t; "
            f"R2 of translation by offset: {scores}. The actions are paired with the wrong frames: see 'pairing' or "
            "'actions' of the source"
        )
    return found


def linear(fit: tuple[Tensor, Tensor], select: tuple[Tensor, Tensor]) -> tuple[_ridge.Fit, float]:
    """Ridge regression of y on x: fitted on one split, its penalty chosen on another, and its mean R² there."""
    moments = []
    for x, y in (fit, select):
        sums = _ridge.Sums()
        sums.add(x, y)
        moments.append(sums.moments())
    fitted = _ridge.fit(*moments)
    return fitted, moments[1].r2(fitted.weight, fitted.bias).nanmean().item()


def predicted(fitted: _ridge.Fit, x: Tensor) -> Tensor:
    """float64 (n, A)."""
    return x.double() @ fitted.weight + fitted.bias
