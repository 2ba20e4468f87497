"""The plan of an ablation: what every run will be, measured, and refused where arms differ in what they should share.

The plan is written to ``plan.json`` and read from there while the configuration stays the same, so that going on with
an ablation does not measure again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from vjepa_lab import __version__
from vjepa_lab.ablate import measure
from vjepa_lab.config import ConfigError
from vjepa_lab.config_ablate import MEASURES, AblateConfig, Run, allowed, declared, flat, runs_of
from vjepa_lab.report.text import aligned

_FORMAT = 1
"of plan.json: raise it when what is measured changes"
_UNEQUAL = "{arm}: {name} ({meaning}) is {got}, in the baseline {baseline} {expected}"


class Plan(NamedTuple):
    """What will be trained."""

    runs: list[Run]
    shapes: dict[str, measure.Shape]
    "of every arm, at the first seed"
    origins: dict[tuple[str, int], measure.Origin]
    "of every run, by arm and seed"

    def share_of_mask(self, arm: str) -> float:
        """Time to draw the masks over the time of a step; NaN where no step was timed."""
        return self.shapes[arm].mask_seconds / self.shapes[arm].step_seconds


def make(config: AblateConfig) -> Plan:
    """Measure all runs and check that arms differ in nothing that they do not say.

    Raises:
        ConfigError: they do; the message names each arm, what differs, and both values.
    """
    runs = runs_of(config)
    path, digest = Path(config.out) / "plan.json", _digest(config, runs)
    plan = _read(path, runs, digest)
    if plan is None:
        plan = _measure(config, runs)
        problems = unequal(config, plan)
        if problems:
            listed = ["the arms are not equal in what they should share:", *problems]
            raise ConfigError("\n  - ".join(listed))
        _write(path, plan, digest)
    return plan


def unequal(config: AblateConfig, plan: Plan) -> list[str]:
    """What is measured to differ between an arm and the baseline, and is not declared: sentences."""
    problems = []
    baseline = config.against
    for arm in config.arms:
        may = allowed(config, arm)
        found: dict[str, tuple[Any, Any]] = {}
        ours, theirs = plan.shapes[arm], plan.shapes[baseline]
        for name, got, expected in (
            ("context_ids", ours.counts[0].context, theirs.counts[0].context),
            ("target_ids", ours.counts[0].target, theirs.counts[0].target),
            ("flops", ours.flops, theirs.flops),
        ):
            if abs(got - expected) > config.tolerance * abs(expected):
                change = f"({got / expected - 1:+.1%}, tolerance {config.tolerance:.1%})"
                found[name] = (f"{got:.4g} {change}", f"{expected:.4g}")
        for seed in config.seeds:
            one, other = plan.origins[arm, seed], plan.origins[baseline, seed]
            for name, got, expected in (
                ("initial_weights", one.weights, other.weights),
                ("data_order", one.data, other.data),
            ):
                if got != expected:
                    found.setdefault(name, (f"{got[:12]} for seed {seed}", expected[:12]))
        for name, (got, expected) in found.items():
            if name not in may:
                text = _UNEQUAL.format(
                    arm=f"arms.{arm}",
                    name=name,
                    meaning=MEASURES[name],
                    got=got,
                    baseline=baseline,
                    expected=expected,
                )
                problems.append(f"{text}: make it equal, or declare arms.{arm}.differs: [{name}]")
    return problems


def in_words(config: AblateConfig, plan: Plan) -> str:
    """The plan as text: arms, seeds, what is equal, counts, cost."""
    steps = {run.arm: run.config.optim.steps for run in plan.runs}
    rows = [["arm", "context ids", "target ids", "of tokens", "Gflop/step", "mask ms", "step ms", "mask share", "run"]]
    total = 0.0
    for arm, shape in plan.shapes.items():
        run = next(r for r in plan.runs if r.arm == arm)
        seconds = shape.step_seconds * steps[arm]
        total += seconds * len(config.seeds)
        first = shape.counts[0]
        clips = run.config.data.batch * run.config.trainer.accumulate
        rows.append(
            [
                arm + (" (baseline)" if arm == config.against else ""),
                f"{first.context:.1f}",
                f"{first.target:.1f}",
                str(shape.tokens),
                f"{shape.flops * clips / 1e9:.3g}",
                f"{1e3 * shape.mask_seconds:.1f}",
                "" if math.isnan(seconds) else f"{1e3 * shape.step_seconds:.0f}",
                "" if math.isnan(seconds) else f"{plan.share_of_mask(arm):.1%}",
                duration(seconds),
            ]
        )
    seeds = ", ".join(map(str, config.seeds))
    lines = [
        f"ablate   {len(plan.runs)} runs: {len(config.arms)} arms x seeds {seeds}, into {config.out}",
        f"about    {', '.join(config.compares)}; all other fields are equal, and for every seed the initial weights "
        "and the clips",
        *(f"         {a} differs also in {', '.join(n)}" for a in config.arms if (n := declared(config, a))),
        f"steps    {', '.join(sorted({str(n) for n in steps.values()}))} of {_batch(plan.runs[0])} clips",
        f"cost     {duration(total)} of processor or GPU time for the steps of all runs, without data and probes",
        f"probes   {', '.join(str(entry['name']) for entry in config.probes) or 'none'}",
        *aligned(rows),
    ]
    if config.batches:
        rows = [
            ["ids (context, target) at a batch of", *(str(c.batch) for c in next(iter(plan.shapes.values())).counts)]
        ]
        rows += [[arm, *(f"{c.context:.1f}, {c.target:.1f}" for c in s.counts)] for arm, s in plan.shapes.items()]
        lines += aligned(rows)
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A time in words, empty for NaN."""
    if math.isnan(seconds):
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _batch(run: Run) -> int:
    trainer = run.config.trainer
    return run.config.data.batch * trainer.accumulate * max(trainer.devices, 1) * trainer.nodes


