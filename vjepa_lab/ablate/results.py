"""What came out: one value per run and metric, means over seeds, paired differences, and the sentences these allow.

Values come from the probes of every run (``probe/<name>/results.jsonl``) and from columns of its ``metrics.csv``.
"""

from __future__ import annotations

import csv
import json
import math
import statistics as plain
from pathlib import Path
from typing import Any, NamedTuple

from vjepa_lab.ablate.plan import Plan
from vjepa_lab.ablate.runs import folder, measured
from vjepa_lab.ablate.statistics import Mean, holm, mean, paired
from vjepa_lab.config_ablate import AblateConfig, Run, declared
from vjepa_lab.report.text import aligned
from vjepa_lab.train.folder import read_metrics

ALPHA = 0.05


class Difference(NamedTuple):
    """A comparison of two arms in one metric."""

    metric: str
    arm: str
    other: str
    mean: Mean
    "of arm - other, seed by seed"
    corrected: float
    "p after Holm's correction over all comparisons"


class Results(NamedTuple):
    """Everything that is reported."""

    values: dict[str, dict[str, dict[int, float]]]
    "metric -> arm -> seed -> value"
    controls: dict[str, dict[str, dict[int, float]]]
    "metric -> control -> seed -> value"
    means: dict[str, dict[str, Mean]]
    "metric -> arm -> mean over seeds"
    differences: list[Difference]
    step_seconds: dict[str, Mean]
    "arm -> median step of a run, mean over seeds"
    losses: dict[str, list[tuple[float, float]]]
    "arm -> (step, mean over seeds)"


def collect(config: AblateConfig, runs: list[Run]) -> Results:
    """Read what all runs have left, and compare.

    Raises:
        ValueError: a metric that was asked for is not there; the message lists those that are.
    """
    values: dict[str, dict[str, dict[int, float]]] = {}
    controls: dict[str, dict[str, dict[int, float]]] = {}
    seconds: dict[str, list[float]] = {}
    curves: dict[str, dict[float, list[float]]] = {}
    for run in runs:
        for entry in config.probes:
            for record in _records(run, entry):
                metric = f"{record['probe']}/{record['metric']}"
                values.setdefault(metric, {}).setdefault(run.arm, {})[run.seed] = _number(record["value"])
                for name, control in record["controls"].items():
                    controls.setdefault(metric, {}).setdefault(name, {})[run.seed] = _number(control["value"])
        rows = read_metrics(folder(run))
        for column in config.records:
            last = [row[column] for row in rows if column in row]
            if not last:
                known = ", ".join(sorted({name for row in rows for name in row}))
                raise ValueError(f"{folder(run)}/metrics.csv: no column {column}; there are: {known}")
            values.setdefault(column, {}).setdefault(run.arm, {})[run.seed] = last[-1]
        seconds.setdefault(run.arm, []).append(_step_seconds(rows))
        for row in rows:
            if "loss" in row:
                curves.setdefault(run.arm, {}).setdefault(row["step"], []).append(row["loss"])
    unknown = [metric for metric in config.metrics if metric not in values]
    if unknown:
        raise ValueError(f"metrics: {', '.join(unknown)}: not measured; there are: {', '.join(values)}")
    chosen = config.metrics or list(values)
    values = {metric: values[metric] for metric in chosen}
    means = {m: {arm: mean(list(found.values())) for arm, found in by_arm.items()} for m, by_arm in values.items()}
    losses = {arm: [(step, plain.mean(found)) for step, found in rows.items()] for arm, rows in curves.items()}
    return Results(
        values,
        {metric: controls[metric] for metric in chosen if metric in controls},
        means,
        compare(config, values),
        {arm: mean(found) for arm, found in seconds.items()},
        losses,
    )


def compare(config: AblateConfig, values: dict[str, dict[str, dict[int, float]]]) -> list[Difference]:
    """Every arm against the baseline, and the further pairs, in every metric: one family of comparisons."""
    asked = [(arm, config.against) for arm in config.arms if arm != config.against]
    asked += [(one, other) for one, other in config.pairs]
    found = []
    for metric, by_arm in values.items():
        for arm, other in asked:
            pair = [[by_arm[name][seed] for seed in config.seeds] for name in (arm, other)]
            found.append((metric, arm, other, paired(*pair)))
    corrected = holm([difference.p for *_, difference in found])
    return [Difference(*row, corrected=p) for row, p in zip(found, corrected, strict=True)]


