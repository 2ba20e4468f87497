"""The verb ``ablate``: arms of a pretraining that differ in what is compared and in nothing else, over several seeds.

Before anything is trained the arms are checked to be equal: configurations field by field, weights and clips by their
hashes, tokens and operations by drawing masks (``plan``). Every run is an ordinary run (``runs``), here or in a SLURM
array (``slurm``). Then the same probes look at every run, and arms are compared seed by seed (``results``).

The same command goes on after a stop, and only measures when all is trained.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vjepa_lab import __version__
from vjepa_lab.ablate import plan as plans
from vjepa_lab.ablate import results as outcomes
from vjepa_lab.ablate import runs as each
from vjepa_lab.ablate import slurm
from vjepa_lab.ablate.plan import Plan
from vjepa_lab.ablate.results import Results
from vjepa_lab.ablate.statistics import Mean, mean
from vjepa_lab.config_ablate import MEASURES, AblateConfig, declared
from vjepa_lab.report.ablation import Ablation, Compared, Cost, Landing, ablation_page
from vjepa_lab.report.page import Value
from vjepa_lab.train.callbacks import STOPPED_BY_SIGNAL

log = logging.getLogger("vjepa_lab")


class Stopped(KeyboardInterrupt):
    """A signal asked for a stop between the steps of runs, where nothing needs to be saved."""


def main(config: AblateConfig) -> int:
    """Train, measure and compare; returns the exit code (0, or 75 when a signal stopped it: the same command goes on).

    Raises:
        ValueError, OSError: arms are not equal, or a run cannot be trained or measured.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        with _stoppable():
            return _ablate(config)
    except Stopped:
        log.info("stopped by a signal; the same command goes on from there")
        return STOPPED_BY_SIGNAL


def show(config: AblateConfig) -> str:
    """The plan: arms, seeds, what is equal, counts, cost.

    Raises:
        ValueError: arms are not equal.
    """
    return plans.in_words(config, plans.make(config))


def _ablate(config: AblateConfig) -> int:
    plan = plans.make(config)
    log.info(plans.in_words(config, plan))
    if config.slurm:
        script = slurm.write(config, plan.runs)
        log.info("every run is finished" if script is None else f"sbatch {script}")
        return 0
    waiting = {run.name for run in plan.runs if not each.is_finished(run)}  # a foreign folder ends it here
    if waiting and not config.train:
        raise ValueError(f"train=false, and {len(waiting)} runs are not finished: {'; '.join(sorted(waiting))}")
    failed: list[str] = []
    with tqdm(plan.runs, unit="run", disable=not config.progress) as bar:
        for run in bar:
            try:
                bar.set_description(f"{run.name}: train")
                code = each.train(run) if run.name in waiting else 0
                if code:
                    log.info("stopped in %s; the same command goes on from there", run.name)
                    return code
                bar.set_description(f"{run.name}: probe")
                each.probe(config, run)
            except ValueError as error:  # of this run alone: a training that diverged, say
                failed.append(f"{run.name}: {error}")
    if failed:
        listed = "\n  - ".join([f"{len(failed)} of {len(plan.runs)} runs failed, the others are done:", *failed])
        raise ValueError(f"{listed}\nnothing is compared while runs are missing")
    found = outcomes.collect(config, plan.runs)
    said = outcomes.sentences(config, found)
    outcomes.write(config, plan, found, said)
    report = Path(config.out) / "report.html"
    report.write_text(_page(config, plan, found, said), encoding="utf-8")
    log.info(outcomes.in_words(config, found, said))
    log.info("\ntables: %s/results.csv, runs.csv, landing.csv, table.md; report: %s", config.out, report)
    return 0


def _page(config: AblateConfig, plan: Plan, found: Results, said: list[str]) -> str:
    by_arm = {arm: {m: _value(found.means[m][arm]) for m in found.means} for arm in config.arms}
    references: dict[str, dict[str, Value]] = {}
    for metric, by_control in found.controls.items():
        for name, values in by_control.items():
            references.setdefault(name, {})[metric] = _value(mean(list(values.values())))
    costs = {
        arm: Cost(
            shape.counts[0].context,
            shape.counts[0].target,
            shape.flops,
            _value(found.step_seconds[arm]),
            shape.step_seconds,
            plan.share_of_mask(arm),
        )
        for arm, shape in plan.shapes.items()
    }
    facts: dict[str, object] = {
        "base": config.base if isinstance(config.base, str) else ", ".join(config.base),
        "about": ", ".join(config.compares),
        "arms": ", ".join(config.arms),
        "baseline": config.against,
        "seeds": ", ".join(map(str, config.seeds)),
        "steps": plan.runs[0].config.optim.steps,
        "version": __version__,
    }
    return ablation_page(
        Ablation(
            sentences=said,
            values=by_arm,
            references=references,
            baseline=config.against,
            compared=[
                Compared(d.metric, d.arm, d.other, _value(d.mean), d.mean.p, d.corrected) for d in found.differences
            ],
            per_seed=found.values,
            losses=found.losses,
            costs=costs,
            landings={arm: [Landing(*c) for c in shape.counts] for arm, shape in plan.shapes.items()},
            equal=_equal(config, plan),
        ),
        title=f"Ablation of {', '.join(config.compares)}",
        facts=facts,
    )


def _equal(config: AblateConfig, plan: Plan) -> list[tuple[str, str]]:
    """What was checked, for the page; what an arm has declared stands there too."""
    compared = ", ".join(config.compares)
    rows = [("all fields of the configuration", f"compared one by one; but for {compared}")]
    how: dict[str, Any] = {
        "initial_weights": "equal for every seed",
        "data_order": "keys and pixels of the first batches equal for every seed",
    }
    for name, meaning in MEASURES.items():
        text = how.get(name, f"within {config.tolerance:.1%}, on {config.draws} batches of the training")
        differing = [arm for arm in config.arms if name in declared(config, arm)]
        if differing:
            text += f"; not so, as declared: {', '.join(differing)}"
        rows.append((f"{name}: {meaning}", text))
    return rows


def _value(m: Mean) -> Value:
    return Value(m.value, m.low, m.high)


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM and SIGUSR1 raise ``Stopped``, except in a training, which has handlers of its own."""

    def stop(number: int, _frame: Any) -> None:
        raise Stopped(number)

    before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
