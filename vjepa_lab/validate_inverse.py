"""What the block ``inverse`` of a pretraining must satisfy beyond its types; see ``validate.py``."""

from __future__ import annotations

from typing import Any

from vjepa_lab.config_inverse import InverseConfig
from vjepa_lab.merge import entries
from vjepa_lab.registry import SOURCES, gives_episodes


def inverse_problems(config: Any, problems: list[str]) -> None:
    """What is wrong with the block ``inverse`` of a ``PretrainConfig`` is added to ``problems``."""
    inverse: InverseConfig = config.inverse
    if inverse.weight is None:
        given = [name for name, value in vars(inverse).items() if value != vars(InverseConfig())[name]]
        if given:
            problems.append(
                f"inverse.weight: got null, with which nothing reads inverse.{given[0]}; expected a weight, like 0.05"
            )
        return
    _numbers(config, inverse, problems)
    if config.encoder.frames < 2:
        problems.append(f"encoder.frames: got {config.encoder.frames}, expected at least 2 for an action between two")
    if config.init.load != "weights":
        problems.append(
            f"init.load: got '{config.init.load}', expected weights: the optimizer of another run knows nothing of the "
            "head of inverse dynamics, and of blocks that do not learn here"
        )
    if inverse.native == 0 and config.images.sources:
        problems.append("images.sources: nothing learns from images with inverse.native=0; leave them out")
    _sources(config, inverse, problems)


def _numbers(config: Any, inverse: InverseConfig, problems: list[str]) -> None:
    problems.extend(
        f"inverse.{name}: got {getattr(inverse, name)}, expected 0 or more"
        for name in ("weight", "native")
        if getattr(inverse, name) < 0
    )
    if not 0 <= inverse.budget <= 1:
        problems.append(f"inverse.budget: got {inverse.budget}, expected a share from 0 to 1")
    for name, choices in (("normalise", ("kept", "batch")), ("pair", ("concat", "clip"))):
        if getattr(inverse, name) not in choices:
            problems.append(f"inverse.{name}: got '{getattr(inverse, name)}', expected {' or '.join(choices)}")
    if inverse.pair == "clip" and config.encoder.tubelet % 2:
        problems.append(
            f"inverse.pair: got 'clip', but a tubelet holds {config.encoder.tubelet} frame(s); expected an even number "
            "of them, or concat"
        )
    for name in ("head_lr", "statistics"):
        if getattr(inverse, name) <= 0:
            problems.append(f"inverse.{name}: got {getattr(inverse, name)}, expected more than 0")
    depth = config.encoder.resolved().depth
    if inverse.unfreeze_last is not None and not 0 <= inverse.unfreeze_last <= depth:
        problems.append(
            f"inverse.unfreeze_last: got {inverse.unfreeze_last}, expected 0 to {depth} of the encoder's blocks, or "
            "null for all of it"
        )
    if inverse.native == 0 and not (inverse.weight and inverse.budget):
        problems.append(
            f"inverse: native 0 with weight {inverse.weight} and budget {inverse.budget} leaves nothing to learn from: "
            "the result is init.checkpoint itself"
        )


def _sources(config: Any, inverse: InverseConfig, problems: list[str]) -> None:
    from vjepa_lab import robots  # needs torch, which this module does without

    if inverse.robot:
        try:
            robots.of(inverse.robot)
        except ValueError as error:
            problems.append(f"inverse.robot: {error}")
        if config.data.stride not in (None, 1):
            problems.append(
                f"data.stride: got {config.data.stride}, expected 1 (every step of an episode), or data.fps instead"
            )
    wrong: list[str] = []  # said where data.sources is checked
    for i, source in enumerate(entries(SOURCES, config.data.sources, "data.sources", wrong)):
        name, episodes = config.data.sources[i].get("name"), gives_episodes(source)
        if episodes and not inverse.robot:
            problems.append(f"inverse.robot: expected the description of the robot whose episodes '{name}' reads")
        elif inverse.robot and not episodes:
            problems.append(f"data.sources[{i}]: '{name}' gives no robot episodes, which inverse.robot promises")