def sentences(config: AblateConfig, results: Results) -> list[str]:
    """What the numbers allow to say, and no more."""
    said: list[str] = []
    family = [d for d in results.differences if math.isfinite(d.mean.p)]
    n = len(config.seeds)
    if n < 2:
        return ["One seed: there are no intervals, and a difference between arms may be chance of any size."]
    clear = [d for d in family if d.mean.low > 0 or d.mean.high < 0]
    kept = [d for d in clear if d.corrected <= ALPHA]
    chance = ALPHA * len(family)
    said.append(
        f"Of {len(family)} comparisons {len(clear)} have a 95 % interval that leaves out 0, where {chance:.1f} would "
        f"be expected if no arms differed; after Holm's correction for {len(family)} comparisons {len(kept)} remain at "
        f"the level of {ALPHA:.0%}."
    )
    for metric in results.values:
        said += [_sentence(d, len(family)) for d in clear if d.metric == metric]
        unclear = [d for d in family if d.metric == metric and d not in clear]
        if unclear:
            listed = "; ".join(f"{d.arm} against {d.other} {_span(d.mean)}" for d in unclear)
            most = max(max(abs(d.mean.low), abs(d.mean.high)) for d in unclear)
            said.append(
                f"{metric}: the interval contains 0 for {listed}. These {n} seeds show no difference there, and do not "
                f"show that there is none: differences of up to {most:.3f} are compatible with them."
            )
    said += [text for metric in results.values if (text := _against_untrained(config, results, metric))]
    for arm in config.arms:
        if names := declared(config, arm):
            said.append(
                f"{arm} differs from {config.against} also in {', '.join(names)}: what it gains may be due to that."
            )
    said.append(
        f"Intervals are Student's over {n} seeds, paired by seed (equal initial weights, clips and order), for this "
        "recipe, length of training and evaluation set; they say nothing about other sizes, data or lengths."
    )
    return said


def _sentence(d: Difference, family: int) -> str:
    side = "above" if d.mean.value > 0 else "below"
    text = (
        f"{d.metric}: {d.arm} is {side} {d.other} by {abs(d.mean.value):.3f} (difference {_span(d.mean)}, "
        f"p = {d.mean.p:.2g}, corrected for {family} comparisons {d.corrected:.2g})"
    )
    return text + ("." if d.corrected <= ALPHA else "; among so many comparisons this can be chance.")


def _against_untrained(config: AblateConfig, results: Results, metric: str) -> str | None:
    """What training has added to a metric, seed by seed; None without that control for every seed."""
    untrained = results.controls.get(metric, {}).get("untrained", {})
    if set(untrained) != set(config.seeds):
        return None
    found = {
        arm: paired([values[s] for s in config.seeds], [untrained[s] for s in config.seeds])
        for arm, values in results.values[metric].items()
    }
    sides = {
        "above": [arm for arm, m in found.items() if m.low > 0],
        "below": [arm for arm, m in found.items() if m.high < 0],
        "neither, with an interval that contains 0,": [arm for arm, m in found.items() if m.low <= 0 <= m.high],
    }
    told = "; ".join(
        f"{side} {', '.join(f'{arm} {_span(found[arm])}' for arm in arms)}" for side, arms in sides.items() if arms
    )
    text = f"{metric} against an untrained encoder, seed by seed and uncorrected: {told}."
    if not sides["above"]:
        text += " No arm is shown to have learnt what it measures: differences between arms in it say little."
    return text


def _span(m: Mean) -> str:
    return f"{m.value:+.3f}" if math.isnan(m.low) else f"{m.value:+.3f} [{m.low:+.3f}, {m.high:+.3f}]"


