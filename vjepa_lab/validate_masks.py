"""What the configuration of the verb ``masks`` must satisfy beyond its types."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vjepa_lab.config_masks import PICTURES, WORLD, MasksConfig
from vjepa_lab.merge import entries
from vjepa_lab.registry import MASKS, SOURCES
from vjepa_lab.validate import choice, plugin_problems, positive, weights_problem


def masks_problems(config: MasksConfig) -> list[str]:
    """Problems of a drawing, as sentences; empty when it can be made."""
    problems: list[str] = []
    plugin_problems(config.plugins, problems)
    _strategies(config, problems)
    _clip(config, problems)
    if Path(config.out).suffix not in PICTURES:
        problems.append(f"out: got '{config.out}', expected a path ending in {', '.join(PICTURES)}")
    choice("keep", config.keep, ("random", "head"), problems)
    choice("decoder", config.decoder, ("auto", "decord", "pyav", "torchcodec"), problems)
    weights_problem("checkpoint", config.checkpoint, problems)
    positive(config, ("steps", "draws", "frames", "crop", "patch", "tubelet", "fps", "stride", "timeout"), problems)
    if config.step is not None and not 0 <= config.step <= config.steps:
        problems.append(f"step: got {config.step}, expected 0 to steps, {config.steps}")
    for name, unit in (("frames", config.tubelet), ("crop", config.patch)):
        value = getattr(config, name)
        if value is not None and unit > 0 and value % unit:
            whole = "tubelet" if name == "frames" else "patch"
            problems.append(f"{name}: {value} is not a multiple of {whole} {unit}")
    return problems


def _strategies(config: MasksConfig, problems: list[str]) -> None:
    listed = config.entries()
    if not listed:
        problems.append(f"strategy: give one or several of {', '.join(MASKS.names())}")
    names = [entry for entry in listed if entry not in config.masks]
    if config.options and len(names) != 1:
        problems.append(
            f"options: got fields for {len(names)} strategies, expected one; list several with their fields under "
            "masks: [{name: ..., field: value}]"
        )
    entries(MASKS, listed, "strategies", problems)


def _clip(config: MasksConfig, problems: list[str]) -> None:
    if not config.clip:
        problems.append("clip: give a video, like vjepa-lab masks clip.mp4, or synthetic")
    elif config.clip == WORLD:
        try:
            SOURCES.build({"name": "synthetic"} | config.world)
        except ValueError as error:
            problems.append(f"world: {error}")
    elif not Path(config.clip).is_file():
        problems.append(f"clip: no file {config.clip}, and not '{WORLD}'")
    if config.world and config.clip != WORLD:
        problems.append(f"world: belongs to clip={WORLD}, got clip={config.clip}")
    if config.index < 0:
        problems.append(f"index: got {config.index}, expected 0 or more")
    if config.fps is not None and config.stride is not None:
        problems.append(f"at most one of fps and stride may be set, got fps={config.fps} stride={config.stride}")
    if config.start < 0 or (config.end is not None and config.end <= config.start):
        problems.append(f"start, end: got {config.start} and {config.end}, expected 0 <= start < end")


CHECKS: dict[type, Callable[..., list[str]]] = {MasksConfig: masks_problems}
