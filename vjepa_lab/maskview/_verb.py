"""The verb ``masks``: what strategies see, hide and leave of a clip, as a picture, a film or a page."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vjepa_lab.config_masks import MasksConfig
from vjepa_lab.maskview import _pixels
from vjepa_lab.maskview._look import Shot, View, look, percent
from vjepa_lab.maskview._page import mask_page
from vjepa_lab.maskview._sheet import Row, sheet

log = logging.getLogger("vjepa_lab")

_COLUMNS = 8
"tubelets that a picture shows"
_STILL, _FILM = 144, 224
"pixels per side of a frame in a picture and in a film"


def main(config: MasksConfig) -> int:
    """Draw, write and say what was drawn; returns the exit code.

    Raises:
        ValueError, OSError: what was asked cannot be done; the message says which field or file.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    shot, views = look(config)
    out = Path(config.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".html":
        out.write_text(mask_page(shot, views, config), encoding="utf-8")
    elif out.suffix == ".gif":
        first, *rest = films(shot, views)
        milliseconds = round(1000 / shot.fps)
        first.save(out, save_all=True, append_images=rest, duration=milliseconds, loop=0)
    else:
        stills(shot, views).save(out)
    for view in views:
        log.info("%s: %s", view.title, "; ".join(in_words(view)))
    log.info("%s, %d frames, %dx%dx%d tokens: %s", shot.name, shot.frames.shape[1], *shot.grid, out)
    return 0


def stills(shot: Shot, views: list[View]) -> Image.Image:
    """One image: the first frame of some tubelets, and below it what each strategy sees and hides."""
    tubelets = np.unique(np.linspace(0, shot.grid.t - 1, min(_COLUMNS, shot.grid.t)).round().astype(int))
    chosen = tubelets * shot.tubelet
    frames = _pixels.frames_of(shot.frames)
    rows = [
        Row("clip", [shot.name], list(frames[chosen])),
        Row(
            "speed",
            [f"{percent(shot.share_moving)} of the tokens move"],
            list(_pixels.heated(frames, shot.speed)[chosen]),
        ),
    ]
    for view in views:
        if view.saliency is not None:
            heat = _pixels.heated(frames, view.saliency)[chosen]
            rows.append(Row(f"{view.entry['name']}: saliency", [f"highest {view.saliency.max():.3g}"], list(heat)))
        rows.append(Row(view.title, in_words(view), list(_pixels.masked(frames, view.roles)[chosen])))
    return sheet([f"frame {frame}" for frame in chosen], rows, side=_STILL, title=_pixels.KEY)


def films(shot: Shot, views: list[View]) -> Iterator[Image.Image]:
    """An image per frame: a row per strategy of the frame, what the strategy sees (or the speed) and what it hides."""
    frames = _pixels.frames_of(shot.frames)
    speed = _pixels.heated(frames, shot.speed)
    panels = [
        (speed if view.saliency is None else _pixels.heated(frames, view.saliency), _pixels.masked(frames, view.roles))
        for view in views
    ]
    maps = {"speed" if view.saliency is None else "saliency" for view in views}
    for i, frame in enumerate(frames):
        rows = [
            Row(view.title, in_words(view), [frame, heat[i], mask[i]])
            for view, (heat, mask) in zip(views, panels, strict=True)
        ]
        heads = [f"frame {i}", " or ".join(sorted(maps)), "mask"]
        yield sheet(heads, rows, side=_FILM, title=_pixels.KEY)


def in_words(view: View) -> list[str]:
    """The figures of a mask, a line each."""
    figures = view.figures
    neither = max(1 - figures.context - figures.target, 0)
    lines = [
        f"context {percent(figures.context)}, target {percent(figures.target)}, neither {percent(neither)}",
        f"context by tubelet: {_spread(figures.context_per_tubelet)}",
        f"target by tubelet: {_spread(figures.target_per_tubelet)}",
    ]
    if not math.isnan(figures.moving):
        lines.append(f"hidden: {percent(figures.moving)} of what moves")
        lines.append(f"hidden: {percent(figures.still)} of the rest")
    if figures.static:
        lines.append("nothing moves: masked uniformly")
    elif figures.uniform:
        lines.append(f"mix: {percent(figures.uniform)} of clips uniformly")
    return lines


def _spread(shares: list[float]) -> str:
    low, high = percent(min(shares)), percent(max(shares))
    return low if low == high else f"{low} to {high}"