def write(config: AblateConfig, plan: Plan, results: Results, said: list[str]) -> None:
    """``runs.csv``, ``results.csv``, ``landing.csv`` and ``table.md`` in the folder of the ablation."""
    out = Path(config.out)
    with (out / "runs.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["metric", "arm", "seed", "value"])
        for metric, by_arm in results.values.items():
            named = [*by_arm.items(), *((f"{k} (control)", v) for k, v in results.controls.get(metric, {}).items())]
            rows.writerows([metric, arm, seed, value] for arm, found in named for seed, value in found.items())
    with (out / "results.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["metric", "arm", "minus", "seeds", "value", "low", "high", "p", "p_holm"])
        for metric, by_arm in results.means.items():
            rows.writerows([metric, arm, "", m.n, m.value, m.low, m.high, "", ""] for arm, m in by_arm.items())
        for d in results.differences:
            m = d.mean
            rows.writerow([d.metric, d.arm, d.other, m.n, m.value, m.low, m.high, m.p, d.corrected])
    landed = landing(plan)
    with (out / "landing.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(landed)
    lines = [*_markdown(table(config, results)), "", *(f"- {text}" for text in said), "", *_markdown(landed)]
    (out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def landing(plan: Plan) -> list[list[str]]:
    """Where masks land: ids per clip and step at every batch size, and the share of each tubelet that is context."""
    tubelets = len(next(iter(plan.shapes.values())).counts[0].context_per_tubelet)
    head = ["arm", "clips per process", "context ids", "target ids"]
    rows = [[*head, *(f"context of tubelet {t}" for t in range(tubelets))]]
    for arm, shape in plan.shapes.items():
        for c in sorted(shape.counts, key=lambda c: c.batch):
            shares = [f"{share:.3f}" for share in c.context_per_tubelet]
            rows.append([arm, str(c.batch), f"{c.context:.1f}", f"{c.target:.1f}", *shares])
    return rows


def table(config: AblateConfig, results: Results) -> list[list[str]]:
    """Arms by metrics: mean [interval]; below the baseline, the paired difference to it."""
    head = ["arm", *results.values, "ms per step"]
    rows = [head]
    differences = {(d.metric, d.arm): d for d in results.differences if d.other == config.against}
    for arm in config.arms:
        row = [arm + (" (baseline)" if arm == config.against else "")]
        for metric in results.values:
            cell = _mean(results.means[metric][arm])
            d = differences.get((metric, arm))
            row.append(cell if d is None else f"{cell}; {_span(d.mean)}")
        rows.append([*row, f"{1e3 * results.step_seconds[arm].value:.0f}"])
    for name in dict.fromkeys(name for found in results.controls.values() for name in found):
        found = (results.controls.get(metric, {}).get(name) for metric in results.values)
        rows.append([f"{name} (control)", *("" if v is None else _mean(mean(list(v.values()))) for v in found), ""])
    return rows


def in_words(config: AblateConfig, results: Results, said: list[str]) -> str:
    """For the screen: a block of arms per metric, and the sentences."""
    differences = {(d.metric, d.arm): d for d in results.differences if d.other == config.against}
    lines: list[str] = []
    for metric, by_arm in results.means.items():
        rows = [[metric, "mean [95 %]", f"minus {config.against}", "corrected p"]]
        for arm, found in by_arm.items():
            d = differences.get((metric, arm))
            rows.append([f"  {arm}", _mean(found), *(("", "") if d is None else (_span(d.mean), _p(d.corrected)))])
        for name, values in results.controls.get(metric, {}).items():
            rows.append([f"  {name} (control)", _mean(mean(list(values.values()))), "", ""])
        lines += [*aligned(rows), ""]
    return "\n".join([*lines, *said])


def _mean(m: Mean) -> str:
    return f"{m.value:.3f}" if math.isnan(m.low) else f"{m.value:.3f} [{m.low:.3f}, {m.high:.3f}]"


def _markdown(rows: list[list[str]]) -> list[str]:
    return [_row(rows[0]), _row(["---"] * len(rows[0])), *map(_row, rows[1:])]


def _p(p: float) -> str:
    return "" if math.isnan(p) else f"{p:.2g}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _records(run: Run, entry: dict[str, Any]) -> list[dict[str, Any]]:
    path = measured(run, entry) / "results.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _step_seconds(rows: list[dict[str, float]]) -> float:
    """Median time of a step over the rows of a run, the first left out; NaN without."""
    each = [row["samples"] / row["step"] / row["clips/s"] for row in rows if row.get("clips/s")]
    return plain.median(each[1:] or each) if each else math.nan
