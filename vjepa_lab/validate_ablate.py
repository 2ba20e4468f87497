"""What an ablation must satisfy beyond its types: runs that can be trained, arms that differ in nothing unsaid."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vjepa_lab.config import ConfigError
from vjepa_lab.config_ablate import (
    DIFFERS,
    MEASURES,
    OWN,
    AblateConfig,
    Run,
    allowed,
    arguments,
    covered,
    declared,
    differences,
    flat,
)
from vjepa_lab.config_ablate import runs_of as _runs_of
from vjepa_lab.config_probe import ProbeConfig
from vjepa_lab.merge import load
from vjepa_lab.validate import choice, plugin_problems, positive, pretrain_problems
from vjepa_lab.validate_probe import CONTROLS, probe_problems

_PROBE_OWN = ("checkpoint", "probes", "controls", "out", "seed", "plugins", "progress", "report", "baselines")
"fields of the verb probe that the ablation sets"


def ablate_problems(config: AblateConfig) -> list[str]:
    """Problems of an ablation, as sentences; empty when it can be run."""
    problems: list[str] = []
    plugin_problems(config.plugins, problems)
    _grid(config, problems)
    positive(config, ("draws",), problems)
    problems.extend(f"batches: got {b}, expected at least 1" for b in config.batches if b < 1)
    if config.timed < 0:
        problems.append(f"timed: got {config.timed}, expected 0 or more")
    if not 0 <= config.tolerance < 1:
        problems.append(f"tolerance: got {config.tolerance}, expected 0 or more and less than 1")
    if config.slurm and not config.train:
        problems.append("slurm=true writes what trains; it does not go with train=false")
    _measured(config, problems)
    if problems:
        return problems
    try:
        runs = _runs_of(config)
    except ConfigError as error:
        return [str(error)]
    for run in runs[: len(config.arms)]:
        problems += [f"arms.{run.arm}: {problem}" for problem in pretrain_problems(run.config)]
    _differences(config, runs[: len(config.arms)], problems)
    return list(dict.fromkeys(problems))


def _grid(config: AblateConfig, problems: list[str]) -> None:
    files = [config.base] if isinstance(config.base, str) else config.base
    if not files or not isinstance(files, list) or not all(isinstance(f, str) and f for f in files):
        problems.append(
            f"base: got {config.base!r}, expected a YAML file of a pretraining, like configs/quickstart.yaml"
        )
    else:
        problems.extend(f"base: no file {f}" for f in files if not Path(f).is_file())
    if len(config.arms) < 2:
        problems.append(f"arms: got {len(config.arms)}, expected at least 2, like {{random: {{masks: [...]}}, ...}}")
    for name, changes in config.arms.items():
        if not re.fullmatch(r"\w[\w.-]*", name):
            problems.append(f"arms: got the name '{name}', expected letters, digits, . _ -")
        problems.extend(f"arms.{name}.{field}: this verb sets it itself" for field in _owned(changes))
    problems.extend(f"changes.{field}: this verb sets it itself" for field in _owned(config.changes))
    if config.baseline and config.baseline not in config.arms:
        problems.append(f"baseline: got '{config.baseline}', expected one of {', '.join(config.arms)}")
    for pair in config.pairs:
        if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(config.arms):
            problems.append(f"pairs: got {pair}, expected two different arms of {', '.join(config.arms)}")
        elif pair[1] == config.against:
            problems.append(f"pairs: {pair} is compared already: {pair[1]} is the baseline")
    if not config.seeds or len(set(config.seeds)) != len(config.seeds):
        problems.append(
            f"seeds: got {config.seeds}, expected different numbers, 3 or more for an interval worth having"
        )


def _owned(changes: dict[str, Any]) -> list[str]:
    """Fields among ``changes``, nested or dotted, that the verb sets."""
    nested = changes.get("run")
    names = [*changes, *(f"run.{name}" for name in (nested if isinstance(nested, dict) else {}))]
    return [name for name in names if name in OWN]


def _measured(config: AblateConfig, problems: list[str]) -> None:
    for name in config.controls:
        choice("controls", name, CONTROLS, problems)
    if not config.probes and not config.records:
        problems.append("probes: nothing to compare; give probes: [{name: motion}], or records: [rankme]")
    names = [str(entry.get("name")) for entry in config.probes]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems.extend(f"probes: '{name}' is listed twice, its metrics would have the same names" for name in twice)
    known = {*config.records, *names}
    for metric in config.metrics:
        if metric not in config.records and metric.partition("/")[0] not in known:
            problems.append(f"metrics: '{metric}' is of no probe and no column of records that this ablation measures")
    problems.extend(f"probe.{name}: this verb sets it itself" for name in config.probe if name in _PROBE_OWN)
    try:
        probe = probe_config(config)
    except ConfigError as error:
        problems.append(f"probe: {error}")
        return
    if config.probes:
        problems.extend(p for p in probe_problems(probe) if not p.startswith("checkpoint:"))


def probe_config(config: AblateConfig) -> ProbeConfig:
    """What the verb probe is asked, but for the checkpoint and what to measure on it.

    Raises:
        ConfigError: ``probe`` has a field that the verb has not.
    """
    probe = load(ProbeConfig, [], ["keep_features=false", *arguments(ProbeConfig, config.probe)])
    probe.probes, probe.plugins, probe.progress = config.probes, config.plugins, False
    return probe


def _differences(config: AblateConfig, runs: list[Run], problems: list[str]) -> None:
    """Every field in which an arm differs from the baseline must be what the comparison is about, or declared."""
    by_arm = {run.arm: run.config for run in runs}
    base = by_arm[config.against]
    fields = flat(base)
    blocks = {name.rpartition(".")[0] for name in fields} - {""}
    known = [*fields, *sorted(blocks), *MEASURES]
    named = {"compares": config.compares}
    named |= {f"arms.{arm}.{DIFFERS}": declared(config, arm) for arm in by_arm}
    for where, names in named.items():
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean '{near[0]}'?" if near else f"fields, or {', '.join(MEASURES)}"
                problems.append(f"{where}: unknown '{name}'; {hint}")
    for arm, own in by_arm.items():
        if arm == config.against:
            continue
        found = differences(own, base)
        if not found:
            problems.append(f"arms.{arm}: equals arm {config.against} in every field: there is nothing to compare")
        may = allowed(config, arm)
        for name, (got, expected) in found.items():
            if not covered(name, may):
                problems.append(
                    f"arms.{arm}: {name} is {got}, in the baseline {config.against} {expected}, and the comparison is "
                    f"about {', '.join(config.compares)}: set it equal, or declare arms.{arm}.{DIFFERS}: [{name}]"
                )
        for name in declared(config, arm):
            if name not in MEASURES and not any(covered(field, [name]) for field in found):
                problems.append(f"arms.{arm}.{DIFFERS}: declares {name}, in which it equals {config.against}")


CHECKS: dict[type, Callable[..., list[str]]] = {AblateConfig: ablate_problems}
