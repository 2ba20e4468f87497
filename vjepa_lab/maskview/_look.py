"""A clip, and what strategies do to it: the masks that a training would draw at a step, and figures of them.

Figures are means over the draws. *Hidden* is what the context encoder does not see, whether it is predicted or, as
the count is fixed, neither. *Moving* is a token with at least a tenth of the clip's highest speed, measured relative
to what most of the picture does: the same as for the motion floor of ``interaction_blocks``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vjepa_lab import dist, masks
from vjepa_lab.batch import Grid
from vjepa_lab.config_masks import WORLD, MasksConfig
from vjepa_lab.data.clips import BadSample, ClipSpec, read_clip
from vjepa_lab.data.transforms import eval_views, normalize
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.masks._interaction import Mix
from vjepa_lab.masks._saliency import rgb, velocity
from vjepa_lab.masks.interaction_blocks import MOVING
from vjepa_lab.maskview._pixels import CONTEXT, TARGET, roles_of
from vjepa_lab.merge import leaves
from vjepa_lab.registry import MASKS, SOURCES

FRAMES, CROP = 16, 256


class Shot(NamedTuple):
    """The clip."""

    name: str
    frames: Tensor
    "uint8 (3, F, H, W)"
    grid: Grid
    fps: float
    "at which films of it run"
    speed: Tensor
    "float32 (t, h, w), relative to what most of the picture does"
    moving: Tensor
    "bool (t, h, w)"
    event: Tensor | None
    "float32 (E,) in frames"

    @property
    def tubelet(self) -> int:
        """Frames per token."""
        return self.frames.shape[1] // self.grid.t

    @property
    def share_moving(self) -> float:
        """How much of the tokens moves."""
        return self.moving.double().mean().item()


class Figures(NamedTuple):
    """Shares of one mask, means over the draws; NaN for a share of nothing."""

    painted: float
    "of all tokens, as the strategy paints"
    context: float
    "of all tokens, kept as context"
    target: float
    "of all tokens, to be predicted"
    moving: float
    "of the moving tokens, hidden"
    still: float
    "of the others, hidden"
    most_moving: float
    "of the moving tokens, hidden in the draw that hides most of them"
    salient: float
    "of the saliency, hidden; NaN for a strategy that does not look"
    context_per_tubelet: list[float]
    "of the tokens of each tubelet, kept as context"
    target_per_tubelet: list[float]
    uniform: float | None
    "of the draws, how many the mixing probability paints without looking; None: there is none"
    static: bool
    "nothing moves in the clip: painted without looking"

    @property
    def lift(self) -> float:
        """How many times more of what moves than of the rest is hidden."""
        return self.moving / self.still if self.still else math.nan


class View(NamedTuple):
    """One mask of one strategy."""

    title: str
    entry: dict[str, Any]
    roles: Tensor
    "int64 (t, h, w) of the first draw: ``NEITHER``, ``CONTEXT``, ``TARGET``"
    often: Tensor
    "float32 (t, h, w): share of the draws in which a token is hidden"
    saliency: Tensor | None
    "float32 (t, h, w): what decided; None: the strategy does not look"
    figures: Figures


def look(config: MasksConfig) -> tuple[Shot, list[View]]:
    """Read the clip and mask it.

    Raises:
        ValueError: the clip cannot be read, or a strategy is not shown what it needs.
    """
    encoder = None
    if config.checkpoint is not None:
        encoder = FrozenEncoder.of(config.checkpoint, frames=config.frames, crop=config.crop)
    shot = read(
        config, *((encoder.frames, encoder.crop) if encoder else (config.frames or FRAMES, config.crop or CROP))
    )
    return shot, [view for entry in config.entries() for view in views(entry, shot, config, encoder)]


def read(config: MasksConfig, frames: int, crop: int) -> Shot:
    """The clip, ``frames`` of ``crop`` pixels.

    Raises:
        ValueError: it cannot be read, or is smaller than a token.
    """
    spec = ClipSpec(
        frames=frames,
        height=crop,
        width=crop,
        fps=config.fps,
        stride=config.stride,
        random=False,
        decoder=config.decoder,
        timeout=config.timeout,
        min_frames=1,
    )
    fps = config.fps or 4.0
    event = torch.tensor(config.events) * fps if config.events else None
    if config.clip == WORLD:
        reader = SOURCES.build({"name": "synthetic"} | config.world).open(spec)
        if config.index >= len(reader):
            raise ValueError(f"index: got {config.index}, expected less than the {len(reader)} clips of the world")
        sample = reader.read(config.index)
        name, clip = sample.key, sample.clip
        event = torch.tensor([sample.event * reader.fps]) if event is None else event
    else:
        segment = (config.start, math.inf if config.end is None else config.end)
        try:
            read_in = read_clip(config.clip, spec, np.random.default_rng(0), segment=segment)
        except BadSample as error:
            raise ValueError(f"clip: {error}") from None
        name = Path(config.clip).name
        clip = eval_views(read_in.frames.permute(3, 0, 1, 2), size=(crop, crop))[0]
    grid = Grid.of(*clip.shape[1:], tubelet=config.tubelet, patch=config.patch)
    if 0 in grid or frames % config.tubelet or crop % config.patch:
        raise ValueError(
            f"clip: {frames} frames of {crop} pixels are no whole tokens of {config.tubelet} frames and "
            f"{config.patch} pixels; set tubelet and patch, or frames and crop"
        )
    speed = velocity(rgb(normalize(clip[None])), grid, compensate=True)[0]
    moving = (speed >= MOVING * speed.max()) & (speed > 0)
    return Shot(name, clip, grid, fps, speed, moving, event)


def views(entry: dict[str, Any], shot: Shot, config: MasksConfig, encoder: FrozenEncoder | None) -> list[View]:
    """Masks of one strategy, as the first micro-batch of the step would have them."""
    strategy, step = MASKS.build(entry), config.at
    rng = dist.rng(config.seed, step, batch=config.draws)
    clip = normalize(shot.frames[None]).expand(config.draws, -1, -1, -1, -1)

    def features() -> Tensor:
        if encoder is None:
            raise ValueError(
                f"mask '{entry['name']}' looks at features: give an encoder, checkpoint=runs/.../last.ckpt"
            )
        tokens, grid = encoder.tokens(clip[:1].to(encoder.device))
        if grid != shot.grid:
            raise ValueError(f"checkpoint: its tokens are {grid}, those of the clip {shot.grid}; set patch and tubelet")
        return tokens.to(clip.device).expand(config.draws, -1, -1)

    event = None if shot.event is None else shot.event.expand(config.draws, -1)
    sight = masks.Sight(clip, step, config.steps, features, event)
    (drawn,) = masks.traced([strategy], shot.grid, rng, sight, config.keep)  # type: ignore[arg-type]
    mix = getattr(strategy, "mix", None)
    uniform = 1 - mix.at(step) if isinstance(mix, Mix) else None
    title = title_of(entry)
    return [
        view(title if len(drawn) == 1 else f"{title}, mask {i}", entry, trace, shot, uniform)
        for i, trace in enumerate(drawn)
    ]


def view(title: str, entry: dict[str, Any], trace: masks.Traced, shot: Shot, uniform: float | None) -> View:
    """Roles and figures of one mask of all draws."""
    painted, pair = trace
    roles = roles_of(pair, shot.grid)
    context, target = (roles == CONTEXT).double(), (roles == TARGET).double()
    hidden = 1 - context  # (B, t, h, w)
    saliency = None if painted.saliency is None else painted.saliency[0]
    moving = hidden[:, shot.moving].mean(1)
    figures = Figures(
        painted=painted.hidden.double().mean().item(),
        context=context.mean().item(),
        target=target.mean().item(),
        moving=moving.mean().item(),
        still=hidden[:, ~shot.moving].mean().item(),
        most_moving=moving.max().item(),
        salient=math.nan if saliency is None else ((hidden.mean(0) * saliency).sum() / saliency.sum()).item(),
        context_per_tubelet=context.mean((0, 2, 3)).tolist(),
        target_per_tubelet=target.mean((0, 2, 3)).tolist(),
        uniform=uniform,
        static=painted.static is not None and bool(painted.static.all()),
    )
    return View(title, entry, roles[0], hidden.mean(0).float(), saliency, figures)


def percent(share: float) -> str:
    """A share in words."""
    return "n/a" if math.isnan(share) else f"{share:.0%}"


def title_of(entry: dict[str, Any]) -> str:
    """The name of a strategy and the fields that are set."""
    fields = [f"{key} {value}" for key, value in leaves(entry) if key != "name"]
    return ", ".join([str(entry["name"]), *fields])
