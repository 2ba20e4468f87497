"""The verb ``plan``: closed loop on image goals in the simulated arm, and slices of the energy on recorded pairs.

Written into ``out``: ``results.csv`` (a row per policy and goal), ``plans.npz`` (distances and actions of every
attempt), ``distance.png`` (distance to the goal after each action), and with ``landscape.sources`` a folder of slices,
``landscape.csv`` and the share of pairs whose minimum lies within one cell of the true action.

Success is reaching the threshold of the task within ``steps`` actions, with Wilson's 95 % interval over goals; starts
that are solved already are never drawn. With ``subgoals`` it is reaching each picture in turn, within its own actions.
"""

from __future__ import annotations

import csv
import logging
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from vjepa_lab.config_world import PlanConfig
from vjepa_lab.data.clips import BadSample
from vjepa_lab.features import device_of
from vjepa_lab.planning import loop
from vjepa_lab.planning.landscape import landscape
from vjepa_lab.planning.loop import Attempt, MakePolicy
from vjepa_lab.planning.model import Model, open_model
from vjepa_lab.planning.settings import CemConfig
from vjepa_lab.registry import SOURCES, in_one_line

log = logging.getLogger("vjepa_lab")


def main(config: PlanConfig) -> int:
    """Plan, and write what came out.

    Raises:
        ValueError: the model cannot be opened, a field cannot be understood, or the simulator is not installed.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    planner = planner_of(config.planner)
    model = open_model(config.checkpoint, device=device_of(config.device))
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    millions = sum(p.numel() for p in model.world.parameters()) / 1e6
    log.info("world    %s, %.2f M, robot %s", config.checkpoint, millions, model.world.robot.name)
    if config.task is not None:
        attempts = _closed_loop(config, planner, model)
        _write(out, attempts)
        _draw(out / "distance.png", attempts, config)
        for policy, tries in attempts.items():
            log.info(summary(policy, tries))
    if config.landscape.sources:
        log.info(_landscapes(config, model, out))
    log.info("folder   %s", out)
    return 0


def planner_of(block: dict[str, Any]) -> CemConfig:
    """The search that ``planner:`` describes.

    Raises:
        ValueError: an unknown preset or field, or a value out of range.
    """
    fields = dict(block)
    base = CemConfig.preset(str(fields.pop("preset", "paper")))
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(base), fields))  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ValueError(f"planner: {in_one_line(error)}") from None


def schedule_of(config: PlanConfig) -> list[int]:
    """Actions towards each goal of an attempt."""
    return list(config.subgoals) or [config.steps]


def summary(policy: str, tries: list[Attempt]) -> str:
    """One line about one policy."""
    solved = sum(a.solved for a in tries)
    low, high = wilson(solved, len(tries))
    final = np.array([a.distances[-1] for a in tries]) * 100
    used = [len(a.actions) for a in tries if a.solved]
    steps = f", {np.mean(used):.1f} actions where solved" if used else ""
    if len(tries[0].reached) > 1:
        steps += f"; goals in turn: {', '.join(str(sum(one)) for one in zip(*(a.reached for a in tries), strict=True))}"
    return (
        f"{policy:<9} {solved}/{len(tries)} solved = {solved / len(tries):.0%} [{low:.0%}, {high:.0%}], "
        f"from {np.mean([a.distances[0] for a in tries]) * 100:.1f} to {final.mean():.1f} cm (median "
        f"{np.median(final):.1f}){steps}"
    )


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share, 95 % by default."""
    share, spread = successes / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _closed_loop(config: PlanConfig, planner: CemConfig, model: Model) -> dict[str, list[Attempt]]:
    from vjepa_lab.planning.sim import FrankaSim  # the extra `sim`

    policies: dict[str, MakePolicy] = {
        "model": loop.by_model(model, planner, chunk=config.chunk),
        "random": loop.at_random(planner),
        "none": loop.no_action(planner),
        "line": loop.by_line(planner),
        "simulator": loop.by_simulator(planner),
    }
    seeds = range(config.seed, config.seed + config.goals)
    attempts: dict[str, list[Attempt]] = {}
    rate, schedule = model.spec.fps or model.world.robot.rate, schedule_of(config)
    kind: dict[str, Any] = {"camera": config.camera, "task": config.task}
    with (
        FrankaSim(size=config.size, rate=rate, goals=len(schedule), **kind) as sim,
        tqdm(total=len(config.policies) * config.goals, unit="goal", disable=not config.progress) as bar,
    ):
        for name in config.policies:
            bar.set_description(name)
            attempts[name] = []
            for seed in seeds:
                attempts[name].append(loop.attempt(sim, policies[name], seed, schedule=schedule))
                bar.update()
    return attempts


