"""The page of a probe's results, and tables of compared arms.

Records are those of ``results.jsonl``: one object per metric, with ``probe``, ``metric``, ``value``, ``low``, ``high``,
``units``, ``unit``, ``seeds``, ``split``, ``weights``, ``choices``, and ``controls`` and ``baselines``, in which a
value with its interval stands under each name. All but the first three may be missing.

A metric is bold where its interval lies above that of the untrained encoder; below it, where the record says
``better: lower``. Metrics of layers (``layer03/position``) and of severities (``corruption/fog/3``, or any name with a
number for a part: ``gap/2`` is at 2 of an axis of its own) are drawn as curves; their numbers are folded away below.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vjepa_lab.report.charts import Point, Series, Style, curves, legend, span
from vjepa_lab.report.film import PcaFilm
from vjepa_lab.report.page import (
    Html,
    Section,
    Value,
    details,
    facts,
    heading,
    interval,
    page,
    prose,
    side_by_side,
    table,
)
from vjepa_lab.report.pictures import film

Record = Mapping[str, Any]

_LAYER = re.compile(r"^layer(\d+)/(.+)$")
_LEVEL = re.compile(r"^(.+?)/(\d+(?:\.\d+)?)(?:/(.+))?$")
_ORDER = ("untrained", "pixels", "shuffled", "constant")
_LOOKS: dict[str, tuple[Style, int]] = {
    "this encoder": ("solid", 0),
    "untrained": ("dashed", 1),
    "pixels": ("dashed", 2),
    "shuffled": ("dotted", 7),
    "constant": ("dotted", 3),
}


class _Place(NamedTuple):
    """Where a metric is drawn: the group of plots, the plot, and the place along its horizontal axis."""

    axis: str
    group: str
    plot: str
    x: float


def probe_page(
    records: Sequence[Record],
    *,
    checkpoint: str,
    date: str,
    version: str,
    title: str = "Probe results",
    extras: Sequence[Section] = (),
    more: Mapping[str, object] | None = None,
) -> str:
    """A page of all probes.

    Args:
        checkpoint: what was measured.
        date: when; the page itself looks at no clock, so that equal results give equal pages.
        version: of the package.
        extras: further sections, such as films and reconstructions.
        more: further lines of the header.

    Raises:
        ValueError: a record lacks ``probe``, ``metric`` or ``value``.
    """
    weights = sorted({str(r["weights"]) for r in records if r.get("weights")})
    known = [r for r in records if _beats(r) is not None]
    said: dict[str, object] = {"checkpoint": checkpoint, "weights": ", ".join(weights) or "unknown", "date": date}
    said |= {"version": version, **(more or {})}
    if known:
        better = sum(map(bool, map(_beats, known)))
        said["beyond untrained"] = f"{better} of {len(known)} metrics beat the untrained encoder beyond both intervals"
    return page(title, [*probe_sections(records), *extras], facts=said)


def probe_sections(records: Sequence[Record]) -> list[Section]:
    """One section per probe, in the order of the records: curves, table, choices.

    Raises:
        ValueError: as ``probe_page``.
    """
    probes: dict[str, list[Record]] = {}
    for i, record in enumerate(records):
        missing = [field for field in ("probe", "metric", "value") if field not in record]
        if missing:
            raise ValueError(f"record {i}: expected the fields probe, metric and value, got no {', no '.join(missing)}")
        probes.setdefault(str(record["probe"]), []).append(record)
    return [Section(name, _probe(rows)) for name, rows in probes.items()]


def arms(
    values: Mapping[str, Mapping[str, Value]],
    *,
    differences: Mapping[str, Mapping[str, Value]] | None = None,
    reference: str | None = None,
    caption: str = "",
) -> Html:
    """Arms of a comparison (rows) by metrics (columns), with intervals.

    Args:
        values: arm -> metric -> value.
        differences: the same for the paired difference to ``reference``, shown below the value; bold where its
            interval leaves out 0.
        reference: the arm that the others are compared with.

    Raises:
        ValueError: differences without a reference, or a reference that is no arm.
    """
    if differences is not None and reference not in values:
        raise ValueError(f"reference: got {reference!r}, expected one of the arms {list(values)}")
    metrics = list(dict.fromkeys(m for arm in values.values() for m in arm))
    rows = []
    for arm, found in values.items():
        row: list[object] = [arm]
        for metric in metrics:
            cell = interval(found[metric]) if metric in found else Html("")
            change = (differences or {}).get(arm, {}).get(metric)
            if change is not None:
                cell = Html(f"{cell}<br>{interval(change, bold=change.clear, signed=True)}")
            row.append(cell)
        rows.append(row)
    below = f"Below each value: paired difference to {reference}, bold where its interval leaves out 0."
    return table(["arm", *metrics], rows, caption=" ".join(filter(None, (caption, below if differences else ""))))


def films(shown: PcaFilm, *, fps: float = 4.0, side: int = 180) -> Html:
    """Each clip beside the first three principal components of its tokens. ``side`` is the height on the page."""
    scale = side / shown.frames.shape[2]
    each = [film(strip, fps=fps, scale=scale, caption=f"clip {i}") for i, strip in enumerate(shown.strips)]
    shares = ", ".join(f"{100 * s:.1f} %" for s in shown.share)
    text = (
        "Left the frames, right the first three principal components of the tokens as red, green and blue; axes and "
        f"colours are shared by all clips. Their share of the variance: {shares}."
    )
    return Html(prose(text) + side_by_side(*each))


def _probe(records: list[Record]) -> Html:
    plain: list[Record] = []
    drawn: dict[tuple[str, str], dict[str, list[tuple[float, Record]]]] = {}
    for record in records:
        place = _place(str(record["metric"]))
        if place is None:
            plain.append(record)
        else:
            plots = drawn.setdefault((place.axis, place.group), {})
            plots.setdefault(place.plot, []).append((place.x, record))
    parts = [_table(plain)] if plain else []
    for (axis, group), plots in drawn.items():
        lone = all(len(rows) < 2 for rows in plots.values())
        rows = [record for found in plots.values() for _, record in found]
        if lone:
            parts.append(_table(rows))
        else:
            parts += [_plots(axis, group, plots), details(f"Numbers of these curves ({len(rows)})", _table(rows))]
    return Html("".join([*parts, _choices(records)]))


def _place(metric: str) -> _Place | None:
    layer = _LAYER.match(metric)
    if layer:
        return _Place("layer", "per layer", layer[2], int(layer[1]))
    level = _LEVEL.match(metric)
    if level is None:
        return None
    family, _, kind = level[1].rpartition("/")
    measure = f" {level[3]}" if level[3] else ""
    return _Place("severity" if family else kind, (family or kind) + measure, kind, float(level[2]))


def _plots(axis: str, group: str, plots: Mapping[str, list[tuple[float, Record]]]) -> Html:
    """One plot per metric or type; plots of severities share the vertical axis, to be compared."""
    lines = {name: _series(rows) for name, rows in plots.items()}
    small = len(lines) > 4
    shared = span(s for found in lines.values() for s in found) if axis != "layer" else None
    drawn = [
        curves(s, title=name, x=axis, y_range=shared, size=(270, 190) if small else (400, 250), named=False)
        for name, s in lines.items()
    ]
    shown = {s.name: s for found in lines.values() for s in found}
    return Html(f"{heading(group)}{legend(list(shown.values()))}{side_by_side(*drawn)}")


def _series(rows: list[tuple[float, Record]]) -> list[Series]:
    names = _names([record for _, record in rows])
    found = [Series("this encoder", [Point(x, *_value(r)) for x, r in rows], "solid", 0)]
    for i, name in enumerate(names):
        points = [Point(x, *_value(other)) for x, r in rows if (other := _others(r).get(name)) is not None]
        style, colour = _LOOKS.get(name, ("dashed", 4 + i))
        found.append(Series(name, points, style, colour))
    return found


def _table(records: list[Record]) -> Html:
    names = _names(records)
    rows = []
    for record in records:
        others = _others(record)
        row: list[object] = [str(record["metric"]), interval(_value(record), bold=bool(_beats(record)))]
        row += [interval(_value(others[name])) if name in others else None for name in names]
        units = record.get("units")
        row += [f"{units} {record.get('unit') or ''}".strip() if units else None, _seeds(record.get("seeds"))]
        rows.append(row)
    caption = "95 % intervals in brackets. Bold: beyond the untrained encoder, interval against interval."
    return table(["metric", "value", *names, "units", "seeds"], rows, caption=caption)


def _choices(records: list[Record]) -> Html:
    """What was decided, folded; metrics that were measured alike share a list."""
    alike: dict[str, list[Record]] = {}
    for record in records:
        keys = ("split", "weights", "choices")
        alike.setdefault(json.dumps([record.get(k) for k in keys], sort_keys=True, default=str), []).append(record)
    parts = []
    for rows in alike.values():
        first = rows[0]
        chosen = {
            k: v if isinstance(v, str) else json.dumps(v, default=str) for k, v in _given(first, "choices").items()
        }
        said: dict[str, object] = {k: first[k] for k in ("split", "weights") if first.get(k)}
        which = "" if len(alike) == 1 else ", ".join(str(r["metric"]) for r in rows)
        parts += [prose(which)] * bool(which) + [facts(said | chosen)]
    return details("Choices made", *parts)


def _beats(record: Record) -> bool | None:
    """Whether the interval lies beyond the untrained encoder's, on the better side; None where one has no interval."""
    untrained = _given(record, "controls").get("untrained")
    if untrained is None:
        return None
    ours, theirs = _value(record), _value(untrained)
    if not (ours.bounded and theirs.bounded):
        return None
    return ours.high < theirs.low if record.get("better") == "lower" else ours.low > theirs.high


def _value(found: Mapping[str, Any]) -> Value:
    numbers = (found.get(key) for key in ("value", "low", "high"))
    return Value(*(math.nan if n is None else float(n) for n in numbers))


def _others(record: Record) -> dict[str, Any]:
    """Controls and baselines by name."""
    return {**_given(record, "controls"), **_given(record, "baselines")}


def _names(records: list[Record]) -> list[str]:
    found = dict.fromkeys(name for record in records for name in _others(record))
    return [n for n in _ORDER if n in found] + [n for n in found if n not in _ORDER]


def _given(record: Record, field: str) -> dict[str, Any]:
    return dict(record.get(field) or {})


def _seeds(seeds: object) -> str | None:
    if seeds is None:
        return None
    return ", ".join(map(str, seeds)) if isinstance(seeds, (list, tuple)) else str(seeds)
