"""Curves and scatter plots as inline SVG: sharp, small, and in the page's colours, light or dark.

Points say their value when the pointer rests on them (the title that SVG has of its own), so that no script is needed.
Values that are not finite are left out, and interrupt a line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal, NamedTuple

from vjepa_lab.report.page import Html, Value, number

Style = Literal["solid", "dashed", "dotted"]

COLOURS = 8
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 26, 38  # margins around the plot


class Point(NamedTuple):
    """A value with its interval, NaN where there is none."""

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan


class Series(NamedTuple):
    """A named line."""

    name: str
    points: Sequence[Point]
    style: Style = "solid"
    colour: int | None = None
    "place in the palette of ``COLOURS``; None: the place among the series"


class Mark(NamedTuple):
    """A named point of a scatter plot, with intervals along both axes."""

    name: str
    x: Value
    y: Value
    front: bool = False
    "no other point is better in both"
    kind: str = ""
    "points of different kinds have different shapes: what was measured differently should not look alike"


class _Axes(NamedTuple):
    """Data to pixels."""

    x0: float
    x1: float
    y0: float
    y1: float
    width: int
    height: int

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x0) / (self.x1 - self.x0) * (self.width - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return self.height - _BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (self.height - _TOP - _BOTTOM)


def curves(
    series: Sequence[Series],
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    y_range: tuple[float, float] | None = None,
    size: tuple[int, int] = (440, 260),
    named: bool = True,
) -> Html:
    """Lines over a common axis, with bands where points have intervals.

    Args:
        x, y: labels of the axes.
        y_range: of the vertical axis, in place of what the points span; the same for plots to be compared.
        size: in pixels; the plot shrinks with the page.
        named: with a legend (see ``legend`` for one that several plots share).
    """
    points = [p for s in series for p in s.points if math.isfinite(p.y)]
    if not points:
        return Html(f"<figure><figcaption>{escape(title)}: nothing to draw</figcaption></figure>")
    axes = _axes([p.x for p in points], y_range or span(series), size)
    drawn = []
    for i, s in enumerate(series):
        colour = _colour(s, i)
        for run in _runs(s.points):
            banded = [p for p in run if math.isfinite(p.low) and math.isfinite(p.high)]
            if len(banded) > 1:
                edge = [(p.x, p.high) for p in banded] + [(p.x, p.low) for p in reversed(banded)]
                drawn.append(f'<path class="band f{colour}" d="{_path(axes, edge)}Z"/>')
            line = _path(axes, [(p.x, p.y) for p in run])
            drawn.append(f'<path class="line s{colour} {s.style}" d="{line}"/>')
            drawn += [_dot(axes, s.name, p, colour) for p in run]
    figure = _svg(axes, title, x, y, drawn, whole=all(float(p.x).is_integer() for p in points))
    return Html(f"<figure>{figure}{legend(series) if named else ''}</figure>")


def span(series: Iterable[Series]) -> tuple[float, float]:
    """Lowest and highest of all values and interval ends, with some air; (0, 1) if there are none."""
    return _extent(v for s in series for p in s.points for v in (p.y, p.low, p.high))


def legend(series: Sequence[Series]) -> Html:
    """Names and looks of series."""
    items = [
        f'<li><svg width="26" height="10" aria-hidden="true"><path class="line s{_colour(s, i)} {s.style}" '
        f'd="M1 5H25"/></svg>{escape(s.name)}</li>'
        for i, s in enumerate(series)
    ]
    return Html(f'<ul class="legend">{"".join(items)}</ul>')


def scatter(
    marks: Sequence[Mark], *, title: str = "", x: str = "", y: str = "", size: tuple[int, int] = (560, 400)
) -> Html:
    """Named points, more being better along both axes. Those of the front are filled and joined by its outline."""
    marks = [m for m in marks if math.isfinite(m.x.value) and math.isfinite(m.y.value)]
    if not marks:
        return Html(f"<figure><figcaption>{escape(title)}: nothing to draw</figcaption></figure>")
    across, up = (
        _extent(v for value in values for v in value) for values in zip(*(m[1:3] for m in marks), strict=True)
    )
    axes = _Axes(*across, *up, *size)
    kinds = list(dict.fromkeys(m.kind for m in marks))
    drawn = _outline(axes, [m for m in marks if m.front])
    taken: list[tuple[float, float, float, float]] = []
    for m in marks:
        px, py = axes.x(m.x.value), axes.y(m.y.value)
        colour = 0 if m.front else 7
        if m.x.bounded:
            drawn.append(
                f'<path class="whisker s{colour}" d="M{axes.x(m.x.low):.1f} {py:.1f}H{axes.x(m.x.high):.1f}"/>'
            )
        if m.y.bounded:
            drawn.append(
                f'<path class="whisker s{colour}" d="M{px:.1f} {axes.y(m.y.low):.1f}V{axes.y(m.y.high):.1f}"/>'
            )
        says = escape(f"{m.name}: {number(m.x.value)}, {number(m.y.value)}")
        look = f"s{colour} f{colour}" if m.front else f"s{colour} hollow"
        shape = _shape(kinds.index(m.kind), px, py)
        drawn.append(f'<path class="{look}" d="{shape}" stroke-width="1.6"><title>{says}</title></path>')
        taken.append((px - 6, py - 6, px + 6, py + 6))
    drawn += [_name(m.name, axes.x(m.x.value), axes.y(m.y.value), axes, taken) for m in marks]
    key = ""
    if len(kinds) > 1:
        key = "".join(
            f'<li><svg width="14" height="14" aria-hidden="true"><path class="s7 hollow" d="{_shape(i, 7, 7)}"/></svg>'
            f"{escape(kind or 'other')}</li>"
            for i, kind in enumerate(kinds)
        )
        key = f'<ul class="legend">{key}</ul>'
    return Html(f"<figure>{_svg(axes, title, x, y, drawn, whole=False)}{key}</figure>")


def ticks(low: float, high: float, most: int = 6, *, whole: bool = False) -> list[float]:
    """Round numbers in [low, high]: at most about ``most``, at steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw * (1 - 1e-9))
    step = max(1.0, round(step)) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _axes(xs: list[float], y_range: tuple[float, float], size: tuple[int, int]) -> _Axes:
    low, high = min(xs), max(xs)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return _Axes(low, high, *y_range, *size)


