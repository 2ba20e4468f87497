"""What the configuration of the verb ``probe`` must satisfy beyond its types."""

from __future__ import annotations

import re
from collections.abc import Callable

from vjepa_lab.config_probe import ProbeConfig
from vjepa_lab.registry import PROBES
from vjepa_lab.validate import choice, plugin_problems, weights_problem

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
    choice("encoder", config.encoder, ("auto", "target", "online", "ema"), problems)
    choice("decoder", config.decoder, ("auto", "decord", "pyav", "torchcodec"), problems)
    choice("precision", config.precision, ("fp32", "bf16-mixed"), problems)
    if config.fps is not None and config.stride is not None:
        problems.append(f"at most one of fps and stride may be set, got fps={config.fps} stride={config.stride}")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", config.device):
        problems.append(f"device: got '{config.device}', expected auto, cpu, cuda, cuda:<number> or mps")
    for name in ("frames", "crop", "fps", "stride", "threads", "timeout", "min_frames"):
        value = getattr(config, name)
        if value is not None and value <= 0:
            problems.append(f"{name}: got {value}, expected more than 0")
    if config.workers < 0:
        problems.append(f"workers: got {config.workers}, expected 0 or more")
    return problems


CHECKS: dict[type, Callable[..., list[str]]] = {ProbeConfig: probe_problems}