def _measure(config: AblateConfig, runs: list[Run]) -> Plan:
    shapes: dict[str, measure.Shape] = {}
    origins: dict[tuple[str, int], measure.Origin] = {}
    with tqdm(runs, "plan", unit="run", disable=not config.progress) as bar:
        for run in bar:
            if run.arm not in shapes:
                shapes[run.arm] = measure.shape(
                    run.config, draws=config.draws, batches=config.batches, timed=config.timed
                )
            origins[run.arm, run.seed] = measure.origin(run.config)
    return Plan(runs, shapes, origins)


def _digest(config: AblateConfig, runs: list[Run]) -> str:
    asked: list[Any] = [
        _FORMAT,
        __version__,
        config.draws,
        config.batches,
        config.timed,
        config.tolerance,
        config.compares,
    ]
    asked += [[run.arm, run.seed, flat(run.config), allowed(config, run.arm)] for run in runs]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _write(path: Path, plan: Plan, digest: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = {
        arm: shape._asdict() | {"counts": [c._asdict() for c in shape.counts]} for arm, shape in plan.shapes.items()
    }
    origins = [[*key, *origin] for key, origin in plan.origins.items()]
    text = json.dumps({"digest": digest, "arms": shapes, "origins": origins}, indent=1)
    aside = path.with_name(f"{path.name}.{os.getpid()}")  # processes may share the folder, each with some of the seeds
    aside.write_text(text + "\n", encoding="utf-8")
    aside.replace(path)


def _read(path: Path, runs: list[Run], digest: str) -> Plan | None:
    """The plan that was written for this very configuration, None if there is none."""
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["digest"] != digest:
        return None
    shapes = {
        arm: measure.Shape(**s | {"counts": [measure.Counts(**c) for c in s["counts"]]})
        for arm, s in found["arms"].items()
    }
    return Plan(runs, shapes, {(arm, seed): measure.Origin(w, d) for arm, seed, w, d in found["origins"]})