def _extent(values: Iterable[float]) -> tuple[float, float]:
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    air = 0.06 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - air, high + air


def _colour(series: Series, place: int) -> int:
    return (place if series.colour is None else series.colour) % COLOURS


def _runs(points: Sequence[Point]) -> list[list[Point]]:
    """Stretches of points, in order of x, without one that is not finite."""
    runs: list[list[Point]] = [[]]
    for p in sorted(points, key=lambda p: p.x):
        if math.isfinite(p.y):
            runs[-1].append(p)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _path(axes: _Axes, points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{axes.x(x):.1f} {axes.y(y):.1f}" for x, y in points)


def _dot(axes: _Axes, name: str, p: Point, colour: int) -> str:
    range_ = f" [{number(p.low)}, {number(p.high)}]" if math.isfinite(p.low) and math.isfinite(p.high) else ""
    says = escape(f"{name}, {_tick(p.x)}: {number(p.y)}{range_}")
    place = f'cx="{axes.x(p.x):.1f}" cy="{axes.y(p.y):.1f}"'
    return f'<circle class="f{colour}" {place} r="2.4"><title>{says}</title></circle>'


def _outline(axes: _Axes, front: list[Mark]) -> list[str]:
    """The stairs below which every point is worse than one of the front."""
    if not front:
        return []
    front = sorted(front, key=lambda m: m.x.value)
    stairs = "".join(f"V{axes.y(m.y.value):.1f}H{axes.x(m.x.value):.1f}" for m in front)
    start = f"M{_LEFT} {axes.y(front[0].y.value):.1f}"
    return [f'<path class="line s0 dashed" d="{start}{stairs}V{axes.height - _BOTTOM}"/>']


def _shape(kind: int, x: float, y: float) -> str:
    """Circle, square, triangle, diamond around a place."""
    if kind % 4 == 0:
        return f"M{x - 4.5:.1f} {y:.1f}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z"
    around = ([(-4, -4), (4, -4), (4, 4), (-4, 4)], [(0, -5), (5, 4), (-5, 4)], [(0, -6), (6, 0), (0, 6), (-6, 0)])
    return "M" + "L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in around[kind % 4 - 1]) + "Z"


def _name(text: str, x: float, y: float, axes: _Axes, taken: list[tuple[float, float, float, float]]) -> str:
    """The name of a mark, at the first place around it that is free; ``taken`` grows by it."""
    wide = 6.2 * len(text)
    right, left = (x + 8, "start"), (x - 8, "end")
    places = [(px, y + dy, side) for px, side in (right, left) for dy in (-7, 4, 15)]
    boxes = []
    for px, py, side in places:
        start = px - wide if side == "end" else px
        boxes.append((start, py - 9, start + wide, py + 2))
    inside = [i for i, box in enumerate(boxes) if box[0] > _LEFT and box[2] < axes.width]
    free = [i for i in inside if not any(_meet(boxes[i], other) for other in taken)]
    at = (free or inside or [0])[0]
    taken.append(boxes[at])
    px, py, side = places[at]
    return f'<text class="name" x="{px:.1f}" y="{py:.1f}" text-anchor="{side}">{escape(text)}</text>'


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _svg(axes: _Axes, title: str, x: str, y: str, drawn: list[str], *, whole: bool) -> str:
    width, height = axes.width, axes.height
    parts = []
    for value in ticks(axes.y0, axes.y1):
        at = axes.y(value)
        parts.append(f'<path class="gridline" d="M{_LEFT} {at:.1f}H{width - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_tick(value)}</text>')
    for value in ticks(axes.x0, axes.x1, 8, whole=whole):
        at = axes.x(value)
        parts.append(f'<path class="axis" d="M{at:.1f} {height - _BOTTOM}v4"/>')
        parts.append(f'<text x="{at:.1f}" y="{height - _BOTTOM + 16}" text-anchor="middle">{_tick(value)}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {height - _BOTTOM}H{width - _RIGHT}"/>')
    middle = (_LEFT + width - _RIGHT) / 2
    if x:
        parts.append(f'<text x="{middle:.1f}" y="{height - 5}" text-anchor="middle">{escape(x)}</text>')
    if y:
        up = (height - _BOTTOM + _TOP) / 2
        parts.append(f'<text transform="translate(11 {up:.1f}) rotate(-90)" text-anchor="middle">{escape(y)}</text>')
    if title:
        parts.append(f'<text class="title" x="{_LEFT}" y="16">{escape(title)}</text>')
    label = escape(title or "plot")
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{label}">'
        f"{''.join(parts)}{''.join(drawn)}</svg>"
    )


def _tick(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")
