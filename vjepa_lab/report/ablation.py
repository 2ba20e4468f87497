"""The page of an ablation: what can be concluded, the arms side by side, where their masks land, what they cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vjepa_lab.report.charts import Point, Series, curves
from vjepa_lab.report.page import Html, Section, Value, interval, page, prose, side_by_side, table
from vjepa_lab.report.probes import arms


class Compared(NamedTuple):
    """A paired difference between two arms in one metric."""

    metric: str
    arm: str
    other: str
    difference: Value
    p: float
    corrected: float
    "p after the correction for the number of comparisons"


class Cost(NamedTuple):
    """What an arm costs."""

    context: float
    "ids per clip and step"
    target: float
    flops: float
    "of a step per clip"
    step_seconds: Value
    "median of a run, mean over runs"
    timed: float
    "seconds of a step before the training: of the processor on a CPU, of the clock on a GPU; NaN where none was timed"
    mask_share: float
    "of ``timed``, NaN likewise"


class Landing(NamedTuple):
    """Where the masks of an arm land, at one batch size."""

    batch: int
    context: float
    target: float
    context_per_tubelet: Sequence[float]
    "share of the tokens of each tubelet"
    target_per_tubelet: Sequence[float]


class Ablation(NamedTuple):
    """What is shown."""

    sentences: Sequence[str]
    "what the numbers allow to say"
    values: Mapping[str, Mapping[str, Value]]
    "arm -> metric -> mean over seeds"
    references: Mapping[str, Mapping[str, Value]]
    "control -> metric -> mean over seeds"
    baseline: str
    compared: Sequence[Compared]
    per_seed: Mapping[str, Mapping[str, Mapping[int, float]]]
    "metric -> arm -> seed -> value"
    losses: Mapping[str, Sequence[tuple[float, float]]]
    "arm -> (step, mean over seeds)"
    costs: Mapping[str, Cost]
    landings: Mapping[str, Sequence[Landing]]
    equal: Sequence[tuple[str, str]]
    "what was checked to be equal, and how"


def ablation_page(found: Ablation, *, title: str, facts: Mapping[str, object]) -> str:
    """The whole page.

    Args:
        facts: below the title.
    """
    sections = [
        Section("What the numbers allow to say", Html("".join(map(prose, found.sentences)))),
        Section("Arms", Html(_arms(found) + _seeds(found))),
        Section("Comparisons", _compared(found.compared)),
        Section("Where the masks land", _landings(found.landings)),
        Section("Cost", _costs(found.costs)),
        Section("Training", _losses(found.losses)),
        Section("What was equal", table(["what", "how it was checked"], [list(row) for row in found.equal])),
    ]
    return page(title, sections, facts=facts)


def _arms(found: Ablation) -> Html:
    differences: dict[str, dict[str, Value]] = {}
    for c in found.compared:
        if c.other == found.baseline:
            differences.setdefault(c.arm, {})[c.metric] = c.difference
    rows = {**found.values, **{f"{name} (control)": row for name, row in found.references.items()}}
    caption = "Mean over seeds with its 95 % interval."
    return arms(rows, differences=differences, reference=found.baseline, caption=caption)


def _seeds(found: Ablation) -> Html:
    """One plot per metric, a line per arm over seeds: the pairing, as it is."""
    drawn = []
    for metric, by_arm in found.per_seed.items():
        lines = [
            Series(arm, [Point(float(i), value) for i, value in enumerate(values.values())])
            for arm, values in by_arm.items()
        ]
        drawn.append(curves(lines, title=metric, x="place of the seed", size=(330, 230), named=not drawn))
    return side_by_side(*drawn)


def _compared(rows: Sequence[Compared]) -> Html:
    cells = []
    for c in rows:
        shown = interval(c.difference, bold=c.difference.clear, signed=True)
        cells.append([c.metric, f"{c.arm} − {c.other}", shown, c.p, c.corrected])
    caption = (
        "Paired differences, seed by seed, with Student's 95 % interval; bold where it leaves out 0. Corrected p: "
        "after Holm's correction over all rows."
    )
    return table(["metric", "difference", "value", "p", "corrected p"], cells, caption=caption)


def _landings(landings: Mapping[str, Sequence[Landing]]) -> Html:
    sizes = [landing.batch for landing in next(iter(landings.values()), [])]
    head = ["arm", *(f"{side} ids, batch {size}" for size in sizes for side in ("context", "target"))]
    rows: list[list[object]] = []
    for arm, found in landings.items():
        rows.append([arm, *(value for landing in found for value in (landing.context, landing.target))])
    drawn = []
    for k, size in enumerate(sizes):
        for side in ("context", "target"):
            lines = []
            for arm, found in landings.items():
                shares: Sequence[float] = getattr(found[k], f"{side}_per_tubelet")
                lines.append(Series(arm, [Point(float(t), share) for t, share in enumerate(shares)]))
            title = f"share of a tubelet that is {side}, batch {size}"
            drawn.append(curves(lines, title=title, x="tubelet", y_range=(0.0, 1.0), size=(360, 230), named=not drawn))
    caption = "Ids per clip and step, summed over the masks of a step, mean over draws on the training's own clips."
    return Html(table(head, rows, caption=caption) + side_by_side(*drawn))


def _costs(costs: Mapping[str, Cost]) -> Html:
    rows: list[list[object]] = []
    for arm, c in costs.items():
        seconds = Value(*(1e3 * x for x in c.step_seconds))
        share = None if math.isnan(c.mask_share) else f"{c.mask_share:.1%}"
        timed = None if math.isnan(c.timed) else 1e3 * c.timed
        rows.append([arm, c.context, c.target, c.flops / 1e9, interval(seconds), timed, share])
    head = [
        "arm",
        "context ids",
        "target ids",
        "Gflop per clip",
        "ms per step",
        "ms, timed before",
        "share of the mask",
    ]
    caption = (
        "Operations by formula. ms per step: median over a run of the time from row to row of its log, data included, "
        "mean over seeds. Timed before: a few steps before the training, on a CPU in processor time, so that other "
        "work does not count; the share of the mask is of this."
    )
    return table(head, rows, caption=caption)


def _losses(losses: Mapping[str, Sequence[tuple[float, float]]]) -> Html:
    lines = [Series(arm, [Point(step, loss) for step, loss in points]) for arm, points in losses.items()]
    said = prose(
        "Mean over seeds. Losses of arms with different masks answer different questions: they do not compare."
    )
    return Html(curves(lines, title="loss", x="step", size=(560, 300)) + said)