def _write(out: Path, attempts: dict[str, list[Attempt]]) -> None:
    with (out / "results.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["policy", "seed", "solved", "reached", "actions", "start_m", "final_m", "best_m"])
        for policy, tries in attempts.items():
            for a in tries:
                numbers = [f"{x:.5f}" for x in (a.distances[0], a.distances[-1], min(a.distances))]
                rows.writerow([policy, a.seed, int(a.solved), sum(a.reached), len(a.actions), *numbers])
    arrays = {
        f"{policy}/{a.seed}/{what}": np.asarray(getattr(a, what))
        for policy, tries in attempts.items()
        for a in tries
        for what in ("distances", "actions", "energies")
    }
    np.savez(out / "plans.npz", **arrays)  # type: ignore[arg-type]


def _draw(path: Path, attempts: dict[str, list[Attempt]], config: PlanConfig) -> None:
    figure, most = Figure(figsize=(6, 4), layout="constrained"), sum(schedule_of(config)) + 1
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, (policy, tries) in enumerate(attempts.items()):
        held = np.array([a.distances + a.distances[-1:] * (most - len(a.distances)) for a in tries])
        axes.plot(held.T * 100, color=f"C{i}", alpha=0.2, linewidth=0.8)
        axes.plot(held.mean(0) * 100, color=f"C{i}", linewidth=2, label=f"{policy} ({sum(a.solved for a in tries)})")
    axes.set(xlabel="actions", ylabel="distance to the goal in cm", title=f"{config.task}, {config.goals} goals")
    axes.legend(title="policy (solved)", fontsize=8)
    figure.savefig(path, dpi=120)


def _pairs(config: PlanConfig, model: Model) -> Iterator[Any]:
    """Stretches of two frames of the held-out episodes, spread over them, whose true action lies within the slice."""
    spec = model.spec._replace(frames=2, random=True)
    readers = [SOURCES.build(entry).open(spec) for entry in config.landscape.sources]
    places = [(reader, i) for reader in readers for i in range(len(reader))]
    rng, given = np.random.default_rng(config.seed), 0
    for attempt in range(20 * config.landscape.pairs):
        reader, index = places[attempt % len(places)]
        try:
            sample = reader.read(index, rng)
        except BadSample:
            continue
        if sample.actions[0, config.landscape.dims].abs().max() > config.landscape.extent:
            continue
        yield sample
        given += 1
        if given == config.landscape.pairs:
            return


@torch.no_grad()
def _landscapes(config: PlanConfig, model: Model, out: Path) -> str:
    """Slices of the energy around pairs of frames whose action is known; a line about them."""
    block, names = config.landscape, model.world.robot.action_names
    folder = out / "landscape"
    folder.mkdir(exist_ok=True)
    rows = []
    for i, sample in enumerate(_pairs(config, model)):
        images = sample.frames.permute(1, 2, 3, 0).numpy()  # cropped as in training already
        energy = model.energy(images[0], sample.states[0].numpy(), model.features(images[1]), chunk=config.chunk)
        base = sample.actions[:1].clone().to(model.device)
        extents = [block.extent] * len(block.dims)
        found = landscape(energy, base, block.dims, extents, cells=block.cells, truth=sample.actions[0], names=names)
        rows.append([sample.key, f"{found.cells:.3f}", int(found.on_the_edge)])
        if i < block.pictures:
            found.save(folder / f"{i:03d}.npz")
            found.draw(folder / f"{i:03d}.png", title=f"pair {i}")
    if not rows:
        raise ValueError("landscape.sources: none of the episodes can be read")
    with (out / "landscape.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["pair", "cells_from_true_action", "minimum_on_the_edge"], *rows])
    within = sum(float(row[1]) <= 1.0 for row in rows)
    low, high = wilson(within, len(rows))
    share = f"{within}/{len(rows)} = {within / len(rows):.0%} [{low:.0%}, {high:.0%}]"
    axes = f"{' and '.join(names[d] for d in block.dims)}, {block.cells} values each"
    return f"landscape minimum within one cell of the true action in {share} of pairs ({axes})"
