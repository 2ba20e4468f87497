"""What the configuration of the verb ``probe`` must satisfy beyond its types."""

from __future__ import annotations

import re
from collections.abc import Callable

from vjepa_lab.config_probe import ProbeConfig
from vjepa_lab.registry import PROBES
from vjepa_lab.validate import choice, encoder_problems, plugin_problems, weights_problem

CONTROLS = ("untrained", "pixels", "constant", "shuffled")


def probe_problems(config: ProbeConfig) -> list[str]:
    """Problems of a measurement, as sentences; empty when it can be made."""
    problems: list[str] = []
    plugin_problems(config.plugins, problems)
    named = {"checkpoint": config.checkpoint} | {f"baselines.{k}": v for k, v in config.baselines.items()}
    for name, given in named.items():
        if not given:
            problems.append(f"{name}: give an encoder, like {name}=runs/quickstart/last.ckpt")
        elif not given.startswith(("timm:", "hf:")):
            weights_problem(name, given, problems)
    for name in config.baselines:
        if name in CONTROLS or not re.fullmatch(r"[\w.-]+", name):
            problems.append(f"baselines: got the name '{name}', expected letters, digits, . _ -, and none of a control")
    if not config.probes:
        problems.append("probes: nothing to measure; give a list like [{name: motion}]")
    for entry in config.probes:
        try:
            PROBES.build(entry)
        except ValueError as error:
            problems.append(f"probes: {error}")
    for name in config.controls:
        choice("controls", name, CONTROLS, problems)
    if config.report is not None and not config.report.endswith(".html"):
        problems.append(f"report: got '{config.report}', expected a path ending in .html")
    encoder_problems(config, problems)
    return problems


CHECKS: dict[type, Callable[..., list[str]]] = {ProbeConfig: probe_problems}
