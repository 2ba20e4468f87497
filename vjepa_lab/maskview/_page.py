"""The page of the verb ``masks``: films, maps, curves and all figures, side by side for several strategies."""

from __future__ import annotations

import datetime
import json
import math

import numpy as np

from vjepa_lab import __version__, report
from vjepa_lab.config_masks import MasksConfig
from vjepa_lab.maskview import _pixels
from vjepa_lab.maskview._look import Shot, View, percent
from vjepa_lab.maskview._sheet import resized
from vjepa_lab.merge import leaves, to_plain
from vjepa_lab.registry import MASKS
from vjepa_lab.report import Html, Point, Section, Series
from vjepa_lab.report.page import number

_FILM = 192
"most pixels per side of a film"
_TILE = 72
"pixels per side of a map of a tubelet"
_PLOT = (380, 220)
_HEAD = [
    "",
    "painted",
    "context",
    "target",
    "moving hidden",
    "most",
    "rest hidden",
    "lift",
    "saliency hidden",
    "uniform",
]


def mask_page(shot: Shot, views: list[View], config: MasksConfig) -> str:
    """The whole document."""
    step = config.at
    facts = {
        "clip": shot.name,
        "frames": f"{shot.frames.shape[1]} of {shot.frames.shape[2]} x {shot.frames.shape[3]} pixels",
        "tokens": f"{shot.grid.t} x {shot.grid.h} x {shot.grid.w}, each {shot.tubelet} frames",
        "moving": f"{percent(shot.share_moving)} of the tokens",
        "step": f"{step} of {config.steps}, seed {config.seed}, keep: {config.keep}",
        "draws": config.draws,
        "made": f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M}, vjepa_lab {__version__}",
    }
    sections = [Section("The clip and its masks", _overview(shot, views)), Section("Figures", _figures(views))]
    sections += [Section(view.title, _one(shot, view)) for view in views]
    return report.page("Masks", sections, facts=facts)


def _overview(shot: Shot, views: list[View]) -> Html:
    frames = _pixels.frames_of(shot.frames)
    films = [_film(shot, frames, "the clip"), _film(shot, _pixels.heated(frames, shot.speed), "speed")]
    films += [_film(shot, _pixels.masked(frames, view.roles), view.title) for view in views]
    key = "Tokens as they are in the clip are context, orange ones targets, dark ones neither."
    return Html(report.side_by_side(*films) + report.prose(key))


def _film(shot: Shot, frames: np.ndarray, caption: str) -> Html:
    side = min(_FILM, frames.shape[1])
    small = np.stack([np.asarray(resized(frame, side)) for frame in frames])
    return report.film(small, fps=shot.fps, caption=caption, scale=_FILM / side)


def _figures(views: list[View]) -> Html:
    rows = []
    for view in views:
        f = view.figures
        shares = (f.painted, f.context, f.target, f.moving, f.most_moving, f.still)
        lift = "n/a" if math.isnan(f.lift) else f"{f.lift:.2f}"
        uniform = "static clip" if f.static else "" if f.uniform is None else percent(f.uniform)
        rows.append([view.title, *map(percent, shares), lift, percent(f.salient), uniform])
    said = (
        "Means over the draws; most: the draw that hides most of what moves. Painted, context and target are shares "
        "of all tokens, hidden is what is not context. Lift: how many times more of what moves is hidden than of the "
        "rest. Uniform: share of clips that are painted without looking."
    )
    return Html(report.table(_HEAD, rows) + report.prose(said))


def _one(shot: Shot, view: View) -> Html:
    rows = {} if view.saliency is None else {"saliency": _pixels.plain(view.saliency)}
    rows["hidden, share of draws"] = _pixels.plain(view.often, highest=1.0)
    seen = "what the strategy sees (yellow: the highest of the clip), and " if view.saliency is not None else ""
    caption = f"Tubelets from first to last: {seen}how often a token is hidden (yellow: always)."
    parts = [report.gallery(rows, caption=caption, scale=_TILE / shot.grid.w, gap=1)]
    beside = [
        report.curves(_by_tubelet(view), title="share of each tubelet", x="tubelet", y_range=(0.0, 1.0), size=_PLOT)
    ]
    if view.saliency is not None:
        heat = _pixels.heated(_pixels.frames_of(shot.frames), view.saliency)
        beside.insert(0, _film(shot, heat, f"saliency, highest {number(view.saliency.max().item())}"))
    fields = {key: json.dumps(value) for key, value in leaves(to_plain(MASKS.build(view.entry)))}
    return Html("".join([*parts, report.side_by_side(*beside), report.details("all fields", report.facts(fields))]))


def _by_tubelet(view: View) -> list[Series]:
    shares = {"context": view.figures.context_per_tubelet, "target": view.figures.target_per_tubelet}
    return [Series(name, [Point(t, x) for t, x in enumerate(values)]) for name, values in shares.items()]
