"""Fields of the verb ``ablate``, and the configurations of its runs.

The text below a field is its documentation: ``vjepa-lab ablate --help`` prints it. Every arm is the base with some
fields changed; all that arms share comes from the base. This module imports no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, is_dataclass
from typing import Any, NamedTuple

from vjepa_lab.config import ConfigError, PretrainConfig
from vjepa_lab.merge import leaves, load, to_plain

DIFFERS = "differs"
"in an arm: what else it may differ in; all other keys of an arm are fields of the training"
MEASURES = {
    "initial_weights": "hash of the weights before the first step",
    "data_order": "hash of the first batches",
    "context_ids": "tokens that the context encoder sees, per clip and step",
    "target_ids": "tokens that the predictor predicts, per clip and step",
    "flops": "operations of a step by formula, per clip",
}
"what is measured of an arm before it is trained, and equal in all arms"
OWN = ("run.dir", "run.seed", "run.resume", "run.progress")
"fields of a run that this verb sets"


@dataclass
class AblateConfig:
    """Compare arms of a pretraining, all else equal: a grid of arms x seeds, the same probes for every run."""

    base: Any = ""
    "YAML file of the pretraining that arms are variants of, or a list of files, merged left to right"
    changes: dict[str, Any] = field(default_factory=dict)
    "fields of the base that all arms change: {optim: {steps: 600}, probes: []}"
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    "name -> the fields it changes, {masks: [{name: random}]}; and differs: [...], what else it may differ in, fields \
or initial_weights | data_order | context_ids | target_ids | flops"
    compares: list[str] = field(default_factory=lambda: ["masks"])
    "fields that the comparison is about; an arm that differs from the baseline in any other is refused"
    baseline: str = ""
    "arm that the others are compared with; empty: the first"
    pairs: list[list[str]] = field(default_factory=list)
    "further comparisons: [arm, the arm it is compared with]"
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    "one run of every arm for each; comparisons are paired by seed. Several processes may train different seeds into \
one folder; the command with all of them then compares"
    out: str = "runs/ablate"
    "folder: a run folder <arm>/<seed> each, plan.json, results.csv, runs.csv, landing.csv, table.md, \
report.html"
    probes: list[dict[str, Any]] = field(default_factory=list)
    "measured on the last checkpoint of every run, as the verb probe does: {name: ..., field: value, ...}"
    controls: list[str] = field(default_factory=lambda: ["untrained"])
    "the same probes on controls of the verb probe, once per seed: untrained | pixels | constant | shuffled"
    probe: dict[str, Any] = field(default_factory=dict)
    "further fields of the verb probe: {device: cpu, workers: 2}"
    records: list[str] = field(default_factory=list)
    "columns of metrics.csv whose last value is compared too: rankme, motion/velocity of a probe during training"
    metrics: list[str] = field(default_factory=list)
    "what is compared: <probe>/<metric> and columns of records; empty: everything measured"
    tolerance: float = 0.02
    "relative difference up to which counts of tokens and operations of arms are equal"
    draws: int = 16
    "batches on which masks are drawn before the training, to count tokens"
    batches: list[int] = field(default_factory=list)
    "further batch sizes per process for which tokens are counted: do masks depend on the batch?"
    timed: int = 2
    "steps of every arm that are timed before the training, to foretell its cost; 0: none"
    train: bool = True
    "false: measure and compare runs that are finished, and train none"
    slurm: bool = False
    "write a SLURM array script of the runs into the folder, and train none here"
    plugins: list[str] = field(default_factory=list)
    "modules to import first, with masks, sources or probes of your own"
    progress: bool = True
    "show a progress bar over the runs"

    @property
    def against(self) -> str:
        """The arm that the others are compared with."""
        return self.baseline or next(iter(self.arms), "")


class Run(NamedTuple):
    """One cell of the grid."""

    arm: str
    seed: int
    config: PretrainConfig

    @property
    def name(self) -> str:
        """As it is called in texts."""
        return f"{self.arm}, seed {self.seed}"


def runs_of(config: AblateConfig) -> list[Run]:
    """The grid, all arms of a seed before the next seed, so that what is done early can be compared.

    Raises:
        ConfigError: a file is missing, or an arm has an unknown field or a value of the wrong type.
    """
    arms = {arm: _of_arm(config, arm) for arm in config.arms}
    return [Run(arm, seed, _of_seed(config, arm, seed, own)) for seed in config.seeds for arm, own in arms.items()]


def run_config(config: AblateConfig, arm: str, seed: int) -> PretrainConfig:
    """The configuration of one run.

    Raises:
        ConfigError: see ``runs_of``.
    """
    return _of_seed(config, arm, seed, _of_arm(config, arm))


def allowed(config: AblateConfig, arm: str) -> list[str]:
    """Fields and measures in which an arm may differ from the baseline."""
    return [*config.compares, *declared(config, arm)]


def declared(config: AblateConfig, arm: str) -> list[str]:
    """What an arm says that it differs in beside what is compared."""
    return [str(name) for name in config.arms[arm].get(DIFFERS) or []]


def differences(one: PretrainConfig, other: PretrainConfig) -> dict[str, tuple[Any, Any]]:
    """Fields in which two runs differ, by their dotted names: values of both. What this verb sets is left out."""
    a, b = flat(one), flat(other)
    return {name: (a[name], b[name]) for name in a if a[name] != b[name] and name not in OWN}


def flat(config: PretrainConfig) -> dict[str, Any]:
    """Every leaf of a configuration by its dotted name; a list is a leaf."""

    return dict(leaves(to_plain(config)))


def covered(name: str, by: list[str]) -> bool:
    """Whether a dotted field is among ``by``, or inside a block that is."""
    return any(name == block or name.startswith(f"{block}.") for block in by)


def _of_arm(config: AblateConfig, arm: str) -> PretrainConfig:
    """What all runs of an arm have. Raises ConfigError, which names the place of a wrong field."""
    files = [config.base] if isinstance(config.base, str) else list(config.base)
    shared = list(arguments(PretrainConfig, config.changes))
    own = list(arguments(PretrainConfig, {k: v for k, v in config.arms[arm].items() if k != DIFFERS}))
    try:
        return load(PretrainConfig, files, [*shared, *own])
    except ConfigError as error:
        first = re.match(r"argument '([^=]+=)", str(error))
        at_fault = first is not None and any(item.startswith(first[1]) for item in shared)
        raise ConfigError(f"{'changes' if at_fault else f'arms.{arm}'}: {error}") from None


def _of_seed(config: AblateConfig, arm: str, seed: int, own: PretrainConfig) -> PretrainConfig:
    run = deepcopy(own)
    run.run.dir, run.run.seed = f"{config.out}/{arm}/{seed}", seed
    run.run.resume, run.run.progress = "auto", False
    run.plugins = list(dict.fromkeys([*run.plugins, *config.plugins]))
    return run


def arguments(schema: type, changes: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """``key=value`` arguments of nested changes; a mapping that is no block of the configuration is a value."""
    default = schema()
    for key, value in changes.items():
        block = getattr(default, str(key), None)
        if isinstance(value, Mapping) and is_dataclass(block):
            yield from arguments(type(block), value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={json.dumps(value)}"
