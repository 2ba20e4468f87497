"""What the configuration of a world model must satisfy beyond its types; see ``validate.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vjepa_lab.config_world import PlanConfig, PosttrainConfig
from vjepa_lab.merge import entries
from vjepa_lab.registry import SOURCES, gives_episodes
from vjepa_lab.validate import (
    choice,
    goes_on_from,
    optim_problems,
    plugin_problems,
    run_problems,
    trainer_problems,
    weights_problem,
)


def posttrain_problems(config: PosttrainConfig) -> list[str]:
    """Problems of a post-training, as sentences; empty when it can be run."""
    problems: list[str] = []
    plugin_problems(config.plugins, problems)
    _model(config, problems)
    _data(config, problems)
    _validation(config, problems)
    optim_problems(config.optim, problems)
    run_problems(config.run, problems)
    trainer_problems(config.trainer, config.data.batch, config.data.global_batch, problems)
    _starts(config, problems)
    return problems


def _model(config: PosttrainConfig, problems: list[str]) -> None:
    from vjepa_lab import robots  # needs torch, which this module does without

    predictor, world = config.predictor, config.world
    wrong = [name for name in ("width", "depth", "heads") if getattr(predictor, name) < 1]
    problems.extend(f"predictor.{name}: got {getattr(predictor, name)}, expected at least 1" for name in wrong)
    if not wrong and predictor.width % predictor.heads:
        problems.append(f"predictor: width {predictor.width} is not divisible by {predictor.heads} heads")
    choice("predictor.rope", predictor.rope, ("released", "exact"), problems)
    choice("world.rollout", world.rollout, ("released", "final"), problems)
    if config.crop < 1:
        problems.append(f"crop: got {config.crop}, expected at least 1")
    try:
        robots.of(world.robot)
    except ValueError as error:
        problems.append(f"world.robot: {error}")
    if world.power <= 0:
        problems.append(f"world.power: got {world.power}, expected more than 0")
    if not 1 <= world.steps < config.data.frames:
        problems.append(f"world.steps: got {world.steps}, expected 1 to data.frames - 1 ({config.data.frames - 1})")


def _data(config: PosttrainConfig, problems: list[str]) -> None:
    data = config.data
    if not data.sources:
        problems.append(
            "data.sources: the list is empty, expected at least one: data.sources='[{name: droid, path: FOLDER}]'"
        )
    _robot_sources("data.sources", data.sources, problems)
    choice("data.crop", data.crop, ("released", "centre", "random"), problems)
    choice("data.decoder", data.decoder, ("auto", "decord", "pyav", "torchcodec"), problems)
    for name, least in (("batch", 1), ("threads", 1), ("workers", 0), ("check", 0), ("frames", 2)):
        if getattr(data, name) < least:
            problems.append(f"data.{name}: got {getattr(data, name)}, expected at least {least}")
    if data.fps is not None and data.fps <= 0:
        problems.append(f"data.fps: got {data.fps}, expected more than 0, or null for every step")
    for name in ("scale", "aspect"):
        low, high = getattr(data, name)
        if not 0 < low <= high or (name == "scale" and high > 1):
            most = " <= 1" if name == "scale" else ""
            problems.append(f"data.{name}: got [{low}, {high}], expected 0 < low <= high{most}")
    if data.timeout <= 0:
        problems.append(f"data.timeout: got {data.timeout}, expected more than 0")
    choice("cache.dtype", config.cache.dtype, ("float32", "bfloat16"), problems)
    if config.cache.dir is not None and data.crop == "random":
        problems.append(
            "cache.dir: data.crop is random, so that no frame is seen twice alike; expected data.crop=centre or "
            "released, or no cache.dir"
        )


def _robot_sources(where: str, listed: list[dict[str, Any]], problems: list[str]) -> None:
    for i, source in enumerate(entries(SOURCES, listed, where, problems)):
        if not gives_episodes(source):
            robots = "droid, lerobot, libero or robot_shards"
            problems.append(f"{where}[{i}]: '{listed[i]['name']}' gives clips without actions, expected {robots}")
        elif source.weight <= 0:
            problems.append(f"{where}[{i}].weight: got {source.weight}, expected more than 0")


def _validation(config: PosttrainConfig, problems: list[str]) -> None:
    validation = config.validation
    _robot_sources("validation.sources", validation.sources, problems)
    for name, least in (("every", 1), ("stretches", 1), ("candidates", 2)):
        if getattr(validation, name) < least:
            problems.append(f"validation.{name}: got {getattr(validation, name)}, expected at least {least}")
    if not 1 <= validation.steps < config.data.frames:
        problems.append(
            f"validation.steps: got {validation.steps}, expected 1 to data.frames - 1 ({config.data.frames - 1})"
        )


def _starts(config: PosttrainConfig, problems: list[str]) -> None:
    init = config.init
    choice("init.which", init.which, ("auto", "target", "online", "ema"), problems)
    if goes_on_from(config.run) is not None:
        return  # both are in the checkpoint
    if init.encoder is None:
        problems.append(
            "init.encoder: expected the weights of the frozen encoder, like init.encoder=runs/quickstart/last.ckpt"
        )
    weights_problem("init.encoder", init.encoder, problems)
    weights_problem("init.predictor", init.predictor, problems)


def plan_problems(config: PlanConfig) -> list[str]:
    """Problems of ``vjepa-lab plan``."""
    problems: list[str] = []
    if not config.checkpoint:
        problems.append("checkpoint: give the world model, like --checkpoint runs/posttrain")
    weights_problem("checkpoint", config.checkpoint or None, problems)
    if config.task is not None:
        choice("task", config.task, ("reach", "push"), problems)
    elif not config.landscape.sources:
        problems.append("task: null, and landscape.sources is empty: nothing to do")
    choice("camera", config.camera, ("left", "right", "wrist"), problems)
    choice("device", config.device, ("auto", "cpu", "cuda", "mps"), problems)
    for name in config.policies:
        choice("policies", name, ("model", "random", "none", "line", "simulator"), problems)
    for name in ("goals", "steps", "chunk", "size"):
        if getattr(config, name) < 1:
            problems.append(f"{name}: got {getattr(config, name)}, expected at least 1")
    if config.subgoals and min(config.subgoals) < 1:
        problems.append(f"subgoals: got {config.subgoals}, expected at least 1 action towards each")
    if config.subgoals and config.task == "push":
        problems.append("subgoals: the task push has one goal; expected task=reach, or no subgoals and steps")
    block = config.landscape
    _robot_sources("landscape.sources", block.sources, problems)
    if block.sources and (block.pairs < 1 or block.cells < 3 or block.extent <= 0 or len(block.dims) not in (1, 2)):
        problems.append("landscape: expected at least 1 pair and 3 cells, an extent above 0, and one or two dims")
    return problems


CHECKS: dict[type, Callable[..., list[str]]] = {PosttrainConfig: posttrain_problems, PlanConfig: plan_problems}
